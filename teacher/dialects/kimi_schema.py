"""Writes tools in Moonshot's flavour of JSON Schema, the only one that Kimi's servers accept.

The flavour is small (github.com/MoonshotAI/walle, docs/mfjs-spec.md and docs/walle.md): pattern, format, const, oneOf,
allOf, exclusiveMinimum and more are refused, and almost everywhere a schema without a type too. So a call is decoded
under a reduced schema and validated against the full one. `moonshot_tool` only loosens: every value that the full
schema allows is allowed by the reduced one, so no correct call becomes impossible. Dropped keywords are written into
the description.
"""

import json
import math
from typing import Any
from urllib.parse import unquote

# Limits of docs/walle.md, and a limit of this file on the number of nodes after references are expanded.
_LEVELS = 5
_PROPERTIES = 100
_ENUM_VALUES, _ENUM_CHARACTERS = 250, 7_500
_BRANCHES = 10
_NODES = 2_000
_LARGEST = 2**53 - 1

_TYPES = ("string", "number", "boolean", "object", "array", "null")
# Names that a property must not have.
_RESERVED = {"", "$defs", "$ref", "anyOf", "required", "additionalProperties"}
# Keywords that constrain the value itself, not alternatives.
_VALUE_KEYWORDS = {
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "additionalProperties",
    "items",
}
# Keywords that only the full schema checks. The model reads them in the description.
_DESCRIBED = (
    "pattern",
    "format",
    "multipleOf",
    "uniqueItems",
    "exclusiveMinimum",
    "exclusiveMaximum",
)

Schema = dict[str, Any]


def moonshot_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI function tool with its parameters in Moonshot's flavour.

    `default` is left out everywhere, because K2.5 omits a required property that has one.
    """
    function = tool["function"]
    parameters = Reducer(function.get("parameters")).arguments()
    return {**tool, "function": {**function, "parameters": parameters}}


class Reducer:
    """Reduces one schema to the flavour, within the flavour's limits on properties, enum values and nodes."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._properties, self._values, self._nodes = _PROPERTIES, 2 * _ENUM_VALUES, _NODES

    def arguments(self) -> Schema:
        """The schema of a call's arguments, which are always an object."""
        reduced = self.schema(self._root, types=("object",))
        return {"properties": {}, **reduced} if "anyOf" not in reduced else _ANY_OBJECT

    def schema(
        self, node: Any, level: int = 1, within: tuple[str, ...] = (), types: tuple = _TYPES
    ) -> Schema:
        """A schema in the flavour.

        Args:
            level: nesting depth; the flavour allows _LEVELS.
            within: the references that are being expanded around it, to detect recursion.
            types: the types that a value can have at this place.
        """
        self._nodes -= 1
        # A subschema with an $id is a document of its own: references inside it resolve against it.
        foreign = isinstance(node, dict) and "$id" in node and node is not self._root
        if not isinstance(node, dict) or foreign or self._nodes < 0:
            return _any(types)
        reduced = self._loosened(node, level, within, types)
        description = [node["description"]] if isinstance(node.get("description"), str) else []
        dropped = [
            f"{key} {json.dumps(node[key], ensure_ascii=False)}"
            for key in _DESCRIBED
            if key in node
        ]
        description += [f"({', '.join(dropped)})"] if dropped else []
        return {**reduced, "description": " ".join(description)} if description else reduced

    def _loosened(self, node: Schema, level: int, within: tuple[str, ...], types: tuple) -> Schema:
        # All keywords must hold, so each of them alone is looser. The most specific one is taken: a reference, else the
        # constraints on the value itself, else the alternatives.
        if isinstance(reference := node.get("$ref"), str):
            if reference in within:  # recursive: deeper levels are unconstrained
                return _any(types)
            return self.schema(self._target(reference), level, (*within, reference), types)
        if not _VALUE_KEYWORDS & node.keys():
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
        """The node that a JSON pointer into this document refers to; True, which allows all, for other references."""
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
        """The schema restricted to values of one type; None if it allows no value of that type."""
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
        # Next to prefixItems, or as a list (older drafts), `items` constrains only some of the items.
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
        # The keyword applies to properties that the schema does not name. Where properties were dropped, it would apply
        # to them as well, so it is dropped too.
        if len(kept) < len(properties) or "patternProperties" in node:
            others = None
        if isinstance(others, bool):
            reduced["additionalProperties"] = others
        elif isinstance(others, dict):
            reduced["additionalProperties"] = self.schema(others, level + 1, within)
        return reduced

    def _may_list(self, values: list[Any]) -> bool:
        """Whether an enum is within the limits, its own and those of all enums together."""
        texts = [json.dumps(value, ensure_ascii=False) for value in values]
        small = len(values) <= _ENUM_VALUES and sum(map(len, texts)) <= _ENUM_CHARACTERS
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
    """Branches as one schema. Branches that only name types are merged into one list of types."""
    bare = [b["type"] for b in branches if b.keys() == {"type"}]
    kinds = list(dict.fromkeys(k for t in bare for k in ([t] if isinstance(t, str) else t)))
    rest = [b for b in branches if b.keys() != {"type"}]
    branches = ([_any(tuple(kinds))] if kinds else []) + rest
    return branches[0] if len(branches) == 1 else {"anyOf": branches}


def _is_a(kind: str, value: Any) -> bool:
    """Whether a JSON value has a type. 1.0 is an integer; true is not a number."""
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
    """Whether the flavour allows a number: no exponent, and no larger than a double represents exactly."""
    return _is_a("number", number) and "e" not in repr(number) and abs(number) <= _LARGEST


def _range(node: Schema, low: str, high: str, whole: bool) -> Schema:
    """The lower and upper bound of a schema, if the flavour can express them; rounded to integers if `whole`."""
    bounds = {key: node[key] for key in (low, high) if _is_plain(node.get(key))}
    if whole:
        bounds = {k: math.ceil(v) if k == low else math.floor(v) for k, v in bounds.items()}
    if low != "minimum":
        bounds = {key: value for key, value in bounds.items() if value >= 0}
    return bounds if bounds.get(low, -math.inf) <= bounds.get(high, math.inf) else {}
