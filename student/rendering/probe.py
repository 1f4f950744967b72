"""What a chat template renders of tools, calls and results, found out by rendering a conversation with marks.

A template that loses a call trains the student on empty turns, without an error. `check_tools` refuses it.
"""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student.rendering.renderer import Renderer

TOOL, _KEY, _RESULT, _TEXT = "probe_tool", "probe_key", "probe-result", "probe-text"
_REQUEST = {"role": "user", "content": "?"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": TOOL,
            "description": "Probes.",
            "parameters": {
                "type": "object",
                "properties": {_KEY: {"type": "string", "description": "A key."}},
                "required": [_KEY],
            },
        },
    }
]


def _mark(number: int) -> str:
    return f"mark-{number}"


MARK = _mark(0)


def _turn(count: int, content: str = "") -> dict[str, Any]:
    return _calling([_mark(number) for number in range(count)], content)


def _calling(values: list[Any], content: str = "") -> dict[str, Any]:
    """A turn with a call for each value."""
    calls = [
        {
            "id": f"probe000{number}",  # Mistral's templates require nine letters and digits
            "type": "function",
            "function": {"name": TOOL, "arguments": json.dumps({_KEY: value})},
        }
        for number, value in enumerate(values)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def written_call(apply: Callable[..., str], value: Any) -> str | None:
    """What a template writes of a turn with one call, whose only argument has this value; None where it cannot.

    apply: as of `renders`.
    """
    try:
        text = apply([_REQUEST, _calling([value])], TOOLS, False, False)
        return text.removeprefix(apply([_REQUEST], TOOLS, False, False))
    except ValueError:
        return None


def tags(call: str) -> tuple[str, ...]:
    """The tags in a written call, without the names in them: <tool_call>, <function=, </parameter>."""
    return tuple(dict.fromkeys(re.findall(r"</?\w+[=>]", call)))


def renders(apply: Callable[..., str], count: int, as_text: bool) -> bool:
    """Whether a template renders a turn of `count` calls with the arguments of each.

    Args:
        apply: renders (messages, tools, add_generation_prompt, as_text); it raises ValueError where it cannot.
        as_text: hand arguments to the template as JSON text, not as objects.
    """
    try:
        text = apply([_REQUEST, _turn(count)], TOOLS, False, as_text)
    except ValueError:
        return False
    marks = [_mark(number) for number in range(count)]
    # An object that a template puts between two strings comes out as Python writes it.
    as_python = any(str({_KEY: mark}) in text for mark in marks)
    return not as_python and all(mark in text for mark in marks)


def check_generation_prompt(renderer: "Renderer") -> None:
    """Raises Unrenderable if the template leaves it to the model to write the header of its turn.

    A template may add nothing before a reply, as Mistral's does, but then a reply begins with no token that opens a
    turn. Else a server would pass the header on as part of the text.
    """
    from student.rendering.errors import Unrenderable

    reply = {"role": "assistant", "content": _TEXT}
    _, target = renderer.turn([_REQUEST, reply], [], 1)
    prompt, header = renderer.text([_REQUEST], []), target.partition(_TEXT)[0].strip()
    opens_turn = any(
        header.startswith(token) and token in prompt
        for token in renderer.tokenizer.all_special_tokens
    )
    if opens_turn and renderer.text([_REQUEST], [], add_generation_prompt=True) == prompt:
        raise Unrenderable(
            f"its chat template begins a reply with {header!r}, but adds nothing for add_generation_prompt"
        )


def check_tools(renderer: "Renderer") -> list[str]:
    """Returns what the template leaves out although a student can be trained with it, one line each.

    Raises:
        Unrenderable: the template loses the tools, a call, its arguments, or a tool's result.
    """
    from student.rendering.errors import Unrenderable

    def require(mark: str, text: str, what: str) -> None:
        if mark not in text:
            raise Unrenderable(f"its chat template {what}")

    offered = renderer.text([_REQUEST], TOOLS)
    require(TOOL, offered, "knows no tools")
    require(_KEY, offered, "lists tools without their parameters")
    call = _turn(1)
    _, target = renderer.turn([_REQUEST, call], TOOLS, 1)
    require(TOOL, target, "loses the name of a call")
    require(_KEY, target, "loses the names of a call's arguments")
    require(_mark(0), target, "loses the values of a call's arguments")
    _, beside_text = renderer.turn([_REQUEST, _turn(1, _TEXT)], TOOLS, 1)
    require(_mark(0), beside_text, "drops a call that stands beside text")
    results = {"role": "tool", "tool_call_id": "probe0000", "name": TOOL, "content": _RESULT}
    answered = [_REQUEST, call, results]
    prompt, _ = renderer.turn([*answered, {"role": "assistant", "content": "Yes."}], TOOLS, 3)
    require(_RESULT, prompt, "loses a tool's result")
    require(_mark(0), prompt, "loses a call once its result is there")
    notes = []
    if renderer.one_call_per_turn:
        notes.append("it renders one call in a turn: parallel calls become turns of one call")
    if _TEXT not in beside_text:
        notes.append("it leaves out text beside a call: the student learns such turns without it")
    if "date_string" in renderer.template:
        notes.append("it writes a date: llama.cpp fills in today's, training the template's own")
    if renderer.arguments_as_text:
        notes.append("it reads arguments as JSON text: vLLM, which passes objects, cannot serve it")
    return notes
