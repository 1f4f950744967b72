"""Trains a student on traces, exports it, evaluates it and publishes it.

In: kept traces (schemas/trace.py), a student's description (student/models), the recipe's sections train, export,
evaluate and publish. Out: an adapter, GGUF files and a safetensors directory, a scorecard, a version in a store.
Rooms and their order, each imports only those below it: export, registry and evaluate; training; kernels and models;
rendering. All may import teacher and schemas; none imports flows. kernels and rendering import nothing of student.
"""
