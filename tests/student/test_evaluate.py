import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator

from schemas.documents import HERE, check_document
from schemas.errors import StageError
from schemas.files import read_json
from schemas.recipe import Evaluate, Gate
from schemas.scorecard import PART_TITLES, compare, conduct_text, wilson_interval
from schemas.trace import Trace
from student import evaluate
from student.evaluate import Candidate, gate, score, well_formed
from teacher.domain import pack
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.rollout.scheduler import Rollout
from teacher.scenes.images import ImageStore

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_contract",
            "description": "Get a contract.",
            "parameters": {
                "type": "object",
                "properties": {"contract_id": {"type": "string"}},
                "required": ["contract_id"],
                "additionalProperties": False,
            },
        },
    }
]
CALL = ("get_contract", '{"contract_id": "C-1"}')
CANDIDATE = Candidate("student", Path("export/gguf/a.gguf"), "0" * 64)


def says(content):
    return {"role": "assistant", "content": content}


def calls(*named_calls, content=""):
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [
            {"id": str(i), "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(named_calls)
        ],
    }


def exam(
    kind="lookup",
    template="end_date",
    plan=1,
    ended="answered",
    state=True,
    turns=None,
    part=None,
    unasked=(),
):
    """A trace and its task."""
    task = {"id": f"{template}-{next(NUMBERS)}", "kind": kind, "template": template}
    task["plan"] = [{}] * plan
    if part:
        task["part"] = part
    trace = {
        "tools": TOOLS,
        "messages": [
            {"role": "user", "content": "<tool_call> is no fault of the student"},
            *(turns or [calls(CALL), says("In 2027.")]),
        ],
        "calls": [{"seconds": 0.25}, {"seconds": 0.5}],
        "outcome": {
            "ended": ended,
            "checks": {"answer": True, "state": state},
            "unasked_writes": list(unasked),
        },
    }
    return trace, task


NUMBERS = itertools.count()


def scored(*pairs):
    """The score of (trace, task) pairs."""
    traces, tasks = [trace for trace, _ in pairs], [task for _, task in pairs]
    return score(CANDIDATE, traces, tasks, model="smollm2-135m")


# ------------------------------------------------------------------------------------- score


def test_tasks_and_passes_are_counted_by_kind_by_calls_and_by_template():
    result = scored(
        exam("workflow", "renew", plan=3),
        exam("workflow", "renew", plan=2, state=False),
        exam("lookup", "end_date"),
        exam("lookup", "party", ended="truncated"),
    )
    assert (result["tasks"], result["passed"]) == (4, 2)
    assert result["by_kind"] == {
        "lookup": {"tasks": 2, "passed": 1},
        "workflow": {"tasks": 2, "passed": 1},
    }
    assert result["by_calls"] == {"1": {"tasks": 2, "passed": 1}, "2+": {"tasks": 2, "passed": 1}}
    assert result["by_template"] == {
        "end_date": {"tasks": 1, "passed": 1},
        "party": {"tasks": 1, "passed": 0},
        "renew": {"tasks": 2, "passed": 1},
    }
    assert result["seconds"] == 3.0
    assert (result["name"], result["file"], result["sha256"]) == (
        "smollm2-135m",
        "a.gguf",
        "0" * 64,
    )


@pytest.mark.parametrize("ended", ["truncated", "step_limit", "teacher_error"])
def test_right_checks_do_not_pass_an_episode_that_did_not_end_by_itself(ended):
    assert scored(exam(ended=ended))["passed"] == 0


def test_a_task_that_needs_no_call_is_not_counted_among_those_of_several():
    assert "2+" not in scored(exam("irrelevant", plan=0))["by_calls"]


def test_only_the_students_turns_are_judged_for_their_form():
    good, bad = says("In 2027."), calls(("get_contract", "{}"))
    result = scored(exam(turns=[bad, good]), exam(turns=[good]), exam(turns=[bad]))
    assert result["turns"] == {"total": 4, "well_formed": 2}
    assert len(result["passed_tasks"]) == result["passed"]


def test_traces_and_tasks_of_different_number_are_refused():
    (one, task), (other, _) = exam(), exam()
    with pytest.raises(ValueError, match="shorter"):
        score(CANDIDATE, [one, other], [task], model="s")


