"""Moonshot's flavour of JSON Schema: tools as Kimi's servers take them.

The flavour is small (github.com/MoonshotAI/walle, docs/mfjs-spec.md and docs/walle.md): pattern, format, const, oneOf,
allOf, exclusiveMinimum and more are refused, and so is a schema without a type almost everywhere. So what a call is
decoded under is not what it is judged by. `accepted` only ever loosens: what the full schema allows, the reduced one
allows, so that no right call is made impossible. What the flavour cannot say stands in the description.
"""

import json
import math
from typing import Any
from urllib.parse import unquote

# Limits of docs/walle.md, and one on what references written out may grow to.
_LEVELS = 5
_PROPERTIES = 100
_ENUM_VALUES, _ENUM_CHARACTERS = 250, 7_500
_BRANCHES = 10
_NODES = 2_000
_LARGEST = 2**53 - 1

_TYPES = ("string", "number", "boolean", "object", "array", "null")
# What a property may not be named.
_RESERVED = {"", "$defs", "$ref", "anyOf", "required", "additionalProperties"}
# Keywords that speak of a value itself, not of alternatives.
_OWN = {"type", "enum", "const", "properties", "required", "additionalProperties", "items"}
# Keywords that only the full schema checks; the model reads them in the description.
_SAID = ("pattern", "format", "multipleOf", "uniqueItems", "exclusiveMinimum", "exclusiveMaximum")

Schema = dict[str, Any]


