"""Writes docs/domain-reference.md, the reference for authors of domain packs, from docstrings and a schema.

    python -m docs.domain_reference

A docstring has a first sentence, definitions ("name: what it is", a line each, continuations indented), the sections
Args and Raises, and examples with their results (>>>). tests/docs/test_domain_reference.py runs the examples and finds
public names, fields, answer types and operations that lack a docstring or an example.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import teacher.domain
import teacher.scenes
from teacher.domain import blueprint, questions, scoring, tool_types
from teacher.scenes import kinds

FILE = Path(__file__).with_name("domain-reference.md")
SCHEMA = Path(__file__).resolve().parent.parent / "schemas" / "domain.schema.json"

# The names of the page in its order: the public names of the two faces, and what scores an answer.
SECTIONS = {
    "The world": ["Environment"],
    "Tasks": ["template", "Template", "Blueprint", "Solution", "Answer", "Swarm", "Part"],
    "Answers in JSON": ["read_schemas", "json_task"],
    "Answers that a text gives": ["answer_matches"],
    "Pools for train and exam": ["split_pool", "split_numbers", "is_wide", "day_between"],
    "Arguments of tools": ["get_entry", "require_one_of", "is_same_name", "quote"],
    "Words of requests": ["join_names"],
    "Tools with given schemas": ["read_tools", "given_tool", "McpEnvironment"],
    "Loaded packs": ["load", "Domain"],
    "Images": ["Scene", "draw", "check", "DrawnImage", "Cell", "SceneError"],
}
OF_PROGRAMS = ["at", "every", "run_program"]

_HEAD = """<!-- Written by docs/domain_reference.py from docstrings and schemas/domain.schema.json: change those. -->

# Reference for authors of packs

