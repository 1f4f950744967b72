"""ShareGPT rows with tools, as LLaMA-Factory reads them.

Description: LLaMA-Factory's data/README.md (`formatting: sharegpt`); `sharegpt.schema.json` has its form. human and
observation stand in odd places, gpt and function_call in even ones. Beyond that document, as its loader reads it:
several calls of one turn are a JSON list, in a block <tool_call> where the turn has text as well, reasoning is a block
<think> before the text, and tools are functions as JSON text. The results of several calls are a JSON list of texts.
The format has no ids of calls; they are counted.
"""

import json
import re
from typing import Any

from schemas.interchange.conversation import (
    Conversation,
    NotCarried,
    NotRead,
    check_format,
    numbered,
    settled_messages,
)
from schemas.json_text import parse_json
from schemas.trace import Message

_IMAGE = "<image>"
_THINK = re.compile(r"<think>\n(.*?)\n</think>\n\n", re.DOTALL)
_CALLS = re.compile(r"(.+?)<tool_call>(.*)</tool_call>", re.DOTALL)
_IMAGES = "images/"


def carried(conversation: Conversation) -> Conversation:
    """What a row carries of a conversation: its messages, tools and images.

    Calls have counted ids and their arguments in one spelling; no message has a name.

    Raises:
        NotCarried: a result belongs to no call of the turn before it, or arguments are not JSON.
    """
    messages = []
    for message in numbered(settled_messages(conversation["messages"])):
        row = {key: value for key, value in message.items() if key != "name"}
        if "tool_calls" in row:
            row["tool_calls"] = [_spelled(call) for call in row["tool_calls"]]
        messages.append(row)
    return {
        "messages": messages,
        "tools": conversation["tools"],
        "images": conversation["images"],
    }


def write(conversation: Conversation) -> dict[str, Any]:
    """The row of a conversation.

    Raises:
        NotCarried: turns that do not alternate, or a role or text that the format has for other uses.
    """
    messages = carried(conversation)["messages"]
    system = ""
    if messages and messages[0]["role"] == "system":
        system, messages = _value(messages[0]), messages[1:]
        if not system:
            raise NotCarried("an empty system message")
    turns: list[dict[str, str]] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        results = 1
        match message["role"]:
            case "user":
                turns.append({"from": "human", "value": _value(message)})
            case "assistant" if "tool_calls" in message:
                turns.append({"from": "function_call", "value": _write_calls(message)})
            case "assistant":
                value = _thought(message) + _value(message)
                turns.append({"from": "gpt", "value": value})
            case "tool":
                results = _count_results(messages[index:])
                values = [_value(each) for each in messages[index : index + results]]
                value = values[0] if results == 1 else json.dumps(values, ensure_ascii=False)
                turns.append({"from": "observation", "value": value})
            case role:
                raise NotCarried(f"the role {role} after the first message")
        index += results
    for place, turn in enumerate(turns):
        if (turn["from"] in ("human", "observation")) != (place % 2 == 0):
            raise NotCarried("turns that do not alternate between the user's side and the model's")
    if len(turns) % 2:
        raise NotCarried("a conversation that does not end on the model's turn")
    row: dict[str, Any] = {"conversations": turns, "system": system}
    row["tools"] = json.dumps(
        [tool["function"] for tool in conversation["tools"]], ensure_ascii=False
    )
    if conversation["images"]:
        row["images"] = [f"{_IMAGES}{name}.png" for name in conversation["images"]]
    return row


