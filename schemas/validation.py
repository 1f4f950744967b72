"""Validates documents, tool arguments and conversations.

`check_document` is for files a person writes: it raises one line that names file, field and what was
expected. `check_messages` is for conversations a model wrote: whatever it is given, it returns a
verdict. Neither fetches a remote `$ref`, and a tool's schema that Python cannot evaluate is reported,
never guessed at.
"""

import functools
import json
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError, best_match
from jsonschema_specifications import REGISTRY as SPECIFICATIONS
from referencing import Registry, Resource

from schemas.errors import InputError
from schemas.wording import announced_call, marker_in

HERE = Path(__file__).resolve().parent
# Without it `format` is not checked at all, and most invalid instances of real tool schemas pass.
_FORMATS = jsonschema.FormatChecker()

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_repr.maxlist = _repr.maxdict = 4
_repr.maxlevel = 2


# --- documents ---


@functools.cache
def validator(schema_name: str) -> Any:
    """The compiled validator of `<schema_name>.schema.json` beside this module.

    A schema refers to another by its file name: `{"$ref": "teacher.schema.json#/$defs/source"}`.
    """
    schema = _schema_beside(f"{schema_name}.schema.json").contents
    registry: Registry[Any] = Registry(retrieve=_schema_beside)  # type: ignore[call-arg]
    return jsonschema.Draft202012Validator(
        schema, registry=registry.combine(SPECIFICATIONS), format_checker=_FORMATS
    )


def _schema_beside(uri: str) -> Resource[Any]:
    return Resource.from_contents(json.loads((HERE / Path(uri).name).read_text(encoding="utf-8")))


def check_document(document: Any, schema_name: str, path: Path | str) -> None:
    """Checks what was read from `path` against `<schema_name>.schema.json`.

    Raises:
        InputError: `path: field: what was found and expected`, for the deepest error.
    """
    try:
        _check_keys(document, "")
        error = best_match(validator(schema_name).iter_errors(document))
    except _KeyIsNoText as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:  # a YAML alias can make a document contain itself
        raise InputError(f"{path}: top level: nested too deeply, or refers to itself") from None
    if error is not None:
        raise InputError(f"{path}: {describe(error)}")


class _KeyIsNoText(Exception):
    """YAML reads `1:`, `on:` and `2026-01-01:` as keys that are no text; JSON has no others."""


def _check_keys(value: Any, field: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise _KeyIsNoText(
                    f"{field or 'top level'}: found the key {_repr.repr(key)}, expected text"
                )
            _check_keys(inner, _join([field, key]))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_keys(inner, _join([field, index]))


def describe(error: ValidationError) -> str:
    """One line for a validation error: the field, what was found, what was expected."""
    field = _join(error.absolute_path)
    expected, found = error.validator_value, error.instance
    match error.validator:
        case "required":
            missing = next(name for name in expected if name not in found)
            expectation = _expectation(error.schema, missing)
            return one_line(f"{_join([field, missing])}: missing, expected {expectation}")
        case "additionalProperties" if expected is False:
            known = error.schema.get("properties", {})
            patterns = error.schema.get("patternProperties", {})
            if known and not patterns:
                unknown = next(name for name in found if name not in known)
                return (
                    f"{_join([field, unknown])}: unknown field, expected one of {', '.join(known)}"
                )
            problem = error.message
        case "type":
            wanted = expected if isinstance(expected, str) else " or ".join(expected)
            problem = f"found {_repr.repr(found)}, expected {wanted}"
        case "enum":
            problem = f"found {_repr.repr(found)}, expected one of {', '.join(map(str, expected))}"
        case "const":
            problem = f"found {_repr.repr(found)}, expected {_repr.repr(expected)}"
        case "pattern" | "format":
            problem = f"found {_repr.repr(found)}, expected {error.validator} {expected}"
        case (
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" as bound
        ):
            problem = f"found {_repr.repr(found)}, expected {bound} {expected}"
        case (
            "minLength"
            | "maxLength"
            | "minItems"
            | "maxItems"
            | "minProperties"
            | "maxProperties" as bound
        ):
            problem = f"found {len(found)}, expected {bound} {expected}"
        case "oneOf" | "anyOf" as keyword:
            problem = f"found {_repr.repr(found)}, expected {keyword} {len(expected)} forms"
        case _:
            problem = error.message
    return one_line(f"{field or 'top level'}: {problem}")


def _expectation(schema: dict[str, Any], name: str) -> str:
    part = schema.get("properties", {}).get(name, {})
    if not isinstance(part, dict):
        return "a value"
    kind = part.get("type", "a value")
    words = str(kind if isinstance(kind, str) else " or ".join(kind))
    return f"{words}: {part['description']}" if isinstance(part.get("description"), str) else words


def _join(path: Iterable[Any]) -> str:
    """a.b[0].c"""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "":
            text += f".{part}" if text else str(part)
    return text


def one_line(text: str, limit: int = 300) -> str:
    """`text` as one line of Unicode that any file and terminal takes."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


# --- JSON that a model wrote ---


def parse_json(text: str | bytes) -> Any:
    """Reads JSON (RFC 8259), and nothing that two readers could read as two things.

    Raises:
        ValueError: what is wrong. Also for what Python alone would take: NaN, a number that overflows, a
            key given twice, half of a surrogate pair, more digits or a deeper nesting than it handles.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no text") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {_repr.repr(twice)} is given twice")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


