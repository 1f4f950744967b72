"""A run over a pack with images, from the plan to the report. The teacher is scripted, behind a real HTTP server."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import visual_pack
from http_server import Handler, HttpServer

from flows import recipe_file
from flows.report import html
from flows.run_context import RunContext
from flows.run_directory import Run
from flows.stages import PIPELINE
from schemas.documents import check_document
from schemas.errors import InputError
from schemas.files import read_json, read_jsonl, write_jsonl
from schemas.trace_file import judge_file
from student.models import base
from teacher.models import catalog
from teacher.models.catalog import TEACHERS
from teacher.planning import hardware

# The template that this teacher solves without its image, because it knows all visits.
KNOWN_BLIND = "visit_of_letter"
SETTINGS = {
    "teacher": "openai",
    "tasks.train": "30",
    "tasks.exam": "8",
    "tasks.mix": "null",
    "tasks.swapped": "0.2",
    "generate.constrain": "false",
    "generate.hint": "never",
    "generate.preflight": "false",
    "generate.examples": "1",
    "filter.max_tokens": "4096",
    "train.max_length": "4096",
}


class Teacher(Handler):
    """Solves each task by its solution, found by the session's id, unless the task's images are not shown to it."""

    tasks: dict[str, dict[str, Any]]
    requests: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.body()
        self.requests.append(body)
        task = self.tasks[self.headers["X-Session-ID"].rsplit("/", 1)[0]]
        messages = body["messages"]
        request = max(i for i, m in enumerate(messages) if m["role"] == "user")
        own = messages[request:]
        calls = sum(message["role"] == "tool" for message in own)
        has_images = any(
            isinstance(m["content"], list) or "[Image: " in (m["content"] or "") for m in own
        )
        message: dict[str, Any] = {"role": "assistant", "content": task["reply"]}
        if calls < len(task["plan"]) and (has_images or "pictures" not in task):
            step = task["plan"][calls]
            function = {"name": step["tool"], "arguments": json.dumps(step["arguments"])}
            call = {"id": "c", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        elif not has_images and task["template"] != KNOWN_BLIND:
            message["content"] = "I have nothing to look at."
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        self.reply(200, {**head, "choices": [choice], "usage": usage})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", "secret")
    Teacher.tasks, Teacher.requests = {}, []
    server = HttpServer(Teacher)
    yield server
    server.close()


def open_context(
    directory: Path, url: str, teacher: dict[str, Any] | None = None, **changes: str
) -> RunContext:
    """The context of a run of the small pack; `teacher` changes the teacher's description."""
    pack = directory / "fees"
    domain = visual_pack.load(str(pack)) if pack.is_dir() else visual_pack.write(pack)
    settings = {**SETTINGS, "serve.url": url, **changes}
    recipe = recipe_file.load("local", [f"{name}={value}" for name, value in settings.items()])
    run = Run.open(directory / "run", recipe, domain.name, domain.path)
    description = {**catalog.load("openai", TEACHERS, "teacher"), "served_name": "m"}
    description |= teacher or {}
    return RunContext(run, recipe, domain, description, base.load(recipe.student), hardware.find())


def plan_and_generate(context: RunContext) -> list[dict[str, Any]]:
    PIPELINE["plan"].run(context)
    rows = list(read_jsonl(context.path("tasks", "train.jsonl")))
    Teacher.tasks = {task["id"]: task for task in rows}
    PIPELINE["generate"].run(context)
    return list(read_jsonl(context.path("traces.jsonl")))


