"""The images of a run: a store on disk by sha256, and the image parts of messages.

A stored message has {"type": "image"} where an image was shown, and the trace's list `images` names the images in that
order. During an episode the part itself names the image: {"type": "image", "sha256": ...}. Only the client replaces the
name with the file's bytes when it sends a request, so neither traces nor the journal hold image bytes.
"""

import base64
import functools
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.errors import StageError
from schemas.files import dumps, read_json, sha256, sha256_text, whole, write_json
from schemas.trace import Grounding, Message
from teacher.scenes.kinds import as_text
from teacher.scenes.scene import DrawnImage

# Points per side of the difference hash: 16 x 16 comparisons make 256 bits.
_HASH_SIDE = 16
_REFERENCE = "sha256:"


class ImageLimitError(ValueError):
    """A request has more images, or larger ones, than the model's server accepts."""


class ImageStore:
    """The images of a run in one directory: <sha256>.png, and <sha256>.json, which describes the image.

    The JSON file is {"kind", "variant", "width", "height", "source", "cells": [{"key", "text", "box"}], "dhash"}.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, image: DrawnImage) -> str:
        """Stores an image and returns its sha256. The same image gives the same two files."""
        name = image.sha256
        description = self.directory / f"{name}.json"
        # The description is written last: if it exists, the PNG is complete.
        if not description.is_file():
            with whole(self.directory / f"{name}.png") as temporary:
                temporary.write_bytes(image.png)
            scene = image.scene
            write_json(
                description,
                {
                    "kind": scene.kind,
                    "variant": scene.data.get("variant"),
                    "width": image.width,
                    "height": image.height,
                    "source": image.source,
                    "cells": [
                        {"key": cell.key, "text": cell.text, "box": list(cell.box)}
                        for cell in image.cells
                    ],
                    "dhash": dhash(image.png),
                },
            )
        return name

    def png(self, name: str) -> bytes:
        """The PNG file of an image. Raises StageError if it is missing or damaged."""
        path = self.directory / f"{name}.png"
        if not path.is_file():
            raise StageError(f"{path}: no such image: the run's stage plan draws it again")
        if sha256(path) != name:
            raise StageError(f"{path}: damaged: its sha256 is not its name")
        return path.read_bytes()

    def description(self, name: str) -> dict[str, Any]:
        """The JSON description of an image. Raises StageError if it is missing."""
        path = self.directory / f"{name}.json"
        if not path.is_file():
            raise StageError(f"{path}: no such image: the run's stage plan draws it again")
        return _read_description(path)

    def fingerprint(self, name: str) -> tuple[str, str]:
        """The difference hash of an image and a hash of its cells; images with equal fingerprints are duplicates."""
        description = self.description(name)
        cells = [(cell["key"], cell["text"]) for cell in description["cells"]]
        return description["dhash"], sha256_text(dumps(cells))

    def missing(self, names: Iterable[str]) -> list[str]:
        """The names that have no image in the store."""
        return [name for name in names if not (self.directory / f"{name}.json").is_file()]


@functools.lru_cache(maxsize=4096)
def _read_description(path: Path) -> dict[str, Any]:
    return read_json(path)


def dhash(png: bytes) -> str:
    """The difference hash of an image, 256 bits in hex; images that look alike have close hashes.

    Each bit compares two neighbours in a row of the image, scaled to 17 x 16 grey pixels.
    """
    with Image.open(io.BytesIO(png)) as opened:
        small = opened.convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.LANCZOS)
    grey_HW = np.asarray(small, dtype=np.int16)
    bits_HW = grey_HW[:, :-1] > grey_HW[:, 1:]
    return np.packbits(bits_HW).tobytes().hex()


# ------------------------------------------------------------------------------------------ in messages


def image_part(name: str) -> dict[str, str]:
    """The part of a message that shows the image `name`."""
    return {"type": "image", "sha256": name}


def task_images(task: Any) -> list[str]:
    """The sha256 names of a task's images, in order."""
    return [image["sha256"] for image in task.get("pictures", [])]