# --- tool arguments ---


class SchemaNotSupported(Exception):
    """A tool's parameter schema is invalid or cannot be evaluated: this says nothing about the call."""


def arguments_problem(parameters: Any, arguments: Any) -> str | None:
    """What is wrong with a call's arguments by its tool's parameter schema; None when nothing is.

    Raises:
        SchemaNotSupported: the schema is invalid, uses a pattern that Python's `re` does not know
            (`\\p{L}`), refers to something outside itself, or refers to itself without end.
    """
    # An absent schema says nothing; an empty one says the same.
    compiled = _compiled(json.dumps({} if parameters is None else parameters, sort_keys=True))
    try:
        error = best_match(compiled.iter_errors(arguments))
    except (
        Exception
    ) as problem:  # a schema is foreign code: re, arithmetic, references and recursion may fail
        raise SchemaNotSupported(
            one_line(f"{type(problem).__name__}: {problem}", limit=120)
        ) from problem
    return describe(error) if error is not None else None


@functools.lru_cache(maxsize=4096)
def _compiled(schema_text: str) -> Any:
    try:
        schema = json.loads(schema_text)
        # A schema that names its draft is read by it: `items: [..]` means another thing in draft 7.
        draft = _DRAFTS.get(_named_draft(schema), jsonschema.Draft202012Validator)
        draft.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise SchemaNotSupported(describe(error)) from None
    except RecursionError:
        raise SchemaNotSupported("nested too deeply") from None
    # The registry holds the drafts' own schemas and retrieves nothing.
    return draft(schema, registry=SPECIFICATIONS, format_checker=_FORMATS)


_DRAFTS: dict[str, Any] = {
    draft.META_SCHEMA["$schema"].rstrip("#"): draft
    for draft in (
        jsonschema.Draft4Validator,
        jsonschema.Draft6Validator,
        jsonschema.Draft7Validator,
        jsonschema.Draft201909Validator,
    )
}


def _named_draft(schema: Any) -> str:
    name = schema.get("$schema") if isinstance(schema, dict) else None
    return name.rstrip("#") if isinstance(name, str) else ""


def call_problem(
    name: str, arguments: Any, tools: dict[str, dict[str, Any]]
) -> tuple[str, str] | None:
    """The rejection name and detail of one call, by the tools offered; None when it can be executed.

    Args:
        name: the tool's name.
        arguments: JSON text, or a dict that was parsed already.
        tools: function schemas by name, as `functions_by_name` gives them.
    """
    if name not in tools:
        offered = f"expected one of {', '.join(tools)}" if tools else "no tools were offered"
        return "unknown_tool", f"{name}: no such tool, {offered}"
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except ValueError as error:
            return "invalid_json_arguments", f"{name}: {error}"
    if not isinstance(arguments, dict):
        return (
            "invalid_json_arguments",
            f"{name}: found {_repr.repr(arguments)}, expected a JSON object",
        )
    try:
        problem = arguments_problem(tools[name].get("parameters"), arguments)
    except SchemaNotSupported as error:
        return "malformed_trace", f"{name}: schema not supported: {error}"
    return ("invalid_arguments", f"{name}: {problem}") if problem else None


def check_arguments(tool: dict[str, Any], arguments: Any) -> str | None:
    """What is wrong with parsed arguments by their tool (an OpenAI function schema); None when nothing is."""
    if not isinstance(arguments, dict):
        return f"found {_repr.repr(arguments)}, expected a JSON object"
    try:
        return arguments_problem(tool["function"].get("parameters"), arguments)
    except SchemaNotSupported as error:
        return f"schema not supported: {error}"


