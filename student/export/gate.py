"""The export gate: an exported GGUF must behave as the student that was trained, or it does not count as exported.

Each check asks llama.cpp itself, over the server that will serve the file: the template's bytes, the rendered prompts,
the token ids, the end of a turn, a tool call that goes out and comes back, and for a student that sees that pictures
arrive and are read.
"""

import base64
import copy
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from schemas.tool_calls import call_problem, functions_by_name
from student.rendering.examples import Renderer
from student.training.vision import SeeingRenderer
from teacher.inference.endpoint import Endpoint
from teacher.inference.llama_server import serve
from teacher.scenes.images import Album, image
from teacher.scenes.scene import Scene, draw

# Texts that tokenizers disagree on: spaces, digits, other scripts, emoji, markup, special tokens as plain text.
ODD_TEXTS = (
    "  two  spaces\tand a tab\n\n\nthree lines ",
    "EUR 1234567.89 on 2026-03-02, 007, 3.14159265, 1e-9",
    "naïve façade – “quotes” … ½ ﬁ ß İ ẞ",
    "日本語のテキスト、中文文本，한국어 텍스트",
    "🙂🙃 👩‍👩‍👧‍👦 🇪🇺 é é",
    'def f(x):\n    return {"a": [1, 2, {"b": null}]}  # tab\there\r\n',
    "<tool_call>{}</tool_call> <think> </think> [INST] <s> </s>",
    "a" * 200 + " " + "ab " * 50,
    "I'll we've DON'T it's O'Neill's",
    "\u200b\u00a0\ufeff zero width and no-break",
)
_TRIES = 8


def gate(
    gguf: Path,
    traces: list[dict[str, Any]],
    renderer: Renderer,
    context: int,
    log: Path,
    projector: Path | None = None,
    trained: bool = True,
) -> list[dict[str, Any]]:
    """Runs every check on one GGUF file.

    Args:
        traces: kept traces, as `student.rendering.examples.as_served` gives them; their conversations are what the checks are
            made on.
        renderer: the student's tokenizer with the template that was trained with.
        context: tokens the server gives a conversation. log: the server's output.
        projector: the GGUF of the vision tower of a student that sees; then a picture is shown as well.
        trained: whether it learned such traces. Of a model that did not, one turn that ends is enough, and that it
            calls no tool says nothing of the file.

    Returns:
        [{"name", "passed", "detail"}], the detail saying what differs, or how much was compared; passed is None where
        the model gave no occasion to tell.
    """
    template, end = metadata(gguf, "tokenizer.chat_template", "tokenizer.ggml.eos_token_id")
    checks = [_template(template, renderer.template), _stop_token(end, renderer)]
    with serve(gguf, log, slots=1, context=context, projector=projector) as endpoint:
        asked: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("rendering", lambda: _rendering(endpoint, traces, renderer)),
            ("token_ids", lambda: _token_ids(endpoint, traces, renderer)),
            ("ends_turns", lambda: _ends_turns(endpoint, traces, renderer, trained)),
            ("tool_round_trip", lambda: _round_trip(endpoint, traces, renderer, trained)),
        ]
        if isinstance(renderer, SeeingRenderer):
            seeing = renderer
            asked.append(("image_round_trip", lambda: _image_trip(endpoint, traces, seeing)))
        for name, check in asked:
            try:
                checks.append(check())
            except urllib.error.HTTPError as error:
                checks.append(_result(name, _refusal(error), ""))
    return checks


def _differ_at(one: Any, other: Any) -> int:
    """Where two texts or lists that are not equal first differ; the shorter's length where it begins the longer."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _result(name: str, problem: str | None, compared: str) -> dict[str, Any]:
    return {"name": name, "passed": problem is None, "detail": problem or compared}


def metadata(gguf: Path, *keys: str) -> list[Any]:
    """Metadata values of a GGUF file, None for what it has not; asked for at once, as each reading takes seconds."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    fields = [reader.get_field(key) for key in keys]
    return [None if field is None else field.contents() for field in fields]


def _template(found: str | None, template: str) -> dict[str, Any]:
    problem = None
    if found is None:
        problem = "the file has no chat template"
    elif found != template:
        at = _differ_at(found, template)
        problem = f"the file's template differs from the trained one, first at character {at}"
    return _result("template", problem, f"{len(template.encode())} bytes, equal")


def _stop_token(found: int | None, renderer: Renderer) -> dict[str, Any]:
    wanted = {renderer.tokenizer.convert_tokens_to_ids(token): token for token in renderer.stop}
    problem = (
        None if found in wanted else f"the file ends a turn with token {found}, expected {wanted}"
    )
    return _result("stop_token", problem, f"token {found}, {wanted.get(found)}")


