"""The checks that need more than the conversation, and the ledger."""

import copy
import json
from collections import Counter
from typing import Any

import pytest
from filter_traces import filter_traces, trace
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from schemas.canonical import EnginesDiffer
from schemas.documents import HERE, document_problem
from schemas.errors import StageError
from schemas.filter import (
    HINT_HEADER,
    REASONS,
    FilterSettings,
    check_trace,
)
from schemas.filter_run import _template_limit
from schemas.messages import MESSAGE_REASONS
from schemas.trace import SWARM_CAUSES, SWARM_FAILURES, is_kept

SETTINGS = FilterSettings(max_tokens=1000, near_duplicate=0.9, contamination=0.8, per_task=2)


def retried(*, errors):
    """A trace with two calls; the results at the indexes `errors` report an error."""
    one = trace(tool_errors=errors)
    messages = one["messages"]
    one["messages"] = [*messages[:4], *copy.deepcopy(messages[2:4]), messages[4]]
    return one


def with_system(text):
    one = trace(hinted=True)
    one["messages"][0]["content"] = text
    return one


def thinking(text):
    one = trace(hinted=True)
    one["messages"][2]["reasoning_content"] = text
    return one


def without(field):
    return {key: value for key, value in trace().items() if key != field}


def unknown_tool():
    one = trace()
    one["messages"][2]["tool_calls"][0]["function"]["name"] = "get_contracts"
    return one


def cut_off():
    """The trace of an episode whose first request failed."""
    one = trace(ended="teacher_error", error="HTTP 500", checks={"answer": False, "state": False})
    one["messages"] = one["messages"][:2]
    return one


PAGE, SCAN, OTHER = "a1" * 32, "b2" * 32, "c3" * 32
# The scan differs from the page in two bits, the other page in three.
LOOKS = {
    PAGE: ("f0" * 32, "500"),
    SCAN: ("f0" * 31 + "f3", "500"),
    OTHER: ("f0" * 31 + "f7", "500"),
}


def visual(
    number=1,
    image=PAGE,
    request="What is the fee on this page?",
    text="The fee is EUR 500.",
    **more,
):
    """A trace that passes, about an image shown with the request."""
    one = trace(number, template="fee", **more)
    one["messages"] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request}]},
        {"role": "assistant", "content": text},
    ]
    return {**one, "images": [image], "grounding": "source"}


WRONG = {"answer": False, "state": False}


def swarm(*names, **outcome):
    """An orchestrator's trace with these failures."""
    measured = dict.fromkeys(
        ("agents", "stages", "critical_steps", "serial_steps", "calls", "answered", "used"), 1
    )
    failures = [{"name": name, "detail": "of this test"} for name in names]
    return trace(swarm={**measured, "failures": failures}, **outcome)


REJECTED = [
    ("malformed_trace", without("outcome")),
    ("malformed_trace", without("messages")),
    ("malformed_trace", {**trace(), "extra": 1}),
    ("malformed_trace", {**visual(), "images": []}),
    ("malformed_trace", {**visual(), "images": [PAGE, SCAN]}),
    ("blind_answerable", visual(blind=True)),
    ("malformed_trace", trace(ended="gave_up")),
    ("malformed_trace", {**trace(), "images": ["data:image/png;base64,AAAA"]}),
    ("unknown_tool", unknown_tool()),
    *((name, swarm(name)) for name in (*SWARM_CAUSES, *SWARM_FAILURES)),
    # A wrong answer is the reason where a failure of the swarm does not explain it.
    ("wrong_answer", swarm("serial_collapse", checks={"answer": False, "state": True})),
    ("lost_result", swarm("lost_result", checks={"answer": False, "state": True})),
    ("teacher_error", cut_off()),
    ("teacher_error", trace(ended="teacher_error", error="HTTP 500")),
    ("tool_crashed", trace(ended="tool_crashed", error="Desk.get_contract: raised KeyError: 'x'")),
    ("truncated", trace(ended="truncated", checks=WRONG)),
    ("step_limit", trace(ended="step_limit", checks=WRONG)),
    ("tool_error_unrecovered", trace(tool_errors=[3])),
    ("tool_error_unrecovered", retried(errors=[3, 5])),
    ("tool_error_unrecovered", retried(errors=[5])),
    ("wrong_answer", trace(checks=WRONG)),
    ("wrong_answer", trace(checks={"answer": False, "state": True})),
    ("wrong_state", trace(checks={"answer": True, "state": False})),
    ("wrong_state", trace(checks={"answer": None, "state": False})),
    ("unasked_write", trace(unasked_writes=[3])),
    ("wrong_state", trace(checks={"answer": True, "state": False}, unasked_writes=[3])),
    ("user_fault", trace(ended="user_fault", error="told_all: C-1", checks=WRONG)),
    ("gave_up", trace(tool_errors=[3], faults=[3], checks=WRONG)),
    ("policy_breach", trace(policy_breaches=[3], checks=WRONG)),
    ("guessed", trace(expected="asks", checks={"answer": False, "state": True})),
    ("not_declined", trace(expected="declines", checks={"answer": False, "state": True})),
    ("not_declined", trace(expected="refuses", checks={"answer": False, "state": True})),
    ("wrong_state", trace(expected="asks", checks={"answer": True, "state": False})),
    ("over_refused", trace(declined=True, checks=WRONG)),
    ("over_refused", trace(declined=True, checks={"answer": None, "state": False})),
    ("needless_call", trace(needless_calls=[3])),
    ("answer_leaked", with_system(f"You are a paralegal.\n\n{HINT_HEADER}\n1. get_contract")),
    ("answer_leaked", trace(hinted=True, answer="As instructed, C-1 ends on 2 March 2027.")),
    ("answer_leaked", trace(hinted=True, answer="The hint is 2 March 2027.")),
    ("answer_leaked", thinking("According to the plan I call get_contract first.")),
]
KEPT = [
    swarm(),
    trace(),
    trace(unasked_writes=[]),
    {
        **trace(),
        "verdict": {"kept": False, "reason": "truncated", "detail": "", "message_index": None},
    },
    trace(checks={"answer": None, "state": True}),
    trace(needless_calls=[], policy_breaches=[], faults=[], expected="asks"),
    trace(declined=True),
    retried(errors=[3]),
    trace(hinted=True),
    trace(hinted=True, answer="The payment plan of C-1 ends on 2 March 2027."),
    trace(hinted=True, answer="C-1 instructed the chintz plan."),
    trace(answer="As instructed, a hint: C-1 ends on 2 March 2027."),
    with_system("You are a paralegal. Never mention a hint or the plan."),
]


