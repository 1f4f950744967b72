"""The research pack: every task is solvable, none is trivial, and calls use the values that images show."""

import random
import re
import sys
from collections import Counter
from functools import cache
from typing import Any

import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.files import dumps
from schemas.task import Answer, Split
from teacher.domain import Blueprint, load
from teacher.domain.questions import run
from teacher.domain.scoring import answer_matches, state_hash
from teacher.domain.tasks import build
from teacher.scenes.kinds import draw
from teacher.scenes.legibility import check
from teacher.scenes.scene import Scene

pytestmark = pytest.mark.slow

RESEARCH = load("tech-research")
TEXTUAL = sys.modules[RESEARCH.templates["score_gap"].function.__module__]
NAMES = sorted(RESEARCH.templates)
VISUAL = [n for n in NAMES if RESEARCH.templates[n].kind in ("chart", "diagram", "document")]
TEXT = [n for n in NAMES if n not in VISUAL]
READ_FROM_PICTURES = {"record_score", "set_price", "mark_component", "set_contact"}
ENTITY = re.compile(r"\b[PVRF]-\d+\b")


def world(split: str, seed: int) -> Any:
    environment = RESEARCH.environment()
    environment.reset(seed=seed, split=split)
    return environment


def answer_of(made: Blueprint) -> Answer | None:
    """The answer as teacher.domain.tasks computes it, without drawing."""
    if made.answer:
        return made.answer.as_row()
    if made.program and not made.plan and made.program["op"] != "point":
        return run(made.program, [scene.data for scene in made.pictures]).as_row()
    return None


@cache
def tasks() -> list[tuple[str, str, int, Any, Blueprint, list[Any], str, str]]:
    """(template, split, seed, world, blueprint, results, state before, state after) of about 2,000 tasks."""
    made = []
    for split, count in (("train", 30), ("exam", 15)):
        for seed in range(count):
            made_in = world(split, seed)
            before = state_hash(made_in._state())
            for name in NAMES:
                if (
                    name == "point_at"
                ):  # its reply is a place in the drawing: below, in the tests that draw
                    continue
                rng = random.Random(f"{name}/{split}/{seed}")
                one = RESEARCH.templates[name](made_in, rng)
                fresh = world(split, seed) if one.plan else made_in
                results = [getattr(fresh, tool)(**arguments) for tool, arguments in one.plan]
                after = state_hash(fresh._state())
                made.append((name, split, seed, made_in, one, results, before, after))
            assert state_hash(made_in._state()) == before  # templates read the world and leave it
    return made


def shown(result: Any) -> str:
    return dumps(result.data if isinstance(result, Scene) else result)


def test_the_pack_is_wide_enough() -> None:
    used = {tool for *_, one, _, _, _ in tasks() for tool, _ in one.plan}
    assert used == set(RESEARCH.tools) and len(used) >= 8
    assert set(RESEARCH.spec["kinds"]) == {
        *("lookup", "workflow", "chart", "diagram", "document", "extract", "swarm")
    }
    assert len(VISUAL) >= 20 and len(TEXT) >= 10
    longest = max(len(one.plan) for *_, one, _, _, _ in tasks() if not one.swarm)
    assert 4 <= longest < RESEARCH.spec["budgets"]["steps"]
    operations = {one.program["op"] for *_, one, _, _, _ in tasks() if one.program}
    assert operations >= {"lookup", "count", "sum", "difference", "argmax", "argmin", "trend"}
    assert operations >= {"cross_reference", "consistency"}


def test_every_reply_gives_its_answer_and_no_request_does() -> None:
    for name, _, _, _, one, _, before, after in tasks():
        answer = answer_of(one)
        assert answer or before != after, (name, one.request)
        if answer:
            assert answer_matches(answer, one.reply), (name, one)
            assert not answer_matches(answer, one.request), (name, one)


def test_doing_nothing_or_repeating_the_request_passes_no_task() -> None:
    for name, _, _, _, one, _, before, after in tasks():
        answer = answer_of(one)
        for text in ("", "Done.", one.request):
            assert before != after or (answer and not answer_matches(answer, text)), (name, one)


def test_no_argument_is_magic() -> None:
    """Every id, name and number of a call was in the request, in an image or in an earlier result."""
    for name, *_, one, results, _, _ in tasks():
        known = one.request + " ".join(shown(image) for image in one.pictures)
        for (tool, arguments), result in zip(one.plan, results, strict=True):
            for key, value in arguments.items():
                if key in {"metric", "level", "status", "finding", "page"}:  # said in words
                    continue
                assert str(value) in known.replace(",", ""), (name, tool, key, value)
            known += shown(result)


def test_a_task_with_a_picture_needs_it() -> None:
    """A value that only an image shows is in no request and in no other result."""
    needed: Counter[str] = Counter()
    for name, *_, one, results, _, _ in tasks():
        said = one.request + " ".join(dumps(r) for r in results[:-1] if not isinstance(r, Scene))
        for tool, arguments in one.plan:
            for key in ("score", "price", "component", "person"):
                if tool in READ_FROM_PICTURES and key in arguments:
                    value = re.escape(str(arguments[key]))
                    assert not re.search(rf"\b{value}\b", said), (name, one)
                    needed[name] += 1
    assert set(needed) == {
        *("enter_from_chart", "enter_from_figure", "record_from_pages", "price_from_quote"),
        *("mark_dependant", "mark_step", "contact_above"),
    }


