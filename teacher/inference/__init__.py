"""Serves a teacher or a student, and sends requests to it.

`launch` opens the teacher (its own server, or an API by its URL), `llama_server` serves a GGUF; both yield an
`Endpoint`. `Client` sends chat requests to an endpoint and stores each reply in a `Journal` before it returns the
reply. `llamacpp` finds or builds llama.cpp's programs. `process` and `replicas` run servers and restart them.

Comes in: a model's description (teacher/models), the recipe's `serve` section, OpenAI chat messages. Goes out: replies.
May import schemas, teacher.models, teacher.dialects and teacher.scenes (images by hash), not teacher.domain or above.
"""
