"""The kinds that every pack has: what is derived can be solved, and not by refusing, doing nothing or repeating."""

import copy
from pathlib import Path
from typing import Any

import pytest
from scripted_model import calls, play

from schemas.documents import check_document
from schemas.errors import InputError
from schemas.recipe_teacher import Tasks
from schemas.task import DerivedKind, Task
from schemas.trace import Trace
from teacher.domain import offer, tasks
from teacher.domain.exam import sample_exam
from teacher.domain.kinds.derive import MAKERS, derive_kinds
from teacher.domain.kinds.facts import Stated, without
from teacher.domain.kinds.policy import load_policy
from teacher.domain.kinds.reach import is_reachable
from teacher.domain.pack import Domain, load
from teacher.rollout.agent_loop import passed

PACKS = ("legal", "code-review", "tech-research")
SHARES: dict[DerivedKind, float] = dict.fromkeys(MAKERS, 1 / 8)
_WORDS = ("lookup", "workflow", "document")


@pytest.fixture(scope="module", params=PACKS)
def derived(request: pytest.FixtureRequest) -> tuple[Domain, list[Task]]:
    domain = load(request.param)
    mix = {kind: float(kind in _WORDS) for kind in domain.spec["kinds"]}
    texts = {name for name, made in domain.templates.items() if made.file.name != "visual.py"}
    rows = tasks.sample(domain, "train", 24, seed=0, mix=mix, templates=texts)
    return domain, derive_kinds(offer.offer_tools(rows, domain, offer="mixed"), domain, SHARES)


def solution(task: Task) -> list[Any]:
    """The gold turns; the call that the task makes fail is made twice."""
    turns, fault = list[Any](), copy.copy(task.get("fault"))
    asks = list(task["dialogue"]["asks"] if "dialogue" in task else [])
    for number, step in enumerate(task["plan"]):
        while asks and asks[0]["before_call"] <= number:
            turns.append(asks.pop(0)["text"])
        turn = calls((step["tool"], step["arguments"]))
        turns.append(turn)
        if fault and fault["tool"] == step["tool"]:
            turns.append(turn)
            fault = None
    return [*turns, task["reply"]]


def test_each_kind_has_its_share_and_its_gold_solution_passes(
    derived: tuple[Domain, list[Task]],
) -> None:
    domain, rows = derived
    for kind in MAKERS:
        assert sum(row["kind"] == kind for row in rows) == 3, kind
    for row in rows:
        check_document(row, "task", row["id"])
        trace = play(domain, row, solution(row))
        assert passed(trace), (row["id"], row["reply"], trace["outcome"])
        outcome = trace["outcome"]
        assert not outcome.get("needless_calls") and not outcome.get("policy_breaches")
        assert len(outcome.get("faults", [])) == ("fault" in row)


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKS)
def test_a_packs_exam_has_every_kind_where_the_recipe_asks_for_them(name: str) -> None:
    domain = load(name)
    settings = Tasks(
        exam=48, exam_other=0, held_out=(), kinds=dict.fromkeys(MAKERS, 0.04), mix={"swarm": 0.1}
    )
    exam = sample_exam(domain, settings, (), pixels=False)
    assert {row["kind"] for row in exam} == {*domain.spec["kinds"], *MAKERS}
    policies = {row["system"] for row in exam if row["kind"] == "policy"}
    text = (domain.path / "policy.md").read_text().split("---")[-1]
    assert policies and all(" ".join(text.split()) in " ".join(p.split()) for p in policies)


@pytest.mark.parametrize("says", ["", "I cannot help with that.", None, "Which one do you mean?"])
def test_an_agent_that_does_nothing_refuses_repeats_or_always_asks_fails_the_pack(
    derived: tuple[Domain, list[Task]], says: str | None
) -> None:
    domain, rows = derived
    traces = [play(domain, row, [row["request"] if says is None else says]) for row in rows]
    share = sum(map(passed, traces)) / len(rows)
    assert share <= (0 if says in ("", None) else 0.25)


def test_a_share_of_zero_leaves_the_tasks_as_they_are(derived: tuple[Domain, list[Task]]) -> None:
    domain, rows = derived
    ordinary = [row for row in rows if row["kind"] in _WORDS]
    assert derive_kinds(ordinary, domain, {}) == ordinary


def test_the_same_tasks_are_derived_again(derived: tuple[Domain, list[Task]]) -> None:
    domain, rows = derived
    ordinary = [row for row in rows if row["kind"] in _WORDS]
    shares: dict[DerivedKind, float] = {"irrelevant": 0.2, "missing": 0.2}
    assert derive_kinds(ordinary, domain, shares) == derive_kinds(ordinary, domain, shares)


def test_a_fact_leaves_a_request_in_whole_words() -> None:
    stated = Stated("contract_id", "C-104", "contract")
    assert without("When does contract C-104 expire?", stated) == "When does that contract expire?"
    assert (
        without("C-104 auto-renews. See C-1042.", stated)
        == "That contract auto-renews. See C-1042."
    )