def test_the_score_is_of_the_whole_toolbox_and_each_part_has_its_own_result():
    result = scored(
        exam(part="all_tools", turns=[says("In 2027.")]),
        exam(part="drift", kind="workflow", template="renew", state=False, turns=[says("")]),
        exam(part="drift"),
        exam(part="as_trained", unasked=[3, 5]),
        exam(part="as_trained", unasked=[3], state=False),
    )
    assert (result["tasks"], result["passed"]) == (1, 1)
    assert list(result["by_kind"]) == ["lookup"] and list(result["by_template"]) == ["end_date"]
    assert result["turns"] == {"total": 1, "well_formed": 1}
    assert result["seconds"] == round(5 * 0.75, 1)
    parts = result["parts"]
    assert list(parts) == ["all_tools", "as_trained", "drift"]
    assert parts["drift"] == {
        "tasks": 2,
        "passed": 1,
        "interval": wilson_interval(1, 2),
        "unasked_write": {"tasks": 0, "calls": 0},
    }
    assert parts["as_trained"]["unasked_write"] == {"tasks": 2, "calls": 3}


def test_swarms_are_counted_with_their_failures_and_shown_as_one_line():
    def swarm(passed, critical, serial, used, *failures):
        trace, task = exam("swarm", "compared_terms", state=passed, part="all_tools")
        trace["outcome"]["swarm"] = {
            "agents": 3,
            "stages": 1,
            "critical_steps": critical,
            "serial_steps": serial,
            "calls": 7,
            "answered": 3,
            "used": used,
            "failures": [{"name": name, "detail": "why"} for name in failures],
        }
        return trace, task

    one = swarm(True, 5, 9, 3)
    others = [swarm(False, 8, 8, 0, "serial_collapse", "lost_result")]
    others += [swarm(False, 8, 9, 1, "serial_collapse"), exam(part="all_tools")]
    score = scored(one, *others)
    part = score["parts"]["all_tools"]
    assert part["swarm"] == {
        "tasks": 3,
        "passed": 1,
        "agents": 9,
        "answered": 9,
        "used": 4,
        "critical_steps": 21,
        "serial_steps": 26,
        "failures": {"lost_result": 1, "serial_collapse": 2},
    }
    assert conduct_text(part) == (
        "swarms passed 1 of 3, 21 critical steps of 26 serial ones, results used of 4 of 9 sub-agents;"
        " lost_result in 1; serial_collapse in 2"
    )
    assert conduct_text(scored(exam(part="all_tools"))["parts"]["all_tools"]) == ""
    rule = read_json(HERE / "scorecard.schema.json")
    schema = {"$ref": "#/$defs/part", "$defs": rule["$defs"]}
    assert Draft202012Validator(schema).is_valid(part)


def test_tasks_without_a_part_count_as_those_of_the_whole_toolbox():
    result = scored(exam(), exam(part="all_tools"), exam(unasked=[3]))
    assert list(result["parts"]) == ["all_tools"]
    assert result["tasks"] == result["parts"]["all_tools"]["tasks"] == 3


PAIRS = [
    [],
    [exam(), exam("workflow", plan=2, state=False)],
    [exam(part=part, unasked=[3]) for part in PART_TITLES],
    [exam(part="drift")],
]


@pytest.mark.parametrize("pairs", PAIRS)
def test_the_score_and_the_gate_are_what_the_scorecard_schema_says(pairs):
    part = scored(*pairs)
    scorecard = {
        "version": 1,
        "domain": "legal",
        "recipe": "local",
        "created": "2026-03-02T12:00:00+00:00",
        "exam": {"tasks": len(pairs), "sha256": "0" * 64},
        "models": {"base": part, "student": part},
        "comparison": compare((True, bool(i)) for i, _ in enumerate(pairs)),
        "gate": gate(part, part, Gate()),
    }
    check_document(scorecard, "scorecard", "scorecard.json")


# ------------------------------------------------------------------------------------- form


@pytest.mark.parametrize(
    "message",
    [
        says("The contract ends on 2 March 2027."),
        says("a < b, <b>bold</b>, [1] and {}"),
        says([{"type": "text", "text": "In 2027."}]),
        calls(CALL),
        calls(CALL, CALL),
        calls(CALL, content="I look it up."),
        {**calls(CALL), "content": None},
        {**says("In 2027."), "tool_calls": None},
    ],
    ids=str,
)
def test_valid_calls_and_text_for_a_user_are_well_formed(message):
    assert well_formed(message, TOOLS)


@pytest.mark.parametrize(
    "message",
    [
        says(""),
        says(" \n"),
        says(None),
        {**says(""), "tool_calls": []},
        says('<tool_call>\n{"name": "get_contract", "arguments": {}'),
        says("In 2027.<|im_end|>"),
        says("<think>Hm.</think> In 2027."),
        calls(CALL, content="</tool_call>"),
        calls(("get_contracts", CALL[1])),
        calls(("get_contract", '{"contract_id": "C-1"')),
        calls(("get_contract", "{'contract_id': 'C-1'}")),
        calls(("get_contract", '{"contract_id": 1}')),
        calls(("get_contract", '{"contract": "C-1"}')),
        calls(("get_contract", '{"contract_id": "C-1", "x": 1}')),
        calls(("get_contract", '["C-1"]')),
        calls(("get_contract", '"C-1"')),
        calls(("get_contract", "")),
        calls(CALL, ("get_contract", "{}")),
    ],
    ids=str,
)
def test_a_near_miss_is_not_well_formed(message):
    assert not well_formed(message, TOOLS)


