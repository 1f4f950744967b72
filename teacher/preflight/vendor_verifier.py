"""Reference replies, and the two metrics that compare a teacher with them: schema_accuracy and tool_call_f1.

The metrics are those of Moonshot AI's K2 Vendor Verifier (github.com/MoonshotAI/K2-Vendor-Verifier: README, "Evaluation
Metrics", and src/kimi_vendor_verifier/tool_calls_eval.py), which sends a vendor the requests that the official API got.
`schema_accuracy` and `tool_call_f1` have their definitions. A reference is a JSON Lines file or, without one, the
proven tasks of a domain.
"""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

from schemas.error_text import one_line
from schemas.errors import InputError
from schemas.files import read_jsonl
from schemas.messages import check_messages
from schemas.task import Task
from schemas.tool_calls import call_problem, functions_by_name
from schemas.trace import Message, Tool
from teacher.dialects.base import calls_of, json_text
from teacher.domain import tasks
from teacher.domain.pack import Domain
from teacher.domain.prompts import demonstration
from teacher.inference.replies import Reply
from teacher.preflight.target import ChatRequest
from teacher.scenes.images import ImageStore, request_messages

CUT_OFF = "cut off by max_tokens"
_TASKS = 8


class Row(TypedDict):
    """One row of a reference. calls: whether the reference calls a tool in reply to the request."""

    request: ChatRequest
    calls: bool


def reference_of_domain(domain: Domain, seed: int = 0, thinking: bool = False) -> list[Row]:
    """Proven tasks of a domain as a reference: it calls at each step of a task's solution, and answers after the last.

    Args:
        thinking: whether the calls of the history get a line of reasoning, which Moonshot's API requires.
    """
    with TemporaryDirectory() as directory:
        image_store = ImageStore(Path(directory))
        return [
            row
            for task in tasks.sample(
                domain, "train", _TASKS, seed=seed, pixels=False, image_store=image_store
            )
            for row in _rows(task, domain, thinking, image_store)
        ]


def _rows(task: Task, domain: Domain, thinking: bool, image_store: ImageStore) -> list[Row]:
    """A row for each assistant turn of a solved task. Images are described in words."""
    rows: list[Row] = []
    system = {"role": "system", "content": task["system"]}
    solved = request_messages(
        demonstration(task, domain, image_store=image_store), "source", image_store
    )
    conversation = [system, *solved]
    tools = [domain.tools[name] for name in task["tools"]]
    for index, message in enumerate(conversation):
        if message["role"] != "assistant":
            continue
        request: ChatRequest = {"messages": conversation[:index], "tools": tools}
        rows.append({"request": request, "calls": "tool_calls" in message})
        if thinking and "tool_calls" in message:
            name = message["tool_calls"][0]["function"]["name"]
            conversation[index] = {**message, "reasoning_content": f"This takes {name}."}
    return rows


def read_reference(path: Path) -> list[Row]:
    """The rows of a reference file.

    A line is {"request": {"messages", "tools"}, "calls": bool}, as `run.record` writes it, or a result of the vendor
    verifier, which has "finish_reason" instead of "calls".

    Raises:
        InputError: a line is invalid (the message names the line and the field), or the rows all call or all answer, so
            that they measure nothing.
    """
    rows: list[Row] = []
    for number, row in enumerate(read_jsonl(path), start=1):
        place = f"{path}: line {number}"
        request = row.get("request") if isinstance(row, dict) else None
        if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
            raise InputError(f"{place}: request.messages: expected a list of messages")
        called = row["calls"] if "calls" in row else row.get("finish_reason") == "tool_calls"
        if not isinstance(called, bool) or not {"calls", "finish_reason"} & set(row):
            raise InputError(f"{place}: calls: expected true or false")
        # The verifier names a system message inside a conversation "_input".
        messages: list[Message] = [
            {**message, "role": "system"} if message.get("role") == "_input" else message
            for message in request["messages"]
            if isinstance(message, dict)
        ]
        tools: list[Tool] = request.get("tools") or []
        reply = {"role": "assistant", "content": "the reply that the request is for"}
        verdict = check_messages([*messages, reply], tools)
        if verdict["reason"] == "malformed_trace":
            raise InputError(f"{place}: request: {verdict['detail']}")
        rows.append({"request": {"messages": messages, "tools": tools}, "calls": called})
    if len({row["calls"] for row in rows}) < 2:
        raise InputError(f"{path}: expected rows that call a tool and rows that do not")
    return rows


def schema_accuracy(rows: list[Row], replies: list[Reply]) -> dict[str, Any]:
    """The share of replies with finish_reason tool_calls whose calls all satisfy their tools' schemas.

    Definition of the verifier: count_successful_tool_call / count_finish_reason_tool_calls. A reply with finish_reason
    tool_calls but without a call is not successful. `share` is None if no reply has that finish_reason.
    """
    problems = [
        calls_problem(reply, row["request"]["tools"])
        for row, reply in zip(rows, replies, strict=True)
        if calls_tool(reply)
    ]
    successful = problems.count(None)
    return {
        "share": round(successful / len(problems), 4) if problems else None,
        "count_finish_reason_tool_calls": len(problems),
        "count_successful_tool_call": successful,
        "problems": [problem for problem in problems if problem][:5],
    }


def tool_call_f1(rows: list[Row], replies: list[Reply]) -> dict[str, Any]:
    """Agreement with the reference on whether to call a tool: the harmonic mean of precision and recall.

    Definition of the verifier: a reply calls if its finish_reason is tool_calls. TP: the reply and the reference call;
    FP: only the reply calls; FN: only the reference calls. precision = TP / (TP + FP), recall = TP / (TP + FN).
        `always` is the F1 of a teacher that always calls.
    """
    pairs = Counter(
        (row["calls"], calls_tool(reply)) for row, reply in zip(rows, replies, strict=True)
    )
    tp, fp, fn, tn = pairs[True, True], pairs[False, True], pairs[True, False], pairs[False, False]
    return {
        "f1": round(2 * tp / (2 * tp + fp + fn), 4) if tp else 0.0,
        "precision": round(tp / (tp + fp), 4) if tp else 0.0,
        "recall": round(tp / (tp + fn), 4) if tp else 0.0,
        "always": round(2 * (tp + fn) / (2 * (tp + fn) + fp + tn), 4),
        **{"tp": tp, "fp": fp, "fn": fn, "tn": tn},
        "finish_reasons": dict(Counter(str(reply.finish_reason) for reply in replies)),
    }


def calls_tool(reply: Reply) -> bool:
    """Whether a reply calls a tool, by the verifier's definition."""
    return reply.finish_reason == "tool_calls"


def calls_problem(reply: Reply, tools: list[Tool]) -> str | None:
    """The first violation of the tools' full schemas by the calls of a reply; None if all calls are valid."""
    functions = functions_by_name(tools)
    calls = calls_of(reply.message or {})
    if reply.finish_reason == "length":
        return CUT_OFF
    if not calls:
        return reply.error or f"no call (finish_reason {reply.finish_reason or 'missing'})"
    for call in calls:
        name = call["function"].get("name")
        name = name if isinstance(name, str) else json_text(name)
        problem = call_problem(name, json_text(call["function"].get("arguments")), functions)
        if problem:
            return one_line(problem[1], 160)
    return None
