"""The pre-flight against a real server on this machine, faithful or with a single fault; and against llama.cpp's."""

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import Handler, HttpServer

from schemas.documents import check_document
from schemas.errors import InputError, StageError
from schemas.files import read_jsonl, write_jsonl
from schemas.trace import Usage
from teacher.domain import pack as packs
from teacher.domain import tasks
from teacher.domain.pack import Domain
from teacher.inference import client, llamacpp
from teacher.inference.client import Reply
from teacher.inference.endpoint import Endpoint
from teacher.inference.llama_server import serve
from teacher.models import catalog
from teacher.preflight import inputs, run, vendor_verifier
from teacher.preflight.target import Limits

Body = dict[str, Any]
Answer = Callable[[Body], tuple[int, Any]]  # a request to a status and JSON, or the very bytes

KIMI = catalog.load("kimi-k2.5", catalog.TEACHERS, "teacher")
# What the tokenizer of these tests has for a chat template, and the same in Python.
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


# ------------------------------------------------------------------------------------- the server


class Server(HttpServer):
    """Answers each chat request with what `answer` says, and keeps what it was sent. Its one model is "teacher"."""

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
        self.endpoint = Endpoint(self.url, "sk-of-this-test", "teacher")


def says(content: Any = None, finish_reason: str = "stop", **message: Any) -> tuple[int, Any]:
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish_reason}
    return 200, {"id": "1", "object": "chat.completion", "choices": [choice]}


