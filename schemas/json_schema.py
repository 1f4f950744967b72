"""Judges a value by a JSON Schema, exactly: decimal `multipleOf`, ECMA-262 patterns, the formats of their RFCs.

The engine is jsonschema-rs. Nothing remote is fetched. Cost is not bounded here: schemas/schema_budget.py decides
where a schema of unknown origin is judged.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs

from schemas.ecma_pattern import PatternNotSupported, portable
from schemas.error_text import brief, one_line
from schemas.violation import Violation, most_relevant, violation

# A schema that names its draft is read by that draft: `items: [...]` has another meaning in draft 7.
_NEWEST = "https://json-schema.org/draft/2020-12/schema"
_DRAFTS: dict[str, Callable[..., Any]] = {
    "http://json-schema.org/draft-04/schema": jsonschema_rs.Draft4Validator,
    "http://json-schema.org/draft-06/schema": jsonschema_rs.Draft6Validator,
    "http://json-schema.org/draft-07/schema": jsonschema_rs.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema_rs.Draft201909Validator,
    _NEWEST: jsonschema_rs.Draft202012Validator,
}
# Schemas of older drafts use formats that only later drafts define, such as uuid and duration.
_FORMATS = (
    *("date", "date-time", "duration", "time", "email", "idn-email", "hostname", "idn-hostname"),
    *("iri", "iri-reference", "uri", "uri-reference", "uri-template", "uuid", "regex"),
    *("json-pointer", "relative-json-pointer"),
)

# Keywords whose value is data, and keywords whose value has schemas by name. Every other value is searched for
# patterns as a schema is: a `$ref` may point into a keyword that no draft knows.
DATA_KEYWORDS = frozenset({"const", "enum", "default", "examples", "required", "type"})
NAMED_KEYWORDS = frozenset(
    {"properties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)

_BACKTRACKING = re.compile(r"\(\?<?[=!]|\(\?:\\\d")
# More steps than a pattern takes within any budget of seconds: the budget is kept by schemas/schema_budget.py.
_BACKTRACKS = 2**40


class SchemaNotSupported(Exception):
    """A schema is invalid, cannot be evaluated, or exceeds its budget, so the value cannot be judged."""


class Schema:
    """A compiled JSON Schema.

    Args:
        document: the schema. resources: documents by the URI that a `$ref` names.

    Attributes:
        backtracks: whether a pattern may take exponential time.

    Raises:
        SchemaNotSupported: the schema is invalid, a pattern is not ECMA-262, or a `$ref` leads outside the resources.
    """

    def __init__(self, document: Any, resources: Mapping[str, Any] | None = None) -> None:
        if not isinstance(document, dict | bool):
            raise SchemaNotSupported(f"top level: found {brief(document)}, expected object")
        self._patterns: dict[str, str] = {}
        draft = _draft(document)
        try:
            self._document = self._portable(document)
            # Look-around and references need an engine that may take exponential time.
            self.backtracks = any(_BACKTRACKING.search(pattern) for pattern in self._patterns)
            self._validator = _DRAFTS[draft](
                self._document,
                validate_formats=True,
                formats=_formats() if "draft-0" in draft else None,
                registry=jsonschema_rs.Registry(list(resources.items())) if resources else None,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKS),
                offline=True,
            )
        except jsonschema_rs.ValidationError as error:
            raise SchemaNotSupported(violation(error, {}, self._patterns).text) from None
        except PatternNotSupported as error:
            raise SchemaNotSupported(f"pattern: {error}") from None
        except RecursionError:
            raise SchemaNotSupported("nested too deeply") from None
        except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
            raise SchemaNotSupported(one_line(str(error), limit=120)) from None

    def is_valid(self, value: Any) -> bool:
        """Whether a value is valid. Raises SchemaNotSupported as `problem` does."""
        try:
            return self._validator.is_valid(value)
        except (ValueError, TypeError) as error:
            raise SchemaNotSupported(one_line(str(error), limit=120)) from None

    def problem(self, value: Any) -> Violation | None:
        """What is wrong with a value: the most relevant violation, or None where it is valid.

        Raises:
            SchemaNotSupported: the value is not JSON, such as a date or half of a surrogate pair.
        """
        if self.is_valid(value):
            return None
        errors = self._validator.iter_errors(value)
        return most_relevant(errors, self._document, self._patterns)

    def _portable(self, schema: Any) -> Any:
        """The schema with each pattern rewritten, which is remembered in `_patterns`."""
        if isinstance(schema, list):
            return [self._portable(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        result = {}
        for keyword, value in schema.items():
            if keyword == "pattern" and isinstance(value, str):
                value = self._rewritten(value)
            elif keyword == "patternProperties" and isinstance(value, dict):
                value = {
                    self._rewritten(key): self._portable(inner) for key, inner in value.items()
                }
            elif keyword in NAMED_KEYWORDS and isinstance(value, dict):
                value = {name: self._portable(inner) for name, inner in value.items()}
            elif keyword not in DATA_KEYWORDS:
                value = self._portable(value)
            result[keyword] = value
        return result

    def _rewritten(self, pattern: str) -> str:
        text = portable(pattern)
        self._patterns[text] = pattern
        return text


def _draft(document: Any) -> str:
    name = document.get("$schema") if isinstance(document, dict) else None
    draft = name.rstrip("#") if isinstance(name, str) else ""
    return draft if draft in _DRAFTS else _NEWEST


@functools.cache
def _formats() -> dict[str, Callable[[str], bool]]:
    """The formats of draft 2020-12, as functions."""
    return {
        name: jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True).is_valid
        for name in _FORMATS
    }
