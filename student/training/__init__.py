"""Supervised fine-tuning of a student.

In: kept traces as examples (`mixture`), the untrained student's directory, the recipe's `train` section. Out: an
adapter or full weights with log and checkpoints (`sft.train`), and before that the planned memory and speed
(`memory.memory`). `quantized_base` loads the weights, `micro_batches` divides a step by the memory, `vision` makes
batches with images. Imports student.kernels, models and rendering, and teacher and schemas.
"""
