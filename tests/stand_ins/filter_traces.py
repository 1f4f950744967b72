"""Traces of the legal pack that pass the filter, which tests change one field at a time, and a run of the filter."""

import json

from schemas.filter_run import judge_run
from schemas.ledger import LedgerCount

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


def trace(
    number=1, *, template="end_date", attempt=0, hinted=False, answer=None, request=None, **outcome
):
    """A trace about contract C-<number> that passes the filter. outcome: fields that replace those of its outcome."""
    contract = f"C-{number}"
    arguments = json.dumps({"contract_id": contract})
    call = {"name": "get_contract", "arguments": arguments}
    task_id = f"legal-train-{template}-{number:06d}"
    return {
        "version": 1,
        "id": f"{task_id}/{attempt}",
        "task": {
            "id": task_id,
            "domain": "legal",
            "split": "train",
            "kind": "lookup",
            "template": template,
            "seed": number,
        },
        "teacher": {
            "model": "smollm2-135m",
            "revision": None,
            "engine": "llama.cpp",
            "licence": "Apache-2.0",
        },
        "tools": TOOLS,
        "messages": [
            {"role": "system", "content": "You are a paralegal."},
            {"role": "user", "content": request or f"When does the contract {contract} end?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "a", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "a", "name": "get_contract", "content": "{}"},
            {"role": "assistant", "content": answer or f"{contract} ends on 2 March 2027."},
        ],
        "images": [],
        "calls": [
            {
                "key": "0" * 64,
                "finish_reason": "stop",
                "seconds": 0.5,
                "usage": {"prompt_tokens": 100, "completion_tokens": 20},
            }
        ],
        "hinted": hinted,
        "outcome": {
            "steps": 2,
            "ended": "answered",
            "error": None,
            "checks": {"answer": True, "state": True},
            "tool_errors": [],
            **outcome,
        },
        "verdict": None,
        "children": [],
    }


def filter_traces(traces, exam, settings, count_tokens=None, images=None):
    """The judged traces and the ledger of a run with these traces."""
    rows, count = list(traces), LedgerCount()
    look = images.get if images else None
    judged = list(judge_run(lambda: rows, exam, settings, count_tokens, look))
    for row in judged:
        count.add(row)
    return judged, count.ledger()
