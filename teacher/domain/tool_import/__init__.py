"""Makes a pack's tools.json of the tools that people have: an MCP server's, an OpenAPI file's, or a list of functions.

A schema of others is hostile until it is plain: references are written out, and one that contains itself, is too large,
or has a pattern that may take exponential time is refused in one line.

    functions.py    lists of functions in the forms of OpenAI, Anthropic and MCP; the tools of a server
    openapi.py      the operations of an OpenAPI 3.0 or 3.1 file
    plain_schema.py one schema without references
"""