def functions_by_name(tools: list[dict[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """[{"type": "function", "function": {"name", "parameters"}}] as {name: function}."""
    return {tool["function"]["name"]: tool["function"] for tool in tools or []}


# --- conversations ---

# In the order in which they are looked for: a conversation's reason is the first that applies.
MESSAGE_REASONS = (
    "malformed_trace",
    "unknown_tool",
    "invalid_json_arguments",
    "invalid_arguments",
    "orphan_result",
    "unanswered_call",
    "duplicate_call_id",
    "marker_leak",
    "empty_turn",
    "narrated_call",
)
_ROLES = ("system", "developer", "user", "assistant", "tool")

Verdict = dict[str, Any]
_Finding = tuple[str, int | None, str]  # reason, message index, detail


def kept() -> Verdict:
    return {"kept": True, "reason": None, "detail": None, "message_index": None}


def rejected(reason: str, detail: str, message_index: int | None = None) -> Verdict:
    return {
        "kept": False,
        "reason": reason,
        "detail": one_line(detail),
        "message_index": message_index,
    }


def check_messages(messages: Any, tools: Any, images: Any = None) -> Verdict:
    """Judges a conversation in OpenAI's chat format by what can be seen without executing anything.

    A call's arguments are JSON text, or an object that was parsed already. Without tools every call is
    an unknown_tool. Only the tools that are called have their schemas compiled. Where the conversation has a list of
    `images`, each belongs to one part {"type": "image"} of its messages, in order.

    Returns:
        {"kept", "reason", "detail", "message_index"}: the first of MESSAGE_REASONS that applies, at the
        first message where it does; the last three are None when it is kept. It never raises.
    """
    findings = list(_shape(messages, tools))
    if not findings and images is not None:
        findings += _images(messages, images)
    if not findings:
        functions = functions_by_name(tools)
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                findings += _turn(index, message, functions)
        findings += _results(messages)
        findings += _narrated(messages, functions)
    if not findings:
        return kept()
    reason, where, detail = min(
        findings, key=lambda finding: (MESSAGE_REASONS.index(finding[0]), finding[1] or 0)
    )
    return rejected(reason, detail, where)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, a list of parts, or None."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or [] if part["type"] == "text")


def _shape(messages: Any, tools: Any) -> Iterable[_Finding]:
    """Whether it is a conversation at all. What comes after may rely on it."""

    def malformed(index: int | None, detail: str) -> _Finding:
        return "malformed_trace", index, detail

    if tools is not None and not isinstance(tools, list):
        yield malformed(None, f"tools: found {_repr.repr(tools)}, expected a list")
    else:
        yield from (malformed(None, problem) for problem in _tool_problems(tools or []))
    if not isinstance(messages, list) or not messages:
        found = _repr.repr(messages)
        yield malformed(None, f"messages: found {found}, expected a list of at least one message")
        return
    for index, message in enumerate(messages):
        problem = _message_problem(message)
        if problem:
            yield malformed(index, problem)
    if not any(isinstance(m, dict) and m.get("role") == "assistant" for m in messages):
        yield malformed(None, "messages: no message of an assistant, so nothing to learn")


def _images(messages: list[dict[str, Any]], images: Any) -> Iterable[_Finding]:
    contents = (message.get("content") for message in messages)
    parts = [part for content in contents if isinstance(content, list) for part in content]
    shown = sum(part["type"] == "image" for part in parts)
    # Without such parts the list belongs to another format, such as one with placeholders in the text.
    if shown and (not isinstance(images, list) or shown != len(images)):
        found = len(images) if isinstance(images, list) else _repr.repr(images)
        detail = f"images: found {found}, expected a list of one for each of {shown} image parts"
        yield "malformed_trace", None, detail


def _tool_problems(tools: list[Any]) -> Iterable[str]:
    named: dict[str, Any] = {}
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            yield f'tools[{index}]: found {_repr.repr(tool)}, expected {{"type", "function": {{"name"}}}}'
        elif problem := _not_json(tool):
            yield f"tools[{index}]: {problem}"
        elif named.setdefault(name, function) != function:
            yield f"tools[{index}]: {name} is defined twice, differently"


def _message_problem(message: Any) -> str | None:
    if not isinstance(message, dict):
        return f"found {_repr.repr(message)}, expected an object"
    if problem := _not_json(message):
        return problem
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        return f"role: found {_repr.repr(role)}, expected one of {', '.join(_ROLES)}"
    if isinstance(content, list):
        for index, part in enumerate(content):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                return f'content[{index}]: found {_repr.repr(part)}, expected {{"type", ...}}'
            if part["type"] == "text" and not isinstance(part.get("text"), str):
                return f"content[{index}].text: found {_repr.repr(part.get('text'))}, expected text"
    elif not isinstance(content, str) and not (role == "assistant" and content is None):
        return f"content: found {_repr.repr(content)}, expected text or a list of parts"
    if not isinstance(message.get("reasoning_content"), str | None):
        return f"reasoning_content: found {_repr.repr(message['reasoning_content'])}, expected text"
    if role == "tool" and not isinstance(message.get("tool_call_id"), str | None):
        return f"tool_call_id: found {_repr.repr(message['tool_call_id'])}, expected text"
    calls = message.get("tool_calls")
    if calls is None:
        return None
    if not isinstance(calls, list):
        return f"tool_calls: found {_repr.repr(calls)}, expected a list"
    if calls and role != "assistant":
        return f"tool_calls: found in a message of the {role}, expected in an assistant's"
    for index, call in enumerate(calls):
        if problem := _call_problem(call):
            return f"tool_calls[{index}]{problem}"
    return None


def _call_problem(call: Any) -> str | None:
    if not isinstance(call, dict):
        return f": found {_repr.repr(call)}, expected an object"
    if not isinstance(call.get("id"), str) or not call["id"]:
        return f".id: found {_repr.repr(call.get('id'))}, expected text"
    if call.get("type", "function") != "function":
        return f".type: found {_repr.repr(call['type'])}, expected function"
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return f".function: found {_repr.repr(function)}, expected {{name, arguments}}"
    return None


def _not_json(value: Any) -> str | None:
    """Why a value cannot be written as JSON in UTF-8: NaN, half a surrogate pair, endless nesting."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return f"cannot be written as JSON: {one_line(str(error), limit=100)}"
    return None


def _turn(
    index: int, message: dict[str, Any], functions: dict[str, dict[str, Any]]
) -> Iterable[_Finding]:
    """What a single turn of the assistant shows."""
    calls = message.get("tool_calls") or []
    for call in calls:
        function = call["function"]
        if problem := call_problem(function["name"], function.get("arguments"), functions):
            yield problem[0], index, problem[1]
    ids = [call["id"] for call in calls]
    for call_id in {i for i in ids if ids.count(i) > 1}:
        yield "duplicate_call_id", index, f"{call_id}: {ids.count(call_id)} calls with this id"
    text = text_of(message.get("content"))
    if marker := marker_in(text):
        yield "marker_leak", index, f"found {marker} in the content"
    only_text = all(
        part["type"] == "text" for part in message.get("content") or [] if isinstance(part, dict)
    )
    if not calls and not text.strip() and only_text:
        yield "empty_turn", index, "no content and no tool call"


def _results(messages: list[dict[str, Any]]) -> Iterable[_Finding]:
    """Whether calls and results belong together. An id counts within its turn; a later may reuse it."""
    turn, asked, answered = 0, set[str](), set[str]()
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in asked:
                yield "orphan_result", index, f"{call_id}: no call with this id in the turn before"
            elif call_id in answered and not _called_twice(messages[turn], call_id):
                yield "orphan_result", index, f"{call_id}: a second result for one call"
            answered.add(str(call_id))
            continue
        if asked - answered:
            yield (
                "unanswered_call",
                turn,
                f"{min(asked - answered)}: no result before message {index}",
            )
        calls = message.get("tool_calls") or []
        turn, asked, answered = index, {call["id"] for call in calls}, set()
    # A conversation may end on its calls, but not between the results of one turn.
    if asked & answered and asked - answered:
        yield (
            "unanswered_call",
            turn,
            f"{min(asked - answered)}: no result, though another call has one",
        )


def _called_twice(message: dict[str, Any], call_id: str) -> bool:
    return sum(call["id"] == call_id for call in message["tool_calls"]) > 1


def _narrated(
    messages: list[dict[str, Any]], functions: dict[str, dict[str, Any]]
) -> Iterable[_Finding]:
    """Whether the conversation ends on a turn that says it will act."""
    last = messages[-1]
    if last["role"] == "assistant" and not last.get("tool_calls"):
        announced = announced_call(text_of(last.get("content")), functions)
        if announced:
            detail = f"says {_repr.repr(announced)} and makes no call"
            yield "narrated_call", len(messages) - 1, detail
