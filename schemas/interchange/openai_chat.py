"""OpenAI's chat format: rows of `messages` and `tools`, as its fine-tuning API and TRL read them.

Description: https://platform.openai.com/docs/api-reference/fine-tuning/chat-input; its form: `openai-chat.schema.json`.
An image is a data URL with its bytes. `reasoning_content` is no field of OpenAI's, which other servers and TRL share.
A row carries the conversation alone.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Any

from schemas.interchange.conversation import (
    Conversation,
    NotCarried,
    NotRead,
    check_format,
    settled_messages,
)
from schemas.trace import Message

_DATA_URL = "data:image/png;base64,"


def carried(conversation: Conversation) -> Conversation:
    """What a row carries of a conversation: messages, tools and images."""
    return {
        "messages": settled_messages(conversation["messages"]),
        "tools": conversation["tools"],
        "images": conversation["images"],
    }


def write(conversation: Conversation, png: Callable[[str], bytes]) -> dict[str, Any]:
    """The row of a conversation. png: the file of an image by its sha256.

    Raises:
        NotCarried: an image that is not in a user's message.
    """
    names = iter(conversation["images"])
    messages = []
    for message in settled_messages(conversation["messages"]):
        content = message["content"]
        if isinstance(content, list):
            if message["role"] != "user" and any(part["type"] == "image" for part in content):
                raise NotCarried(f"an image in a message of the role {message['role']}")
            content = [
                _image_part(png(next(names))) if part["type"] == "image" else part
                for part in content
            ]
        messages.append({**message, "content": content})
    row: dict[str, Any] = {"messages": messages}
    return {**row, "tools": conversation["tools"]} if conversation["tools"] else row


def read(row: Any) -> Conversation:
    """The conversation of a row. An image with its bytes is named by their sha256, another by its URL.

    Raises:
        NotRead: it is not of the format.
    """
    check_format(row, "openai-chat")
    images: list[str] = []
    messages = [_read_message(message, images) for message in row["messages"]]
    own = row.get("images")
    return {
        **({"id": row["id"]} if isinstance(row.get("id"), str) else {}),
        "messages": settled_messages(messages),
        "tools": row.get("tools") or [],
        "images": own if isinstance(own, list) and not images else images,
    }


def _image_part(data: bytes) -> dict[str, Any]:
    url = _DATA_URL + base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def _read_message(message: Message, images: list[str]) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = []
    for part in content:
        if part["type"] == "image_url":
            images.append(_name_of(part["image_url"]["url"]))
            part = {"type": "image"}
        parts.append(part)
    return {**message, "content": parts}


def _name_of(url: str) -> str:
    if not url.startswith(_DATA_URL):
        return url
    try:
        data = base64.b64decode(url.removeprefix(_DATA_URL), validate=True)
    except binascii.Error:
        raise NotRead("image_url: expected base64") from None
    return hashlib.sha256(data).hexdigest()