def test_a_goal_is_in_reach_with_the_tools_of_its_solution_and_not_without() -> None:
    legal = load("legal")
    task = tasks.build(legal, "term_with_counterparty", "train", 3)
    name = task["plan"][0]["arguments"]["counterparty"]
    assert is_reachable(task, legal, tools=list(legal.tools), known=[name])
    assert not is_reachable(task, legal, tools=list(legal.tools), known=[])
    others = [tool for tool in legal.tools if tool != "get_clause"]
    assert not is_reachable(task, legal, tools=others, known=[name])


def reason(domain: Domain, task: Task, *turns: Any) -> str | None:
    from schemas.filter import FilterSettings, check_trace

    return check_trace(play(domain, task, list(turns)), FilterSettings())["reason"]


class TestFailures:
    """Each failure by a trace that has it, and by one that almost has it."""

    legal = load("legal")

    def make(self, kind: DerivedKind, template: str, seeds: range = range(40)) -> Task:
        made = (
            MAKERS[kind](tasks.build(self.legal, template, "train", seed), self.legal)
            for seed in seeds
        )
        return next(task for task in made if task)

    def test_not_declined(self) -> None:
        task = self.make("irrelevant", "contract_expiry")
        assert reason(self.legal, task, "It expires on 2027-05-03.") == "not_declined"
        assert reason(self.legal, task, "I have no tool that tells me that.") is None

    def test_needless_call(self) -> None:
        task = self.make("irrelevant", "contract_expiry")
        other = task["tools"][0]
        parameters = self.legal.tools[other]["function"]["parameters"]["properties"]
        call = calls((other, dict.fromkeys(parameters, "C-1")))
        assert reason(self.legal, task, call, call, task["reply"]) is not None
        missing = self.make("missing", "contract_expiry")
        missing["tools"] = list(self.legal.tools)
        look = calls(("check_conflict", {"party": "Amber Freight"}))
        assert reason(self.legal, missing, look, missing["reply"]) == "needless_call"
        ordinary = tasks.build(self.legal, "contract_expiry", "train", 0)
        ordinary["tools"] = list(self.legal.tools)
        assert reason(self.legal, ordinary, look, *solution(ordinary)) is None

    def test_guessed(self) -> None:
        task = self.make("missing", "contract_expiry")
        assert reason(self.legal, task, "That contract expires on 2027-05-03.") == "guessed"
        assert reason(self.legal, task, "For which contract do you need the date?") is None

    def test_over_refused(self) -> None:
        task = tasks.build(self.legal, "contract_expiry", "train", 0)
        assert reason(self.legal, task, "I cannot look that up.") == "over_refused"
        assert reason(self.legal, task, "It expires on 1999-01-01.") == "wrong_answer"

    def test_policy_breach(self) -> None:
        task = next(
            made
            for seed in range(80)
            if (
                made := MAKERS["policy"](
                    tasks.build(self.legal, "contract_matter_status", "train", seed), self.legal
                )
            )
            and made["checks"]["answer"]
        )
        original = tasks.build(self.legal, task["template"], "train", task["seed"])
        assert reason(self.legal, task, *solution(original)) == "policy_breach"
        read = calls((original["plan"][0]["tool"], original["plan"][0]["arguments"]))
        assert reason(self.legal, task, read, task["reply"]) is None
        # The same calls are right where no policy applies.
        assert reason(self.legal, original, *solution(original)) is None

    @pytest.mark.parametrize("kind", ["timeout", "rate_limit", "stale_id", "partial"])
    def test_gave_up(self, kind: Any) -> None:
        task = self.make("recovery", "contract_expiry")
        task["fault"] = {"tool": "get_contract", "kind": kind}
        (step,) = task["plan"]
        call = calls((step["tool"], step["arguments"]))
        assert reason(self.legal, task, call, "The tool timed out, sorry.") == "gave_up"
        assert reason(self.legal, task, call, call, task["reply"]) is None
        # A wrong answer after the call succeeded is no giving up.
        assert reason(self.legal, task, call, call, "It is 1999-01-01.") == "wrong_answer"

    def test_a_result_that_came_in_part_does_not_have_the_answer(self) -> None:
        task = self.make("recovery", "contract_expiry")
        task["fault"] = {"tool": "get_contract", "kind": "partial"}
        trace: Trace = play(self.legal, task, solution(task))
        first, second = (m["content"] for m in trace["messages"] if m["role"] == "tool")
        assert '"part"' in first and "expiry" not in first and "expiry" in second


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tool: log_time", "tool: log_hours", "rules[0].tool: found log_hours, expected one of"),
        ("{hours: {above: 4}}", "{minutes: {above: 4}}", "log_time has no argument minutes"),
        ("then: refuse", "then: forbid", "found 'forbid', expected"),
        ("rules:", "rule:", "rule"),
        ("\n---\n", "\n", "expected rules in YAML between two lines of ---"),
    ],
)
def test_a_policy_that_cannot_be_executed_is_named_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    import shutil

    from teacher.domain.pack import PACKS as DATA

    directory = tmp_path / "legal"
    shutil.copytree(DATA / "legal", directory)
    file = directory / "policy.md"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        load_policy(load(str(directory)))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert "policy.md" in str(error.value)
