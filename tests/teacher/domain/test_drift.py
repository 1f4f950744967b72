"""Tasks with changed tools: proven in the shown form, consistent within an episode, with names that a split owns."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_model import calls, play, solution

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.task import Drift
from teacher.domain.drift import (
    DATE_FORMATS,
    ID_FORMATS,
    drifted,
    is_reversible,
    real_call,
    run_call,
    shown_text,
    shown_value,
    tools_of,
)
from teacher.domain.drift_names import belongs_to, parameter_name, tool_name
from teacher.domain.drift_tasks import drift_tasks, find_problem, like_task
from teacher.domain.pack import load
from teacher.domain.prompts import demonstration, hint
from teacher.domain.scoring import answer_matches
from teacher.domain.tasks import build, sample
from teacher.domain.worlds import ToolError, start_world
from teacher.rollout.agent_loop import passed

LEGAL = load("legal")
WORDS = {"document": 0.0, "chart": 0.0, "swarm": 0.0, "extract": 0.0}
NONE: Drift = {"tools": {}, "parameters": {}, "descriptions": {}, "distractors": {}}


@pytest.fixture(scope="module")
def plain() -> list[Any]:
    return sample(LEGAL, "train", 60, seed=0, mix=WORDS)


@pytest.fixture(scope="module")
def train(plain: list[Any]) -> list[Any]:
    return drift_tasks(plain, LEGAL, share=1)


@pytest.fixture(scope="module")
def exam() -> list[Any]:
    return drift_tasks(sample(LEGAL, "exam", 60, seed=0, mix=WORDS), LEGAL, share=1)


# ------------------------------------------------------------------------------------- episodes


def test_an_episode_with_the_shown_solution_passes_and_shows_no_name_of_the_world(
    train: list[Any], exam: list[Any]
) -> None:
    for task in (*train[::4], *exam[::4]):
        check_document(task, "task", task["id"])
        trace = play(LEGAL, task, solution(task))
        assert passed(trace) and not trace["outcome"]["unasked_writes"]
        assert [tool["function"]["name"] for tool in trace["tools"]] == task["tools"]
        text = json.dumps([trace["tools"], trace["messages"], hint(task)])
        # Keys of results too, also where no offered tool takes the identifier.
        ids = {"contract_id", "matter_id", "amendment_id", "obligation_id"}
        own_names = {*LEGAL.tools, *ids}
        others = set(task["drift"]["distractors"])
        assert not {name for name in own_names - others if f'"{name}' in text}


def test_the_worlds_own_names_are_unknown_in_a_drifted_episode(
    plain: list[Any], train: list[Any]
) -> None:
    for before, task in zip(plain[:6], train[:6], strict=True):
        trace = play(LEGAL, task, solution(before))
        assert "there is no tool" in trace["messages"][3]["content"]


def test_a_write_that_the_task_does_not_ask_for_is_unasked_by_its_shown_name(
    train: list[Any],
) -> None:
    task = next(t for t in train if t["template"] == "unused_retainer" and len(t["tools"]) > 12)
    shown = {real: name for name, real in task["drift"]["tools"].items()}
    parameters = {real: name for name, real in task["drift"]["parameters"].items()}
    matter = next(iter(task["plan"][0]["arguments"].values()))
    write = {parameters["matter_id"]: matter, parameters["hours"]: 1.5}
    trace = play(LEGAL, task, [calls((shown["log_time"], write)), task["reply"]])
    assert trace["outcome"]["unasked_writes"] == [3]


def test_a_tool_of_another_pack_answers_with_an_error(train: list[Any]) -> None:
    task = train[0]
    name = next(iter(task["drift"]["distractors"]))
    properties = tools_of(LEGAL, task)[name]["function"]["parameters"]["properties"]
    world, _ = start_world(LEGAL.environment, **task)
    with pytest.raises(ToolError, match="not found: 'X-1'"):
        run_call(world, task, name, dict.fromkeys(properties, "X-1"))


def test_an_error_names_the_parameter_as_it_is_shown() -> None:
    task = build(LEGAL, "clause_term", "train", 0)
    drift: Drift = {**NONE, "tools": {"read": "get_clause"}, "parameters": {"about": "topic"}}
    changed = drifted(task, {**drift, "ids": "C104"})
    world, _ = start_world(LEGAL.environment, **task)
    contract = changed["plan"][0]["arguments"]["contract_id"]
    with pytest.raises(ToolError, match="^about: "):
        run_call(world, changed, "read", {"contract_id": contract, "about": "x"})
    with pytest.raises(ToolError, match="such as C100"):
        run_call(world, changed, "read", {"contract_id": "C1", "about": "notice_period"})


def test_a_worked_example_calls_the_tools_that_its_task_offers(train: list[Any]) -> None:
    task = train[0]
    example = like_task(build(LEGAL, task["template"], "train", 400_000_000), task, LEGAL)
    assert example and example["request"] != task["request"]
    for message in demonstration(example, LEGAL):
        for call in message.get("tool_calls", []):
            assert call["function"]["name"] in task["tools"]


def test_a_worked_example_that_a_tasks_drift_does_not_suit_is_left_out(train: list[Any]) -> None:
    example = build(LEGAL, "contract_expiry", "train", 400_000_000)
    task = train[0].copy()
    task["drift"] = {**NONE, "tools": {"read": "get_contract"}, "ids": "C104"}
    assert like_task(example, task, LEGAL)
    other = example.copy()
    other["reply"] = "As C901."
    assert not like_task(other, task, LEGAL)
    task["drift"] = {**NONE, "tools": {"read": "get_clause"}}
    assert not like_task(example, task, LEGAL)


# ------------------------------------------------------------------------------------- which tasks


def test_a_share_of_the_tasks_is_drifted_and_the_others_are_untouched(plain: list[Any]) -> None:
    tasks = drift_tasks(plain, LEGAL, share=0.25)
    assert sum("drift" in task for task in tasks) == 15
    assert all(new == old for new, old in zip(tasks, plain, strict=True) if "drift" not in new)
    assert drift_tasks(plain, LEGAL, share=0) == plain
    assert drift_tasks([], LEGAL, share=1) == []


def test_the_same_tasks_are_drifted_alike(plain: list[Any], train: list[Any]) -> None:
    assert drift_tasks(plain, LEGAL, share=1) == train


def test_no_name_of_the_exams_drift_is_trained_and_none_is_the_worlds(
    train: list[Any], exam: list[Any]
) -> None:
    def names(tasks: list[Any], kind: str) -> set[str]:
        shown = {name for task in tasks for name in task["drift"][kind]}
        return {name.replace("_", "").lower() for name in shown}

    for kind in ("tools", "parameters"):
        assert not names(train, kind) & names(exam, kind)
    parameters = {
        name
        for tool in LEGAL.tools.values()
        for name in tool["function"]["parameters"]["properties"]
    }
    for task in (*train, *exam):
        assert not set(task["drift"]["tools"]) & set(LEGAL.tools)
        assert not set(task["drift"]["parameters"]) & parameters


def test_formats_of_the_exams_drift_are_not_trained(train: list[Any], exam: list[Any]) -> None:
    for field in ("ids", "dates"):
        trained, examined = (
            {task["drift"].get(field) for task in tasks} - {None} for tasks in (train, exam)
        )
        assert trained and examined and not trained & examined


def test_a_task_with_images_keeps_its_formats() -> None:
    tasks = drift_tasks(
        [build(LEGAL, "page_time_sheet", "train", n) for n in range(6)], LEGAL, share=1
    )
    assert all("drift" in task and not {"ids", "dates"} & set(task["drift"]) for task in tasks)


# ------------------------------------------------------------------------------------- proofs


def test_a_key_of_one_word_may_be_data_and_stays() -> None:
    drift: Drift = {**NONE, "parameters": {"version": "build", "pull_no": "pull_id"}}
    result = {"build": "failed", "pull_id": "PR-101"}
    assert shown_value(drift, result) == {"build": "failed", "pull_no": "PR-101"}
    assert is_reversible(drift, result)


def test_a_shown_name_that_hides_another_key_is_not_reversible() -> None:
    drift: Drift = {**NONE, "parameters": {"title": "report_id"}}
    assert is_reversible(drift, {"report_id": "R-101"})
    assert not is_reversible(drift, {"report_id": "R-101", "title": "Latency"})


def test_a_text_that_already_has_the_changed_format_is_found() -> None:
    task = build(LEGAL, "contract_expiry", "train", 0)
    drift: Drift = {**NONE, "tools": {"read": "get_contract"}, "ids": "C104"}
    assert find_problem(task, drifted(task, drift), LEGAL) is None
    task["request"] += " Is it like C901?"
    problem = find_problem(task, drifted(task, drift), LEGAL)
    assert problem == "its request already has a changed format"


def test_a_solution_that_does_not_follow_the_names_is_found() -> None:
    task = build(LEGAL, "contract_expiry", "train", 0)
    changed = drifted(task, {**NONE, "tools": {"read": "get_contract"}})
    changed["plan"][0]["arguments"] = {"agreement": "C-101"}
    assert "agreement" in str(find_problem(task, changed, LEGAL))


def test_synonyms_that_no_task_can_be_shown_with_are_an_input_error(
    monkeypatch: pytest.MonkeyPatch, plain: list[Any]
) -> None:
    hiding = {"contract_id": ["expiry"], "matter_id": ["expiry"]}
    monkeypatch.setitem(LEGAL.spec, "synonyms", hiding)
    monkeypatch.setattr("teacher.domain.drift_names.belongs_to", lambda name, split: True)
    tasks = [task for task in plain if task["template"] == "time_on_contract"][:1]
    with pytest.raises(InputError, match=r"synonyms: task legal-train-time_on_contract-\d+ cannot"):
        drift_tasks(tasks, LEGAL, share=1)


# ------------------------------------------------------------------------------------- formats


@given(
    ids=st.sampled_from(sorted(ID_FORMATS)),
    dates=st.sampled_from(sorted(DATE_FORMATS)),
    letter=st.sampled_from(["C", "M", "PR"]),
    number=st.integers(10, 999_999),
    date=st.dates(),
)
def test_numbers_and_dates_return_from_any_format(
    ids: str, dates: str, letter: str, number: int, date: Any
) -> None:
    drift: Drift = {**NONE, "tools": {}, "ids": ids, "dates": dates}
    arguments = {"a": f"{letter}-{number}", "b": date.isoformat()}
    shown = shown_value(drift, arguments)
    assert shown["a"] != arguments["a"] and shown["b"] != arguments["b"]
    task = {"drift": drift}
    assert real_call(task, "x", shown) == ("x", arguments)
    assert is_reversible(drift, f"From {arguments['b']} on, {arguments['a']} is due.")


@pytest.mark.parametrize("ids", sorted(ID_FORMATS))
def test_the_digits_of_a_shown_number_are_no_amount(ids: str) -> None:
    text = shown_text({**NONE, "ids": ids}, "Matter M-345 has EUR 12.")
    assert not answer_matches({"type": "amount", "value": 345}, text)
    assert answer_matches({"type": "amount", "value": 12}, text)
    assert answer_matches(
        {"type": "text", "value": shown_text({**NONE, "ids": ids}, "M-345")}, text
    )


@pytest.mark.parametrize("dates", sorted(DATE_FORMATS))
def test_a_shown_date_is_read_as_the_answer(dates: str) -> None:
    text = shown_text({**NONE, "dates": dates}, "It is due on 2026-03-02.")
    assert answer_matches({"type": "date", "value": "2026-03-02"}, text)


@pytest.mark.parametrize("text", ["utf-8", "2026-13-02", "X-1", "A-12-B", "12-345", "x-ray"])
def test_what_is_no_number_and_no_date_stays(text: str) -> None:
    for ids in ID_FORMATS:
        for dates in DATE_FORMATS:
            assert shown_text({**NONE, "ids": ids, "dates": dates}, text) == text


# ------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["legal", "code-review", "tech-research"])
def test_every_tool_and_parameter_has_a_name_in_each_split(name: str) -> None:
    domain = load(name)
    synonyms = domain.spec.get("synonyms", {})
    for tool, schema in domain.tools.items():
        for split in ("train", "exam"):
            for seed in range(5):
                rng = random.Random(seed)
                shown = tool_name(tool, synonyms, split, set(domain.tools), rng)
                assert belongs_to(shown, split) and shown not in domain.tools
                for key in schema["function"]["parameters"]["properties"]:
                    other = parameter_name(key, synonyms, split, {key}, rng)
                    assert belongs_to(other, split) and other != key


def test_case_and_underscores_make_no_other_name() -> None:
    for name in ("open_agreement", "read_file", "contract_no", "when"):
        camel = name.replace("_a", "A").replace("_f", "F").replace("_n", "N")
        assert belongs_to(name, "train") == belongs_to(camel, "train") != belongs_to(camel, "exam")
