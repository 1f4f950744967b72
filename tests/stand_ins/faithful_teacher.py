"""A server on this machine whose model replies as a faithful Kimi does, and the pre-flight on it."""

import base64
import functools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from http_server import Handler, HttpServer

from schemas.documents import check_document
from teacher.domain import pack as packs
from teacher.domain import tasks
from teacher.domain.pack import Domain
from teacher.inference.endpoint import Endpoint
from teacher.models import catalog
from teacher.preflight import inputs, run
from teacher.preflight.checks import Check

Body = dict[str, Any]
Answer = Callable[[Body], tuple[int, Any]]  # a request to a status and JSON, or the very bytes

KIMI = catalog.load("kimi-k2.5", catalog.TEACHERS, "teacher")
# The chat template of the test tokenizer; `rendered` does the same in Python.
TEMPLATE = (
    "{%- for tool in tools or [] %} {{ tool.function.name }}{% endfor %}"
    "{%- for message in messages %} <{{ message.role }}> {{ message.content }} {{ message.reasoning_content }}"
    "{%- for call in message.tool_calls or [] %} {{ call.id }} {{ call.function.arguments | tojson }}{% endfor %}"
    "{%- endfor %}{% if thinking %} <think>{% endif %}"
)


def rendered(body: Body) -> str:
    text = " ".join(tool["function"]["name"] for tool in body.get("tools", []))
    for message in body["messages"]:
        text += f" <{message['role']}> {message['content']} {message.get('reasoning_content', '')}"
        for call in message.get("tool_calls", []):
            text += f" {call['id']} {call['function']['arguments']}"
    return text + (" <think>" if thinks(body) else "")


def thinks(body: Body) -> bool:
    return body.get("chat_template_kwargs", {}).get("thinking", True)


class Server(HttpServer):
    """Answers each chat request by `answer`, and keeps the requests. It serves one model, named "teacher"."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.models: tuple[int, Any] = (200, {"object": "list", "data": [{"id": "teacher"}]})
        self.bodies: list[Body] = []
        self.in_flight = self.most_in_flight = 0
        self.seconds = 0.0
        outer, lock = self, threading.Lock()

        class Replies(Handler):
            def do_GET(self) -> None:
                self.reply(*outer.models)

            def do_POST(self) -> None:
                body = self.body()
                with lock:
                    outer.bodies.append(body)
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                time.sleep(outer.seconds)
                status, content = outer.answer(body)
                with lock:
                    outer.in_flight -= 1
                if status == 0:
                    self.close_connection = True
                else:
                    self.reply(status, content)

        super().__init__(Replies)
        self.endpoint = Endpoint(self.url, "sk-of-this-test", "teacher", engine="vllm")


def says(content: Any = None, finish_reason: str = "stop", **message: Any) -> tuple[int, Any]:
    assistant = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": assistant, "finish_reason": finish_reason}
    return 200, {"id": "1", "object": "chat.completion", "choices": [choice]}


def calls(name: str, arguments: Any, **message: Any) -> tuple[int, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": name, "arguments": text}
    call = {"id": f"functions.{name}:0", "type": "function", "function": function}
    return says(None, "tool_calls", tool_calls=[call], **message)


def message_of(answer: tuple[int, Any]) -> dict[str, Any]:
    return answer[1]["choices"][0]["message"]


def fitting(schema: dict[str, Any]) -> Any:
    """A value that is valid under a tool's schema."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: fitting(schema["properties"][name]) for name in schema["required"]}
    return {"string": "x", "integer": 1, "number": 1.5, "boolean": True, "array": []}[
        schema["type"]
    ]


class Faithful:
    """A faithful Kimi: solves the domain's tasks by their solutions, thinks in thinking mode, reads the image."""

    def __init__(self, domain: Domain) -> None:
        known = tasks.sample(domain, "train", 8, seed=0, pixels=False)
        known += [tasks.build(domain, name, "train", 0) for name in domain.templates]
        self.tasks = {task["request"]: task for task in known}
        self.png, self.words = inputs.draw_words(0)

    def __call__(self, body: Body) -> tuple[int, Any]:
        if body["model"] != "teacher":
            return 404, {"error": {"message": f"no model {body['model']}"}}
        for index, message in enumerate(body["messages"]):
            missing = message.get("tool_calls") and not message.get("reasoning_content")
            if missing and thinks(body):
                words = (
                    "thinking is enabled but reasoning_content is missing in assistant tool call"
                )
                return 400, {"error": {"message": f"{words} message at index {index}"}}
        status, reply = self.reply(body)
        if thinks(body):
            reply["choices"][0]["message"]["reasoning"] = "Let me see."
        tokens = len(rendered(body).split())
        return status, {**reply, "usage": {"prompt_tokens": tokens, "completion_tokens": 5}}

    def reply(self, body: Body) -> tuple[int, Any]:
        if body.get("tool_choice") == "required":
            function = body["tools"][0]["function"]
            return calls(function["name"], fitting(function["parameters"]))
        content = next(m["content"] for m in body["messages"] if m["role"] == "user")
        if isinstance(content, list):
            return says(
                f"I can read: {', '.join(self.words)}." if self.gets_image(content) else "A cat."
            )
        # Images stand before the request in words, where the tasks are those of a text-only teacher.
        task = self.tasks.get(content.rsplit("]\n\n", 1)[-1])
        if task is None:
            return says("12:25")
        step = results(body)
        if step == len(task["plan"]):
            return says(task["reply"])
        return calls(task["plan"][step]["tool"], task["plan"][step]["arguments"])

    def gets_image(self, parts: list[Any]) -> bool:
        url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
        return base64.b64decode(url.removeprefix("data:image/png;base64,")) == self.png


def results(body: Body) -> int:
    """The number of tool results in a request."""
    return sum(message["role"] == "tool" for message in body["messages"])


def has_free_choice(body: Body) -> bool:
    """Whether a request has tools and leaves it to the teacher to call one."""
    return bool(body.get("tools")) and body.get("tool_choice") != "required"


@functools.cache
def legal() -> Domain:
    return packs.load("legal")


@functools.cache
def faithful_teacher() -> Faithful:
    return Faithful(legal())


def save_tokenizer(directory: Path) -> Path:
    """Writes a tokenizer whose tokens are the words of a text, and returns its directory."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    return directory


def preflight(server: Server | Endpoint, domain: Domain, **more: Any) -> run.Result:
    """The result of a pre-flight, whose form is checked too."""
    endpoint = server.endpoint if isinstance(server, Server) else server
    teacher = more.pop("teacher", KIMI)
    result = run.check(endpoint, teacher, domain, **more)
    check_document(result, "fidelity", "the result")
    assert [check["name"] for check in result["checks"]] == list(run.NAMES)
    assert result["passed"] == (not failed(result))
    assert endpoint.key not in json.dumps(result)
    return result


def failed(result: run.Result) -> list[str]:
    return [check["name"] for check in result["checks"] if check["passed"] is False]


def skipped(result: run.Result) -> list[str]:
    return [check["name"] for check in result["checks"] if check["passed"] is None]


def check_of(result: run.Result, name: str) -> Check:
    return next(check for check in result["checks"] if check["name"] == name)
