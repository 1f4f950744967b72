"""The checks of the pre-flight (teacher/preflight/run.py): what each asks, what it expects, what its failure says to do."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from schemas.error_text import one_line
from schemas.errors import InputError, StageError
from schemas.text_heuristics import marker_in
from teacher.domain import tasks
from teacher.domain.pack import Domain
from teacher.domain.prompts import demonstration
from teacher.inference import launch
from teacher.inference.client import Reply
from teacher.preflight.target import INSTANT, Served, content, reasoning
from teacher.preflight.vendor_verifier import (
    CUT_OFF,
    Row,
    calls_problem,
    schema_accuracy,
    tool_call_f1,
)
from teacher.rollout import agent_loop

Check = dict[str, Any]  # {"name", "passed": True | False | None, "detail", "measured"}

# What a teacher must reach. The verifier's tables of 2025-11-15: its vendors' schema_accuracy is 98.96 % and more or
# 96.7 % and less, Moonshot's own 100 %; it accepts a tool_call_f1 above 73 % for K2-Thinking (the official API agrees
# with itself in 76 %) and above 80 % for K2-0905 (84 %), which does not think. Half the round trips is this project's
# own: K2.5's known failure comes and goes, and a narrated call is asked for again.
SCHEMA_ACCURACY = 0.98
TOOL_CALL_F1_THINKING, TOOL_CALL_F1_INSTANT = 0.73, 0.80
ROUND_TRIPS = 0.5
_ROUND_TRIP_TASKS = 3
_PUZZLES = (
    "A train leaves at 09:47 and travels for 2 hours and 38 minutes. When does it arrive? Say only the time.",
    "Three boxes weigh 14.6 kg together; two of them weigh 9.11 kg. What does the third weigh? Say only the weight.",
)


def result(name: str, passed: bool | None, detail: str, **measured: Any) -> Check:
    """What a check found (schemas/fidelity.schema.json)."""
    return {"name": name, "passed": passed, "detail": one_line(detail, 600), "measured": measured}


async def health(served: Served) -> tuple[Check, Check]:
    """health and model_name: the API answers, knows the model, and the model says something."""
    endpoint, model = served.endpoint, served.endpoint.model
    try:
        names = await launch.list_models(served.teacher, endpoint.url, endpoint.key)
    except (InputError, StageError) as error:
        return result("health", False, str(error)), result("model_name", None, "not asked")
    if names is None:
        name = result("model_name", None, "the API lists no models")
    elif model in names:
        name = result("model_name", True, f"{model} is served", listed=names[:20])
    else:
        detail = (
            f"the API serves {', '.join(names[:8]) or 'nothing'}, expected {model}: give its name there as --model, or"
            " start vLLM with --served-model-name"
        )
        name = result("model_name", False, detail, listed=names[:20])
        return result("health", True, "the API answers; the model was not asked"), name
    try:
        hello = [{"role": "user", "content": "Say: ready"}]
        reply = await served.ask(hello, mode=_calm(served), max_tokens=64)
    except StageError as error:
        return result("health", False, f"{error}: see the server's log"), name
    if reply.message is None:
        return result("health", False, f"a plain request was not answered: {reply.error}"), name
    return result("health", True, f"answered in {reply.seconds:.1f} s", seconds=reply.seconds), name


def _calm(served: Served) -> str | None:
    """The mode without thinking, where the teacher has one."""
    return INSTANT if INSTANT in served.modes else None


async def strict_tool_call(served: Served, domain: Domain) -> list[Check]:
    """Each tool of the domain, alone and required: its arguments must satisfy its full schema.

    Without thinking where the teacher can: Moonshot's API refuses to require a call while it thinks ("tool_choice ...
    is incompatible with thinking enabled").
    """
    prefix = served.teacher.get("call_prefix")
    begun = [{"role": "assistant", "content": prefix}] if prefix else []

    async def problem(tool: dict[str, Any]) -> str | None:
        wish = f"Call {tool['function']['name']} once, with arguments of your own that fit it."
        messages = [{"role": "user", "content": wish}, *begun]
        reply = await served.ask(messages, [tool], _calm(served), tool_choice="required")
        return calls_problem(reply, [tool])

    found = await asyncio.gather(*(problem(tool) for tool in domain.tools.values()))
    problems = {n: text for n, text in zip(domain.tools, found, strict=True) if text is not None}
    valid = len(domain.tools) - len(problems)
    detail = f"{valid} of {len(domain.tools)} tools, required, were called with valid arguments"
    if problems:
        name, text = next(iter(problems.items()))
        detail += f"; {name}: {text.removeprefix(f'{name}: ')}"
    if set(problems.values()) - {CUT_OFF}:
        detail += (
            ". vLLM needs --enable-auto-tool-choice, the model's --tool-call-parser and --tool-strict-level parameter,"
            " else a required call has any arguments"
        )
    elif problems:
        detail += f" (as were {len(problems)} in all): the model does not come to an end, or needs more tokens"
    measured = {"tools": len(domain.tools), "valid": valid, "problems": problems}
    return [result("strict_tool_call", not problems, detail, **measured)]


async def thinking_toggle(served: Served) -> list[Check]:
    """Two puzzles in a thinking mode and two in instant: reasoning in its field in the one, none in the other."""
    name = "thinking_toggle"
    if not served.teacher["capabilities"]["thinking"]:
        return [result(name, None, "the teacher claims no thinking")]
    if not served.modes:
        return [result(name, None, "the teacher's description has no modes to choose between")]
    thinking = next(
        (m for m in (served.mode, *served.modes) if m in served.modes and m != INSTANT), None
    )

    async def reasoned(mode: str | None) -> tuple[int, int]:
        """Replies with reasoning, and replies with think tags in their content."""
        if mode not in served.modes:
            return 0, 0
        puzzles = ([{"role": "user", "content": puzzle}] for puzzle in _PUZZLES)
        replies = await asyncio.gather(*(served.ask(puzzle, mode=mode) for puzzle in puzzles))
        for reply in replies:
            if reply.message is None:
                raise StageError(f"in the mode {mode}: refused: {reply.error}")
        tagged = sum("think" in (marker_in(content(reply)) or "") for reply in replies)
        return sum(bool(reasoning(reply)) for reply in replies), tagged

    (with_it, tagged), (without, tagged_too) = await asyncio.gather(
        reasoned(thinking), reasoned(INSTANT)
    )
    measured = {"thinking": with_it, "instant": without, "tagged": tagged + tagged_too}
    detail = (
        f"reasoning in {with_it} of {len(_PUZZLES)} replies of the mode {thinking} and in {without} of"
        f" {len(_PUZZLES)} of {INSTANT}"
    )
    if tagged + tagged_too:
        detail += ": think tags are in the content: start vLLM with the model's --reasoning-parser"
    elif thinking and not with_it:
        detail += ": it does not think when told to: start vLLM with the model's --reasoning-parser and chat template"
    elif without:
        detail += ": it thinks when told not to: chat_template_kwargs (or thinking) does not reach the template"
    passed = not without and not measured["tagged"] and (with_it > 0 or thinking is None)
    return [result(name, passed, detail, **measured)]


@dataclass
class _Trips:
    """What became of the round trips.

    called: conversations with a first call, of which with_reasoning had it with the call, refused were refused at the
    second request (refusal says why), and went_on made a second call (instead: what came else).
    """

    called: int = 0
    with_reasoning: int = 0
    refused: int = 0
    went_on: int = 0
    refusal: str = ""
    instead: str = ""


async def round_trips(served: Served, domain: Domain, seed: int) -> list[Check]:
    """reasoning_round_trip and tool_round_trip: episodes of two turns, in which the teacher gets its own call back.

    The tasks need a second call, whose arguments the first one's result gives. K2.5 is known to narrate it instead.
    """
    chosen = _two_step_tasks(domain, seed)
    sampling = served.parameters(served.mode)
    settings = agent_loop.Settings(2, **sampling, mode=served.mode, dialect=served.dialect)
    # Sample 1: a request that the reference has as well is sent again all the same.
    traces = await asyncio.gather(
        *(agent_loop.run(task, domain, served.complete, settings, {}, attempt=1) for task in chosen)
    )
    trips = _Trips()
    for trace in traces:
        outcome = trace["outcome"]
        served.detected.update(found["name"] for found in outcome["detected"])
        turns = [message for message in trace["messages"] if message["role"] == "assistant"]
        refused = len(turns) == 1 and outcome["ended"] == "teacher_error"
        if not turns or not turns[0].get("tool_calls") or not (refused or len(turns) == 2):
            continue  # no first call, or none that could be made
        trips.called += 1
        trips.with_reasoning += bool(turns[0].get("reasoning_content"))
        # What the dialect had to ask for again was not its own doing.
        helped = [
            found["name"]
            for found in outcome["detected"]
            if found["step"] == 2 and found["action"] != "repaired"
        ]
        if refused:
            trips.refused, trips.refusal = trips.refused + 1, outcome["error"] or "no reply"
        elif turns[1].get("tool_calls") and not helped:
            trips.went_on += 1
        else:
            words = [f'"{turns[1]["content"]}"'] if turns[1]["content"] else []
            trips.instead = " ".join(helped + words) or outcome["ended"]
    return [_reasoning_round_trip(served, trips), _tool_round_trip(served, bool(chosen), trips)]


def _reasoning_round_trip(served: Served, trips: _Trips) -> Check:
    name = "reasoning_round_trip"
    if not served.thinking:
        return result(name, None, "the teacher does not think, or not in this mode")
    if not trips.called:
        return result(name, None, "it made no call that could be sent back: see tool_call_f1")
    measured = {
        "called": trips.called,
        "with_reasoning": trips.with_reasoning,
        "refused": trips.refused,
    }
    detail = (
        f"{trips.with_reasoning} of {trips.called} calls came with reasoning, {trips.called - trips.refused} were taken"
        " back"
    )
    if trips.refused:
        detail += f", the others refused ({trips.refusal})"
    passed = not trips.refused and trips.with_reasoning > 0
    if not passed:
        detail += (
            ": a call's reasoning has to come as reasoning or reasoning_content and to go back: see that no gateway"
            " drops the field, and that vLLM has the model's --reasoning-parser"
        )
    return result(name, passed, detail, **measured)


def _tool_round_trip(served: Served, has_tasks: bool, trips: _Trips) -> Check:
    name = "tool_round_trip"
    if not has_tasks:
        return result(name, None, "no task of the domain needs a call's result for the next call")
    if not trips.called:
        return result(name, None, "it made no call that could have a result: see tool_call_f1")
    answered = trips.called - trips.refused
    measured = {"answered": answered, "second_calls": trips.went_on, "refused": trips.refused}
    if not answered and served.thinking:
        return result(name, None, "no result was taken: see reasoning_round_trip", **measured)
    if not answered:
        detail = f"a conversation with a call and its result in it was refused: {trips.refusal}"
        return result(name, False, detail, **measured)
    passed = trips.went_on >= ROUND_TRIPS * answered
    detail = f"{trips.went_on} of {answered} tool results were followed by the next call that the task needs"
    if not passed:
        detail += (
            f"; instead: {one_line(trips.instead, 120)}. K2.5 is known to tell its next step instead of calling:"
            " see that the chat template is the model's own and that the results reach it (call ids"
            " functions.NAME:INDEX), or take another mode"
        )
    return result(name, passed, detail, **measured)


def _two_step_tasks(domain: Domain, seed: int) -> list[dict[str, Any]]:
    """Tasks whose second call has an argument that only the first call's result says; of different templates."""
    names = random.Random(f"round trips {seed}").sample(
        sorted(domain.templates), len(domain.templates)
    )
    found = []
    for name in names:
        task = tasks.build(domain, name, "train", seed)
        if len(task["plan"]) < 2 or "pictures" in task:
            continue
        _, call, told, *_ = demonstration(task, domain)
        known = task["request"] + call["tool_calls"][0]["function"]["arguments"]
        values = [str(value) for value in task["plan"][1]["arguments"].values()]
        if isinstance(told["content"], list):
            continue  # a picture
        if any(value in told["content"] and value not in known for value in values):
            found.append(task)
    return found[:_ROUND_TRIP_TASKS]


