"""What is valid: the JSON Schemas of every file, and the checks of what a model wrote.

The lowest layer: it imports none of the others.

    validation     a document, by its *.schema.json
    json_text      a text, as JSON
    calls          a tool call, by the tools that were offered
    wording        what an assistant's text gives away
    conversation   messages: the first reason to reject them
    filter, dedup  traces: the ordered checks, and what is too much alike
    validate       a file of conversations that anyone wrote (`stillhouse validate`)
    problems       what is wrong, in one line
    errors, files  what every layer shares: the errors that end a command, files that are whole or not there
"""
