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

import importlib
import sys
from types import ModuleType


class _AtFirstUse(ModuleType):
    """rfc3987_syntax, which jsonschema needs for the formats iri and iri-reference alone, but imports as it starts:
    its forty parsers are 2.7 s of each command."""

    def is_valid_syntax(self, term: str, value: str) -> bool:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__).is_valid_syntax(term, value)


sys.modules.setdefault("rfc3987_syntax", _AtFirstUse("rfc3987_syntax"))