async def metrics(served: Served, rows: list[Row]) -> list[Check]:
    """schema_accuracy and tool_call_f1 (teacher/preflight/vendor_verifier.py)."""
    replies = await served.ask_all([row["request"] for row in rows])
    return [_schema_accuracy(rows, replies), _tool_call_f1(served, rows, replies)]


def _schema_accuracy(rows: list[Row], replies: list[Reply]) -> Check:
    measured = schema_accuracy(rows, replies)
    share, called = measured["share"], measured["count_finish_reason_tool_calls"]
    if share is None:
        return result("schema_accuracy", None, "no reply made a call: see tool_call_f1", **measured)
    detail = f"{share:.1%} of {called} replies that call are valid, expected {SCHEMA_ACCURACY:.0%}"
    if share < SCHEMA_ACCURACY:
        detail += (
            f"; {measured['problems'][0]}. vLLM needs --tool-strict-level parameter to decode calls under their"
            " tools' schemas"
        )
    return result("schema_accuracy", share >= SCHEMA_ACCURACY, detail, **measured)


def _tool_call_f1(served: Served, rows: list[Row], replies: list[Reply]) -> Check:
    measured = tool_call_f1(rows, replies)
    gate = TOOL_CALL_F1_THINKING if served.thinking else TOOL_CALL_F1_INSTANT
    # Where a reference calls nearly always, always calling would reach the gate: it has to be beaten as well.
    passed = measured["f1"] >= gate and measured["f1"] > measured["always"]
    errors = [reply.error for reply in replies if reply.error]
    detail = (
        f"F1 {measured['f1']:.2f} on {len(rows)} requests, expected {gate:.2f} and more than the"
        f" {measured['always']:.2f} of calling always"
    )
    if not passed and errors:
        detail += f"; {len(errors)} requests were refused, such as: {errors[0]}"
    elif not passed and measured["fn"] >= measured["fp"]:
        detail += (
            f"; {measured['fn']} times it did not call where it should: see that the tools reach the chat template and"
            " that vLLM has --enable-auto-tool-choice and the model's --tool-call-parser"
        )
    elif not passed:
        detail += (
            f"; {measured['fp']} times it called where an answer was due: see that the chat template is the model's own"
            " and shows it the results of its calls"
        )
    return result("tool_call_f1", passed, detail, **measured)
