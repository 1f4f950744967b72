"""Checks that need no trained weights: prompt tokens counted by the server, stop tokens, and calls read back.

They force the model's output with a bias on one token, so random weights serve as well as trained ones.
"""

import urllib.error
from collections.abc import Sequence
from typing import Any

from schemas.canonical import canonical
from schemas.error_text import brief
from schemas.files import dumps
from schemas.json_text import parse_json
from schemas.messages import text_of
from schemas.trace import Message, Tool
from student.export.checks import Check, Conversation, result
from student.export.llama_server import post, refusal
from student.rendering.renderer import DATE, Renderer
from teacher.inference.endpoint import Endpoint

# Conversations whose prompts are counted.
_COUNTED = 2
# Added to a token's logit, it makes the token certain.
_CERTAIN = 1000


def check_prompt_tokens(
    endpoint: Endpoint, traces: Sequence[Conversation], renderer: Renderer
) -> Check:
    """Compares the tokens that the server counts for a request with those of training: a doubled BOS is one more."""
    counted = 0
    for trace in traces:
        first = next(i for i, m in enumerate(trace["messages"]) if m["role"] == "assistant")
        messages = trace["messages"][:first]
        if renderer.image_names(messages):
            continue  # an image's tokens are compared by check_image_round_trip
        request = {
            "messages": renderer.server_messages(messages),
            "tools": trace["tools"],
            "chat_template_kwargs": DATE,
        }
        reply = post(endpoint, "/v1/chat/completions", {**request, "max_tokens": 1})
        served = reply["usage"]["prompt_tokens"]
        ids = renderer.ids(renderer.text(messages, trace["tools"], add_generation_prompt=True))
        if served != len(ids):
            beginning = renderer.tokenizer.convert_ids_to_tokens(ids[:2])
            return result(
                "prompt_tokens",
                f"{trace['id']}: the server reads {served} tokens for a prompt that has {len(ids)} in training, which"
                f" begins {beginning}: it adds or drops a token such as BOS",
            )
        counted += 1
        if counted == _COUNTED:
            break
    return result("prompt_tokens", None, f"{counted} prompts, equal")


def check_stops(endpoint: Endpoint, renderer: Renderer) -> Check:
    """Checks that the server ends a turn at each of the student's stop tokens."""
    for token in renderer.stop:
        body = {
            "messages": [{"role": "user", "content": "?"}],
            "max_tokens": 2,
            "logit_bias": [[renderer.tokenizer.convert_tokens_to_ids(token), _CERTAIN]],
        }
        choice = post(endpoint, "/v1/chat/completions", body)["choices"][0]
        if choice["finish_reason"] != "stop":
            problem = f"the server does not stop at {token}, which ends a turn of the student"
            return result("stops", problem)
    return result("stops", None, f"stops at {', '.join(renderer.stop)}")


def check_parsing(endpoint: Endpoint, traces: Sequence[Conversation], renderer: Renderer) -> Check:
    """Checks that the server reads the calls back that a student is trained to write, with every argument.

    The server continues a turn that is complete but for its stop token, and parses the whole of it. How it parses
    depends on the tools, not on the conversation before, so the prompt is short.
    """
    parsed: set[str] = set()
    for trace in traces:
        for index, message in enumerate(trace["messages"]):
            if not message.get("tool_calls"):
                continue
            _, target = renderer.turn(trace["messages"], trace["tools"], index)
            if target in parsed:
                continue
            parsed.add(target)
            if problem := _parsing_problem(endpoint, message, trace["tools"], target, renderer):
                return result("parsing", f"{trace['id']}: message {index}: {problem}")
    return result("parsing", None, f"the calls of {len(parsed)} turns, equal")


def _parsing_problem(
    endpoint: Endpoint, message: Message, tools: list[Tool], target: str, renderer: Renderer
) -> str | None:
    stop = next(token for token in renderer.stop if target.endswith(token))
    # Reasoning goes before the text of the turn, and the template's prompt may have opened it already.
    written = target.removesuffix(stop).rpartition("</think>")[2].lstrip("\n")
    body = {
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": written}],
        "tools": [tool for tool in tools if tool["function"]["name"] in target],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "echo": True,
        "max_tokens": 2,
        "temperature": 0,
        "logit_bias": [[renderer.tokenizer.convert_tokens_to_ids(stop), _CERTAIN]],
    }
    try:
        reply = post(endpoint, "/v1/chat/completions", body)["choices"][0]["message"]
    except urllib.error.HTTPError as error:
        return f"the turn {brief(written)}: {refusal(error)}"
    expected, actual = _calls(message), _calls(reply)
    if actual != expected:
        return f"the turn {brief(written)} is read as calls {actual}, expected {expected}"
    content = text_of(message.get("content")).strip()
    if content and content in target and text_of(reply.get("content")).strip() != content:
        return f"the text {brief(content)} beside a call is read as {brief(reply.get('content'))}"
    return None


def _calls(message: Message) -> list[tuple[str, Any]]:
    """Returns each call of a message as (name, canonical JSON of its arguments)."""
    functions = [call["function"] for call in message.get("tool_calls") or []]
    return [
        (function["name"], dumps(canonical(_parsed(function["arguments"]))))
        for function in functions
    ]


def _parsed(arguments: Any) -> Any:
    return parse_json(arguments) if isinstance(arguments, str) else arguments
