"""The gate's check of images: llama.cpp's server must read the pixels as they were read in training."""

import base64
import copy
import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from schemas.trace import Message, Tool
from student.export.checks import MAX_TRIES, Check, Conversation, result
from student.export.llama_server import post
from student.rendering.vision import VisionRenderer
from teacher.inference.endpoint import Endpoint
from teacher.scenes.images import ImageStore, image_part
from teacher.scenes.kinds import draw
from teacher.scenes.scene import Scene

_NAME = "image_round_trip"


def check_image_round_trip(
    endpoint: Endpoint, traces: Sequence[Conversation], renderer: VisionRenderer
) -> Check:
    """Checks prompts with images in two ways.

    The server must make as many tokens of a prompt as training did, and its next token must change where the images are
    replaced by blank ones of the same size. Without an image in the traces, one is drawn.
    """
    with TemporaryDirectory() as directory:
        image_store = ImageStore(Path(directory))
        if not any(renderer.image_names(trace["messages"]) for trace in traces):
            renderer, traces = copy.copy(renderer), [_conversation_with_image(image_store)]
            renderer.image_store = image_store
        assert renderer.image_store
        compared = changed = 0
        for trace in traces[:MAX_TRIES]:
            for index, message in enumerate(trace["messages"]):
                messages = trace["messages"][:index]
                names = renderer.image_names(messages)
                if message["role"] != "assistant" or not names:
                    continue
                prompt = renderer.text(messages, trace["tools"], add_generation_prompt=True)
                expected = len(renderer.ids(prompt, names))
                tokens, likely = next_token(
                    endpoint, renderer.server_messages(messages), trace["tools"]
                )
                if tokens != expected:
                    problem = f"{tokens} tokens of prompt, expected {expected} as in training"
                    return result(_NAME, f"{trace['id']}: message {index}: {problem}")
                blank = [_blank_image(renderer.image_store.description(name)) for name in names]
                blank_messages = _with_images(renderer.server_messages(messages), blank)
                _, likely_if_blank = next_token(endpoint, blank_messages, trace["tools"])
                compared, changed = compared + 1, changed + (likely != likely_if_blank)
    no_effect = None
    if not changed:
        no_effect = (
            "the next token is the same for a blank image, so the image is not read:"
            " expected a projector that fits the weights"
        )
    return result(
        _NAME,
        no_effect,
        f"{compared} prompts with images, token counts equal; {changed} change with a blank image",
    )


def next_token(
    endpoint: Endpoint, messages: list[Message], tools: list[Tool]
) -> tuple[int, list[tuple[int, float]]]:
    """Returns the number of tokens of a prompt, and the most likely next tokens as (id, log probability)."""
    body = {"messages": messages, "tools": tools, "temperature": 0, "max_tokens": 1}
    body |= {"logprobs": True, "top_logprobs": 5, "cache_prompt": False}
    reply = post(endpoint, "/v1/chat/completions", body)
    first = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    likely = [(token["id"], round(token["logprob"], 4)) for token in first]
    return reply["usage"]["prompt_tokens"], likely


def _blank_image(about: dict[str, Any]) -> str:
    """Returns a grey image of the same size as a data URL."""
    file = io.BytesIO()
    Image.new("RGB", (about["width"], about["height"]), "grey").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _with_images(messages: list[Message], urls: list[str]) -> list[Message]:
    """Returns the messages with their images replaced, in order, by those at the URLs."""
    remaining = iter(urls)
    return [
        {
            **message,
            "content": [
                {"type": "image_url", "image_url": {"url": next(remaining)}}
                if part["type"] == "image_url"
                else part
                for part in message["content"]
            ],
        }
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _conversation_with_image(image_store: ImageStore) -> Conversation:
    """Draws a letter, stores its image and returns a conversation about it."""
    data = {"variant": "letter", "title": "Notice", "fields": {"Number": "C-17"}}
    content = [
        image_part(image_store.add(draw(Scene("document", data, 1)))),
        {"type": "text", "text": "?"},
    ]
    messages: list[Message] = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "C-17"},
    ]
    return {"id": "a letter", "messages": messages, "tools": []}