@pytest.mark.parametrize(("reason", "one"), REJECTED)
def test_a_trace_is_rejected_by_its_first_reason(reason, one):
    verdict = check_trace(one, SETTINGS)
    assert (verdict["kept"], verdict["reason"]) == (False, reason), verdict
    assert document_problem({**trace(), "verdict": verdict}, "trace") is None


@pytest.mark.parametrize("one", KEPT)
def test_a_near_miss_is_kept(one):
    assert check_trace(one, SETTINGS)["kept"], check_trace(one, SETTINGS)


def test_the_verdict_of_a_malformed_message_has_its_index():
    one = trace()
    one["messages"][3]["role"] = "function"
    assert check_trace(one, SETTINGS)["message_index"] == 3


def test_a_trace_is_too_long_only_above_the_limit_of_tokens_that_the_caller_counts():
    assert check_trace(trace(), SETTINGS, lambda *_: [300, 1000])["kept"]
    assert check_trace(trace(), SETTINGS, lambda *_: [300, 1001])["reason"] == "too_long"


def test_with_max_turn_at_least_one_turn_must_end_within_it():
    splits = SETTINGS.model_copy(update={"max_turn": 200})
    assert check_trace(trace(), splits, lambda *_: [200, 900])["kept"]
    verdict = check_trace(trace(), splits, lambda *_: [201, 900])
    assert (verdict["reason"], verdict["detail"]) == (
        "too_long",
        "201 tokens in its first turn, at most 200",
    )


def test_a_trace_that_the_template_cannot_render_is_rejected_with_the_templates_message():
    def refuses(*_):
        raise ValueError("the student's template: only user\nand assistant")

    verdict = check_trace(trace(), SETTINGS, refuses)
    assert verdict["reason"] == "malformed_trace"
    assert verdict["detail"] == "the student's template: only user and assistant"


def test_a_trace_that_llama_cpp_renders_otherwise_is_rejected_by_that_reason():
    def differs(*_):
        raise EnginesDiffer("find: fee: found 1234567.89")

    verdict = check_trace(trace(), SETTINGS, differs)
    assert (verdict["reason"], verdict["detail"]) == (
        "engines_differ",
        "find: fee: found 1234567.89",
    )


def test_a_trace_without_a_turn_to_learn_from_is_rejected():
    assert check_trace(trace(), SETTINGS, lambda *_: [])["reason"] == "tool_error_unrecovered"


def reasons(judged):
    return [one["verdict"].get("reason") for one in judged]


def details(judged):
    return [one["verdict"].get("detail") for one in judged]


def test_of_near_duplicates_the_first_is_kept_and_another_contract_makes_another_trace():
    again = {**trace(attempt=1), "task": {**trace()["task"], "id": "legal-train-end_date-000009"}}
    judged, _ = filter_traces([trace(), trace(2), again], [], SETTINGS)
    assert reasons(judged) == [None, None, "near_duplicate"]
    assert details(judged)[2] == "like legal-train-end_date-000001/0"
    assert judged[0]["verdict"] == {"kept": True}


