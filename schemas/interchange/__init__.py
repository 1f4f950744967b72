"""Traces in the formats that others read and write: ATIF, STS, ShareGPT with tools, and OpenAI's chat format.

One module a format: `write` makes the format's document of a trace, `read` makes the conversation of a document, which
may be anybody's. Both check it by the format's JSON Schema. `export.py` writes the kept traces of a run and loads each
back before it counts; `logs.py` reads files of any of the formats.
"""
