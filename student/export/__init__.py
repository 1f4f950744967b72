"""Export: merges the adapter, converts to GGUF, and checks that the file behaves as the trained student.

In: the untrained student's directory, the adapter, kept traces. Out: a directory for vLLM, GGUF files, and the
results of the gate's checks. merge.py merges, gguf.py converts and quantizes, gate.py runs the checks (checks.py,
image_check.py) against llama.cpp's server, verify.py runs them on any GGUF (`stillhouse verify`). image_limits.py
sets vLLM's limits of images, untrained.py makes the exam's baseline.
May import schemas, teacher, and student's training, rendering and models.
"""