def test_a_trace_is_not_a_near_duplicate_of_a_rejected_one():
    bad = trace(checks={"answer": False, "state": True})
    judged, _ = filter_traces([bad, trace(attempt=1)], [], SETTINGS)
    assert reasons(judged) == ["wrong_answer", None]


def test_a_request_of_the_exam_is_contaminated_and_its_template_about_another_contract_is_not():
    exam: Any = [
        {
            "id": "legal-exam-end_date-000001",
            "request": trace(1)["messages"][1]["content"],
            "plan": [],
        }
    ]
    judged, _ = filter_traces([trace(1), trace(2)], exam, SETTINGS)
    assert reasons(judged) == ["contaminated", None]
    assert details(judged)[0] == "like the exam task legal-exam-end_date-000001"


def test_a_task_keeps_at_most_per_task_traces_which_the_model_wrote_differently():
    answers = ["It ends on 2 March 2027.", "On 2 March 2027.", "on  2 march 2027.", "2 March 2027"]
    attempts = [trace(attempt=number, answer=answer) for number, answer in enumerate(answers)]
    one = SETTINGS.model_copy(update={"per_task": 1})
    judged, _ = filter_traces([*attempts, trace(2)], [], one)
    assert reasons(judged) == [
        None,
        "over_represented",
        "near_duplicate",
        "over_represented",
        None,
    ]
    assert details(judged)[2] == "wrote the same as legal-train-end_date-000001/1"
    judged, _ = filter_traces(attempts, [], SETTINGS.model_copy(update={"per_task": 2}))
    assert reasons(judged) == [None, None, "near_duplicate", "over_represented"]
    judged, _ = filter_traces(attempts, [], SETTINGS.model_copy(update={"per_task": 4}))
    assert reasons(judged) == [None, None, "near_duplicate", None]


def test_attempts_that_differ_in_calls_or_reasoning_alone_are_different():
    settings = SETTINGS.model_copy(update={"per_task": 4})
    other = copy.deepcopy(trace(attempt=1))
    other["messages"][2]["reasoning_content"] = "The contract has the date."
    spaced = copy.deepcopy(trace(attempt=2))
    spaced["messages"][2]["tool_calls"][0]["function"]["arguments"] = '{"contract_id":"C-1"}'
    judged, _ = filter_traces([trace(), other, spaced], [], settings)
    assert reasons(judged) == [None, None, "near_duplicate"]


def test_a_template_keeps_at_most_its_share():
    many = [trace(number) for number in range(8)]
    few = [
        trace(number, template="who_signed", request=f"Who signed C-{number}?") for number in (8, 9)
    ]
    half = SETTINGS.model_copy(update={"per_template": 0.5})
    judged, ledger = filter_traces([*many, *few], [], half)
    assert ledger["by_template"] == {
        "end_date": {"traces": 8, "kept": 2},
        "who_signed": {"traces": 2, "kept": 2},
    }
    assert reasons(judged) == [None] * 2 + ["over_represented"] * 6 + [None] * 2


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 12), min_size=1),
    st.floats(0.05, 1, exclude_min=True),
)
@example({"a": 3}, 0.9999999999999999)  # as good as 1
def test_no_template_has_more_than_its_share_of_what_is_kept_and_one_more_would_break_that(
    counts, share
):
    if share * len(counts) + 1e-9 < 1:
        with pytest.raises(StageError, match="filter.per_template: found"):
            _template_limit(Counter(counts), share)
        return
    limit = _template_limit(Counter(counts), share)

    def largest_share(limit):
        kept = [min(count, limit) for count in counts.values()]
        return max(kept) / sum(kept)

    assert largest_share(limit) <= share + 1e-6
    assert limit >= max(counts.values()) or largest_share(limit + 1) > share - 1e-6


def test_the_ledger_adds_up_and_names_the_tasks_without_a_kept_trace():
    traces = [
        trace(1, checks={"answer": False, "state": True}),
        trace(1, attempt=1, hinted=True),
        trace(2, checks={"answer": False, "state": True}),
        trace(3, hinted=True, answer="As the hint says, 2 March 2027."),
        {"id": "torn"},
    ]
    judged, ledger = filter_traces(traces, [], SETTINGS)
    assert [one["id"] for one in judged] == [one["id"] for one in traces]
    assert ledger == {
        "traces": 5,
        "kept": 1,
        "rejected": {"malformed_trace": 1, "wrong_answer": 2, "answer_leaked": 1},
        "tasks": 4,
        "tasks_without_kept": ["legal-train-end_date-000002", "legal-train-end_date-000003", ""],
        "hinted": {"traces": 2, "kept": 1},
        "by_template": {"": {"traces": 1, "kept": 0}, "end_date": {"traces": 4, "kept": 1}},
    }