def _rendering(
    endpoint: Endpoint, traces: list[dict[str, Any]], renderer: Renderer
) -> dict[str, Any]:
    compared = 0
    # The server has a marker of its own where a picture goes, and puts the tokens of the picture there.
    marker = (
        _get(endpoint, "/props")["media_marker"] if isinstance(renderer, SeeingRenderer) else ""
    )
    for trace in traces:
        for index, message in enumerate(trace["messages"]):
            if message["role"] != "assistant":
                continue
            messages = trace["messages"][:index]
            body = {"messages": renderer.sent(messages), "tools": trace["tools"]}
            served = _post(endpoint, "/apply-template", body)["prompt"]
            if isinstance(renderer, SeeingRenderer):
                served = served.replace(marker, renderer.shows)
            expected = renderer.text(messages, trace["tools"], add_generation_prompt=True)
            if served != expected:
                at = _differ_at(served, expected)
                return _result(
                    "rendering", f"{trace['id']}: message {index}: differs at character {at}", ""
                )
            compared += 1
    return _result("rendering", None, f"{compared} prompts, equal")


def _token_ids(
    endpoint: Endpoint, traces: list[dict[str, Any]], renderer: Renderer
) -> dict[str, Any]:
    texts = [*ODD_TEXTS, *(renderer.text(trace["messages"], trace["tools"]) for trace in traces)]
    for text in texts:
        body = {"content": text, "add_special": False, "parse_special": True}
        served, expected = _post(endpoint, "/tokenize", body)["tokens"], renderer.ids(text)
        if served != expected:
            at = _differ_at(served, expected)
            return _result("token_ids", f"{text[:60]!r}: differs at token {at}", "")
    return _result("token_ids", None, f"{len(texts)} texts, equal")


def _ends_turns(
    endpoint: Endpoint, traces: list[dict[str, Any]], renderer: Renderer, trained: bool = True
) -> dict[str, Any]:
    """The last turn of real conversations ends by the stop token, and the token is not in the text."""
    ended, problem = 0, None
    for trace in traces[:_TRIES]:
        body = {
            "messages": renderer.sent(trace["messages"][:-1]),
            "tools": trace["tools"],
            "temperature": 0,
            "max_tokens": 512,
        }
        choice = _post(endpoint, "/v1/chat/completions", body)["choices"][0]
        content = choice["message"].get("content") or ""
        if any(token in content for token in renderer.stop):
            return _result("ends_turns", f"{trace['id']}: the stop token is in the text", "")
        if choice["finish_reason"] != "length":
            ended += 1
            continue
        problem = f"{trace['id']}: no end after 512 tokens"
        if trained:
            return _result("ends_turns", problem, "")
    of = f" of {len(traces[:_TRIES])}" if problem else ""
    return _result("ends_turns", None if ended else problem, f"{ended}{of} turns ended")


def _round_trip(
    endpoint: Endpoint, traces: list[dict[str, Any]], renderer: Renderer, trained: bool = True
) -> dict[str, Any]:
    """Some real request is answered with a valid call, and the call's result with a further turn."""
    with_a_call = [t for t in traces if any(m["role"] == "tool" for m in t["messages"])]
    faults: list[str] = []  # of calls
    silent: list[str] = []
    for trace in with_a_call[:_TRIES]:
        try:
            called, problem = _call_and_result(endpoint, trace, renderer, required=not trained)
        except urllib.error.HTTPError as error:  # it called, and the server cannot read how
            called, problem = "a tool", _refusal(error)
        if problem is None:
            return _result("tool_round_trip", None, f"called {called}, took its result")
        (silent if called is None else faults).append(problem)
    if not trained and silent and not faults:
        return {"name": "tool_round_trip", "passed": None, "detail": f"not told: {silent[0]}"}
    return _result("tool_round_trip", [*faults, *silent, "no trace to try"][0], "")


def _call_and_result(
    endpoint: Endpoint, trace: dict[str, Any], renderer: Renderer, required: bool
) -> tuple[str | None, str | None]:
    """What was called, be it that the server did not recognise the call, and what is wrong with the round trip."""
    first = next(i for i, m in enumerate(trace["messages"]) if m["role"] == "assistant")
    messages = renderer.sent(trace["messages"][:first])
    functions = functions_by_name(trace["tools"])
    body = {"messages": messages, "tools": trace["tools"], "temperature": 0, "max_tokens": 256}
    choice = _choice(endpoint, {**body, "tool_choice": "required"} if required else body)
    if choice["finish_reason"] == "length":
        return None, "no end after 256 tokens"
    message = choice["message"]
    calls = message.get("tool_calls") or []
    if not calls:
        said = message.get("content") or ""
        named = next((name for name in functions if f'"{name}"' in said), None)
        return named, "a request that needs a tool was answered without a call"
    function = calls[0]["function"]
    if fault := call_problem(function["name"], function["arguments"], functions):
        return function["name"], f"{fault[0]}: {fault[1]}"
    result = next(m for m in renderer.sent(trace["messages"]) if m["role"] == "tool")
    result = {"role": "tool", "tool_call_id": calls[0]["id"], "content": result["content"]}
    answer = _choice(endpoint, {**body, "messages": [*messages, message, result]})["message"]
    answered = answer.get("content") or answer.get("tool_calls")
    return function["name"], None if answered else "nothing came after the tool's result"