def calls(name: str, arguments: Any, **message: Any) -> tuple[int, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": name, "arguments": text}
    call = {"id": f"functions.{name}:0", "type": "function", "function": function}
    return says(None, "tool_calls", tool_calls=[call], **message)


def message_of(answer: tuple[int, Any]) -> dict[str, Any]:
    return answer[1]["choices"][0]["message"]


def fitting(schema: dict[str, Any]) -> Any:
    """A value that a tool's schema takes."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: fitting(schema["properties"][name]) for name in schema["required"]}
    return {"string": "x", "integer": 1, "number": 1.5, "boolean": True, "array": []}[
        schema["type"]
    ]


class Faithful:
    """Kimi as it should be: solves the domain's tasks by their plans, thinks when told to, reads the picture."""

    def __init__(self, domain: Domain) -> None:
        known = tasks.sample(domain, "train", 8, 0)
        known += [tasks.build(domain, name, "train", 0) for name in domain.templates]
        self.tasks = {task["request"]: task for task in known}
        self.picture, self.words = inputs._picture(0)

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
            return says(f"I can read: {', '.join(self.words)}." if self.sees(content) else "A cat.")
        task = self.tasks.get(content)
        if task is None:
            return says("12:25")
        made = results(body)
        if made == len(task["plan"]):
            return says(task["reply"])
        return calls(task["plan"][made]["tool"], task["plan"][made]["arguments"])

    def sees(self, parts: list[Any]) -> bool:
        url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
        return base64.b64decode(url.removeprefix("data:image/png;base64,")) == self.picture


def results(body: Body) -> int:
    return sum(message["role"] == "tool" for message in body["messages"])


def asks(body: Body) -> bool:
    """Whether a request is one of a conversation with tools in which calling is the teacher's choice."""
    return bool(body.get("tools")) and body.get("tool_choice") != "required"


@pytest.fixture(scope="session")
def legal() -> Domain:
    return packs.load("legal")


@pytest.fixture(scope="session")
def faithful(legal: Domain) -> Faithful:
    return Faithful(legal)


@pytest.fixture
def server(faithful: Faithful) -> Iterator[Server]:
    with contextlib.closing(Server(faithful)) as running:
        yield running


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of which every word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    directory = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    return directory


@pytest.fixture(autouse=True)
def waits_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.005)
    monkeypatch.setattr(client, "_LONGEST_WAIT", 0.01)
    for name in ("STILLHOUSE_TEACHER_KEY", "MOONSHOT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def checked(server: Server | Endpoint, domain: Domain, **more: Any) -> dict[str, Any]:
    endpoint = server.endpoint if isinstance(server, Server) else server
    teacher = more.pop("teacher", KIMI)
    found = run.check(endpoint, teacher, domain, **more)
    check_document(found, "fidelity", "the result")
    assert [check["name"] for check in found["checks"]] == list(run.NAMES)
    assert found["passed"] == (not failed(found))
    assert endpoint.key not in json.dumps(found)
    return found


def failed(found: dict[str, Any]) -> list[str]:
    return [check["name"] for check in found["checks"] if check["passed"] is False]


def skipped(found: dict[str, Any]) -> list[str]:
    return [check["name"] for check in found["checks"] if check["passed"] is None]


def check_of(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(check for check in found["checks"] if check["name"] == name)


# ------------------------------------------------------------------------------------- faithful


def test_a_faithful_teacher_passes_every_check(
    server: Server, legal: Domain, tokenizer: Path
) -> None:
    server.seconds = 0.01
    found = checked(server, legal, tokenizer=tokenizer, limits=Limits(concurrency=4))
    assert [check["detail"] for check in found["checks"] if not check["passed"]] == []
    assert found["mode"] == "thinking" and found["detected"] == {}
    assert check_of(found, "tool_call_f1")["measured"]["f1"] == 1
    assert check_of(found, "schema_accuracy")["measured"]["share"] == 1
    assert 2 <= server.most_in_flight <= 4


def test_the_number_of_requests_is_the_documented_one(
    server: Server, legal: Domain, tokenizer: Path
) -> None:
    found = checked(server, legal, tokenizer=tokenizer)
    rows = len(vendor_verifier.of_domain(legal))
    assert found["requests"] == len(server.bodies) == 1 + len(legal.tools) + 4 + 6 + 1 + rows + 2
    assert 45 <= found["requests"] <= 55


def test_what_is_sent_is_in_the_teachers_dialect(server: Server, legal: Domain) -> None:
    checked(server, legal)
    forced = [body for body in server.bodies if body.get("tool_choice") == "required"]
    assert len(forced) == len(legal.tools)
    # Moonshot's API refuses to require a call of a model that thinks.
    assert not any(thinks(body) for body in forced)
    assert {body["temperature"] for body in forced} == {0.6}
    ids = [c["id"] for b in server.bodies for m in b["messages"] for c in m.get("tool_calls", [])]
    assert ids and all(each.startswith("functions.") for each in ids)


def test_a_teacher_in_instant_mode_is_not_asked_for_reasoning(
    server: Server, legal: Domain
) -> None:
    found = checked(server, legal, mode="instant")
    assert skipped(found) == ["reasoning_round_trip", "prompt_tokens"] and not failed(found)


def test_only_what_a_teacher_claims_is_asked_of_it(server: Server, legal: Domain) -> None:
    plain = {
        "name": "plain",
        "sampling": {"temperature": 0.7, "top_p": 1},
        "capabilities": {"tools": True, "vision": False, "thinking": False},
    }
    server.answer = lambda body: faithful_without_thoughts(server, body)
    faithful_answer = Faithful(legal)

    def faithful_without_thoughts(server: Server, body: Body) -> tuple[int, Any]:
        assert "chat_template_kwargs" not in body
        assert not any("reasoning_content" in message for message in body["messages"])
        return faithful_answer.reply(body)

    found = checked(server, legal, teacher=plain)
    unclaimed = ["thinking_toggle", "reasoning_round_trip", "image", "prompt_tokens"]
    assert skipped(found) == unclaimed and not failed(found)
    assert found["mode"] is None


# ------------------------------------------------------------------------------------- single faults


def empty_arguments(answer: tuple[int, Any]) -> tuple[int, Any]:
    for call in message_of(answer).get("tool_calls", []):
        call["function"]["arguments"] = "{}"
    return answer


def forced_calls_without_arguments(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    return empty_arguments(answer) if body.get("tool_choice") == "required" else answer


def free_calls_without_arguments(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    return empty_arguments(answer) if asks(body) and answer[0] == 200 else answer


def always_thinks(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    message_of(answer)["reasoning"] = "Let me see."
    return answer


def thinks_in_the_content(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if not body.get("tools") and thinks(body) and message_of(answer)["content"] == "12:25":
        message_of(answer)["content"] = "<think>Let me see.</think>12:25"
    return answer


def drops_the_reasoning_of_calls(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if answer[0] == 200 and "tool_calls" in message_of(answer):
        message_of(answer).pop("reasoning", None)
    return answer


def narrates_after_a_result(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if asks(body) and results(body) and "tool_calls" in message_of(answer):
        return says("Let me look up the amendment next.", reasoning="I need it.")
    return answer


def stops_after_a_result(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if asks(body) and results(body) and "tool_calls" in message_of(answer):
        return says("The contract was found.", reasoning="Done.")
    return answer


def sees_nothing(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if any(isinstance(message["content"], list) for message in body["messages"]):
        message_of(answer)["content"] = "A cat on a sofa."
    return answer


def refuses_pictures(faithful: Faithful, body: Body) -> tuple[int, Any]:
    if any(isinstance(message["content"], list) for message in body["messages"]):
        return 400, {"error": {"message": "At most 0 image(s) may be provided in one prompt."}}
    return faithful(body)


def counts_one_token_more(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    answer[1]["usage"]["prompt_tokens"] += 1
    return answer


def always_calls(faithful: Faithful, body: Body) -> tuple[int, Any]:
    answer = faithful(body)
    if asks(body) and "tool_calls" not in message_of(answer):
        function = body["tools"][0]["function"]
        return calls(function["name"], fitting(function["parameters"]), reasoning="Again.")
    return answer


def never_calls(faithful: Faithful, body: Body) -> tuple[int, Any]:
    return says("That is not known to me.", reasoning="No.") if asks(body) else faithful(body)


FAULTS: list[tuple[Callable[[Faithful, Body], tuple[int, Any]], str, str]] = [
    (forced_calls_without_arguments, "strict_tool_call", "--tool-strict-level parameter"),
    (free_calls_without_arguments, "schema_accuracy", "--tool-strict-level parameter"),
    (always_thinks, "thinking_toggle", "it thinks when told not to"),
    (thinks_in_the_content, "thinking_toggle", "--reasoning-parser"),
    (drops_the_reasoning_of_calls, "reasoning_round_trip", "reasoning_content is missing"),
    (narrates_after_a_result, "tool_round_trip", "instead: narrated_call"),
    (stops_after_a_result, "tool_round_trip", "The contract was found."),
    (sees_nothing, "image", "A cat on a sofa."),
    (refuses_pictures, "image", "--limit-mm-per-prompt"),
    (counts_one_token_more, "prompt_tokens", "start token added twice"),
    (always_calls, "tool_call_f1", "where an answer was due"),
    (never_calls, "tool_call_f1", "--tool-call-parser"),
]


@pytest.mark.parametrize(
    ("fault", "check", "words"), FAULTS, ids=[fault.__name__ for fault, _, _ in FAULTS]
)
def test_a_single_fault_fails_its_check_alone_and_is_explained(
    server: Server,
    faithful: Faithful,
    legal: Domain,
    tokenizer: Path,
    fault: Callable[[Faithful, Body], tuple[int, Any]],
    check: str,
    words: str,
) -> None:
    def counted(body: Body) -> tuple[int, Any]:
        status, reply = fault(faithful, body)
        usage = {"prompt_tokens": len(rendered(body).split()), "completion_tokens": 5}
        return status, {"usage": usage, **reply}

    server.answer = counted
    found = checked(server, legal, tokenizer=tokenizer)
    assert failed(found) == [check]
    assert words in check_of(found, check)["detail"]


def test_a_teacher_that_never_calls_is_not_blamed_for_what_needs_a_call(
    server: Server, faithful: Faithful, legal: Domain
) -> None:
    server.answer = lambda body: never_calls(faithful, body)
    found = checked(server, legal)
    assert skipped(found)[:3] == ["reasoning_round_trip", "tool_round_trip", "schema_accuracy"]
    assert check_of(found, "tool_call_f1")["measured"]["f1"] == 0


def test_a_narrated_call_that_a_second_try_makes_is_still_seen(
    server: Server, faithful: Faithful, legal: Domain
) -> None:
    server.answer = lambda body: narrates_after_a_result(faithful, body)
    found = checked(server, legal)
    assert found["detected"]["narrated_call"] >= 3
    assert check_of(found, "tool_round_trip")["measured"]["second_calls"] == 0


def test_a_teacher_that_never_thinks_is_found_out(
    server: Server, faithful: Faithful, legal: Domain
) -> None:
    def thoughtless(body: Body) -> tuple[int, Any]:
        answer = faithful(body)
        if answer[0] == 200:
            message_of(answer).pop("reasoning", None)
        return answer

    server.answer = thoughtless
    found = checked(server, legal)
    assert failed(found) == ["thinking_toggle", "reasoning_round_trip"]
    assert "does not think when told to" in check_of(found, "thinking_toggle")["detail"]


def test_another_model_than_the_one_asked_for_fails_by_its_name_and_nothing_else_is_asked(
    server: Server, legal: Domain
) -> None:
    endpoint = Endpoint(server.endpoint.url, server.endpoint.key, "kimi")
    found = checked(endpoint, legal)
    assert failed(found) == ["model_name"] and len(skipped(found)) == len(run.NAMES) - 2
    assert "serves teacher, expected kimi" in check_of(found, "model_name")["detail"]
    assert server.bodies == []


def test_an_api_without_a_list_of_models_is_asked_all_the_same(
    server: Server, legal: Domain
) -> None:
    server.models = (404, {"detail": "Not Found"})
    found = checked(server, legal)
    assert skipped(found) == ["model_name", "prompt_tokens"] and not failed(found)


def test_an_api_that_counts_no_tokens_is_not_judged_by_them(
    server: Server, faithful: Faithful, legal: Domain, tokenizer: Path
) -> None:
    server.answer = lambda body: (200, {**faithful(body)[1], "usage": None})
    found = checked(server, legal, tokenizer=tokenizer)
    assert skipped(found) == ["prompt_tokens"] and not failed(found)


# ------------------------------------------------------------------------------------- no server worth the name


def test_a_server_that_is_not_there_is_a_failed_check(legal: Domain) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        found = checked(Endpoint(f"http://127.0.0.1:{port}/v1", "k" * 20, "teacher"), legal)
    assert failed(found) == ["health"] and found["requests"] == 0
    assert "is the server up" in check_of(found, "health")["detail"]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ((200, b"<html>Sign in</html>"), "usually ends in /v1"),
        ((200, b""), "found nothing"),
        ((200, {"data": None}), "expected a list of models"),
        ((200, [1, 2]), "expected a list of models"),
        ((200, b"[" * 100_000), "expected a list of models"),
        ((500, {"error": "out of memory"}), "status 500"),
        ((401, {"error": "sk-of-this-test is no key"}), "the key was refused"),
        ((500, b"sk-of-this-test"), "found ***"),
        ((0, None), "no answer"),
    ],
)
def test_an_api_that_is_none_is_a_failed_check(
    server: Server, legal: Domain, models: tuple[int, Any], words: str
) -> None:
    server.models = models
    found = checked(server, legal)
    assert failed(found) == ["health"] and server.bodies == []
    assert words in check_of(found, "health")["detail"]


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>"),
        (200, {}),
        (200, {"choices": []}),
        (500, {"error": "engine dead"}),
        (0, None),
    ],
)
def test_a_server_that_gives_no_message_is_a_failed_check(
    server: Server, legal: Domain, answer: tuple[int, Any]
) -> None:
    server.answer = lambda body: answer
    found = checked(server, legal)
    assert failed(found) == ["health"]


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": "none"},
        {"tool_calls": [None, 3, {"function": "x"}, {"type": "function"}]},
        {"tool_calls": [{"id": 7, "function": {"name": {"a": 1}, "arguments": [1]}}]},
        {"tool_calls": [{"id": "a", "function": {"name": "get_clause", "arguments": '{"a": NaN'}}]},
        {"content": {"text": 5}, "reasoning": ["x"]},
        {"content": [{"type": "text", "text": None}, 4]},
        {"content": "<|tool_calls_section_begin|>" * 500},
        {"content": "!" * 3000},
    ],
)
@pytest.mark.parametrize("finish_reason", ["tool_calls", {"a": 1}])
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_whatever_a_server_says_ends_as_failed_checks(
    server: Server, legal: Domain, message: Body, finish_reason: Any
) -> None:
    server.answer = lambda body: says(finish_reason=finish_reason, **message)
    found = checked(server, legal)
    assert {"strict_tool_call", "image", "tool_call_f1"} <= set(failed(found))


def test_a_server_that_dies_on_the_way_ends_as_failed_checks(
    server: Server, faithful: Faithful, legal: Domain
) -> None:
    server.answer = lambda body: faithful(body) if len(server.bodies) < 6 else (0, None)
    found = checked(server, legal)
    assert check_of(found, "health")["passed"] and len(failed(found)) >= 5
    assert "see the server's log" in check_of(found, "tool_call_f1")["detail"]
    # Nobody goes on asking a server that is gone: the requests in flight, each with its tries, and no more.
    assert len(server.bodies) <= 6 + 8 * client._TRIES


def test_a_request_that_takes_too_long_is_given_up(
    server: Server, faithful: Faithful, legal: Domain
) -> None:
    release = threading.Event()

    def slow(body: Body) -> tuple[int, Any]:
        if body.get("tool_choice") == "required":
            release.wait(60)
        return faithful(body)

    server.answer = slow
    found = checked(server, legal, limits=Limits(timeout_s=3))
    release.set()
    assert "strict_tool_call" in failed(found)
    assert "no reply in 3 s" in check_of(found, "strict_tool_call")["detail"]


# ------------------------------------------------------------------------------------- the reference


def reply_of(finish_reason: str, *made: tuple[str, str]) -> Reply:
    functions = [{"function": {"name": name, "arguments": text}} for name, text in made]
    usage: Usage = {"prompt_tokens": 0, "completion_tokens": 0}
    message = {"role": "assistant", "tool_calls": functions}
    return Reply("k", message, finish_reason, 1.0, usage)


def rows_of(*expected: bool) -> list[vendor_verifier.Row]:
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools = [{"type": "function", "function": {"name": "count", "parameters": parameters}}]
    return [{"request": {"messages": [], "tools": tools}, "calls": each} for each in expected]


def test_schema_accuracy_is_the_share_of_calling_replies_whose_calls_are_all_valid() -> None:
    good, bad = ("count", '{"n": 1}'), ("count", '{"n": "one"}')
    replies = [
        reply_of("tool_calls", good),
        reply_of("tool_calls", good, bad),
        reply_of("tool_calls"),
        reply_of("tool_calls", ("other", "{}")),
        reply_of("stop", bad),
    ]
    measured = vendor_verifier.schema_accuracy(rows_of(*[True] * 5), replies)
    assert measured["count_finish_reason_tool_calls"] == 4
    assert measured["count_successful_tool_call"] == 1
    assert measured["share"] == 0.25
    assert vendor_verifier.schema_accuracy(rows_of(True), [reply_of("stop")])["share"] is None


def test_tool_call_f1_is_the_harmonic_mean_of_precision_and_recall_of_calling() -> None:
    rows = rows_of(True, True, True, True, False, False)
    said = ["tool_calls", "tool_calls", "tool_calls", "stop", "tool_calls", "length"]
    measured = vendor_verifier.tool_call_f1(rows, [reply_of(reason) for reason in said])
    assert [measured[name] for name in ("tp", "fp", "fn", "tn")] == [3, 1, 1, 1]
    assert measured["precision"] == measured["recall"] == measured["f1"] == 0.75
    assert measured["always"] == 0.8  # 4 of 6 are calls: precision 2/3, recall 1


def test_the_default_reference_calls_at_each_step_of_a_plan_and_answers_after_it(
    legal: Domain,
) -> None:
    rows = vendor_verifier.of_domain(legal, thinking=True)
    planned = sum(len(task["plan"]) for task in tasks.sample(legal, "train", 8, 0))
    assert [row["calls"] for row in rows].count(True) == planned
    assert [row["calls"] for row in rows].count(False) == 8
    for row in rows:
        last = row["request"]["messages"][-1]
        assert last["role"] in ("user", "tool") and row["request"]["tools"]
        for message in row["request"]["messages"]:
            assert bool(message.get("tool_calls")) == bool(message.get("reasoning_content"))


def test_a_recorded_reference_is_what_another_teacher_is_measured_against(
    server: Server, faithful: Faithful, legal: Domain, tmp_path: Path
) -> None:
    path = tmp_path / "reference.jsonl"
    count = run.record(server.endpoint, KIMI, legal, path)
    assert count == len(list(read_jsonl(path))) == len(vendor_verifier.of_domain(legal))
    assert checked(server, legal, reference_file=path)["passed"]
    server.answer = lambda body: never_calls(faithful, body)
    assert "tool_call_f1" in failed(checked(server, legal, reference_file=path))


def test_a_reference_is_not_recorded_from_a_server_that_refuses(
    server: Server, legal: Domain, tmp_path: Path
) -> None:
    server.answer = lambda body: (400, {"error": {"message": "too many tools"}})
    with pytest.raises(StageError, match="too many tools"):
        run.record(server.endpoint, KIMI, legal, tmp_path / "reference.jsonl")
    assert not (tmp_path / "reference.jsonl").exists()


def test_results_of_the_vendor_verifier_are_a_reference(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    messages = [{"role": "_input", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    request = {"messages": messages, "model": "kimi-k2", "temperature": 0.6}
    write_jsonl(
        path,
        [
            {"data_index": 1, "request": request, "finish_reason": "tool_calls"},
            {"data_index": 2, "request": request, "finish_reason": "stop"},
        ],
    )
    calling, answering = vendor_verifier.read(path)
    assert calling["calls"] is True and answering["calls"] is False
    assert [m["role"] for m in calling["request"]["messages"]] == ["system", "user"]
    assert calling["request"]["tools"] == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("x", "line 2: request.messages: expected a list"),
        ({"request": {"messages": "hi"}, "calls": True}, "line 2: request.messages"),
        ({"request": {"messages": [{"role": "user", "content": "Hi"}]}}, "line 2: calls"),
        (
            {"request": {"messages": [{"role": "user", "content": "Hi"}]}, "calls": 1},
            "line 2: calls",
        ),
        ({"request": {"messages": [{"role": "king"}]}, "calls": True}, "line 2: request: "),
        (
            {"request": {"messages": [{"role": "user", "content": "Hi"}]}, "calls": False},
            "rows that call a tool and rows that do not",
        ),
    ],
)
def test_a_reference_that_is_none_is_bad_input_that_names_its_line(
    legal: Domain, tmp_path: Path, row: Any, words: str
) -> None:
    path = tmp_path / "reference.jsonl"
    good = {"request": {"messages": [{"role": "user", "content": "Hi"}]}, "calls": False}
    write_jsonl(path, [good, row])
    with pytest.raises(InputError, match=words):
        run.check(Endpoint("http://127.0.0.1:1/v1", "k", "m"), KIMI, legal, reference_file=path)


# ------------------------------------------------------------------------------------- as a person runs it


def test_run_takes_names_and_the_key_of_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", "sk-from-the-environment")
    found = run.run(f"{server.endpoint.url}/", "teacher", "kimi-k2.5", "legal")
    assert found["passed"] and found["url"] == server.endpoint.url


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (("127.0.0.1:8000", "m", "kimi-k2.5", "legal"), {}),
        (("http://127.0.0.1:1/v1", "m", "kimi-k9", "legal"), {}),
        (("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "illegal"), {}),
        (("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "legal"), {"mode": "dreaming"}),
        (("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "legal"), {"tokenizer": Path("/nowhere")}),
        (
            ("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "legal"),
            {"tokenizer": Path(__file__).parent},
        ),
        (("http://127.0.0.1:1/v1", "m", "kimi-k2.5", "legal"), {"reference_file": Path("/none")}),
    ],
)
def test_bad_arguments_are_bad_input(arguments: tuple[str, ...], more: dict[str, Any]) -> None:
    with pytest.raises(InputError) as raised:
        run.run(*arguments, **more)
    assert "\n" not in str(raised.value)


def test_a_result_is_shown_line_by_line_with_its_verdict(
    server: Server, faithful: Faithful, legal: Domain
) -> None:
    server.answer = lambda body: narrates_after_a_result(faithful, body)
    shown = run.lines(checked(server, legal))
    assert server.endpoint.url in shown[0] and "kimi-k2.5, thinking" in shown[0]
    assert any(line.split()[:2] == ["ok", "health"] for line in shown)
    assert any(line.split()[:2] == ["FAILED", "tool_round_trip"] for line in shown)
    assert any(line.split()[:2] == ["skipped", "prompt_tokens"] for line in shown)
    assert any("narrated_call" in line for line in shown)
    assert shown[-1].startswith("failed: tool_round_trip (")
    assert all(len(line) <= 110 for line in shown[1:])


# ------------------------------------------------------------------------------------- a real server


@pytest.mark.slow
def test_the_embedded_teacher_is_reported_as_weak_as_it_is(legal: Domain, tmp_path: Path) -> None:
    from student.models import base

    teacher = catalog.load("smollm2-135m", catalog.TEACHERS, "teacher")
    weights, log = llamacpp.server_weights(teacher), tmp_path / "server.log"
    with serve(weights, log, 4, 4096, catalog.template(teacher)) as endpoint:
        found = checked(
            endpoint,
            legal,
            teacher=teacher,
            tokenizer=base.prepare(base.load("smollm2-135m")),
            limits=Limits(concurrency=4, max_tokens=64),
        )
    print("\n".join(run.lines(found)))
    passed = [check["name"] for check in found["checks"] if check["passed"]]
    assert {"health", "model_name", "prompt_tokens"} <= set(passed)
    assert {"thinking_toggle", "reasoning_round_trip", "image"} <= set(skipped(found))
    # llama.cpp decodes required calls under their schemas: that the model does not come to an end is what is wrong, but
    # for an odd value now and then. How many do come to an end is luck at this size: from none to a third of them.
    forced = check_of(found, "strict_tool_call")["measured"]
    others = [text for text in forced["problems"].values() if text != vendor_verifier.CUT_OFF]
    assert len(others) <= 1, others
    # Without worked examples it solves next to nothing.
    assert "tool_call_f1" in failed(found)