def measured(made_in: Any, product: str, metric: str) -> Any:
    return made_in._measured[metric][product]


def test_what_is_entered_from_a_picture_is_what_was_measured() -> None:
    seen: Counter[str] = Counter()
    for name, *_, made_in, one, _, _, _ in tasks():
        if name in {"enter_from_chart", "enter_from_figure", "record_from_pages"}:
            tool, arguments = one.plan[-1]
            product, metric = arguments["product_id"], arguments["metric"]
            assert tool == "record_score" and (product, metric) not in made_in._scores
            assert arguments["score"] == measured(made_in, product, metric)
            seen[name] += 1
    assert len(seen) == 3


def test_a_finding_says_whether_the_record_is_what_was_measured() -> None:
    findings: Counter[str] = Counter()
    for name, *_, made_in, one, _, _, _ in tasks():
        if name == "check_figure":
            read, note = one.plan[-2][1], one.plan[-1][1]
            value = measured(made_in, read["product_id"], read["metric"])
            record = made_in._scores[read["product_id"], read["metric"]]
            assert note["shown"] == value
            assert note["finding"] == ("confirmed" if value == record else "disputed")
            findings[note["finding"]] += 1
    assert min(findings["confirmed"], findings["disputed"]) >= 10


def test_the_watched_leader_has_the_extreme_value() -> None:
    for name, *_, made_in, one, _, _, _ in tasks():
        if name == "watch_leader":
            figure = made_in._figures[one.plan[0][1]["figure_id"]]
            scores = made_in._measured[made_in._reports[figure.report].metric]
            pick = max if "highest" in one.request else min
            assert one.plan[-1][1]["product_id"] == pick(scores, key=scores.get)


def test_answers_about_diagrams_follow_the_arrows() -> None:
    """Computed by walking the edges, without the programs."""
    for name, *_, one, _, _, _ in tasks():
        if name not in {"depends_on", "reports_to", "dependants", "team_size", "step_back"}:
            continue
        data = one.pictures[0].data
        arrows = [(data["nodes"][a], data["nodes"][b], label) for a, b, label in data["edges"]]
        (asked,) = {label for label in data["nodes"].values() if label in one.request}
        answer = answer_of(one)
        assert answer
        into = [a for a, b, _ in arrows if b == asked]
        out_of = [b for a, b, _ in arrows if a == asked]
        expected: Any = {
            "depends_on": into,
            "reports_to": into,
            "dependants": [len(into)],
            "team_size": [len(out_of)],
            "step_back": [b for a, b, label in arrows if a == asked and label == "failed"],
        }[name]
        assert [answer["value"]] == expected, one.request


def test_two_pages_lead_from_a_product_to_its_result() -> None:
    for name, *_, one, _, _, _ in tasks():
        if name != "two_pages":
            continue
        results, key = (image.data["table"]["rows"] for image in one.pictures)
        (sample,) = [row[0] for row in key if row[1] in one.request]
        (value,) = [row[1] for row in results if row[0] == sample]
        answer = answer_of(one)
        assert answer and float(answer["value"]) == float(value)


def test_where_page_and_chart_differ_the_answer_is_what_the_page_says() -> None:
    asked = [one for name, *_, one, _, _, _ in tasks() if name == "page_against_chart"]
    agree = 0
    for one in asked:
        answer = answer_of(one)
        assert answer
        if answer["value"] == "yes":
            agree += 1
        else:
            assert str(answer["value"]) in dumps(one.pictures[0].data["table"]["rows"])
    assert 0.2 < agree / len(asked) < 0.5


def test_no_answer_of_a_choice_dominates() -> None:
    trends = Counter(
        (answer_of(one) or {"value": None})["value"]
        for name, *_, one, _, _, _ in tasks()
        if name == "chart_trend"
    )
    assert set(trends) == {"rising", "falling", "mixed"} and min(trends.values()) >= 5


def test_train_and_exam_share_no_entity() -> None:
    seen: dict[str, set[str]] = {"train": set(), "exam": set()}
    for split in seen:
        for seed in range(60):
            desk = world(split, seed)
            names = seen[split]
            for product in desk._products.values():
                names |= {product.id, product.name, product.name.split()[0]}
            for vendor in desk._vendors.values():
                names |= {vendor.id, vendor.name.split()[0], *vendor.people}
            for report in desk._reports.values():
                names |= {report.id, report.analyst, *report.figures}
            for figure in desk._figures.values():
                names |= set(figure.scene.data.get("nodes", {}).values())
    for _, split, *_, one, results, _, _ in tasks():
        text = " ".join([one.request, dumps(one.plan), *map(shown, results)])
        seen[split] |= set(ENTITY.findall(text))
    assert len(seen["train"]) > 2000 and len(seen["exam"]) > 1000
    assert not seen["train"] & seen["exam"]
    assert not set(ENTITY.findall(dumps(RESEARCH.tools))) & (seen["train"] | seen["exam"])