def test_a_call_where_no_tool_was_offered_is_not_well_formed():
    assert not well_formed(calls(CALL), [])


# ------------------------------------------------------------------------------------- gate


def result_of(passed, tasks=60, well_formed=100, total=100):
    return {
        "tasks": tasks,
        "passed": passed,
        "turns": {"total": total, "well_formed": well_formed},
    }


def failed(base, student, min_gain=0.05, min_well_formed=0.9, min_success=0.0):
    limits = Gate(min_gain=min_gain, min_well_formed=min_well_formed)
    result = gate(base, student, limits, min_success)
    assert result["passed"] == all(check["passed"] for check in result["checks"])
    return [check["name"] for check in result["checks"] if not check["passed"]]


def test_a_student_that_is_better_by_the_margin_and_in_form_passes():
    assert failed(result_of(10), result_of(40)) == []


@pytest.mark.parametrize("before", range(0, 55))
def test_a_gain_of_exactly_the_margin_is_enough_and_one_task_less_is_not(before):
    assert failed(result_of(before), result_of(before + 3)) == []
    assert failed(result_of(before), result_of(before + 2)) == ["better_than_base"]


def test_the_recipe_decides_whether_as_good_or_a_little_worse_is_enough():
    assert failed(result_of(10), result_of(10), min_gain=0) == []
    assert failed(result_of(10), result_of(9), min_gain=0) == ["better_than_base"]
    assert failed(result_of(10), result_of(7), min_gain=-0.05) == []
    assert failed(result_of(10), result_of(6), min_gain=-0.05) == ["better_than_base"]


def test_a_better_student_that_does_not_reach_the_domains_own_mark_fails_by_it():
    assert failed(result_of(10), result_of(29), min_success=0.5) == ["good_enough"]
    assert failed(result_of(10), result_of(30), min_success=0.5) == []


def test_a_better_student_out_of_form_fails_by_its_form():
    assert failed(result_of(10), result_of(40, well_formed=89)) == ["well_formed"]
    assert failed(result_of(10), result_of(40, well_formed=90)) == []


def test_the_form_of_the_base_does_not_count():
    assert failed(result_of(10, well_formed=0), result_of(40)) == []


def test_a_worse_student_out_of_form_fails_by_both():
    assert failed(result_of(40), result_of(10, well_formed=0)) == [
        "better_than_base",
        "well_formed",
    ]


def test_no_task_and_no_turn_fail_the_gate_and_divide_nothing():
    nothing = result_of(0, tasks=0, well_formed=0, total=0)
    assert failed(nothing, nothing) == ["better_than_base", "well_formed"]


def test_the_detail_says_what_was_reached_and_what_was_expected():
    limits = Gate(min_gain=0.2, min_well_formed=0.9)
    result = gate(result_of(15), result_of(45, well_formed=95), limits, 0.5)
    assert [check["detail"] for check in result["checks"]] == [
        "passed 75% of the exam, the base 25%; expected a gain of at least 20%",
        "95% of the turns are well formed; expected at least 90%",
        "passed 75% of the exam; the domain expects at least 50%",
    ]


def with_parts(passed, **parts):
    """A result of 60 tasks in the headline, and of ten in each of the named parts."""
    results = {part: {"tasks": 10, "passed": count} for part, count in parts.items()}
    return {**result_of(passed), "parts": {"all_tools": {"tasks": 60, "passed": passed}, **results}}


def test_the_recipe_may_ask_for_a_share_of_each_part():
    limits = Gate(min_parts={"drift": 0.4, "new_templates": 0.3, "all_tools": 0.5})

    def names(student):
        checks = gate(result_of(10), student, limits)["checks"]
        return [check["name"] for check in checks if not check["passed"]]

    assert names(with_parts(30, drift=4, new_templates=3)) == []
    assert names(with_parts(30, drift=3, new_templates=3, as_trained=0)) == ["part_drift"]
    assert names(with_parts(29, drift=4, new_templates=2)) == [
        "part_new_templates",
        "part_all_tools",
    ]


