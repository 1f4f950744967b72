"""Differences between model families behind the common chat API: request adaptation and reply parsing.

`base.Dialect` is the OpenAI form and changes nothing. A family that needs more has a file here, such as `kimi`, which
the `family` of a teacher's description names; a file ending in _schema belongs to the family before it.

Comes in: messages, tools and parameters of a request; the message of a reply. Goes out: the adapted request; the parsed
reply with the failures that were detected in it. May import schemas only.
"""