def test_judging_changes_no_trace_and_judging_twice_gives_the_same_result():
    traces = [trace(), trace(attempt=1), trace(2, ended="truncated")]
    before = copy.deepcopy(traces)
    judged, ledger = filter_traces(iter(traces), [], SETTINGS)
    assert traces == before
    assert filter_traces(judged, [], SETTINGS) == (judged, ledger)


def test_every_reason_has_a_case_and_the_trace_schema_knows_them_all():
    own_cases = {reason for reason, _ in REJECTED} | {
        "engines_differ",
        "too_long",
        "disagreed",
        "contaminated",
        "near_duplicate",
        "over_represented",
    }
    assert own_cases | set(MESSAGE_REASONS) == set(REASONS)
    rejected = json.loads((HERE / "trace.schema.json").read_text())["properties"]["verdict"][
        "oneOf"
    ][2]
    assert tuple(rejected["properties"]["reason"]["enum"]) == REASONS


# ------------------------------------------------------------------------------------- images


def judged_reasons(traces, exam=(), **changes):
    settings = SETTINGS.model_copy(update=changes)
    judged, ledger = filter_traces(traces, list(exam), settings, images=LOOKS)
    assert ledger["traces"] == ledger["kept"] + sum(ledger["rejected"].values())
    return reasons(judged)


def test_the_same_request_about_another_image_is_not_a_near_duplicate():
    assert judged_reasons([visual(1, PAGE), visual(2, OTHER)]) == [None, None]


def test_an_image_that_looks_like_one_of_another_task_makes_a_near_duplicate():
    other_words = "Which amount does the letter name as the monthly charge for storage?"
    assert judged_reasons([visual(1, PAGE), visual(2, SCAN)]) == [None, "near_duplicate"]
    assert judged_reasons([visual(1, PAGE), visual(2, SCAN, other_words)]) == [
        None,
        "near_duplicate",
    ]
    again = visual(1, PAGE, attempt=1, text="It says EUR 500.")
    assert judged_reasons([visual(1, PAGE), again]) == [
        None,
        None,
    ]


def test_images_that_look_alike_with_other_content_are_different():
    looks = {PAGE: ("f0" * 32, "500"), SCAN: ("f0" * 32, "501")}
    judged, _ = filter_traces([visual(1, PAGE), visual(2, SCAN)], [], SETTINGS, images=looks)
    assert reasons(judged) == [None, None]


def test_the_image_of_a_rejected_trace_may_be_used_by_another():
    assert judged_reasons([visual(1, PAGE, blind=True), visual(2, SCAN)]) == [
        "blind_answerable",
        None,
    ]


def test_a_request_is_contaminated_only_with_the_same_image():
    exam = {"id": "e", "request": "What is the fee on this page?", "plan": []}
    about = {**exam, "pictures": [{"sha256": SCAN}]}
    another = {**exam, "pictures": [{"sha256": OTHER}]}
    assert judged_reasons([visual()], [about]) == ["contaminated"]
    assert judged_reasons([visual()], [another]) == [None]


def test_a_task_needs_as_many_passed_attempts_as_agreement_says():
    agreed = [trace(1, attempt=n) for n in range(2)]
    alone = [trace(2), trace(2, attempt=1, checks=WRONG)]
    hinted = [trace(3), trace(3, attempt=1, hinted=True)]
    actual = judged_reasons([*agreed, *alone, *hinted], agreement=2)
    assert actual[:2] == [None, "near_duplicate"]  # they wrote the same
    assert actual[2:] == ["disagreed", "wrong_answer", "disagreed", "disagreed"]


def test_the_ledger_counts_traces_with_images_by_what_the_teacher_was_shown():
    traces = [visual(), {**visual(2, OTHER), "grounding": "pixels"}, visual(3, SCAN), trace(4)]
    ledger = filter_traces(traces, [], SETTINGS, images=LOOKS)[1]
    assert ledger["images"] == {
        "pixels": {"traces": 1, "kept": 1},
        "source": {"traces": 2, "kept": 1},
    }
    assert "images" not in filter_traces([trace()], [], SETTINGS)[1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@examples(deadline=None)
@given(
    st.lists(
        st.sampled_from([one for _, one in REJECTED] + KEPT)
        | st.builds(
            lambda field, value: {**trace(), field: value},
            st.sampled_from(list(trace())),
            json_values,
        )
        | st.dictionaries(st.text(), json_values, max_size=3),
        max_size=8,
    )
)
def test_every_trace_is_accounted_for_whatever_the_input(traces):
    judged, ledger = filter_traces(traces, [], SETTINGS)
    assert ledger["traces"] == len(traces) == ledger["kept"] + sum(ledger["rejected"].values())
    assert all(reason is None or reason in REASONS for reason in reasons(judged))
    assert [reason is None for reason in reasons(judged)] == [is_kept(one) for one in judged]
