"""The checks of the pre-flight on what reaches the model: a picture, and each token of a prompt."""

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
from teacher.models import catalog
from teacher.preflight.checks import Check, result
from teacher.preflight.target import Served, content
from teacher.preflight.vendor_verifier import Row

# From messages, tools and extra body, as they are sent, to the tokens of the prompt.
Count = Callable[[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]], int]

WORDS_READ = 0.75  # one word of four may be misread: that is not blindness


async def image(served: Served, seed: int) -> list[Check]:
    """A picture drawn for this check, with words that nobody can guess."""
    if not served.teacher["capabilities"]["vision"]:
        return [result("image", None, "the teacher claims no vision")]
    picture, words = _picture(seed)
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    wish = "Write down every word and every number in this picture, as they stand there."
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": wish}]
    reply = await served.ask([{"role": "user", "content": parts}])
    if reply.message is None:
        advice = "start vLLM without --language-model-only, with room for images in --limit-mm-per-prompt"
        return [
            result("image", False, f"a request with a picture was refused: {reply.error}: {advice}")
        ]
    said = content(reply)
    read = [word for word in words if word in re.sub(r"[^A-Z0-9]", " ", said.upper()).split()]
    passed = len(read) >= WORDS_READ * len(words)
    detail = f"read {len(read)} of {len(words)} words in a picture"
    if not passed:
        detail += (
            f': it shows {" ".join(words)}, the teacher said "{one_line(said, 100)}": the picture does not reach the'
            " model, or its image processor is another one"
        )
    return [result("image", passed, detail, shown=words, read=read)]


def _picture(seed: int) -> tuple[bytes, list[str]]:
    """A PNG with two invented words and two numbers, and what they are; no letter or digit that looks like another."""
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


async def prompt_tokens(served: Served, rows: list[Row], count: Count | None) -> list[Check]:
    """usage.prompt_tokens of a plain request and of the longest of `rows`, with its tools, against the rendering."""
    name = "prompt_tokens"
    if count is None:
        return [result(name, None, "no tokenizer was given to count with (--tokenizer DIR)")]
    history = max((row["request"] for row in rows), key=lambda request: len(request["messages"]))
    plain = {"messages": [{"role": "user", "content": "Größe und 大きさ: 12,5 m²?"}], "tools": []}
    measured: dict[str, Any] = {}
    for label, request in (("plain", plain), ("tools", history)):
        sent, tools, parameters = served.prepare(**request, max_tokens=1)
        expected = count(sent, tools, parameters.get("extra_body", {}))
        reply = await served.complete(sent, tools, 0, **parameters)
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
            ". The server renders another prompt: one token more is a start token added twice, other differences are"
            " another chat template or tokenizer, or template arguments that do not reach it"
        )
    return [result(name, not wrong, detail, **measured)]


def token_counter(teacher: dict[str, Any], directory: Path) -> Count:
    """Counts with the tokenizer in a directory, and its chat template unless the teacher has one in teacher/templates.

    Raises:
        InputError: there is no tokenizer, or none with a template.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory: expected one with a tokenizer")
    from transformers import AutoTokenizer

    # Kimi's tokenizer comes as code; the teacher's description says whether code that comes with it may run.
    trusted = teacher.get("vllm", {}).get("trust_remote_code", False)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=trusted)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"{directory}: no tokenizer: {one_line(str(error), 160)}") from None
    own = catalog.template(teacher)
    if own:
        tokenizer.chat_template = own.read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise InputError(f"{directory}: the tokenizer has no chat template")

    def count(
        messages: list[dict[str, Any]], tools: list[dict[str, Any]], body: dict[str, Any]
    ) -> int:
        text = tokenizer.apply_chat_template(
            [_parsed(message) for message in messages],
            tools=tools or None,
            add_generation_prompt=True,
            tokenize=False,
            **body.get("chat_template_kwargs", {}),
        )
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return count


def _parsed(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its calls' arguments as objects, as vLLM gives them to the template."""
    calls = []
    for call in message.get("tool_calls", []):
        function = {**call["function"], "arguments": json.loads(call["function"]["arguments"])}
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls} if calls else message
