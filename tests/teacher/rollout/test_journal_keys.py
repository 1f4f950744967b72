"""The journal keys of an episode whose teacher has no dialect."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from scripted_model import MAKER, solution
from scripted_server import Scripted, says

from schemas.task import Task
from schemas.trace import Trace
from teacher.domain import Domain, Environment
from teacher.domain.scoring import state_hash
from teacher.inference.client import Client
from teacher.inference.journal import Journal
from teacher.rollout import agent_loop
from teacher.rollout.agent_loop import Settings, passed
from teacher.rollout.guidance import Constrained

# ------------------------------------------------------------------------------------- requests


class Shelf(Environment):
    def reset(self, **task: Any) -> None: ...

    def _state(self) -> dict:
        return {}

    def get(self, item: str) -> dict:
        return {"item": item, "count": 3}


SHELF = Domain(
    "shelf",
    Path(),
    {},
    Shelf,
    {},
    {
        "get": {
            "type": "function",
            "function": {
                "name": "get",
                "description": "Get an item.",
                "parameters": {
                    "type": "object",
                    "properties": {"item": {"type": "string"}},
                    "required": ["item"],
                    "additionalProperties": False,
                },
            },
        }
    },
)
COUNT: Task = {
    "version": 1,
    "id": "shelf-train-count-1",
    "domain": "shelf",
    "split": "train",
    "kind": "lookup",
    "template": "count",
    "seed": 1,
    "system": "You keep a shelf.",
    "request": "How many S-1?",
    "tools": ["get"],
    "plan": [{"tool": "get", "arguments": {"item": "S-1"}}],
    "reply": "There are 3.",
    "checks": {"answer": {"type": "number", "value": 3}, "state": state_hash({})},
}


@pytest.mark.parametrize(
    ("loop", "hinted", "keys"),
    [
        (
            Settings(6, 80, 0.5, 0.95),
            False,
            [
                "a33cf61ae5dd618321565981a52263b596cb981fa2d552327ce6c84a3c3baf6b",
                "34b4763bc46cf8a646d3ae25891adc11ab3eae81610f2f2f73cd10621fc5f00a",
            ],
        ),
        (
            Settings(6, 80, 0.5, 0.95, guidance=Constrained("<tool_call>\n")),
            True,
            [
                "315b7a648a752fd79cb16b96bf03d982db10aa1dc45e6aa283ffd51779d2fc5b",
                "25959492915015204230765c776a82a1d5749f41aa762c5683eb3ef0ddd5c1bc",
            ],
        ),
    ],
)
def test_what_a_teacher_without_a_dialect_is_sent_never_changes(
    tmp_path: Path, loop: Settings, hinted: bool, keys: list[str]
) -> None:
    # Another key is another request: every journal of such a teacher would be worth nothing.
    async def scene() -> tuple[Trace, list[dict[str, Any]]]:
        lines = [says(tool_calls=solution(COUNT)[0]["tool_calls"]), says(COUNT["reply"])]  # type: ignore[index]
        async with Scripted(lines) as server:
            identity = {"model": "m", "revision": "r"}
            async with Client(server.endpoint(), identity, Journal(tmp_path), 1, 10) as client:
                trace = await agent_loop.run(
                    COUNT, SHELF, client.complete, loop, MAKER, hinted=hinted
                )
            return trace, server.requests

    trace, sent = asyncio.run(scene())
    assert passed(trace) and [call["key"] for call in trace["calls"]] == keys
    fields = {"model", "messages", "tools", "max_tokens", "temperature", "top_p"}
    assert sent[0].keys() - {"tool_choice", "stop"} == fields
