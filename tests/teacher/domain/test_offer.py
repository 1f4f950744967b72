"""The tools that tasks offer: few, all, or a mixture; and how few distinct lists there are."""

from collections import Counter
from typing import Any

import pytest

from schemas.errors import InputError
from schemas.recipe_teacher import Tasks
from teacher.domain.exam import held_out_templates, sample_exam
from teacher.domain.offer import offer_tools
from teacher.domain.pack import load
from teacher.domain.tasks import build, sample
from teacher.domain.worlds import hash_world, start_world

LEGAL = load("legal")
WORDS = {"document": 0.0, "chart": 0.0, "swarm": 0.0, "extract": 0.0}
OTHER_PARTS = ("as_trained", "new_templates", "drift")


@pytest.fixture(scope="module")
def tasks() -> list[Any]:
    return sample(LEGAL, "train", 200, seed=0, mix=WORDS)


@pytest.fixture(scope="module")
def exam() -> list[Any]:
    settings = Tasks(exam=30, exam_other=12, held_out=("amended_term", "contract_expiry"))
    return sample_exam(LEGAL, settings, held_out_templates(LEGAL, settings), pixels=False)


def solution_tools(task: Any) -> set[str]:
    return {step["tool"] for step in task["plan"]}


# ------------------------------------------------------------------------------------- training


def test_every_offer_has_the_solutions_tools_and_changes_nothing_else(tasks: list[Any]) -> None:
    for offer in ("few", "all", "mixed"):
        offered = offer_tools(tasks, LEGAL, offer=offer)
        assert [{**task, "tools": 0} for task in offered] == [{**t, "tools": 0} for t in tasks]
        for task in offered:
            assert solution_tools(task) <= set(task["tools"]) <= set(LEGAL.tools)
            assert len(set(task["tools"])) == len(task["tools"])


def test_few_is_what_a_task_offers_when_it_is_built(tasks: list[Any]) -> None:
    assert offer_tools(tasks, LEGAL, offer="few") == tasks


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 50), (0.5, 100), (1.0, 200)])
def test_a_share_of_mixed_tasks_offers_the_whole_toolbox(
    tasks: list[Any], share: float, count: int
) -> None:
    offered = offer_tools(tasks, LEGAL, offer="mixed", whole_share=share)
    assert sum(len(task["tools"]) == len(LEGAL.tools) for task in offered) == count


def test_each_template_has_tasks_with_the_whole_toolbox_and_without(tasks: list[Any]) -> None:
    offered = offer_tools(tasks, LEGAL, offer="mixed")
    whole = Counter(t["template"] for t in offered if len(t["tools"]) == len(LEGAL.tools))
    for template, count in Counter(task["template"] for task in offered).items():
        assert abs(whole[template] - count / 2) <= 1


def test_subsets_are_of_many_sizes_and_hold_the_solution_at_any_place(tasks: list[Any]) -> None:
    offered = offer_tools(tasks, LEGAL, offer="mixed", whole_share=0)
    assert len({len(task["tools"]) for task in offered}) > 8
    assert all(len(task["tools"]) < len(LEGAL.tools) for task in offered)
    first = {task["tools"][0] in solution_tools(task) for task in offered}
    last = {task["tools"][-1] in solution_tools(task) for task in offered}
    assert first == last == {True, False}
    assert any(task["tools"] != sorted(task["tools"]) for task in offered)


def test_the_whole_toolbox_has_few_orders_and_half_of_the_tasks_have_the_packs_own(
    tasks: list[Any],
) -> None:
    orders = Counter(tuple(task["tools"]) for task in offer_tools(tasks, LEGAL, offer="all"))
    assert len(orders) == 4
    assert orders[tuple(LEGAL.tools)] == 100


def test_few_lists_are_distinct_so_that_a_prefix_cache_holds_them(tasks: list[Any]) -> None:
    offered = offer_tools(tasks, LEGAL, offer="mixed")
    assert len({tuple(task["tools"]) for task in offered}) <= 4 + 100 // 2


def test_no_task_is_no_error() -> None:
    assert offer_tools([], LEGAL, offer="mixed") == []


# ------------------------------------------------------------------------------------- the exam


def test_the_exam_has_parts_whose_ids_and_requests_are_distinct(exam: list[Any]) -> None:
    assert Counter(task["part"] for task in exam) == {
        "all_tools": 30,
        **dict.fromkeys(OTHER_PARTS, 12),
    }
    assert len({task["id"] for task in exam}) == len({task["request"] for task in exam}) == 66


def test_all_parts_but_one_offer_the_whole_toolbox(exam: list[Any]) -> None:
    for task in exam:
        drift = task.get("drift", {"tools": dict.fromkeys(task["tools"])})
        names = set(drift["tools"].values()) if task["part"] == "drift" else set(task["tools"])
        assert names == set(LEGAL.tools) or task["part"] == "as_trained"
    assert len({len(t["tools"]) for t in exam if t["part"] == "as_trained"}) > 2


def test_the_exam_has_orders_of_the_toolbox_that_training_lacks(
    tasks: list[Any], exam: list[Any]
) -> None:
    trained = {tuple(task["tools"]) for task in offer_tools(tasks, LEGAL, offer="all")}
    examined = {tuple(task["tools"]) for task in exam if task["part"] == "all_tools"}
    assert trained & examined == {tuple(LEGAL.tools)}


