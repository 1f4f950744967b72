"""A finished run with hostile texts, for the tests of its report."""

import json
from pathlib import Path
from typing import Any

from flows import recipe_file
from flows.run_directory import Run
from schemas.documents import check_document
from schemas.files import write_json, write_jsonl
from schemas.scorecard import part_score

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}'


def trace(
    number: int, template: str, verdict: dict[str, Any] | None, text: str = "12 EUR"
) -> dict[str, Any]:
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


def model(name: str, passed: int) -> dict[str, Any]:
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


def with_parts(scorecard: dict[str, Any]) -> dict[str, Any]:
    """The scorecard of an exam with two parts, whose student wrote unasked."""

    def part(passed: int, tasks: int, unasked: int) -> dict[str, Any]:
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
            rows: list[dict[str, Any]] = [
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


def exam_task(number: int, part: str) -> dict[str, Any]:
    """The fields of an exam's task that a report reads."""
    return {
        "id": f"pack-exam-moved-{number}",
        "part": part,
        "plan": [{"tool": "get", "arguments": {"id": "S-1"}}],
        "reply": "It costs 12 EUR.",
        "checks": {"state": "0" * 64, "answer": {"type": "amount", "value": 12}},
    }


def exam_trace(number: int, passed: bool) -> dict[str, Any]:
    row = trace(number, "moved", None, "12 EUR" if passed else "13 EUR")
    task = f"pack-exam-moved-{number}"
    row["id"], row["task"] = f"{task}/0", {**row["task"], "id": task, "split": "exam"}
    row["hinted"], row["outcome"]["checks"]["answer"] = False, passed
    return row


def add_exam(directory: Path, base: list[bool], student: list[bool], further: int = 2) -> None:
    """Adds the exam's tasks and traces; the student alone also solves `further` tasks of another part."""
    parts = ["all_tools"] * len(base) + ["drift"] * further
    write_jsonl(
        directory / "tasks" / "exam.jsonl",
        [exam_task(number, part) for number, part in enumerate(parts)],
    )
    for name, results in (("base", base), ("student", student + [True] * further)):
        traces = [exam_trace(number, passed) for number, passed in enumerate(results)]
        write_jsonl(directory / "evaluate" / f"{name}.jsonl", traces)


def add_kept(directory: Path, *traces: dict[str, Any]) -> None:
    """Appends traces to those that were kept."""
    with (directory / "filter" / "kept.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in traces)


def swarm(depth: int = 2) -> dict[str, Any]:
    """A kept trace with two sub-agents, each of which has two of its own, `depth` levels in all."""
    row = trace(90, "counted", {"kept": True}, f"level {depth}: {HOSTILE}")
    row["id"] = f"pack-train-swarm-{90 + depth}/0"
    if depth:
        row["children"] = [swarm(depth - 1), swarm(depth - 1)]
    return row
