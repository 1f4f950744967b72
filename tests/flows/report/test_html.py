import json
import re
from pathlib import Path

import pytest

from flows import recipe_file
from flows.report import html
from flows.run_directory import Run
from schemas.documents import check_document
from schemas.errors import InputError
from schemas.files import write_json, write_jsonl
from schemas.scorecard import part_score

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}'


def trace(number: int, template: str, verdict: dict, text: str = "12 EUR") -> dict:
    task = f"pack-train-{template}-{number}"
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "get", "arguments": '{"id": "S-1"}'},
    }
    return {
        "version": 1,
        "id": f"{task}/0",
        "task": {
            "id": task,
            "domain": "pack",
            "split": "train",
            "kind": "lookup",
            "template": template,
            "seed": number,
        },
        "teacher": {"model": "t", "revision": "r", "engine": "llama.cpp", "licence": "Apache-2.0"},
        "tools": [],
        "messages": [
            {"role": "system", "content": "You run a stock room."},
            {"role": "user", "content": "What does S-1 cost?"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "I look it up.",
                "tool_calls": [call],
            },
            {"role": "tool", "tool_call_id": "c1", "content": '{"price": 12}'},
            {"role": "assistant", "content": text},
        ],
        "images": [],
        "calls": [],
        "hinted": number % 2 == 0,
        "outcome": {
            "steps": 2,
            "ended": "answered",
            "error": None,
            "checks": {"answer": True, "state": True},
            "tool_errors": [],
        },
        "verdict": verdict,
        "children": [],
    }


