"""The pre-flight's checks of what reaches the model: an image, and the tokens of a prompt."""

import base64
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.error_text import one_line
from schemas.errors import InputError
from schemas.files import read_text
from teacher.models import catalog
from teacher.preflight.checks import Check, result
from teacher.preflight.target import ChatRequest, Target, content
from teacher.preflight.vendor_verifier import Row

# The number of prompt tokens of the messages, tools and extra body of an adapted request.
Count = Callable[[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]], int]

# One of the four words may be misread; a model that does not get the image reads none.
WORDS_READ = 0.75


async def check_image(target: Target, seed: int) -> list[Check]:
    """image: the teacher must read random words from an image drawn for this check."""
    if not target.teacher["capabilities"]["vision"]:
        return [result("image", None, "the teacher's description claims no vision")]
    png, words = draw_words(seed)
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    instruction = "Write down every word and every number in this picture, as they stand there."
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": instruction},
    ]
    reply = await target.request([{"role": "user", "content": parts}])
    if reply.message is None:
        refusal = f"a request with an image was refused: {reply.error}: {target.advice('images')}"
        return [result("image", False, refusal)]
    text = content(reply)
    read = [word for word in words if word in re.sub(r"[^A-Z0-9]", " ", text.upper()).split()]
    passed = len(read) >= WORDS_READ * len(words)
    detail = f"read {len(read)} of {len(words)} words in an image"
    if not passed:
        detail += (
            f': it shows {" ".join(words)}, the teacher replied "{one_line(text, 100)}": the image does not reach the'
            " model, or the server has another image processor"
        )
    return [result("image", passed, detail, shown=words, read=read)]


def draw_words(seed: int) -> tuple[bytes, list[str]]:
    """A PNG with two invented words and two numbers, and their text. No two of the letters and digits look alike."""
    from PIL import Image, ImageDraw, ImageFont

    rng = random.Random(f"picture {seed}")
    words = ["".join(rng.choice(letters) for letters in ("FKMNPRTV", "AEU") * 3) for _ in range(2)]
    words += [str(rng.choice("3479")) + "".join(rng.choices("23479", k=3)) for _ in range(2)]
    image = Image.new("RGB", (560, 240), "white")
    draw = ImageDraw.Draw(image)
    for place, word in enumerate(words):
        corner = (30 + 270 * (place % 2), 30 + 100 * (place // 2))
        draw.text(corner, word, fill="black", font=ImageFont.load_default(52))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue(), words


async def check_prompt_tokens(target: Target, rows: list[Row], count: Count | None) -> list[Check]:
    """prompt_tokens: usage.prompt_tokens must equal the count of the rendered prompt.

    Compared for a plain request, and for the row with the most messages, with its tools.
    """
    name = "prompt_tokens"
    if count is None:
        return [result(name, None, "no tokenizer to count with (--tokenizer DIR)")]
    history = max((row["request"] for row in rows), key=lambda request: len(request["messages"]))
    plain: ChatRequest = {
        "messages": [{"role": "user", "content": "Größe und 大きさ: 12,5 m²?"}],
        "tools": [],
    }
    measured: dict[str, Any] = {}
    for label, request in (("plain", plain), ("tools", history)):
        messages, tools, parameters = target.prepare(
            request["messages"], request["tools"], max_tokens=1
        )
        expected = count(messages, tools, parameters.get("extra_body", {}))
        reply = await target.complete(messages, tools, 0, **parameters)
        if reply.message is None:
            return [result(name, False, f"a request ({label}) was refused: {reply.error}")]
        measured[label] = {"expected": expected, "found": reply.usage["prompt_tokens"]}
    if not any(numbers["found"] for numbers in measured.values()):
        return [result(name, None, "the API reports no usage.prompt_tokens", **measured)]
    wrong = [label for label, n in measured.items() if n["found"] != n["expected"]]
    detail = ", ".join(
        f"{label}: found {n['found']}, expected {n['expected']}" for label, n in measured.items()
    )
    if wrong:
        detail += (
            ". The server renders another prompt. One token more: the start token is added twice. Other differences:"
            " another chat template or tokenizer, or template arguments that do not reach it"
        )
    return [result(name, not wrong, detail, **measured)]


def token_counter(teacher: dict[str, Any], directory: Path) -> Count:
    """A function that counts prompt tokens with the tokenizer in a directory.

    The chat template is the teacher's own in teacher/templates if it has one, else the tokenizer's.

    Raises:
        InputError: the directory has no tokenizer, or there is no chat template.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory: expected one with a tokenizer")
    from transformers import AutoTokenizer

    # Kimi's tokenizer is Python code in its repository; the teacher's description allows or forbids to run it.
    trusted = teacher.get("vllm", {}).get("trust_remote_code", False)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=trusted)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"{directory}: no tokenizer: {one_line(str(error), 160)}") from None
    template = catalog.template(teacher)
    if template:
        tokenizer.chat_template = read_text(template)
    if not tokenizer.chat_template:
        raise InputError(f"{directory}: the tokenizer has no chat template")

    def count(
        messages: list[dict[str, Any]], tools: list[dict[str, Any]], body: dict[str, Any]
    ) -> int:
        text = tokenizer.apply_chat_template(
            [_with_parsed_arguments(message) for message in messages],
            tools=tools or None,
            add_generation_prompt=True,
            tokenize=False,
            **body.get("chat_template_kwargs", {}),
        )
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return count


def _with_parsed_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its calls' arguments as objects, the form in which vLLM passes them to the chat template."""
    calls = []
    for call in message.get("tool_calls", []):
        function = {**call["function"], "arguments": json.loads(call["function"]["arguments"])}
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls} if calls else message