def _choice(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = _post(endpoint, "/v1/chat/completions", body)["choices"][0]
    return choice


def _refusal(error: urllib.error.HTTPError) -> str:
    return f"the server answered {error.code}: {error.read().decode(errors='replace')[:200]}"


def _image_trip(
    endpoint: Endpoint, traces: list[dict[str, Any]], renderer: SeeingRenderer
) -> dict[str, Any]:
    """Pictures arrive as they were trained on: each prompt with pictures has as many tokens as in training, and what
    comes next changes when a picture is replaced by an empty one of its size."""
    with TemporaryDirectory() as directory:
        album = Album(Path(directory))
        if not any(renderer.pictures(trace["messages"]) for trace in traces):
            renderer, traces = copy.copy(renderer), [_trace_with_a_picture(album)]
            renderer.album = album
        assert renderer.album
        compared = seen = 0
        for trace in traces[:_TRIES]:
            for index, message in enumerate(trace["messages"]):
                messages = trace["messages"][:index]
                names = renderer.pictures(messages)
                if message["role"] != "assistant" or not names:
                    continue
                prompt = renderer.text(messages, trace["tools"], add_generation_prompt=True)
                expected = len(renderer.ids(prompt, names))
                found, likely = _next(endpoint, renderer.sent(messages), trace["tools"])
                if found != expected:
                    detail = f"{found} tokens of prompt, {expected} in training"
                    return _result(
                        "image_round_trip", f"{trace['id']}: message {index}: {detail}", ""
                    )
                blank = [_blank(renderer.album.about(name)) for name in names]
                _, blind = _next(endpoint, _instead(renderer.sent(messages), blank), trace["tools"])
                compared, seen = compared + 1, seen + (likely != blind)
    problem = None if seen else "the reply is the same for an empty picture: it is not seen"
    return _result(
        "image_round_trip",
        problem,
        f"{compared} prompts with pictures, of as many tokens; {seen} read",
    )


def _next(endpoint: Endpoint, messages: list[dict], tools: list[dict]) -> tuple[int, list[Any]]:
    """How many tokens the server made of a prompt, and what it finds most likely to come next."""
    body = {"messages": messages, "tools": tools, "temperature": 0, "max_tokens": 1}
    body |= {"logprobs": True, "top_logprobs": 5, "cache_prompt": False}
    reply = _post(endpoint, "/v1/chat/completions", body)
    first = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    likely = [(token["id"], round(token["logprob"], 4)) for token in first]
    return reply["usage"]["prompt_tokens"], likely


def _blank(about: dict[str, Any]) -> str:
    """A data URL of a grey picture of the same size."""
    file = io.BytesIO()
    Image.new("RGB", (about["width"], about["height"]), "grey").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _instead(sent: list[dict], urls: list[str]) -> list[dict]:
    """Sent messages with other pictures."""
    left = iter(urls)
    return [
        {
            **message,
            "content": [
                {"type": "image_url", "image_url": {"url": next(left)}}
                if part["type"] == "image_url"
                else part
                for part in message["content"]
            ],
        }
        if isinstance(message.get("content"), list)
        else message
        for message in sent
    ]


def _trace_with_a_picture(album: Album) -> dict[str, Any]:
    """Where no trace has a picture, a letter that is asked about."""
    data = {"variant": "letter", "title": "Notice", "fields": {"Number": "C-17"}}
    asked = [image(album.add(draw(Scene("document", data, 1)))), {"type": "text", "text": "?"}]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "C-17"}]
    return {"id": "a letter", "messages": messages, "tools": []}


def _get(endpoint: Endpoint, path: str) -> Any:
    """What the server says of itself."""
    return _send(endpoint, path, None)


def _post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> Any:
    """A request to the server's own API (not OpenAI's), which has no client library."""
    return _send(endpoint, path, json.dumps(body).encode())


def _send(endpoint: Endpoint, path: str, body: bytes | None) -> Any:
    root = endpoint.url.removesuffix("/v1")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.key}"}
    request = urllib.request.Request(root + path, body, headers)
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.load(reply)
