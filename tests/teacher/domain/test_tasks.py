"""Tasks are proven before they are used: solvable by their plan, and by nothing less."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.tool_calls import check_arguments
from teacher.domain.pack import Domain, load
from teacher.domain.prompts import demonstration
from teacher.domain.scoring import answer_matches, state_hash
from teacher.domain.shares import count_by_template
from teacher.domain.tasks import build, sample

LEGAL = load("legal")
# Its tasks in words; those with pictures are tested in test_legal.py, and drawing takes time.
NAMES = sorted(n for n, t in LEGAL.templates.items() if t.kind in ("lookup", "workflow"))
WORDS = {"document": 0.0, "chart": 0.0, "swarm": 0.0, "extract": 0.0}
STARTER = Path(__file__).parents[3] / "flows" / "starter"


def pack(tmp_path: Path, *changes: tuple[str, str]) -> Domain:
    """The stock room of flows/starter, with each text of `changes` in its environment replaced."""
    directory = tmp_path / "stock"
    shutil.copytree(STARTER, directory)
    spec = directory / "domain.yaml"
    spec.write_text(spec.read_text().replace("NAME", "stock"))
    environment = (directory / "environment.py").read_text()
    for old, new in changes:
        assert old in environment
        environment = environment.replace(old, new)
    (directory / "environment.py").write_text(environment)
    return load(str(directory))


def world(domain: Domain, task: Any) -> Any:
    opened = domain.environment()
    opened.reset(**task)
    return opened


def passes(domain: Domain, task: Any, calls: list[Any], text: str) -> bool:
    """Whether these calls and this last message pass a task's checks."""
    opened = world(domain, task)
    for call in calls:
        getattr(opened, call["tool"])(**call["arguments"])
    answer = task["checks"]["answer"]
    answered = bool(text.strip()) if answer is None else answer_matches(answer, text)
    return answered and state_hash(opened._state()) == task["checks"]["state"]


# ------------------------------------------------------------------------------------- the legal pack


@pytest.fixture(scope="module")
def legal() -> list[Any]:
    """250 tasks of each split, templates in turn. That they are built proves them solvable."""
    return [
        build(LEGAL, NAMES[seed % len(NAMES)], split, seed)
        for split in ("train", "exam")
        for seed in range(250)
    ]


def test_tasks_of_all_templates_and_both_splits_are_solvable_and_valid(
    legal: list[Any],
) -> None:
    assert {task["template"] for task in legal} == set(NAMES)
    for task in legal[::7]:
        check_document(task, "task", task["id"])
        assert passes(LEGAL, task, task["plan"], task["reply"])


def test_an_agent_that_does_nothing_or_repeats_the_request_fails_every_task(
    legal: list[Any],
) -> None:
    for task in legal:
        for text in ("", "Done.", task["request"]):
            assert not passes(LEGAL, task, [], text), task["id"]


def test_a_task_offers_what_it_needs_and_one_or_two_tools_more_and_never_all(
    legal: list[Any],
) -> None:
    extras = set()
    for task in legal:
        needed, offered = {step["tool"] for step in task["plan"]}, set(task["tools"])
        assert needed < offered < set(LEGAL.tools)
        assert task["tools"] == sorted(offered)
        extras.add(len(offered - needed))
    assert extras == {1, 2}


def test_a_template_has_few_sets_of_tools_so_that_prompts_begin_alike(
    legal: list[Any],
) -> None:
    for name in NAMES:
        assert len({tuple(t["tools"]) for t in legal if t["template"] == name}) <= 2


def test_train_and_exam_share_no_id_and_no_request(legal: list[Any]) -> None:
    assert len({task["id"] for task in legal}) == len(legal)
    requests = {
        split: {task["request"] for task in legal if task["split"] == split}
        for split in ("train", "exam")
    }
    assert not requests["train"] & requests["exam"]


# ------------------------------------------------------------------------------------- sampling


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others() -> None:
    first = sample(LEGAL, "train", 60, seed=3, mix=WORDS)
    assert sample(LEGAL, "train", 60, seed=3, mix=WORDS) == first
    other = sample(LEGAL, "train", 60, seed=4, mix=WORDS)
    assert not {task["id"] for task in first} & {task["id"] for task in other}


def test_sampled_tasks_are_distinct_in_what_the_user_says() -> None:
    tasks = sample(LEGAL, "train", 400, seed=0, mix=WORDS)
    assert len({task["request"] for task in tasks}) == len({t["id"] for t in tasks}) == 400


def test_train_and_exam_are_sampled_from_disjoint_seeds() -> None:
    train, exam = (sample(LEGAL, split, 100, seed=0, mix=WORDS) for split in ("train", "exam"))
    assert not {task["seed"] for task in train} & {task["seed"] for task in exam}
    assert {task["split"] for task in train} == {"train"}
    assert not {task["id"] for task in train} & {task["id"] for task in exam}


@pytest.mark.parametrize("count", [0, 1, 2, 17, 100])
def test_as_many_tasks_are_sampled_as_were_asked_for(count: int) -> None:
    assert len(sample(LEGAL, "exam", count, seed=0, mix=WORDS)) == count


def test_the_mix_is_followed_to_one_task() -> None:
    tasks = sample(LEGAL, "train", 40, seed=0, mix={**WORDS, "lookup": 3, "workflow": 1})
    assert sum(task["kind"] == "lookup" for task in tasks) in (29, 30, 31)


def test_a_template_in_the_mix_overrides_its_kind() -> None:
    name = next(n for n in NAMES if LEGAL.templates[n].kind == "workflow")
    tasks = sample(LEGAL, "train", 10, seed=0, mix={**WORDS, "lookup": 0, "workflow": 0, name: 1})
    assert {task["template"] for task in tasks} == {name}