def model(name: str, passed: int) -> dict:
    def count(tasks: int, passed: int) -> dict[str, int]:
        return {"tasks": tasks, "passed": passed}

    return {
        "name": name,
        "file": f"{name}-Q8_0.gguf",
        "sha256": "0" * 64,
        "tasks": 60,
        "passed": passed,
        "by_kind": {"lookup": count(30, passed // 2), "workflow": count(30, passed - passed // 2)},
        "by_calls": {"1": count(30, passed // 2), "2+": count(30, passed - passed // 2)},
        "by_template": {"price_of_item": count(30, passed // 2), "moved": count(30, passed // 3)},
        "turns": {"total": 130, "well_formed": 2 * passed},
        "seconds": 210.5,
    }


def with_parts(scorecard: dict) -> dict:
    """The scorecard of an exam with two parts, whose student wrote unasked."""

    def part(passed: int, tasks: int, unasked: int) -> dict:
        writes = {"tasks": unasked, "calls": unasked}
        return {**part_score(passed, tasks), "unasked_write": writes}

    base, student = scorecard["models"]["base"], scorecard["models"]["student"]
    return {
        **scorecard,
        "models": {
            "base": {**base, "parts": {"all_tools": part(1, 60, 0)}},
            "student": {
                **student,
                "parts": {"all_tools": part(48, 60, 4), "drift": part(12, 30, 7)},
            },
        },
        "comparison": {"both": 1, "student_only": 47, "base_only": 0, "neither": 12, "p": 1.4e-14},
    }


def finished(directory: Path) -> Path:
    """A run with all stages up to evaluate, with hostile texts, and a scorecard from before the exam had parts."""
    pack = directory.parent / "pack"
    pack.mkdir()
    (pack / "domain.yaml").write_text("name: pack\n")
    with Run.open(directory, recipe_file.load("local"), "pack", pack) as run:
        kept = [
            trace(i, template, {"kept": True}, HOSTILE if i == 0 else "12 EUR")
            for i, template in enumerate(["price_of_item", "moved", "moved", "counted"])
        ]
        rejected = [
            trace(
                10,
                "moved",
                {"kept": False, "reason": "wrong_answer", "detail": HOSTILE, "message_index": 4},
            ),
            trace(
                11,
                "moved",
                {"kept": False, "reason": "truncated", "detail": "cut", "message_index": None},
            ),
        ]
        with run.stage("filter", {}, [directory / "filter"]):
            write_jsonl(directory / "filter" / "kept.jsonl", kept)
            write_jsonl(directory / "filter" / "rejected.jsonl", rejected)
            write_json(
                directory / "filter" / "ledger.json",
                {
                    "traces": 420,
                    "kept": 214,
                    "rejected": {"wrong_answer": 150, "truncated": 6, "tool_error_unrecovered": 50},
                    "tasks": 160,
                    "tasks_without_kept": ["pack-train-moved-3", "pack-train-moved-9"],
                    "hinted": {"traces": 170, "kept": 91},
                    "by_template": {
                        "price_of_item": {"traces": 200, "kept": 140},
                        "moved": {"traces": 220, "kept": 74},
                    },
                },
            )
        with run.stage("train", {}, [directory / "train"]):
            rows: list[dict] = [
                {"step": step, "loss": 2.2 / step**0.5, "learning_rate": 1e-4}
                for step in range(5, 121, 5)
            ]
            rows += [{"step": step, "eval_loss": 2.6 / step**0.5} for step in (40, 80, 120)]
            write_jsonl(directory / "train" / "log.jsonl", rows)
        scorecard = {
            "version": 1,
            "domain": "pack",
            "recipe": "local",
            "created": "2026-03-02T10:00:00+00:00",
            "exam": {"tasks": 60, "sha256": "0" * 64},
            "models": {"base": model("base", 1), "student": model("student", 48)},
            "gate": {
                "passed": True,
                "checks": [{"name": "min_gain", "passed": True, "detail": "78 points, at least 5"}],
            },
        }
        check_document(scorecard, "scorecard", Path("scorecard.json"))
        with run.stage("evaluate", {}, [directory / "evaluate"]):
            write_json(directory / "evaluate" / "scorecard.json", scorecard)
    return directory


@pytest.fixture
def page(tmp_path):
    return html.write(finished(tmp_path / "run")).read_text()


def test_the_report_shows_funnel_scorecard_loss_samples_and_stages(page):
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for text in (
        "420 traces of 160 tasks",
        "214 kept, 51 %",
        "2 → 80 % of the exam passed",
        "wrong_answer 150",
        "78 points, at least 5",
        "price_of_item",
        "optimiser step",
        "held out",
        "publish not run yet",
        "filter/kept.jsonl",
    ):
        assert text in words, text


def words_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_an_exam_without_parts_has_one_line_with_its_interval(page):
    words = words_of(page)
    assert "all tasks 1 of 60 2 % 48 of 60 80 % 68 to 88 % -" in words
    assert "McNemar" not in words


def test_each_part_of_an_exam_has_its_line_its_interval_and_its_unasked_writes(tmp_path):
    directory = finished(tmp_path / "run")
    file = directory / "evaluate" / "scorecard.json"
    scorecard = with_parts(json.loads(file.read_text()))
    check_document(scorecard, "scorecard", file)
    write_json(file, scorecard)
    words = words_of(html.write(directory).read_text())
    assert "whole toolbox 1 of 60 2 % 48 of 60 80 % 68 to 88 % 4 " in words
    assert "renamed tools 12 of 30 40 % 25 to 58 % 7 " in words
    assert "47 were passed by the student alone and 0 by the base alone" in words
    assert "p = 1.4e-14" in words


def test_names_in_a_scorecard_are_text_in_the_page(tmp_path):
    directory = finished(tmp_path / "run")
    file = directory / "evaluate" / "scorecard.json"
    scorecard = with_parts(json.loads(file.read_text()))
    scorecard["models"]["student"]["by_template"] = {HOSTILE: {"tasks": 1, "passed": 0}}
    scorecard["gate"]["checks"][0]["detail"] = HOSTILE
    write_json(file, scorecard)
    page = html.write(directory).read_text()
    assert "<script" not in page and "onerror=&#34;" in page


def test_rejections_are_listed_most_frequent_first(page):
    assert (
        page.index("wrong_answer") < page.index("tool_error_unrecovered") < page.index("truncated")
    )


def test_kept_samples_are_of_different_templates(page):
    for template in ("price_of_item-0", "moved-1", "counted-3"):
        assert f"pack-train-{template}/0" in page
    assert "pack-train-moved-2/0" not in page


def test_hostile_text_of_a_model_is_text_in_the_page(page):
    assert "<script" not in page
    assert "<img" not in page
    assert "49" not in page[page.index("alert(1)") : page.index("alert(1)") + 200]
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert "default-src 'none'" in page


def test_the_page_is_self_contained(page):
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "@import" not in page


def test_the_report_of_a_new_run_names_the_stages_that_have_not_run(tmp_path):
    pack = tmp_path / "pack"
    pack.mkdir()
    Run.open(tmp_path / "run", recipe_file.load("local"), "pack", pack).close()
    page = html.write(tmp_path / "run").read_text()
    for stage in ("filter", "train", "evaluate"):
        assert f"{stage}: not run yet" in page


def test_a_report_can_be_written_during_training_despite_a_torn_line(tmp_path):
    directory = finished(tmp_path / "run")
    with (directory / "train" / "log.jsonl").open("a") as file:
        file.write('{"step": 125, "lo')
    assert "<svg" in html.write(directory).read_text()


def test_a_malformed_trace_does_not_break_the_report(tmp_path):
    directory = finished(tmp_path / "run")
    broken = trace(1, "moved", {"kept": False, "reason": "malformed_trace", "detail": None})
    broken["messages"] = [
        {"content": ["no", "role"]},
        {"role": "assistant", "tool_calls": [{"function": None}]},
        "text",
        {"role": "assistant", "tool_calls": [{}]},
    ]
    (directory / "filter" / "rejected.jsonl").write_text(json.dumps(broken) + "\n")
    assert "malformed_trace" in html.write(directory).read_text()


def test_a_directory_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a run"):
        html.write(tmp_path)


def test_the_same_run_gives_the_same_page(tmp_path):
    directory = finished(tmp_path / "run")
    assert html.write(directory).read_bytes() == html.write(directory).read_bytes()