@pytest.mark.slow
def test_a_run_with_a_text_only_teacher_is_planned_generated_filtered_and_reported(
    server: HttpServer, tmp_path: Path
) -> None:
    context = open_context(tmp_path, server.url)
    with context.run:
        traces = plan_and_generate(context)
        PIPELINE["filter"].run(context)
        requests = len(Teacher.requests)
        for stage in ("plan", "generate", "filter"):
            PIPELINE[stage].run(context)
        assert len(Teacher.requests) == requests  # all stages were done
    tasks = Teacher.tasks
    assert not {"where_is_the_fee"} & {task["template"] for task in tasks.values()}
    swapped = {name for name, task in tasks.items() if "swapped" in task}
    visual = {name for name, task in tasks.items() if "pictures" in task}
    assert len(swapped) == round(0.2 * len(visual))

    for trace in traces:
        check_document(trace, "trace", trace["id"])
        assert trace["grounding"] == ("source" if trace["images"] else None)
        assert not context.image_store.missing(trace["images"])
        images = {image["sha256"] for image in tasks[trace["task"]["id"]].get("pictures", [])}
        assert images <= set(trace["images"])
    blind = [t for t in traces if t["outcome"].get("blind")]
    assert {t["task"]["template"] for t in blind} == {KNOWN_BLIND}
    assert not swapped & {t["task"]["id"] for t in traces if "blind" in t["outcome"]}

    ledger = read_json(context.path("filter", "ledger.json"))
    assert ledger["rejected"]["blind_answerable"] == len(blind)
    assert ledger["kept"] + sum(ledger["rejected"].values()) == ledger["traces"] == len(traces)
    assert ledger["images"]["source"]["kept"] > 5 and ledger["images"]["pixels"]["traces"] == 0
    kept = list(read_jsonl(context.path("filter", "kept.jsonl")))
    assert {t["task"]["template"] for t in kept} >= {"fee_on_page", "fee_of_stored_note"}
    assert swapped & {t["task"]["id"] for t in kept}
    receipt = context.run.receipt("generate")
    # Without their images, tasks with the same words are the same request.
    assert receipt and receipt["result"]["replayed"] > 0
    # Two equal requests may be in flight at once.
    assert receipt["result"]["requests"] <= len(Teacher.requests)

    page = html.write(context.directory).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") >= 2
    assert "images shown as source data" in page

    rows = tmp_path / "published.jsonl"
    write_jsonl(rows, [{key: t[key] for key in ("messages", "tools", "images")} for t in kept])
    assert judge_file(rows)["kept"] == len(kept)


def test_a_vision_language_teacher_is_sent_the_pixels(server: HttpServer, tmp_path: Path) -> None:
    vision = {
        "capabilities": {"tools": True, "vision": True, "thinking": False},
        "images": {"max_count": 4, "max_bytes": 4_000_000},
    }
    context = open_context(
        tmp_path, server.url, vision, **{"tasks.train": "8", "generate.blind": "false"}
    )
    with context.run:
        traces = plan_and_generate(context)
    assert Counter(t["grounding"] for t in traces if t["images"]) == {
        "pixels": sum(bool(t["images"]) for t in traces)
    }
    sent = json.dumps(Teacher.requests)
    assert "data:image/png;base64," in sent and "[Image: " not in sent
    for file in (context.path("traces.jsonl"), *context.path("journal").iterdir()):
        assert "base64" not in file.read_text()


def test_missing_images_are_drawn_again_and_no_request_is_repeated(
    server: HttpServer, tmp_path: Path
) -> None:
    context = open_context(tmp_path, server.url, None, **{"tasks.train": "8"})
    with context.run:
        traces = plan_and_generate(context)
        requests, names = len(Teacher.requests), {n for t in traces for n in t["images"]}
        before = {n: context.image_store.png(n) for n in names}
        planned = {p["sha256"] for t in Teacher.tasks.values() for p in t.get("pictures", [])}
        for name in planned:
            (context.image_store.directory / f"{name}.png").unlink()
            (context.image_store.directory / f"{name}.json").unlink()
        assert plan_and_generate(context) == traces
        assert len(Teacher.requests) == requests
        assert {n: context.image_store.png(n) for n in names} == before


def test_pixels_for_a_text_only_teacher_are_refused(tmp_path: Path) -> None:
    context = open_context(tmp_path, "http://127.0.0.1:1/v1", None, **{"generate.images": "pixels"})
    with context.run, pytest.raises(InputError) as raised:
        PIPELINE["plan"].run(context)
    assert str(raised.value) == (
        "generate.images: found pixels, expected source: openai is a text-only model (capabilities.vision of its file)"
    )


def test_more_images_than_the_server_takes_are_refused_before_any_request(
    tmp_path: Path,
) -> None:
    vision = {
        "capabilities": {"tools": True, "vision": True, "thinking": False},
        "images": {"max_count": 1, "max_bytes": 4_000_000},
    }
    context = open_context(tmp_path, "http://127.0.0.1:1/v1", vision)
    with context.run, pytest.raises(InputError, match=r"2 images in a request, its examples'"):
        PIPELINE["plan"].run(context)


def test_with_agreement_all_attempts_are_made_and_one_is_kept(
    server: HttpServer, tmp_path: Path
) -> None:
    changes = {"tasks.train": "8", "generate.attempts": "2", "filter.agreement": "2"}
    context = open_context(tmp_path, server.url, None, **changes)
    with context.run:
        traces = plan_and_generate(context)
        PIPELINE["filter"].run(context)
    assert len(traces) == 16
    ledger = read_json(context.path("filter", "ledger.json"))
    assert "disagreed" not in ledger["rejected"] and ledger["kept"] > 3
