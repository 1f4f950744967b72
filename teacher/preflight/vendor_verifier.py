"""What a faithful teacher does at each of a list of requests, and how well another one agrees.

The two measures are those of Moonshot AI's K2 Vendor Verifier (github.com/MoonshotAI/K2-Vendor-Verifier: README,
"Evaluation Metrics", and src/kimi_vendor_verifier/tool_calls_eval.py), which asks a vendor what the official API was
asked: `schema_accuracy` and `tool_call_f1` say how they are defined. A reference is a JSON Lines file, or, without one,
the proven tasks of a domain.
"""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from schemas.error_text import one_line
from schemas.errors import InputError
from schemas.files import read_jsonl
from schemas.messages import check_messages
from schemas.tool_calls import call_problem, functions_by_name
from teacher.dialects.base import calls_of, json_text
from teacher.domain import tasks
from teacher.domain.pack import Domain
from teacher.domain.prompts import demonstration
from teacher.inference.client import Reply
from teacher.scenes.images import ImageStore, request_messages

Row = dict[str, Any]  # {"request": {"messages", "tools"}, "calls": bool}

CUT_OFF = "cut off by max_tokens"
_TASKS = 8


def of_domain(domain: Domain, seed: int = 0, thinking: bool = False) -> list[Row]:
    """Proven tasks of a domain as a reference: before each step of a plan "call", after the last "answer".

    Args:
        thinking: give the calls of the history a line of reasoning, as Moonshot's API requires it.
    """
    with TemporaryDirectory() as directory:
        album = ImageStore(Path(directory))
        return [
            row
            for task in tasks.sample(domain, "train", _TASKS, seed, pixels=False, album=album)
            for row in _rows(task, domain, thinking, album)
        ]


def _rows(task: dict[str, Any], domain: Domain, thinking: bool, album: ImageStore) -> list[Row]:
    """A row for each turn of a task; what pictures show is told in words."""
    rows = []
    system = {"role": "system", "content": task["system"]}
    solved = request_messages(demonstration(task, domain, album=album), "source", album)
    conversation = [system, *solved]
    tools = [domain.tools[name] for name in task["tools"]]
    for place, message in enumerate(conversation):
        if message["role"] != "assistant":
            continue
        request = {"messages": conversation[:place], "tools": tools}
        rows.append({"request": request, "calls": "tool_calls" in message})
        if thinking and "tool_calls" in message:
            name = message["tool_calls"][0]["function"]["name"]
            conversation[place] = {**message, "reasoning_content": f"This takes {name}."}
    return rows


def read(path: Path) -> list[Row]:
    """The rows of a reference file.

    Each is {"request": {"messages", "tools"}, "calls": bool}, as `fidelity.record` writes it, or a result of the
    vendor verifier, which says "finish_reason" instead of "calls".

    Raises:
        InputError: names the line and what it lacks; also where all rows call or none does, which measures nothing.
    """
    rows = []
    for number, row in enumerate(read_jsonl(path), start=1):
        place = f"{path}: line {number}"
        request = row.get("request") if isinstance(row, dict) else None
        if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
            raise InputError(f"{place}: request.messages: expected a list of messages")
        called = row["calls"] if "calls" in row else row.get("finish_reason") == "tool_calls"
        if not isinstance(called, bool) or not {"calls", "finish_reason"} & set(row):
            raise InputError(f"{place}: calls: expected true or false")
        # The verifier's own name for a system message inside a conversation.
        messages = [
            {**message, "role": "system"} if message.get("role") == "_input" else message
            for message in request["messages"]
            if isinstance(message, dict)
        ]
        tools = request.get("tools") or []
        due = {"role": "assistant", "content": "the reply that the request is for"}
        verdict = check_messages([*messages, due], tools)
        if verdict["reason"] == "malformed_trace":
            raise InputError(f"{place}: request: {verdict['detail']}")
        rows.append({"request": {"messages": messages, "tools": tools}, "calls": called})
    if len({row["calls"] for row in rows}) < 2:
        raise InputError(f"{path}: expected rows that call a tool and rows that do not")
    return rows


def schema_accuracy(rows: list[Row], replies: list[Reply]) -> dict[str, Any]:
    """Replies whose calls all satisfy their tools' schemas, as a share of the replies with finish_reason tool_calls.

    As the verifier defines it: count_successful_tool_call / count_finish_reason_tool_calls. A reply that says
    tool_calls and makes none is not successful. `share` is None where no reply says so.
    """
    problems = [
        calls_problem(reply, row["request"]["tools"])
        for row, reply in zip(rows, replies, strict=True)
        if calls(reply)
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

    As the verifier defines it, a reply calls when its finish_reason is tool_calls. TP: it and the reference call;
    FP: it does, the reference does not; FN: the other way round. precision = TP / (TP + FP), recall = TP / (TP + FN).
    `always` is the F1 of a teacher that calls whatever it is asked.
    """
    pairs = Counter((row["calls"], calls(reply)) for row, reply in zip(rows, replies, strict=True))
    tp, fp, fn, tn = pairs[True, True], pairs[False, True], pairs[True, False], pairs[False, False]
    return {
        "f1": round(2 * tp / (2 * tp + fp + fn), 4) if tp else 0.0,
        "precision": round(tp / (tp + fp), 4) if tp else 0.0,
        "recall": round(tp / (tp + fn), 4) if tp else 0.0,
        "always": round(2 * (tp + fn) / (2 * (tp + fn) + fp + tn), 4),
        **{"tp": tp, "fp": fp, "fn": fn, "tn": tn},
        "finish_reasons": dict(Counter(str(reply.finish_reason) for reply in replies)),
    }


def calls(reply: Reply) -> bool:
    """Whether a reply calls a tool, as the verifier takes it."""
    return reply.finish_reason == "tool_calls"


def calls_problem(reply: Reply, tools: list[dict[str, Any]]) -> str | None:
    """What is wrong with the calls of a reply by the tools' full schemas; None when nothing is."""
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
