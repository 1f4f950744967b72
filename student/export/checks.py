"""The checks of the export gate: each compares one behaviour of a GGUF file with the student that was trained.

The checks of the file read its metadata. The others send requests to llama.cpp's server, which users
run too: for rendered prompts, token ids, the end of a turn, and a tool call's round trip.
"""

import unicodedata
import urllib.error
from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

from schemas.scorecard import FileDrift
from schemas.tool_calls import call_problem, functions_by_name
from schemas.trace import Message, Tool
from student.export.llama_server import get, post, refusal
from student.rendering.renderer import DATE, Renderer
from student.rendering.vision import VisionRenderer
from teacher.inference.endpoint import Endpoint

# Texts on which tokenizers differ: spaces, digits, other scripts, emoji, markup, special tokens as plain text.
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
    "e\u0301 \u1112\u1161\u11ab composed from parts",
)
# Of a vocabulary with very many added tokens, so many are tried.
_MOST_ADDED = 512
# Conversations that a check of the model's behaviour tries.
MAX_TRIES = 8
# A turn may always have so many tokens.
LEAST_REPLY = 512


class Conversation(TypedDict):
    """What the checks need of a trace, as `student.rendering.served.as_served` returns it."""

    id: str
    messages: list[Message]
    tools: list[Tool]


class Check(TypedDict):
    """A check's result.

    passed: None where the model, not trained on such conversations, gave no occasion to decide.
    detail: what differs, or how much was compared.
    drift: of the check of next tokens, how far they are from those of the weights.
    """

    name: str
    passed: bool | None
    detail: str
    drift: NotRequired[FileDrift]


def result(name: str, problem: str | None, compared: str = "") -> Check:
    """Returns a failed check where there is a problem, else a passed one with what was compared."""
    return {"name": name, "passed": problem is None, "detail": problem or compared}


def check_template(template: str | None, renderer: Renderer) -> Check:
    """Compares the chat template in the file with the trained one, byte for byte."""
    problem = None
    if template is None:
        problem = "the file has no chat template, expected the trained one"
    elif template != renderer.template:
        at = _first_difference(template, renderer.template)
        problem = (
            f"the file's template differs from the trained one, first at character {at}: "
            + _excerpts(template, renderer.template, at)
        )
    return result("template", problem, f"{len(renderer.template.encode())} bytes, equal")


def check_stop_token(token_id: int | None, renderer: Renderer) -> Check:
    """Checks that the file's end-of-turn token is one by which the student's template ends a turn."""
    ids = {renderer.tokenizer.convert_tokens_to_ids(token): token for token in renderer.stop}
    problem = None
    if token_id not in ids:
        expected = " or ".join(f"{stop_id} ({token})" for stop_id, token in ids.items())
        problem = f"the file's end-of-turn token is {token_id}, expected {expected}"
    return result("stop_token", problem, f"token {token_id}, {ids.get(token_id)}")


def check_rendering(
    endpoint: Endpoint, traces: Sequence[Conversation], renderer: Renderer
) -> Check:
    """Compares the prompt of every assistant's turn as the server renders it with the one that was trained on.

    A server that adds BOS itself leaves it out here; check_prompt_tokens counts it.
    """
    count = 0
    bos = renderer.tokenizer.bos_token or ""
    # The server renders a marker of its own for an image and replaces it by the image's tokens.
    marker = get(endpoint, "/props")["media_marker"] if isinstance(renderer, VisionRenderer) else ""
    for trace in traces:
        for index, message in enumerate(trace["messages"]):
            if message["role"] != "assistant":
                continue
            messages = trace["messages"][:index]
            body = {
                "messages": renderer.server_messages(messages),
                "tools": trace["tools"],
                "chat_template_kwargs": DATE,
            }
            served = post(endpoint, "/apply-template", body)["prompt"]
            if isinstance(renderer, VisionRenderer):
                served = served.replace(marker, renderer.image_marker)
            expected = renderer.text(messages, trace["tools"], add_generation_prompt=True)
            if bos and not served.startswith(bos):
                expected = expected.removeprefix(bos)
            if served != expected:
                at = _first_difference(served, expected)
                number, line = renderer.template_line(messages, trace["tools"], at)
                return result(
                    "rendering",
                    f"{trace['id']}: the prompt of message {index} differs from the trained one at character {at}: "
                    + _excerpts(served, expected, at)
                    + f", after {expected[max(0, at - 40) : at]!r}; line {number} of the template: {line}",
                )
            count += 1
    return result("rendering", None, f"{count} prompts, equal")


def check_token_ids(
    endpoint: Endpoint,
    traces: Sequence[Conversation],
    renderer: Renderer,
    overridden: Sequence[str] = (),
) -> Check:
    """Compares the server's token ids of ODD_TEXTS, added tokens and conversations with the student's tokenizer's.

    overridden: words that llama.cpp takes for control tokens although the tokenizer does not. They are left out of
        ODD_TEXTS, because they differ for every student of that vocabulary. So are characters to compose where the
        tokenizer composes them.
    """
    odd = [_without(text, overridden) for text in ODD_TEXTS]
    if renderer.composes:
        odd = [unicodedata.normalize("NFC", text) for text in odd]
    texts = [
        *odd,
        *added_token_texts(renderer),
        *(renderer.text(trace["messages"], trace["tools"]) for trace in traces),
    ]
    for text in texts:
        body = {"content": text, "add_special": False, "parse_special": True}
        served, expected = post(endpoint, "/tokenize", body)["tokens"], renderer.ids(text)
        if served != expected:
            at = _first_difference(served, expected)
            problem = f"{text[:60]!r}: differs at token {at}: {_excerpts(served, expected, at, 3)}"
            return result("token_ids", problem)
    note = f"; llama.cpp takes {', '.join(overridden)} for control tokens" if overridden else ""
    if renderer.composes:
        note += "; llama.cpp does not compose characters (NFC)"
    return result("token_ids", None, f"{len(texts)} texts, equal{note}")


