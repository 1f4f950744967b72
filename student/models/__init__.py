"""Descriptions of students, and their starting weights.

In: a name of a YAML file here, the path of such a file, a directory in Hugging Face's form, or a model on the hub. Out:
the description (`base.load`, schemas/student.schema.json), the directory with the untrained weights (`base.prepare`)
and the chat template that the student is trained, exported and served with (`chat_template`). Unsuitable models are
refused before the teacher generates anything. Imports student.rendering, teacher and schemas.
"""