def accepted(tool: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI function tool whose parameters are in Moonshot's flavour.

    `default` is left out everywhere: K2.5 omits a required property that has one.
    """
    function = tool["function"]
    parameters = Reducer(function.get("parameters")).arguments()
    return {**tool, "function": {**function, "parameters": parameters}}


class Reducer:
    """Takes one schema down to the flavour, and counts what the flavour limits."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._properties, self._values, self._nodes = _PROPERTIES, 2 * _ENUM_VALUES, _NODES

    def arguments(self) -> Schema:
        """The schema of a call's arguments, which are an object whatever the schema would allow."""
        reduced = self.schema(self._root, types=("object",))
        return {"properties": {}, **reduced} if "anyOf" not in reduced else _ANY_OBJECT

    def schema(
        self, node: Any, level: int = 1, within: tuple[str, ...] = (), types: tuple = _TYPES
    ) -> Schema:
        """A schema in the flavour.

        Args:
            within: the references that are being written out around it.
            types: what a value there can be at all.
        """
        self._nodes -= 1
        # A subschema with an $id is a document of its own, which references inside it refer to.
        foreign = isinstance(node, dict) and "$id" in node and node is not self._root
        if not isinstance(node, dict) or foreign or self._nodes < 0:
            return _any(types)
        reduced = self._loosened(node, level, within, types)
        words = [node["description"]] if isinstance(node.get("description"), str) else []
        said = [
            f"{key} {json.dumps(node[key], ensure_ascii=False)}" for key in _SAID if key in node
        ]
        words += [f"({', '.join(said)})"] if said else []
        return {**reduced, "description": " ".join(words)} if words else reduced

    def _loosened(self, node: Schema, level: int, within: tuple[str, ...], types: tuple) -> Schema:
        # Keywords must all hold, so any of them alone is looser. The one that says most is taken: a reference, else
        # what is said of the value itself, else the alternatives.
        if isinstance(reference := node.get("$ref"), str):
            if reference in within:  # it contains itself: what is further inside is left open
                return _any(types)
            return self.schema(self._target(reference), level, (*within, reference), types)
        if not _OWN & node.keys():
            for keyword in ("anyOf", "oneOf"):
                branches = node.get(keyword)
                if isinstance(branches, list) and 0 < len(branches) <= _BRANCHES:
                    return _either([self.schema(b, level, within, types) for b in branches])
            if isinstance(node.get("allOf"), list) and node["allOf"]:
                return self.schema(node["allOf"][0], level, within, types)
        declared = node.get("type", list(types))
        declared = declared if isinstance(declared, list) else [declared]
        kinds = [k for k in declared if k in types or (k == "integer" and "number" in types)]
        branches = [self._of_kind(kind, node, level, within) for kind in kinds]
        return _either([b for b in branches if b]) if any(branches) else _any(types)

    def _target(self, reference: str) -> Any:
        """What a JSON pointer into the document points to; for any other reference True, which allows all."""
        if reference != "#" and not reference.startswith("#/"):
            return True
        node = self._root
        for step in unquote(reference).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            elif isinstance(node, dict) and step in node:
                node = node[step]
            else:
                return True
        return node

    def _of_kind(
        self, kind: str, node: Schema, level: int, within: tuple[str, ...]
    ) -> Schema | None:
        """What a schema says of values of one type; None where it allows none of them."""
        reduced: Schema = {"type": kind}
        values = [node["const"]] if "const" in node else node.get("enum")
        if isinstance(values, list):
            values = [value for value in values if _is_a(kind, value)]
            if not values:
                return None
            if kind in ("string", "number", "integer") and self._may_list(values):
                reduced["enum"] = values
        if kind == "object" and level < _LEVELS:
            reduced |= self._object(node, level, within)
        # Beside prefixItems, and as a list in older drafts, `items` speaks of some of the items only.
        all_items = isinstance(node.get("items"), dict) and "prefixItems" not in node
        if kind == "array" and all_items and level < _LEVELS:
            reduced["items"] = self.schema(node["items"], level + 1, within)
        for low, high in _BOUNDS.get(kind, ()):
            reduced |= _range(node, low, high, whole=kind != "number")
        return reduced

    def _object(self, node: Schema, level: int, within: tuple[str, ...]) -> Schema:
        properties = node.get("properties", {})
        if not isinstance(properties, dict) or len(properties) > self._properties:
            return {}
        self._properties -= len(properties)
        kept = {
            name: self.schema(property_, level + 1, within)
            for name, property_ in properties.items()
            if name not in _RESERVED
        }
        reduced: Schema = {"properties": kept} if "properties" in node else {}
        if isinstance(node.get("required"), list) and reduced:
            reduced["required"] = [name for name in node["required"] if name in kept]
        others = node.get("additionalProperties")
        # It speaks of the properties that nothing else names, and here nothing else names these.
        if len(kept) < len(properties) or "patternProperties" in node:
            others = None
        if isinstance(others, bool):
            reduced["additionalProperties"] = others
        elif isinstance(others, dict):
            reduced["additionalProperties"] = self.schema(others, level + 1, within)
        return reduced

    def _may_list(self, values: list[Any]) -> bool:
        """Whether an enum is within the limits, one by one and together."""
        written = [json.dumps(value, ensure_ascii=False) for value in values]
        small = len(values) <= _ENUM_VALUES and sum(map(len, written)) <= _ENUM_CHARACTERS
        if not small or len(values) > self._values:
            return False
        self._values -= len(values)
        return all(isinstance(v, str) or _is_plain(v) for v in values)


_ANY_OBJECT: Schema = {"type": "object", "properties": {}}
_BOUNDS = {
    "string": (("minLength", "maxLength"),),
    "array": (("minItems", "maxItems"),),
    "number": (("minimum", "maximum"),),
    "integer": (("minimum", "maximum"),),
}


def _any(types: tuple) -> Schema:
    return {"type": list(types) if len(types) > 1 else types[0]}


def _either(branches: list[Schema]) -> Schema:
    """Branches as one schema; those that name types and nothing else become one list of types."""
    bare = [b["type"] for b in branches if b.keys() == {"type"}]
    kinds = list(dict.fromkeys(k for t in bare for k in ([t] if isinstance(t, str) else t)))
    rest = [b for b in branches if b.keys() != {"type"}]
    branches = ([_any(tuple(kinds))] if kinds else []) + rest
    return branches[0] if len(branches) == 1 else {"anyOf": branches}


def _is_a(kind: str, value: Any) -> bool:
    """Whether a JSON value is of a type; 1.0 is an integer, true is no number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "string": isinstance(value, str),
        "number": number,
        "integer": number and value == value // 1,
        "boolean": isinstance(value, bool),
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "null": value is None,
    }[kind]


def _is_plain(number: Any) -> bool:
    """Whether a number can be written as the flavour wants it: no exponent, no more than a double holds exactly."""
    return _is_a("number", number) and "e" not in repr(number) and abs(number) <= _LARGEST


def _range(node: Schema, low: str, high: str, whole: bool) -> Schema:
    """The two bounds that a schema sets, where they can be said; rounded to whole numbers where only those count."""
    bounds = {key: node[key] for key in (low, high) if _is_plain(node.get(key))}
    if whole:
        bounds = {k: math.ceil(v) if k == low else math.floor(v) for k, v in bounds.items()}
    if low != "minimum":
        bounds = {key: value for key, value in bounds.items() if value >= 0}
    return bounds if bounds.get(low, -math.inf) <= bounds.get(high, math.inf) else {}
