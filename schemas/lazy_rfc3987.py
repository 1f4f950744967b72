"""Delays the import of rfc3987_syntax until a check needs it.

jsonschema imports it at start-up, but uses it for the formats iri and iri-reference alone. Its forty parsers take
2.7 s to build, which every command would pay.
"""

import importlib
import sys
from types import ModuleType


class _LazyModule(ModuleType):
    """Stands in for rfc3987_syntax and imports the real module at the first call."""

    def is_valid_syntax(self, term: str, value: str) -> bool:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__).is_valid_syntax(term, value)


def delay_rfc3987() -> None:
    """Registers the stand-in, unless the module was imported already. Call it before jsonschema is imported."""
    sys.modules.setdefault("rfc3987_syntax", _LazyModule("rfc3987_syntax"))