def test_a_kind_with_no_share_is_not_sampled() -> None:
    tasks = sample(LEGAL, "train", 30, seed=0, mix={**WORDS, "lookup": 0})
    assert {task["kind"] for task in tasks} == {"workflow"}


def test_an_unknown_name_in_the_mix_is_named() -> None:
    with pytest.raises(InputError, match=r"^tasks\.mix\.lookups: expected a kind or a template"):
        sample(LEGAL, "train", 10, seed=0, mix={"lookups": 1, "workflow": 1})


def test_a_mix_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"^tasks\.mix: expected at least one share above 0"):
        sample(LEGAL, "train", 10, seed=0, mix={**WORDS, "lookup": 0, "workflow": 0})


def test_a_template_with_too_few_variants_is_refused(tmp_path: Path) -> None:
    domain = pack(
        tmp_path, ("request=request,\n        plan=[(", 'request="Stock?",\n        plan=[(')
    )
    with pytest.raises(InputError, match=r"environment\.py: count_of_item: no new request in 50"):
        sample(domain, "train", 5, seed=0, mix={"workflow": 0})


def test_other_templates_of_the_kind_take_the_place_of_one_that_has_no_more_requests(
    tmp_path: Path,
) -> None:
    domain = pack(
        tmp_path, ("request=request,\n        plan=[(", 'request="Stock?",\n        plan=[(')
    )
    first = domain.templates["count_of_item"]
    other = "moved_item"
    domain.templates[other] = replace(domain.templates[other], kind=first.kind)
    mix = {"count_of_item": 0.5, other: 0.5, "taken_item": 0}
    planned = count_by_template(domain, 40, mix=mix)
    assert planned["count_of_item"] == planned[other] == 20
    made = Counter(task["template"] for task in sample(domain, "train", 40, seed=0, mix=mix))
    assert made == {"count_of_item": 1, other: 39}


# ------------------------------------------------------------------------------------- refusals


def test_the_starter_pack_is_proven(tmp_path: Path) -> None:
    domain = pack(tmp_path)
    for split in ("train", "exam"):
        for task in sample(domain, split, 50, seed=0):
            check_document(task, "task", task["id"])
            assert passes(domain, task, task["plan"], task["reply"])


@pytest.mark.parametrize(
    ("template", "old", "new", "problem"),
    [
        (
            "count_of_item",
            "There are {item['count']} of",
            "There are {item['count'] + 1} of",
            "its own reply does not give its answer",
        ),
        (
            "count_of_item",
            'f"Stock of {number}?"',
            "f\"Are {item['count']} of {number} there?\"",
            "the request already contains the answer",
        ),
        (
            "moved_item",
            '("move_item", {"item": number, "shelf": shelf})',
            '("get_item", {"item": number})',
            "no answer to check and a state that does not change: doing nothing would pass",
        ),
        (
            "moved_item",
            '("move_item",',
            '("drop_item",',
            "the solution calls drop_item, which is no",
        ),
        ("moved_item", '"shelf": shelf}', '"to": shelf}', "the solution's arguments of move_item"),
        (
            "moved_item",
            '"shelf": shelf}',
            '"shelf": "Z0"}',
            "the solution fails at move_item: no shelf",
        ),
    ],
)
def test_a_task_that_does_not_prove_itself_is_refused_by_file_template_and_seed(
    tmp_path: Path, template: str, old: str, new: str, problem: str
) -> None:
    domain = pack(tmp_path, (old, new))
    kinds = {"lookup": 0.0, "workflow": 0.0, template: 1.0}
    with pytest.raises(InputError) as raised:
        sample(domain, "train", 60, seed=0, mix=kinds)
    message = str(raised.value)
    place = f"{tmp_path / 'stock' / 'environment.py'}: {template}: seed "
    assert message.startswith(place) and message[len(place)].isdigit()
    assert problem in message


# ------------------------------------------------------------------------------------- demonstrations


def test_a_demonstration_is_the_plan_played_with_the_worlds_own_results(tmp_path: Path) -> None:
    domain = pack(tmp_path)
    task = build(domain, "moved_item", "train", 5)
    messages = demonstration(task, domain)
    assert [m["role"] for m in messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    assert messages[0]["content"] == task["request"]
    assert messages[-1] == {"role": "assistant", "content": task["reply"]}
    for said, result in ((messages[1], messages[2]), (messages[3], messages[4])):
        assert said["tool_calls"][0]["id"] == result["tool_call_id"]
    assert task["plan"][1]["arguments"]["item"] in messages[2]["content"]


def test_a_hinted_demonstration_has_a_hint_before_each_turn(tmp_path: Path) -> None:
    domain = pack(tmp_path)
    task = build(domain, "moved_item", "train", 5)
    messages = demonstration(task, domain, hinted=True)
    turns = [index for index, m in enumerate(messages) if m["role"] == "assistant"]
    assert len(turns) == 3 and all(messages[index - 1]["role"] == "system" for index in turns)
    assert [m for m in messages if m["role"] != "system"] == demonstration(task, domain)


def test_plans_follow_the_schemas_of_the_tools(legal: list[Any]) -> None:
    for task in legal[::5]:
        for step in task["plan"]:
            assert check_arguments(LEGAL.tools[step["tool"]], step["arguments"]) is None


def test_the_reward_is_one_in_the_state_of_the_plan_and_zero_before(tmp_path: Path) -> None:
    domain = pack(tmp_path)
    task = build(domain, "moved_item", "train", 5)
    opened = world(domain, task)
    assert opened.get_reward() == 0.0
    for step in task["plan"]:
        getattr(opened, step["tool"])(**step["arguments"])
    assert opened.get_reward() == 1.0