def read(row: Any) -> Conversation:
    """The conversation of a row.

    Raises:
        NotRead: it is not of the format.
    """
    check_format(row, "sharegpt")
    messages: list[Message] = []
    turns = row["conversations"]
    if row.get("system"):
        messages.append({"role": "system", "content": row["system"]})
    called: list[str] = []
    step = 0
    for index, turn in enumerate(turns):
        place, value = f"conversations[{index}]", turn["value"]
        match turn["from"]:
            case "human":
                messages.append({"role": "user", "content": _read_content(value)})
            case "system":
                messages.append({"role": "system", "content": value})
            case "gpt":
                step += 1
                messages.append(_read_thought(value, lambda text: {"content": _read_content(text)}))
            case "function_call":
                step += 1
                message = _read_thought(
                    value, lambda text, n=step, p=place: _read_calls(text, n, p)
                )  # type: ignore[misc]
                called = [call["id"] for call in message["tool_calls"]]
                messages.append(message)
            case _:
                texts = [value] if len(called) == 1 else _read_results(value, called, place)
                messages += [
                    {"role": "tool", "tool_call_id": name, "content": _read_content(text)}
                    for name, text in zip(called, texts, strict=True)
                ]
    return {
        "messages": messages,
        "tools": _read_tools(row.get("tools")),
        "images": [
            path.removeprefix(_IMAGES).removesuffix(".png") if path.startswith(_IMAGES) else path
            for path in row.get("images") or []
        ],
    }


def _spelled(call: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = parse_json(call["function"]["arguments"])
    except ValueError:
        raise NotCarried("arguments that are not JSON") from None
    text = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


# ------------------------------------------------------------------------------------------ values


def _value(message: Message) -> str:
    """A content as a value: text, with a placeholder for each image before it."""
    content = message["content"]
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    if any(part["type"] == "text" and _IMAGE in part["text"] for part in parts):
        raise NotCarried(f"a text with {_IMAGE}")
    return "".join(_IMAGE if part["type"] == "image" else part["text"] for part in parts)


def _read_content(value: str) -> Any:
    if _IMAGE not in value:
        return value
    pieces = re.split(f"({_IMAGE})", value)
    return [
        {"type": "image"} if piece == _IMAGE else {"type": "text", "text": piece}
        for piece in pieces
        if piece
    ]


def _thought(message: Message) -> str:
    reasoning = message.get("reasoning_content")
    return f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""


def _read_thought(value: str, read_rest: Any) -> Message:
    thought = _THINK.match(value)
    rest = value[thought.end() :] if thought else value
    message: Message = {"role": "assistant", **read_rest(rest)}
    return {**message, "reasoning_content": thought.group(1)} if thought else message


def _write_calls(message: Message) -> str:
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        calls.append({"name": function["name"], "arguments": parse_json(function["arguments"])})
    text = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
    said = _value(message)
    return _thought(message) + (f"{said}<tool_call>{text}</tool_call>" if said else text)


def _read_calls(text: str, step: int, place: str) -> dict[str, Any]:
    said = _CALLS.fullmatch(text)
    try:
        calls = parse_json(said.group(2) if said else text)
    except ValueError as error:
        raise NotRead(f"{place}: not JSON: {error}") from None
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in calls):
        raise NotRead(f"{place}: expected calls as {{name, arguments}}")
    return {
        "content": _read_content(said.group(1)) if said else "",
        "tool_calls": [
            {
                "id": f"call_{step}_{number}",
                "type": "function",
                "function": {
                    "name": call["name"],
                    "arguments": json.dumps(call.get("arguments", {}), ensure_ascii=False),
                },
            }
            for number, call in enumerate(calls)
        ],
    }


def _count_results(messages: list[Message]) -> int:
    count = 0
    while count < len(messages) and messages[count]["role"] == "tool":
        count += 1
    return count


def _read_results(value: str, called: list[str], place: str) -> list[str]:
    try:
        texts = parse_json(value)
    except ValueError:
        texts = None
    if not isinstance(texts, list) or len(texts) != len(called):
        raise NotRead(f"{place}: expected a JSON list of {len(called)} results")
    return [text if isinstance(text, str) else json.dumps(text) for text in texts]


def _read_tools(text: Any) -> list[Any]:
    try:
        functions = parse_json(text) if text else []
    except ValueError as error:
        raise NotRead(f"tools: not JSON: {error}") from None
    if not isinstance(functions, list):
        raise NotRead("tools: expected a JSON list of functions")
    return [{"type": "function", "function": function} for function in functions]
