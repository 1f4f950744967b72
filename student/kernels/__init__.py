"""Fused QLoRA training: decoder layers, matrix products with LoRA adapters, attention and cross entropy.

In: a transformers model with PEFT adapters. Out: the same model, whose training forward and backward are fused, and a
cross entropy that never holds all logits. On a GPU Triton kernels run, on a CPU PyTorch functions of the same names.
Imports nothing of the project.

Letters of shapes and of name suffixes (`hidden_TH`): T tokens of the batch, B rows, S tokens of a row, P positions,
H hidden size, V vocabulary, F intermediate size of the MLP, K inputs and O outputs of a product, N heads, D head size,
R adapter rank (padded to a power of two from 16), C parts of another axis. A matrix from `Linears.input` or `.output`
is called TK or TO although it has the adapters' columns too.
"""