[Domains](domains.md) explains how a pack is built, and the [tutorial](domain-tutorial.md) builds one. This page lists
everything that a pack can use: the fields of `domain.yaml` and the names that it imports from `teacher.domain` and
`teacher.scenes`. The tests run each example.
"""
_DEFINITION = re.compile(r"[a-z_]+(, [a-z_]+)*: ")


@dataclass
class Entry:
    """A documented name of the page.

    module: where its examples run. members: the fields that its text must define. methods: with their docstrings.
    """

    title: str
    text: str
    module: ModuleType
    signature: str = ""
    members: list[str] = field(default_factory=list)
    methods: dict[str, str] = field(default_factory=dict)


def public_names() -> dict[str, Any]:
    """Returns the public names of the faces and what they stand for, without old names of the same thing."""
    listed: dict[str, Any] = {}
    for face in (teacher.domain, teacher.scenes):
        own = {name: getattr(face, name) for name in face.__all__}
        listed |= {name: value for name, value in own.items() if name not in old_names()}
    return listed


def old_names() -> dict[str, str]:
    """Returns the old names that the faces keep, each with the present one."""
    source = inspect.getsource(teacher.domain) + inspect.getsource(teacher.scenes)
    return dict(re.findall(r"^(\w+) = (\w+)  # old name$", source, re.MULTILINE))


def sections() -> dict[str, list[Entry]]:
    """Returns the entries of each section of the page, in order. Raises KeyError for a name that is not public."""
    names = {**public_names(), "answer_matches": scoring.answer_matches}
    made = {title: [entry(name, names[name]) for name in listed] for title, listed in SECTIONS.items()}  # fmt: skip
    made["The world"].append(_from_doc("Types of parameters", tool_types, tool_types))
    drawing = {kind: load() for kind, load in kinds.KINDS.items()}
    made["Kinds of scenes"] = [_from_doc(kind, module, module) for kind, module in drawing.items()]
    # argmax and argmin are one function.
    operations: dict[Any, list[str]] = {}
    for op, run in questions.OPERATIONS.items():
        operations.setdefault(run, []).append(op)
    made["Questions about images"] = [
        _from_doc("Programs", questions, questions),
        *(entry(name, names[name]) for name in OF_PROGRAMS),
        *(_from_doc(", ".join(ops), run, questions) for run, ops in operations.items()),
    ]
    return made


def entry(name: str, value: Any) -> Entry:
    """Returns the entry of a public name."""
    if name == "Solution":  # an alias of a type: it has no docstring of its own
        text = _text_below("Solution", blueprint)
        return Entry(name, text, blueprint, "Solution = list[tuple[str, dict[str, Any]]]")
    module = importlib.import_module(value.__module__)
    members = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    own = value.__doc__ or ""
    # A dataclass without a docstring gets its signature as one.
    text = inspect.cleandoc(own) if not own.startswith(f"{name}(") else ""
    methods = dict(_methods(value)) if inspect.isclass(value) else {}
    return Entry(name, text, module, _signature(name, value), members, methods)


def _from_doc(title: str, documented: Any, module: ModuleType) -> Entry:
    """Returns the entry of an operation or a module that is not called by the pack."""
    return Entry(title, inspect.getdoc(documented) or "", module)


def _text_below(name: str, module: ModuleType) -> str:
    """Returns the string that stands below an assignment in a module."""
    body = ast.parse(inspect.getsource(module)).body
    for before, after in zip(body, body[1:], strict=False):
        if isinstance(before, ast.Assign) and ast.unparse(before.targets[0]) == name:
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return inspect.cleandoc(str(after.value.value))
    raise KeyError(name)


def _methods(value: type) -> Iterator[tuple[str, str]]:
    """Yields each method that a class defines itself, as it is called, with the text of its docstring."""
    for name, member in vars(value).items():
        private = name.startswith("_") and name != "_state"
        if private or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        function = member.fget if isinstance(member, property) else member
        _, *parameters = inspect.signature(function).parameters.values()
        named = ", ".join(str(each.replace(annotation=each.empty)) for each in parameters)
        call = name if isinstance(member, property) else f"{name}({named})"
        yield call, " ".join((inspect.getdoc(function) or "").split())


def _signature(name: str, value: Any) -> str:
    if inspect.isclass(value) and not dataclasses.is_dataclass(value):
        return f"class {name}"
    signature = inspect.signature(value)
    parameters = [_short(str(each)) for each in signature.parameters.values()]
    returned = _short(inspect.formatannotation(signature.return_annotation))
    result = "" if inspect.isclass(value) else f" -> {returned}"
    line = f"{name}({', '.join(parameters)}){result}"
    if len(line) <= 100:
        return line
    return f"{name}(\n" + "".join(f"    {each},\n" for each in parameters) + f"){result}"


def _short(annotation: str) -> str:
    """Returns an annotation without the modules of its types."""
    text = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", annotation)
    return text.replace("<factory>", "...")


# ------------------------------------------------------------------------------------------ Markdown


def page() -> str:
    """Returns the page as Markdown."""
    parts = [
        _HEAD,
        "## Fields of domain.yaml\n",
        _table(json.loads(SCHEMA.read_text(encoding="utf-8"))),
    ]
    for title, entries in sections().items():
        parts.append(f"## {title}\n")
        for each in entries:
            parts.append(f"### {each.title}\n")
            if each.signature:
                parts.append(f"```python\n{each.signature}\n```\n")
            parts.append(markdown(each.text))
            if each.methods:
                parts.append(_list([f"{call}: {text}" for call, text in each.methods.items()]))
    parts.append("## Old names\n")
    old = [f"`{name}` is `{new}`" for name, new in old_names().items()]
    parts.append(_wrap("Packs written earlier may still use these: " + ", ".join(old) + "."))
    return "\n".join(parts)


def markdown(text: str) -> str:
    """Returns a docstring as Markdown: definitions and sections as lists, examples as blocks of code."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = textwrap.dedent(paragraph).splitlines()
        cut = next((n for n, line in enumerate(lines) if line.startswith(">>>")), len(lines))
        prose, examples = lines[:cut], lines[cut:]
        if prose and prose[0] in ("Args:", "Raises:"):
            blocks.append(
                prose[0] + "\n\n" + _list(textwrap.dedent("\n".join(prose[1:])).splitlines())
            )
        elif prose and prose[0].startswith("|"):
            blocks.append("\n".join(prose))
        elif prose and _DEFINITION.match(prose[0]):
            blocks.append(_list(prose))
        elif prose:
            blocks.append(_wrap(_escaped(" ".join(prose))))
        if examples:
            blocks.append("\n".join(["```python", *examples, "```"]))
    return "\n\n".join(block.rstrip() for block in blocks) + "\n"