def added_token_texts(renderer: Renderer) -> list[str]:
    """Returns a text with each token that was added to the student's vocabulary: a file may have lost one."""
    added = sorted(renderer.tokenizer.get_added_vocab())[:_MOST_ADDED]
    return [f"a{token}b" for token in added]


def check_ends_turns(
    endpoint: Endpoint,
    traces: Sequence[Conversation],
    renderer: Renderer,
    *,
    reply_tokens: int = LEAST_REPLY,
    trained: bool = True,
) -> Check:
    """Checks that the last turn of real conversations ends, without the stop token in its text.

    reply_tokens: the turn must end within so many.
    trained: every turn must end; else one turn that ends is enough.
    """
    tries = traces[:MAX_TRIES]
    ended, problem = 0, None
    for trace in tries:
        body = {
            "messages": renderer.server_messages(trace["messages"][:-1]),
            "tools": trace["tools"],
            "temperature": 0,
            "max_tokens": reply_tokens,
        }
        choice = _complete(endpoint, body)
        content = choice["message"].get("content") or ""
        for token in renderer.stop:
            if token in content:
                problem = f"{trace['id']}: the stop token {token} is in the text of the turn"
                return result("ends_turns", problem)
        if choice["finish_reason"] != "length":
            ended += 1
            continue
        problem = f"{trace['id']}: the turn did not end within {reply_tokens} tokens"
        if trained:
            return result("ends_turns", problem)
    total = f" of {len(tries)}" if problem else ""
    return result("ends_turns", None if ended else problem, f"{ended}{total} turns ended")


def check_tool_round_trip(
    endpoint: Endpoint,
    traces: Sequence[Conversation],
    renderer: Renderer,
    *,
    reply_tokens: int = LEAST_REPLY,
    trained: bool = True,
) -> Check:
    """Checks that a real request is answered by a valid call, and the call's result by a further turn.

    One conversation that completes the round trip is enough.

    reply_tokens: the call must end within so many.
    trained: else the server must return a call where the model writes one, and a model that calls no tool leaves the
        check undecided: that is no fault of the file.
    """
    name = "tool_round_trip"
    with_calls = [t for t in traces if any(m["role"] == "tool" for m in t["messages"])]
    faulty_calls: list[str] = []
    no_calls: list[str] = []
    for trace in with_calls[:MAX_TRIES]:
        try:
            called, problem = _call_and_result(
                endpoint, trace, renderer, reply_tokens, required=not trained
            )
        except urllib.error.HTTPError as error:
            # The model called a tool in a form that the server cannot parse.
            called, problem = "a tool", refusal(error)
        if problem is None:
            return result(name, None, f"called {called}, took its result")
        (no_calls if called is None else faulty_calls).append(f"{trace['id']}: {problem}")
    if not trained and no_calls and not faulty_calls:
        return {"name": name, "passed": None, "detail": f"undecided: {no_calls[0]}"}
    problems = [*faulty_calls, *no_calls, "no conversation with a tool call, expected at least one"]
    return result(name, problems[0])


def _call_and_result(
    endpoint: Endpoint,
    trace: Conversation,
    renderer: Renderer,
    reply_tokens: int,
    *,
    required: bool,
) -> tuple[str | None, str | None]:
    """Returns the tool that was called and the problem of the round trip; each is None where there is none.

    A call that the server returns as plain text counts as a call.
    """
    first = next(i for i, m in enumerate(trace["messages"]) if m["role"] == "assistant")
    messages = renderer.server_messages(trace["messages"][:first])
    functions = functions_by_name(trace["tools"])
    body = {
        "messages": messages,
        "tools": trace["tools"],
        "temperature": 0,
        "max_tokens": reply_tokens,
    }
    choice = _complete(endpoint, {**body, "tool_choice": "required"} if required else body)
    if choice["finish_reason"] == "length":
        return None, f"the turn did not end within {reply_tokens} tokens"
    message = choice["message"]
    calls = message.get("tool_calls") or []
    if not calls:
        content = message.get("content") or ""
        called = next((name for name in functions if f'"{name}"' in content), None)
        return called, "a request that needs a tool was answered without a call"
    function = calls[0]["function"]
    if problem := call_problem(function["name"], function["arguments"], functions):
        return function["name"], f"{problem[0]}: {problem[1]}"
    stored = next(m for m in renderer.server_messages(trace["messages"]) if m["role"] == "tool")
    tool_result = {"role": "tool", "tool_call_id": calls[0]["id"], "content": stored["content"]}
    answer = _complete(endpoint, {**body, "messages": [*messages, message, tool_result]})["message"]
    if not (answer.get("content") or answer.get("tool_calls")):
        return function["name"], "the turn after the tool's result is empty"
    return function["name"], None


def _without(text: str, words: Sequence[str]) -> str:
    for word in words:
        text = text.replace(word, "")
    return text


def _complete(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = post(endpoint, "/v1/chat/completions", body)["choices"][0]
    return choice


def _first_difference(actual: Sequence[Any], expected: Sequence[Any]) -> int:
    """Returns the first index at which two different sequences differ; one may be the other's beginning."""
    pairs = enumerate(zip(actual, expected, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(actual), len(expected)))


def _excerpts(actual: Sequence[Any], expected: Sequence[Any], at: int, length: int = 20) -> str:
    """Returns what is found and what is expected from the index `at` on."""
    return f"found {actual[at : at + length]!r}, expected {expected[at : at + length]!r}"