def test_a_part_that_was_not_examined_does_not_pass_the_gate():
    limits = Gate(min_parts={"drift": 0})
    for student in (with_parts(40), result_of(40)):
        check = gate(result_of(10), student, limits)["checks"][-1]
        assert (check["name"], check["passed"]) == ("part_drift", False)
        assert (
            check["detail"] == "the exam has no task of drift; expected at least 0% of them passed"
        )


@pytest.mark.parametrize("parts", [{}, {"drift": 1.1}, {"drift": -0.1}, {"renamed": 0.5}])
def test_a_gate_for_no_part_or_an_unknown_one_is_refused(parts):
    with pytest.raises(ValueError):
        Gate(min_parts=parts)


# ------------------------------------------------------------------------------------- run_exam


@contextlib.contextmanager
def no_server(*_, **__):
    yield Endpoint("http://127.0.0.1:1/v1", "key", "model")


def run(tasks, tmp_path, **settings):
    """Runs the exam and returns its traces."""
    return evaluate.run_exam(
        CANDIDATE,
        tasks,
        domain=pack.load("legal"),
        settings=Evaluate(**settings),
        context=2048,
        journal=tmp_path / "journal",
        log=tmp_path / "log",
        grounding="source",
        image_store=ImageStore(tmp_path / "images"),
        report_episode=lambda trace: None,
    )


def test_tasks_with_the_same_tools_and_template_are_sent_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent = []

    async def played(tasks: list[Any], *_: Any, **__: Any) -> AsyncIterator[Rollout]:
        for task in tasks:
            sent.append((task["tools"], task["template"]))
            yield Rollout(cast(Trace, {"task": {"id": task["id"]}}), 0)

    monkeypatch.setattr(evaluate, "rollouts", played)
    monkeypatch.setattr(evaluate, "serve", no_server)
    monkeypatch.setattr(evaluate, "reply_seconds", lambda endpoint, *lengths: lengths)
    kinds = [(["b", "a"], "y"), (["a"], "x"), (["b", "a"], "x"), (["a"], "x"), (["b", "a"], "y")]
    tasks = [{"id": str(i), "tools": t, "template": name} for i, (t, name) in enumerate(kinds)]
    traces = run(tasks, tmp_path)
    assert sent == sorted(sent)
    assert [trace["task"]["id"] for trace in traces] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({"max_tokens": 4096, "concurrency": 2}, (2048, 4096, 2)),
        ({"max_tokens": 4096, "reply_s": 20}, 20),
    ],
)
def test_the_time_for_a_reply_follows_the_machine_or_the_recipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict, seconds: Any
) -> None:
    timeouts = []

    async def asks(tasks: list[Any], domain: Any, client: Any, *_: Any, **__: Any) -> Any:
        await client._open()
        timeouts.append(client._timeout)
        for task in tasks:
            yield task

    monkeypatch.setattr(evaluate, "rollouts", asks)
    monkeypatch.setattr(evaluate, "Client", Unconnected)
    monkeypatch.setattr(evaluate, "serve", no_server)
    monkeypatch.setattr(evaluate, "reply_seconds", lambda endpoint, *lengths: lengths)
    assert run([], tmp_path, **settings) == []
    assert timeouts == [seconds]


class Unconnected(Client):
    async def _open(self) -> None:
        await cast(Any, self._find_endpoint)()
        self._timeout = cast(Any, self._find_timeout)()

    async def _end_requests(self, *, waits: bool) -> None:
        pass


def test_an_exam_whose_replies_are_all_in_the_journal_starts_no_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextlib.contextmanager
    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing needs the server")
        yield

    async def replayed(tasks: list[Any], *_: Any, **__: Any) -> AsyncIterator[Rollout]:
        for task in tasks:
            yield Rollout(cast(Trace, {"task": {"id": task["id"]}}), 0)

    monkeypatch.setattr(evaluate, "rollouts", replayed)
    monkeypatch.setattr(evaluate, "serve", refused)
    [trace] = run([{"id": "a", "tools": [], "template": "x"}], tmp_path)
    assert trace["task"]["id"] == "a"


def test_the_journal_is_closed_when_an_episode_raises(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = []

    class Recorded(Journal):
        def close(self) -> None:
            closed.append(True)
            super().close()

    async def lost(*_, **__):
        raise StageError("the server is lost")
        yield

    monkeypatch.setattr(evaluate, "Journal", Recorded)
    monkeypatch.setattr(evaluate, "rollouts", lost)
    monkeypatch.setattr(evaluate, "serve", no_server)
    monkeypatch.setattr(evaluate, "reply_seconds", lambda endpoint, *lengths: lengths)
    with pytest.raises(StageError, match="lost"):
        run([], tmp_path)
    assert closed == [True]
