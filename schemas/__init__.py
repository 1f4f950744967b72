"""What is valid: the JSON Schemas of every file, the rows as types, the Recipe, and the checks of what a model wrote.

The lowest room: it imports no other room, and every other room imports it. In come documents, texts and rows of
unknown quality; out come typed values, verdicts and errors of one line.

    task, trace, recipe                   the rows and the recipe as types
    json_schema, violation, ecma_pattern  the schema engine, its messages, its patterns
    decodable                             schemas as servers take them that decode under one
    schema_budget, schema_worker          schemas of unknown origin, judged within a budget
    documents, json_text, tool_calls      checks of a file, of a JSON text, of a tool call
    messages, text_heuristics             checks of a conversation, of an assistant's text
    filter, dedup, ledger, trace_file     checks of a run's traces, and of any file of conversations
    errors, error_text, files, cache      shared by all rooms
"""