def test_requests_are_many_and_short() -> None:
    asked = [
        (one.request, *map(shown, one.pictures))
        for _, split, *_, one, _, _, _ in tasks()
        if split == "train"
    ]
    assert len(set(asked)) >= 0.98 * len(asked)
    assert max(len(request.split()) for request, *_ in asked) <= 35
    assert all(len(set(group)) >= 4 for group in TEXTUAL.REQUESTS.values())
    assert set(TEXTUAL.REQUESTS) == set(NAMES)
    assert not any(re.search(r"[{}]|  ", request) for request, *_ in asked)


def test_results_that_are_no_pictures_are_small() -> None:
    for *_, results, _, _ in tasks():
        for result in results:
            if not isinstance(result, Scene):
                assert len(result) <= 4 and len(dumps(result)) <= 180, result


@pytest.mark.parametrize("name", ["chart_value", "mark_dependant", "price_from_quote", "point_at"])
def test_a_task_with_pictures_is_proven(name: str) -> None:
    task = build(RESEARCH, name, "train", 4)
    assert task["plan"] or task["checks"]["answer"]
    assert bool(task.get("pictures")) == (name != "mark_dependant")


@pytest.mark.parametrize("name", NAMES)
def test_every_template_is_proven_in_both_splits(name: str) -> None:
    splits: tuple[Split, ...] = ("train", "exam")
    for split, count in zip(splits, (6, 3), strict=True):
        for seed in range(count):
            build(RESEARCH, name, split, 1000 + seed)


def test_everything_that_a_world_can_show_is_drawn_as_it_should_be() -> None:
    for seed in range(4):
        desk = world("exam", seed)
        scenes = [figure.scene for figure in desk._figures.values()]
        scenes += [page for report in desk._reports.values() for page in report.pages]
        for scene in scenes:
            assert check(draw(scene)) == [], (seed, scene.data["title"])


def test_worlds_are_the_same_each_time_and_never_two_alike() -> None:
    one, again, other = world("train", 1), world("train", 1), world("train", 2)
    assert one._state() == again._state() != other._state()
    assert one._figures == again._figures and one._reports == again._reports


def test_the_diagrams_of_many_worlds_are_what_they_are_called() -> None:
    for seed in range(60):
        for figure in world("train", seed)._figures.values():
            data = figure.scene.data
            if figure.scene.kind != "diagram":
                continue
            arrows = [tuple(edge[:2]) for edge in data["edges"]]
            reached = Counter(end for _, end in arrows)
            assert all(a != b for a, b in arrows)
            if data["variant"] == "dependency":  # in order, so without a circle
                assert len(set(arrows)) == len(arrows)
                assert all(int(a[1:]) < int(b[1:]) for a, b in arrows)
                assert 1 in reached.values()
            if data["variant"] == "organisation":  # one head, one manager each
                assert reached == Counter(set(data["nodes"]) - {"p0"})
            if data["variant"] == "sequence":
                assert len({label for _, _, label in data["edges"]}) == len(arrows)


def test_market_shares_are_distinct_and_whole() -> None:
    for seed in range(60):
        (pie,) = [
            f.scene.data
            for f in world("train", seed)._figures.values()
            if f.scene.data["variant"] == "pie"
        ]
        shares = pie["series"]["Share"]
        assert sum(shares) == 100 and len(set(shares)) == len(shares) and min(shares) > 0


SOME_DESK = world("train", 3)
HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["P-100", "latency", "watch", "__class__", "{0}", "\ud800", "x" * 5000]),
    st.integers(),
    st.sampled_from([0, -1, 1, 2, 10**400, True]),
    st.floats(),
    st.none() | st.lists(st.integers(), max_size=2) | st.just({"a": []}),
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_hostile_arguments_raise_value_error_only(data: st.DataObject) -> None:
    desk = SOME_DESK
    exists = [*desk._products, *desk._vendors, *desk._reports, *desk._figures]
    hostile.call(data, RESEARCH, desk, exists, HOSTILE)


def test_what_makes_no_sense_is_refused_with_what_would() -> None:
    desk = world("train", 5)
    report = next(iter(desk._reports.values()))
    with pytest.raises(ValueError, match="own: nothing to cite"):
        desk.cite_figure(report.id, report.figures[0])
    with pytest.raises(ValueError, match="page: 3: expected 1 or 2"):
        desk.get_page(report.id, 3)
    with pytest.raises(ValueError, match="has no box"):
        desk.mark_component(report.figures[0], "Token cache")
    with pytest.raises(ValueError, match="nothing on record"):
        metric = desk._metrics[0]
        desk.get_score(desk._gaps[metric], metric)
    vendor = next(iter(desk._vendors))
    with pytest.raises(ValueError, match="nobody called"):
        desk.set_contact(vendor, "Ada Nore")
