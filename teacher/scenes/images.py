"""The pictures of a run: on disk by their hash, and in messages as the reader at the other end takes them.

A stored message has {"type": "image"} where a picture was shown, and the trace's list `images` names the pictures in
that order. While a conversation goes on, the part itself says which one it is: {"type": "image", "sha256": ...}.
A picture travels by its hash as far as the client, which alone puts the file's bytes into what it sends, so neither a
trace nor the journal ever holds them.
"""

import base64
import functools
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from schemas.errors import StageError
from schemas.files import dumps, read_json, sha256, sha256_text, whole, write_json
from teacher.scenes.scene import Picture, as_text

# pixels: the pictures themselves. source: what they show, in words. none: not at all.
Grounding = Literal["pixels", "source", "none"]

Message = dict[str, Any]

# A picture's difference hash compares each of 16 x 16 points of its brightness with the next: 256 bits.
_HASH_SIDE = 16
_REFERENCE = "sha256:"


class TooMany(ValueError):
    """More pictures, or larger ones, than the model's server takes."""


class Album:
    """The pictures of a run in one directory: <sha256>.png, and <sha256>.json that says what it shows.

    The JSON file is {"kind", "variant", "width", "height", "source", "cells": [{"key", "text", "box"}], "dhash"}.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, picture: Picture) -> str:
        """Keeps a picture and returns its sha256. The same picture gives the same two files."""
        name = picture.sha256
        described = self.directory / f"{name}.json"
        # The description is written last: where it is, the picture is.
        if not described.is_file():
            with whole(self.directory / f"{name}.png") as temporary:
                temporary.write_bytes(picture.png)
            scene = picture.scene
            write_json(
                described,
                {
                    "kind": scene.kind,
                    "variant": scene.data.get("variant"),
                    "width": picture.width,
                    "height": picture.height,
                    "source": picture.source,
                    "cells": [
                        {"key": cell.key, "text": cell.text, "box": list(cell.box)}
                        for cell in picture.cells
                    ],
                    "dhash": dhash(picture.png),
                },
            )
        return name

    def png(self, name: str) -> bytes:
        """The file of a picture. Raises StageError where it is missing or damaged."""
        path = self.directory / f"{name}.png"
        if not path.is_file():
            raise StageError(f"{path}: no such picture: the run's stage plan draws it again")
        if sha256(path) != name:
            raise StageError(f"{path}: damaged: its sha256 is not its name")
        return path.read_bytes()

    def about(self, name: str) -> dict[str, Any]:
        """What a picture shows. Raises StageError where its file is missing."""
        path = self.directory / f"{name}.json"
        if not path.is_file():
            raise StageError(f"{path}: no such picture: the run's stage plan draws it again")
        return _about(path)

    def look(self, name: str) -> tuple[str, str]:
        """What makes a picture the same as another to a reader: its difference hash, and the values that it shows."""
        about = self.about(name)
        return about["dhash"], sha256_text(dumps([(c["key"], c["text"]) for c in about["cells"]]))

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of the pictures that are not there."""
        return [name for name in names if not (self.directory / f"{name}.json").is_file()]


@functools.lru_cache(maxsize=4096)
def _about(path: Path) -> dict[str, Any]:
    return read_json(path)


def dhash(png: bytes) -> str:
    """A picture's difference hash, 256 bits in hex: alike for pictures that look alike.

    Whether each point of the picture, scaled to 17 x 16 in shades of grey, is brighter than the next of its row.
    """
    with Image.open(io.BytesIO(png)) as opened:
        small = opened.convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.LANCZOS)
    grey_HW = np.asarray(small, dtype=np.int16)
    bits_HW = grey_HW[:, :-1] > grey_HW[:, 1:]
    return np.packbits(bits_HW).tobytes().hex()


# ------------------------------------------------------------------------------------------ in messages


def image(name: str) -> dict[str, str]:
    """The part of a message that shows a picture."""
    return {"type": "image", "sha256": name}


def names_of(task: dict[str, Any]) -> list[str]:
    """The pictures that a task shows, in order."""
    return [picture["sha256"] for picture in task.get("pictures", [])]


def names_in(messages: Iterable[Message]) -> list[str]:
    """The pictures that messages show, in order, each as often as it is shown."""
    return [part["sha256"] for message in messages for part in _parts(message, "image")]


def stored(messages: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """Messages as a trace stores them, and its list of images."""
    return [
        {**message, "content": [_bare(part) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ], names_in(messages)


def named(messages: Sequence[Message], images: Sequence[str]) -> list[Message]:
    """The other way round: a trace's messages with each picture named where it is shown."""
    left = iter(images)
    return [
        {
            **message,
            "content": [
                image(next(left)) if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def in_words(content: Any, sources: Iterable[str]) -> Any:
    """A message's content as a text-only model reads it: each picture in words, all parts one text.

    sources: what each picture of this content shows, in order (`Album.about(name)["source"]`).
    """
    if not isinstance(content, list):
        return content
    left = iter(sources)
    texts = [as_text(next(left)) if part["type"] == "image" else part["text"] for part in content]
    return "\n\n".join(texts)


def as_sent(
    messages: Sequence[Message],
    how: Grounding,
    album: Album | None,
    limits: dict[str, int] | None = None,
) -> list[Message]:
    """Messages as they are sent, with pictures by hash: `with_pixels` puts in their bytes.

    Args:
        messages: those in which each part names its picture.
        limits: {"max_count": of one request, "max_bytes": of one picture}; pixels only.

    Raises:
        TooMany: the pictures are over the limits.
    """
    if how == "pixels" and limits:
        _fit(names_in(messages), album, limits)
    sent = []
    for message in messages:
        content = message.get("content")
        if not isinstance(content, list):
            sent.append(message)
            continue
        if how == "pixels":
            content = [
                {"type": "image_url", "image_url": {"url": _REFERENCE + part["sha256"]}}
                if part["type"] == "image"
                else part
                for part in content
            ]
        elif how == "none":
            content = in_words([part for part in content if part["type"] != "image"], ())
        else:
            content = in_words(
                content, (_album(album).about(n)["source"] for n in names_in([message]))
            )
        sent.append({**message, "content": content})
    return sent


def with_pixels(messages: Sequence[Message], album: Album | None) -> list[Message]:
    """Messages with the bytes of each picture that is named by its hash, as data URLs."""
    return [
        {**message, "content": [_with_bytes(part, album) for part in message["content"]]}
        if _parts(message, "image_url")
        else message
        for message in messages
    ]


def _with_bytes(part: dict[str, Any], album: Album | None) -> dict[str, Any]:
    url = part["image_url"]["url"] if part["type"] == "image_url" else ""
    if not url.startswith(_REFERENCE):
        return part
    data = base64.b64encode(_album(album).png(url.removeprefix(_REFERENCE))).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def _fit(names: list[str], album: Album | None, limits: dict[str, int]) -> None:
    if len(names) > limits["max_count"]:
        raise TooMany(f"{len(names)} images in a request, the server takes {limits['max_count']}")
    for name in names:
        size = (_album(album).directory / f"{name}.png").stat().st_size
        if size > limits["max_bytes"]:
            raise TooMany(
                f"an image of {size:,} bytes ({name}.png), the server takes {limits['max_bytes']:,}"
            )


def _album(album: Album | None) -> Album:
    if album is None:
        raise StageError("a task with pictures, and no directory of pictures to take them from")
    return album


def _parts(message: Message, kind: str) -> list[dict[str, Any]]:
    content = message.get("content")
    return [p for p in content if p["type"] == kind] if isinstance(content, list) else []


def _bare(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image"} if part["type"] == "image" else part