def test_held_out_templates_are_in_their_part_alone(exam: list[Any]) -> None:
    for task in exam:
        is_held_out = task["template"] in ("amended_term", "contract_expiry")
        assert is_held_out == (task["part"] == "new_templates")


def test_the_recipe_overrides_the_packs_held_out_templates() -> None:
    assert held_out_templates(LEGAL, Tasks()) == LEGAL.spec["exam"]["held_out"]
    assert held_out_templates(LEGAL, Tasks(held_out=("amended_term",))) == ["amended_term"]
    assert held_out_templates(LEGAL, Tasks(held_out=())) == []


def test_without_tasks_for_them_no_template_is_held_out() -> None:
    settings = Tasks(exam_other=0)
    assert held_out_templates(LEGAL, settings) == []
    exam = sample_exam(LEGAL, settings, [], pixels=False)
    assert {task["part"] for task in exam} == {"all_tools"}


def test_the_exam_has_a_kind_without_a_share_only_where_the_mix_gives_it_one() -> None:
    def sampled(mix: dict[str, float] | None) -> list[Any]:
        settings = Tasks(exam=12, exam_other=0, mix=mix)
        return sample_exam(LEGAL, settings, [], pixels=False)

    own = sampled(None)
    assert "swarm" not in {task["kind"] for task in own}
    assert sampled({"lookup": 1, "workflow": 0, "swarm": 0}) == own
    # Beside the domain's shares, which sum to 0.92.
    mixed = sampled({"lookup": 0.3, "workflow": 0, "compared_terms": 0.92})
    kinds = Counter(task["kind"] for task in mixed)
    assert {t["template"] for t in mixed if t["kind"] == "swarm"} == {"compared_terms"}
    assert kinds["swarm"] == 6 and kinds["workflow"] > 1
    by_kind = sampled({"swarm": 0.92, "portfolio_review": 0})
    templates = {task["template"] for task in by_kind if task["kind"] == "swarm"}
    assert len(templates) == 4 and "portfolio_review" not in templates


def test_the_part_drift_alone_has_changed_tools(exam: list[Any]) -> None:
    assert all(("drift" in task) == (task["part"] == "drift") for task in exam)


@pytest.mark.parametrize("name", ["legal", "code-review", "tech-research"])
def test_a_template_of_each_large_kind_is_chosen_where_the_pack_names_none(name: str) -> None:
    domain = load(name)
    domain.spec.pop("exam")
    chosen = held_out_templates(domain, Tasks())
    kinds = Counter(template.kind for template in domain.templates.values())
    assert Counter(domain.templates[n].kind for n in chosen) == dict.fromkeys(
        (kind for kind, count in kinds.items() if count >= 4), 1
    )


@pytest.mark.parametrize("name", ["legal", "code-review", "tech-research"])
def test_the_tools_of_held_out_templates_are_trained_by_others(name: str) -> None:
    domain = load(name)
    held_out = held_out_templates(domain, Tasks())
    words = {kind: 0.0 for kind in domain.spec["kinds"] if kind not in ("lookup", "workflow")}
    rows = sample(domain, "train", 120, seed=0, mix=words)
    assert {domain.templates[n].kind for n in held_out} >= {"lookup", "workflow"}
    trained = {t for row in rows if row["template"] not in held_out for t in solution_tools(row)}
    assert {t for row in rows for t in solution_tools(row)} == trained


def test_a_held_out_template_in_the_mix_is_an_error() -> None:
    with pytest.raises(InputError, match=r"tasks\.mix\.amended_term: tasks\.held_out"):
        held_out_templates(LEGAL, Tasks(held_out=("amended_term",), mix={"amended_term": 1}))
    held_out_templates(
        LEGAL, Tasks(held_out=("amended_term",), mix={"amended_term": 0, "lookup": 1})
    )


def test_an_unknown_held_out_template_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"tasks\.held_out: amended: expected .* amended_term"):
        held_out_templates(LEGAL, Tasks(held_out=("amended",)))


def test_a_pack_with_all_templates_held_out_is_an_error() -> None:
    with pytest.raises(InputError, match="left for training"):
        held_out_templates(LEGAL, Tasks(held_out=tuple(LEGAL.templates)))


# ------------------------------------------------------------------------- reads that must not write


@pytest.mark.parametrize(
    ("pack", "names"),
    [
        (
            "legal",
            ("duty_still_owed", "conflict_only_asked", "possible_extension", "last_notice_day"),
        ),
        ("code-review", ("severity_before_change", "pending_reviewer")),
        ("tech-research", ("price_before_change", "contact_before_change")),
    ],
)
def test_a_question_that_sounds_like_a_write_is_solved_by_reads_alone(
    pack: str, names: tuple[str, ...]
) -> None:
    domain = load(pack)
    for name in names:
        for seed in range(10):
            task = build(domain, name, "train", seed)
            world, _ = start_world(domain.environment, **task)
            assert hash_world(world) == task["checks"]["state"] and task["checks"]["answer"]
    assert not set(names) & set(held_out_templates(domain, Tasks()))