def definitions(text: str) -> set[str]:
    """Returns the names that a docstring defines."""
    lines = inspect.cleandoc(text).splitlines()
    heads = [match[0] for line in lines if (match := _DEFINITION.match(line.strip()))]
    return {name for head in heads for name in head.rstrip(": ").split(", ")}


def _list(lines: list[str]) -> str:
    """Returns definitions, each with its continuation lines indented, as a list."""
    items: list[str] = []
    for line in lines:
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line)
    made = ""
    for item in items:
        head, _, rest = item.partition(": ")
        names = f"`{head}`" if "(" in head else ", ".join(f"`{name}`" for name in head.split(", "))
        made += _wrap(f"- {names}: {_escaped(rest)}", "  ")
    return made


def _escaped(text: str) -> str:
    """Returns prose with the characters escaped that Markdown would read as markup, outside of backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _wrap(text: str, indent: str = "") -> str:
    """Returns a paragraph in lines of at most 118 characters, never broken inside backticks."""
    words = re.findall(r"(?:`[^`]*`|[^\s`])+", text)
    lines = [""]
    for word in words:
        if lines[-1].strip() and len(lines[-1]) + 1 + len(word) > 118:
            lines.append(indent + word)
        else:
            lines[-1] += (" " if lines[-1].strip() else "") + word
    return "\n".join(lines) + "\n"


def _table(schema: dict[str, Any]) -> str:
    rows = ["| field | value | meaning |", "|---|---|---|"]
    for name, required, node in _fields(schema):
        kind = _value(node) + ("" if required else ", optional")
        rows.append(f"| `{name}` | {kind} | {_cell(node.get('description', ''))} |")
    return "\n".join(rows) + "\n"


def _fields(schema: dict[str, Any], above: str = "") -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """Yields the fields of an object schema and those inside them: dotted name, whether it is required, its schema."""
    for name, node in schema.get("properties", {}).items():
        yield above + name, name in schema.get("required", []), node
        yield from _fields(node, f"{above}{name}.")
    free = schema.get("additionalProperties")
    if isinstance(free, dict) and free.get("properties"):
        yield from _fields(free, f"{above}NAME.")


def _value(node: dict[str, Any]) -> str:
    """Returns in words what a schema allows."""
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    kind = node.get("type", "value")
    if isinstance(kind, list):
        return " or ".join(_value({**node, "type": each}) for each in kind)
    words = {"string": "text", "boolean": "true or false", "integer": "whole number"}.get(
        kind, kind
    )
    if kind == "array":
        words = f"list of {_value(node.get('items', {}))}"
    if kind == "object":
        names = node.get("propertyNames", {}).get("enum")
        words = "fields" + (f" named {', '.join(names)}" if names else "")
        free = node.get("additionalProperties")
        if isinstance(free, dict) and not free.get("properties"):
            words += f", each a {_value(free)}"
    if "pattern" in node:
        words += " matching `" + node["pattern"].replace("|", "\\|") + "`"
    for key, sign in (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("maxLength", "length ≤"),
    ):
        if key in node:
            words += f", {sign} {node[key]}"
    return words


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split()).replace("|", "\\|"))


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    print(f"wrote {FILE}")
