"""Renders traces with the student's chat template to token ids and labels.

In: a trace (schemas/trace.py), a tokenizer, a chat template, the run's images. Out: prompts and targets of each turn
(`turns`), training examples (`examples`), the text and the messages that the student's server receives (`Renderer`;
`VisionRenderer` for vision-language students).
Imports schemas and teacher.scenes, no other room of student.
"""
