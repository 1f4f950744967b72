"""A run over a pack with images, from the plan to the report. The teacher is scripted, behind a real HTTP server."""

import base64
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import HttpServer
from image_teacher import KNOWN_BLIND, Teacher, open_context, plan_and_generate

from flows.report import html
from flows.stages import PIPELINE
from schemas.documents import check_document
from schemas.errors import InputError
from schemas.files import read_json, read_jsonl, write_jsonl
from schemas.trace_file import judge_file

pytestmark = pytest.mark.usefixtures("packs_are_checked_once")

# The report's traces and images: base64 of what begins as gzip does.
PACKED = re.compile(r"H4sI[A-Za-z0-9+/]+=*")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    monkeypatch.setenv("STILLHOUSE_TEACHER_KEY", "secret")
    Teacher.tasks, Teacher.requests = {}, []
    server = HttpServer(Teacher)
    yield server
    server.close()


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
    packed = b"".join(gzip.decompress(base64.b64decode(text)) for text in PACKED.findall(page))
    assert packed.count(b"data:image/png;base64,") >= 2
    assert re.search(rb'"grounding": ?"source"', packed)

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
    assert "base64" not in json.dumps(traces)
    for file in context.path("journal").iterdir():
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
    context = open_context(tmp_path, "http://127.0.0.1:1/v1", vision, **{"tasks.train": "8"})
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