def message_images(messages: Iterable[Message]) -> list[str]:
    """The sha256 names of the images in messages, in order, with repetitions."""
    return [part["sha256"] for message in messages for part in _parts(message, "image")]


def detach_images(messages: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """Messages as a trace stores them, with unnamed image parts, and the trace's list of images."""
    return [
        {**message, "content": [_without_name(part) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ], message_images(messages)


def attach_images(messages: Sequence[Message], images: Sequence[str]) -> list[Message]:
    """The inverse of `detach_images`: a trace's messages with the name of each image in its part."""
    names = iter(images)
    return [
        {
            **message,
            "content": [
                image_part(next(names)) if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def content_as_text(content: Any, sources: Iterable[str]) -> Any:
    """A message's content for a text-only model: one text, with each image replaced by its source in words.

    sources: of the content's images, in order (`ImageStore.description(name)["source"]`).
    """
    if not isinstance(content, list):
        return content
    remaining = iter(sources)
    texts = [
        as_text(next(remaining)) if part["type"] == "image" else part["text"] for part in content
    ]
    return "\n\n".join(texts)


def request_messages(
    messages: Sequence[Message],
    grounding: Grounding,
    store: ImageStore | None,
    limits: dict[str, int] | None = None,
) -> list[Message]:
    """Messages of a request, with images as the grounding demands.

    Pixels stay references by sha256; `inline_pixels` replaces them with the bytes.

    Args:
        messages: with the name of each image in its part.
        limits: {"max_count": images in a request, "max_bytes": of one image}; checked for pixels only.

    Raises:
        ImageLimitError: the images exceed the limits.
    """
    if grounding == "pixels" and limits:
        _check_limits(message_images(messages), store, limits)
    request = []
    for message in messages:
        content = message.get("content")
        if not isinstance(content, list):
            request.append(message)
            continue
        if grounding == "pixels":
            content = [
                {"type": "image_url", "image_url": {"url": _REFERENCE + part["sha256"]}}
                if part["type"] == "image"
                else part
                for part in content
            ]
        elif grounding == "none":
            content = content_as_text([part for part in content if part["type"] != "image"], ())
        else:
            names = message_images([message])
            content = content_as_text(
                content, (_required(store).description(name)["source"] for name in names)
            )
        request.append({**message, "content": content})
    return request


def inline_pixels(messages: Sequence[Message], store: ImageStore | None) -> list[Message]:
    """Messages in which each reference to an image is a data URL with its bytes."""
    return [
        {**message, "content": [_with_bytes(part, store) for part in message["content"]]}
        if _parts(message, "image_url")
        else message
        for message in messages
    ]


def _with_bytes(part: dict[str, Any], store: ImageStore | None) -> dict[str, Any]:
    url = part["image_url"]["url"] if part["type"] == "image_url" else ""
    if not url.startswith(_REFERENCE):
        return part
    data = base64.b64encode(_required(store).png(url.removeprefix(_REFERENCE))).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def _check_limits(names: list[str], store: ImageStore | None, limits: dict[str, int]) -> None:
    if len(names) > limits["max_count"]:
        raise ImageLimitError(
            f"{len(names)} images in a request, the server takes {limits['max_count']}"
        )
    for name in names:
        size = (_required(store).directory / f"{name}.png").stat().st_size
        if size > limits["max_bytes"]:
            raise ImageLimitError(
                f"an image of {size:,} bytes ({name}.png), the server takes {limits['max_bytes']:,}"
            )


def _required(store: ImageStore | None) -> ImageStore:
    if store is None:
        raise StageError("a task has images, but there is no image store to read them from")
    return store


def _parts(message: Message, kind: str) -> list[dict[str, Any]]:
    content = message.get("content")
    return [p for p in content if p["type"] == kind] if isinstance(content, list) else []


def _without_name(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image"} if part["type"] == "image" else part
