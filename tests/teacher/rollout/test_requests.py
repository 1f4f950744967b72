"""The requests of an episode, to the byte: a changed request has another journal key, and a resume pays for it."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from teacher.domain.pack import Domain, Environment
from teacher.domain.scoring import state_hash
from teacher.inference.replies import Reply
from teacher.rollout import agent_loop
from teacher.rollout.agent_loop import Settings
from teacher.rollout.guidance import Constrained, choose_guidance


class Shelf(Environment):
    def reset(self, **task: Any) -> None:
        self._place = "A1"

    def _state(self) -> dict:
        return {"place": self._place}

    def get(self, item: str) -> dict:
        return {"item": item, "place": self._place}

    def move(self, item: str, place: str) -> str:
        self._place = place
        return "moved"


def _tool(name: str, *arguments: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string"} for argument in arguments},
        "required": list(arguments),
        "additionalProperties": False,
    }
    function = {"name": name, "description": f"The tool {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


SHELF = Domain(
    "shelf",
    Path(),
    {},
    Shelf,
    {},
    {"get": _tool("get", "item"), "move": _tool("move", "item", "place")},
)
MOVE: Any = {
    "version": 1,
    "id": "shelf-train-move-1",
    "domain": "shelf",
    "split": "train",
    "kind": "workflow",
    "template": "move",
    "seed": 1,
    "system": "You keep a shelf.",
    "request": "Move S-1 to B2.",
    "tools": ["get", "move"],
    "plan": [
        {"tool": "get", "arguments": {"item": "S-1"}},
        {"tool": "move", "arguments": {"item": "S-1", "place": "B2"}},
    ],
    "reply": "S-1 is at B2.",
    "checks": {"answer": None, "state": state_hash({"place": "B2"})},
}
MAKER: Any = {"model": "m", "revision": "r", "engine": "llama.cpp", "licence": "Apache-2.0"}
EXAMPLE = [
    {"role": "user", "content": "Where is S-2?"},
    {"role": "assistant", "content": "At C3."},
]
PREFIX = "<tool_call>\n"


async def _requests(settings: Settings, hinted: bool, examples: list[Any]) -> list[Any]:
    """Every call of complete() of an episode that follows the solution, with one bad call on the way."""
    script = [("get", {"item": 7}), *((step["tool"], step["arguments"]) for step in MOVE["plan"])]
    requests: list[Any] = []

    async def complete(messages: Any, tools: Any, sample: int, **parameters: Any) -> Reply:
        requests.append(json.loads(json.dumps([messages, tools, sample, parameters])))
        turn = len(requests) - 1
        message: dict[str, Any] = {"role": "assistant", "content": MOVE["reply"]}
        if turn < len(script):
            name, arguments = script[turn]
            function = {"name": name, "arguments": json.dumps(arguments)}
            call = {"id": f"x{turn}", "type": "function", "function": function}
            message = {"role": "assistant", "content": "", "tool_calls": [call]}
        return Reply("0" * 64, message, "stop", 0.1, {"prompt_tokens": 1, "completion_tokens": 1})

    trace = await agent_loop.run(
        MOVE,
        SHELF,
        complete,
        settings,
        MAKER,
        attempt=2,
        hinted=hinted,
        examples=examples,
    )
    assert trace["outcome"]["checks"] == {"answer": True, "state": True}
    return requests


# Written down from the code of before the guidance of weak teachers was a strategy of its own (4b81f76): the first 16
# hexadecimal digits of sha256 over all messages, tools, attempts and parameters of the four requests.
REQUESTS = [
    (False, False, "", False, "9e0ae9cc54b96d5d"),
    (False, False, "", True, "56f78678b1bb5bce"),
    (False, False, "<tool_call>\n", False, "9e0ae9cc54b96d5d"),
    (False, False, "<tool_call>\n", True, "56f78678b1bb5bce"),
    (False, True, "", False, "1b62f48074727e7a"),
    (False, True, "", True, "35c7fa96bb24b727"),
    (False, True, "<tool_call>\n", False, "f4b2fa079008ec54"),
    (False, True, "<tool_call>\n", True, "bf35339de15c863e"),
    (True, False, "", False, "fb953a1db371bf68"),
    (True, False, "", True, "140f85ff9e487e15"),
    (True, False, "<tool_call>\n", False, "fb953a1db371bf68"),
    (True, False, "<tool_call>\n", True, "140f85ff9e487e15"),
    (True, True, "", False, "c21658870da2ab3a"),
    (True, True, "", True, "3f41053064e93da0"),
    (True, True, "<tool_call>\n", False, "6fe6a2b873ee098c"),
    (True, True, "<tool_call>\n", True, "88a1fa44e79fd4d9"),
]


@pytest.mark.parametrize(("hinted", "constrain", "prefix", "with_example", "digest"), REQUESTS)
def test_an_episode_sends_the_same_requests_to_the_byte(
    hinted: bool, constrain: bool, prefix: str, with_example: bool, digest: str
) -> None:
    guidance = choose_guidance(constrain=constrain, call_prefix=prefix)
    settings = Settings(6, 80, 0.5, 0.95, guidance=guidance)
    requests = asyncio.run(_requests(settings, hinted, [EXAMPLE] if with_example else []))
    assert hashlib.sha256(json.dumps(requests).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("prefix", "lengths", "choices", "bodies"),
    [
        ("", [3, 6, 9, 12], ["required", "required", "none", "none"], [None] * 4),
        (
            PREFIX,
            [4, 7, 9, 12],
            ["required", "required", "none", "none"],
            [*[{"stop": ["<tool_call>"]}] * 2, *[{"logit_bias": [["<", False]]}] * 2],
        ),
    ],
)
def test_a_hinted_constrained_episode_is_led_through_the_solution(
    prefix: str, lengths: list[int], choices: list[str], bodies: list[Any]
) -> None:
    settings = Settings(6, 80, 0.5, 0.95, guidance=Constrained(prefix))
    requests = asyncio.run(_requests(settings, True, []))
    assert [len(messages) for messages, *_ in requests] == lengths
    assert [parameters["tool_choice"] for *_, parameters in requests] == choices
    assert [parameters.get("extra_body") for *_, parameters in requests] == bodies
    assert [sample for _, _, sample, _ in requests] == [2] * 4
