"""A run over a pack with pictures, from the plan to the report; scripted is only the teacher, behind a real server."""

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

# What can be answered without its page, as this teacher knows all visits by heart.
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
    """Solves each task by its plan, which it knows by the session's id; what it is not shown, it does not know."""

    tasks: dict[str, dict[str, Any]]
    requests: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.body()
        self.requests.append(body)
        task = self.tasks[self.headers["X-Session-ID"].rsplit("/", 1)[0]]
        messages = body["messages"]
        asked = max(i for i, m in enumerate(messages) if m["role"] == "user")
        own = messages[asked:]
        done = sum(message["role"] == "tool" for message in own)
        shown = any(
            isinstance(m["content"], list) or "[Image: " in (m["content"] or "") for m in own
        )
        message: dict[str, Any] = {"role": "assistant", "content": task["reply"]}
        if done < len(task["plan"]) and (shown or "pictures" not in task):
            step = task["plan"][done]
            function = {"name": step["tool"], "arguments": json.dumps(step["arguments"])}
            call = {"id": "c", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        elif not shown and task["template"] != KNOWN_BLIND:
            message["content"] = "I have nothing to look at."
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        self.reply(200, {**head, "choices": [choice], "usage": usage})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", "secret")
    Teacher.tasks, Teacher.requests = {}, []
    opened = HttpServer(Teacher)
    yield opened
    opened.close()


def work_in(
    directory: Path, url: str, teacher: dict[str, Any] | None = None, **changes: str
) -> RunContext:
    """The work of a run of the small pack; `teacher` changes what the file of the teacher says."""
    pack = directory / "fees"
    domain = visual_pack.load(str(pack)) if pack.is_dir() else visual_pack.write(pack)
    named = {**SETTINGS, "serve.url": url, **changes}
    chosen = recipe_file.load("local", [f"{name}={value}" for name, value in named.items()])
    run = Run.open(directory / "run", chosen, domain.name, domain.path)
    described = {**catalog.load("openai", TEACHERS, "teacher"), "served_name": "m"}
    described |= teacher or {}
    return RunContext(run, chosen, domain, described, base.load(chosen.student), hardware.find())


def plan_and_generate(work: RunContext) -> list[dict[str, Any]]:
    PIPELINE["plan"].run(work)
    rows = list(read_jsonl(work.path("tasks", "train.jsonl")))
    Teacher.tasks = {task["id"]: task for task in rows}
    PIPELINE["generate"].run(work)
    return list(read_jsonl(work.path("traces.jsonl")))


@pytest.mark.slow
def test_a_run_with_a_teacher_that_reads_is_planned_made_judged_and_shown(
    server: HttpServer, tmp_path: Path
) -> None:
    work = work_in(tmp_path, server.url)
    with work.run:
        traces = plan_and_generate(work)
        PIPELINE["filter"].run(work)
        again = len(Teacher.requests)
        for stage in ("plan", "generate", "filter"):
            PIPELINE[stage].run(work)
        assert len(Teacher.requests) == again  # all was done already
    tasks = Teacher.tasks
    assert not {"where_is_the_fee"} & {task["template"] for task in tasks.values()}
    swapped = {name for name, task in tasks.items() if "swapped" in task}
    visual = {name for name, task in tasks.items() if "pictures" in task}
    assert len(swapped) == round(0.2 * len(visual))

    for trace in traces:
        check_document(trace, "trace", trace["id"])
        assert trace["grounding"] == ("source" if trace["images"] else None)
        assert not work.album.missing(trace["images"])
        named = {picture["sha256"] for picture in tasks[trace["task"]["id"]].get("pictures", [])}
        assert named <= set(trace["images"])
    blind = [t for t in traces if t["outcome"].get("blind")]
    assert {t["task"]["template"] for t in blind} == {KNOWN_BLIND}
    assert not swapped & {t["task"]["id"] for t in traces if "blind" in t["outcome"]}

    ledger = read_json(work.path("filter", "ledger.json"))
    assert ledger["rejected"]["blind_answerable"] == len(blind)
    assert ledger["kept"] + sum(ledger["rejected"].values()) == ledger["traces"] == len(traces)
    assert ledger["images"]["source"]["kept"] > 5 and ledger["images"]["pixels"]["traces"] == 0
    kept = list(read_jsonl(work.path("filter", "kept.jsonl")))
    assert {t["task"]["template"] for t in kept} >= {"fee_on_page", "fee_of_stored_note"}
    assert swapped & {t["task"]["id"] for t in kept}
    receipt = work.run.receipt("generate")
    # Without their pictures, tasks in the same words are one request.
    assert receipt and receipt["result"]["replayed"] > 0
    # Two of them may be in flight at once.
    assert receipt["result"]["requests"] <= len(Teacher.requests)

    page = html.write(work.directory).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") >= 2
    assert "the teacher read what the images show" in page

    rows = tmp_path / "published.jsonl"
    write_jsonl(rows, [{key: t[key] for key in ("messages", "tools", "images")} for t in kept])
    assert judge_file(rows)["kept"] == len(kept)


def test_a_teacher_that_sees_is_sent_the_pixels(server: HttpServer, tmp_path: Path) -> None:
    sees = {
        "capabilities": {"tools": True, "vision": True, "thinking": False},
        "images": {"max_count": 4, "max_bytes": 4_000_000},
    }
    work = work_in(tmp_path, server.url, sees, **{"tasks.train": "8", "generate.blind": "false"})
    with work.run:
        traces = plan_and_generate(work)
    assert Counter(t["grounding"] for t in traces if t["images"]) == {
        "pixels": sum(bool(t["images"]) for t in traces)
    }
    sent = json.dumps(Teacher.requests)
    assert "data:image/png;base64," in sent and "[Image: " not in sent
    for file in (work.path("traces.jsonl"), *work.path("journal").iterdir()):
        assert "base64" not in file.read_text()


def test_pictures_that_are_gone_are_drawn_again_and_nothing_is_asked_again(
    server: HttpServer, tmp_path: Path
) -> None:
    work = work_in(tmp_path, server.url, None, **{"tasks.train": "8"})
    with work.run:
        traces = plan_and_generate(work)
        asked, names = len(Teacher.requests), {n for t in traces for n in t["images"]}
        before = {n: work.album.png(n) for n in names}
        planned = {p["sha256"] for t in Teacher.tasks.values() for p in t.get("pictures", [])}
        for name in planned:
            (work.album.directory / f"{name}.png").unlink()
            (work.album.directory / f"{name}.json").unlink()
        assert plan_and_generate(work) == traces
        assert len(Teacher.requests) == asked
        assert {n: work.album.png(n) for n in names} == before


def test_pixels_for_a_teacher_that_sees_none_are_refused(tmp_path: Path) -> None:
    work = work_in(tmp_path, "http://127.0.0.1:1/v1", None, **{"generate.images": "pixels"})
    with work.run, pytest.raises(InputError) as raised:
        PIPELINE["plan"].run(work)
    assert str(raised.value) == (
        "generate.images: found pixels, expected source: openai is a text-only model (capabilities.vision of its file)"
    )


def test_more_pictures_than_the_server_takes_are_refused_before_it_is_asked(
    tmp_path: Path,
) -> None:
    sees = {
        "capabilities": {"tools": True, "vision": True, "thinking": False},
        "images": {"max_count": 1, "max_bytes": 4_000_000},
    }
    work = work_in(tmp_path, "http://127.0.0.1:1/v1", sees)
    with work.run, pytest.raises(InputError, match=r"2 images in a request, its examples'"):
        PIPELINE["plan"].run(work)


def test_with_agreement_all_attempts_are_made_and_one_of_them_is_kept(
    server: HttpServer, tmp_path: Path
) -> None:
    changes = {"tasks.train": "8", "generate.attempts": "2", "filter.agreement": "2"}
    work = work_in(tmp_path, server.url, None, **changes)
    with work.run:
        traces = plan_and_generate(work)
        PIPELINE["filter"].run(work)
    assert len(traces) == 16
    ledger = read_json(work.path("filter", "ledger.json"))
    assert "disagreed" not in ledger["rejected"] and ledger["kept"] > 3
