"""STS, the Session Trace Simple Format of Hugging Face's Hub: a JSON Lines file for each session.

Specification: https://huggingface.co/docs/hub/session-traces-format. The first line is the header, where other
fields are allowed: `stillhouse` has the tools and the rest of the trace. Every other line is a message. A sub-agent is
a session of its own, whose header names its parent. Contents are texts, so a trace with images has no such form.
`sts.schema.json` describes a line.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from schemas.interchange.conversation import (
    KNOWN,
    OWN,
    Conversation,
    NotCarried,
    NotRead,
    check_format,
    own_fields,
    plain_content,
    rest_of,
    settled,
)
from schemas.trace import Message

HARNESS = "stillhouse"
_ROLES = ("user", "assistant", "system", "tool")

Session = list[dict[str, Any]]


def write(conversation: Conversation) -> list[Session]:
    """The sessions of a trace, each a list of lines: its own first, then those of its sub-agents.

    Raises:
        NotCarried: it has no id, images, contents in parts, or another role.
    """
    return list(_sessions(conversation, None))


def _sessions(conversation: Conversation, parent: str | None) -> Iterable[Session]:
    if not conversation.get("id"):
        raise NotCarried("no id")
    if conversation["images"]:
        raise NotCarried("images")
    others: dict[str, Any] = {}
    lines = []
    for index, message in enumerate(map(settled, conversation["messages"])):
        lines.append({"type": "message", "message": _write_message(message)})
        if other := {key: value for key, value in message.items() if key not in KNOWN}:
            others[str(index)] = other
    own = {**rest_of(conversation), "tools": conversation["tools"]}
    own |= {"parent": parent} if parent else {}
    own |= {"message_fields": others} if others else {}
    name = conversation["id"]
    title = conversation.get("task", {}).get("template") or name
    yield [{"type": "session", "harness": HARNESS, "id": name, "name": title, OWN: own}, *lines]
    for child in conversation.get("children", []):
        yield from _sessions(child, name)


def read(sessions: Iterable[Sequence[Any]]) -> list[Conversation]:
    """The conversations of sessions in any order, with those of sub-agents inside their parents.

    Raises:
        NotRead: a line is not of the format, two sessions have one id, or a session's parent is missing or one of its
            own sub-agents.
    """
    read_sessions = [_read_session(lines) for lines in sessions]
    by_id = {conversation["id"]: conversation for conversation, _ in read_sessions}
    if len(by_id) < len(read_sessions):
        raise NotRead("two sessions with one id")
    roots = []
    for conversation, parent in read_sessions:
        if parent is None:
            roots.append(conversation)
        elif parent in by_id:
            by_id[parent]["children"].append(conversation)
        else:
            raise NotRead(f"session {conversation['id']}: no session is its parent {parent}")
    reached = [*roots]
    for conversation in reached:
        reached += conversation["children"]
    if len(reached) < len(read_sessions):
        raise NotRead("sessions that are each other's parents")
    return roots


def _read_session(lines: Sequence[Any]) -> tuple[Conversation, str | None]:
    if not lines:
        raise NotRead("no lines, expected a header and messages")
    for number, line in enumerate(lines, 1):
        try:
            check_format(line, "sts")
        except NotRead as error:
            raise NotRead(f"line {number}: {error}") from None
        if (line["type"] == "session") != (number == 1):
            raise NotRead(f"line {number}: expected one header, as the first line")
    head = lines[0]
    own: Any = head.get(OWN)
    own = own if isinstance(own, dict) else {}
    fields = own.get("message_fields") if isinstance(own.get("message_fields"), dict) else {}
    messages = [
        _read_message(line["message"], fields.get(str(index)))
        for index, line in enumerate(lines[1:])
    ]
    tools, parent = own.get("tools"), own.get("parent")
    rest = own_fields({OWN: own})
    for name in ("parent", "message_fields"):
        rest.pop(name, None)
    conversation = {
        "id": head["id"],
        "tools": tools if isinstance(tools, list) else [],
        "messages": messages,
        "images": [],
        **rest,
        "children": [],
    }
    return conversation, parent if isinstance(parent, str) else None


def _write_message(message: Message) -> dict[str, Any]:
    if message["role"] not in _ROLES:
        raise NotCarried(f"the role {message['role']}")
    content = plain_content(message["content"])
    row: dict[str, Any] = {"role": message["role"], "content": content}
    if "reasoning_content" in message:
        row["reasoningContent"] = message["reasoning_content"]
    if "tool_calls" in message:
        row["toolCalls"] = [
            {"id": call["id"], "function": call["function"]} for call in message["tool_calls"]
        ]
    if "tool_call_id" in message:
        row["toolCallId"] = message["tool_call_id"]
    return row


def _read_message(row: dict[str, Any], other: Any) -> Message:
    message: Message = {**(other if isinstance(other, dict) else {})}
    message |= {"role": row["role"], "content": row["content"]}
    if row.get("reasoningContent"):
        message["reasoning_content"] = row["reasoningContent"]
    if row.get("toolCalls"):
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": call["function"]["arguments"],
                },
            }
            for call in row["toolCalls"]
        ]
    if row.get("toolCallId") is not None:
        message["tool_call_id"] = row["toolCallId"]
    return message
