"""Estimates of tokens and time, and how near they are to the messages that a run sends."""

import asyncio
import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from conversations import CONVERSATIONS, conversation, teacher_of
from PIL import Image

from flows import recipe_file
from schemas.trace import Grounding
from teacher.domain import pack as domain
from teacher.domain import tasks as sampled
from teacher.domain.prompts import demonstration
from teacher.inference.replies import Reply
from teacher.planning import cost
from teacher.planning.cost import ConversationTokens
from teacher.rollout import agent_loop
from teacher.rollout import blind_baseline as blind
from teacher.rollout.scheduler import rollouts
from teacher.scenes.images import ImageStore


def context(*settings: str, tasks: Any = None) -> int:
    recipe = recipe_file.load("kimi-k2.5-qwen3-32b", list(settings))
    return cost.context_needed(tasks or CONVERSATIONS, teacher_of(recipe), recipe)


def test_the_context_is_the_longest_prompt_and_every_step_at_its_longest() -> None:
    steps, reply = "generate.max_steps=3", "generate.max_tokens=1000"
    shortest = context(steps, reply)
    assert 3 * 1000 < shortest < 3 * 1000 + 3 * 1000
    assert context("generate.max_steps=6", reply) - shortest == pytest.approx(3 * 1500, abs=1024)
    longer = [conversation(prompt=10_350.0)]
    assert context(steps, reply, tasks=longer) - shortest == pytest.approx(10_000, abs=1200)
    assert context("generate.max_steps=1000") == 262_144
    assert shortest % 1024 == 0


def amounts(*settings: str, tasks: Any = None) -> cost.TokenRanges:
    recipe = recipe_file.load("kimi-k2.5-qwen3-32b", list(settings))
    return cost.tokens(CONVERSATIONS if tasks is None else tasks, teacher_of(recipe), recipe)


def test_tokens_grow_with_tasks_steps_and_attempts_and_less_is_written_without_thinking() -> None:
    plain = amounts()
    for name in ("traces", "prompt_tokens", "output_tokens", "trace_tokens"):
        low, high = plain[name]  # type: ignore[literal-required]
        assert low <= high
    assert plain["traces"] == [300, 600]
    assert amounts(tasks=CONVERSATIONS * 2)["output_tokens"] == [
        2 * n for n in plain["output_tokens"]
    ]
    assert amounts(tasks=[conversation(8)] * 300)["output_tokens"][0] > plain["output_tokens"][0]
    once = amounts("generate.attempts=1")
    assert once["output_tokens"][0] == plain["output_tokens"][0]
    assert once["output_tokens"][1] == plain["output_tokens"][1] / 2
    instant = amounts("generate.mode=instant")
    assert all(instant["output_tokens"][end] < plain["output_tokens"][end] for end in (0, 1))
    assert amounts(tasks=[])["output_tokens"] == [0, 0]


def test_tasks_asked_again_without_their_pictures_and_attempts_that_must_agree_are_counted() -> (
    None
):
    seen = [conversation(2, blind=True)] * 100
    plain, again = amounts("generate.blind=false", tasks=seen), amounts(tasks=seen)
    # 100 prompts of 250 tokens, answered at once; or as long a conversation as the other, read and written once more.
    assert again["prompt_tokens"][0] - plain["prompt_tokens"][0] == 100 * 250
    assert again["prompt_tokens"][1] - plain["prompt_tokens"][1] == pytest.approx(
        plain["prompt_tokens"][1] / 2, abs=100 * 100
    )
    assert again["output_tokens"][0] == pytest.approx(plain["output_tokens"][0] * 4 / 3)
    assert again["output_tokens"][1] == pytest.approx(plain["output_tokens"][1] * 3 / 2)
    assert again["traces"] == plain["traces"] == [100, 200]
    assert amounts(tasks=[conversation(2)] * 100) == plain
    agreed = amounts("generate.blind=false", "filter.agreement=2", tasks=seen)
    assert agreed["traces"] == [200, 200]
    assert agreed["output_tokens"] == [2 * plain["output_tokens"][0], plain["output_tokens"][1]]
    assert agreed["trace_tokens"] == plain["trace_tokens"]


def test_no_trace_is_longer_than_the_context_that_is_served() -> None:
    assert amounts()["trace_tokens"][1] < context()
    # A reply cannot be longer than it is allowed to be.
    assert amounts("generate.max_tokens=100")["output_tokens"][1] <= 600 * 8 * 100


def test_the_measured_mix_takes_the_measured_time() -> None:
    # 994 requests of 8,000 and 442 tokens took 631 s on 8xH200 (vllm-project/recipes, Kimi-K2-Think.md).
    rates: cost.Rates = {"prompt": [13_290 - 695] * 2, "output": [695] * 2, "from": "a test"}
    least, most = cost.seconds([7_952_000] * 2, [438_872] * 2, rates)
    assert least == pytest.approx(631, rel=0.01)
    assert most == pytest.approx(2 * 631, rel=0.01)


def test_a_swarm_has_a_conversation_for_each_sub_agent(tmp_path: Any) -> None:
    legal = domain.load("legal")
    names = [name for name, made in legal.templates.items() if made.kind == "swarm"]
    swarms = [sampled.build(legal, name, "train", 1) for name in names]
    measured = cost.measure(swarms, legal, ImageStore(tmp_path), teacher="source", student="source")
    for task, one in zip(swarms, measured, strict=True):
        assert len(one.agents) == len(task["swarm"]["parts"]) > 1
        replies = sum(each.calls + 1 for each in cost.with_agents([one]))
        assert replies == cost.fewest_replies(task) > len(task["plan"]) + 1
    alone = [replace(one, agents=()) for one in measured]
    one_each, all_of_them = (amounts(tasks=tasks) for tasks in (alone, measured))
    assert all_of_them["traces"][0] == len(cost.with_agents(measured)) > one_each["traces"][0]
    assert all_of_them["prompt_tokens"][0] > one_each["prompt_tokens"][0]


# ------------------------------------------------------------------------------------- and what is really sent


class Solver:
    """Answers like a client whose teacher follows the plans, and keeps the last request of each conversation."""

    def __init__(self, tasks: list[dict[str, Any]]) -> None:
        self.tasks = {task["id"]: task for task in tasks}
        self.last: dict[str, tuple[list[dict], list[dict]]] = {}

    async def complete(
        self, messages: list[dict], tools: list[dict], sample: int, session: str, **_: Any
    ) -> Reply:
        self.last[session] = (messages, tools)
        solved = self.tasks[session.rsplit("/", 1)[0]]
        asked = max(n for n, message in enumerate(messages) if message["role"] == "user")
        step = sum(message["role"] == "tool" for message in messages[asked:])
        message: dict[str, Any] = {"role": "assistant", "content": solved["reply"]}
        if step < len(solved["plan"]):
            call = solved["plan"][step]
            function = {"name": call["tool"], "arguments": json.dumps(call["arguments"])}
            message = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
        return Reply("key", message, "stop", 0.0, {"prompt_tokens": 0, "completion_tokens": 0})

    def tokens(self, image_store: ImageStore) -> float:
        """Of the last requests, each of which holds all of its conversation."""
        total = 0.0
        for messages, tools in self.last.values():
            total += len(json.dumps(tools)) / 3.7
            for message in messages:
                total += 5
                for call in message.get("tool_calls", []):
                    total += 5 + len(call["function"]["name"] + call["function"]["arguments"]) / 2.6
                parts = message["content"]
                if isinstance(parts, str):
                    parts = [{"type": "text", "text": parts}]
                for part in parts:
                    if part["type"] == "text":
                        rest, *pictures = part["text"].split("[Image: ")
                        rate = 2.6 if message["role"] == "tool" else 3.7
                        total += len(rest) / rate + len("".join(pictures)) / 2.6
                    else:
                        png = image_store.png(part["image_url"]["url"].removeprefix("sha256:"))
                        width, height = Image.open(io.BytesIO(png)).size
                        total += math.ceil(width / 28) * math.ceil(height / 28)
        return total


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("legal", "tech-research")]


@pytest.fixture(scope="module", params=["code-review", *_SLOW])
def pack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pack, tasks of it with many pictures, and their image_store."""
    loaded, image_store = (
        domain.load(request.param),
        ImageStore(tmp_path_factory.mktemp("image_store")),
    )
    # One agent has too few steps for a swarm's task.
    mix = {kind: float(kind != "swarm") for kind in loaded.spec["kinds"]}
    return (
        loaded,
        sampled.sample(loaded, "train", 20, seed=0, mix=mix, image_store=image_store),
        image_store,
    )


@pytest.mark.parametrize("images", ["pixels", "source"])
def test_what_is_estimated_of_a_packs_conversations_is_what_is_sent(
    pack: Any, images: Grounding
) -> None:
    loaded, tasks, image_store = pack
    maker: Any = {"model": "m", "revision": "r", "engine": "openai", "licence": "l"}
    settings = agent_loop.Settings(8, 512, 0.0, 1.0, images=images, image_store=image_store)
    shown = {
        name: [
            sampled.build(loaded, name, "train", 400_000_000 + n, image_store=image_store)
            for n in range(2)
        ]
        for name in {task["template"] for task in tasks}
    }

    def examples(task: Any, hinted: bool) -> list[list[dict[str, Any]]]:
        return [
            demonstration(one, loaded, image_store=image_store) for one in shown[task["template"]]
        ]

    asked: Any = Solver(tasks)
    again: Any = Solver(tasks)

    async def run() -> None:
        made = rollouts(tasks, loaded, asked, settings, maker, workers=4, examples=examples)
        traces = [rollout.trace async for rollout in made]
        assert all(agent_loop.passed(trace) for trace in traces)
        with_images = {trace["task"]["id"] for trace in traces if trace["images"]}
        candidates = [
            task for task in tasks if task["id"] in with_images and blind.needs_image(task)
        ]
        attempts = blind.attempts(
            candidates, loaded, again, settings, maker, workers=4, examples=examples
        )
        assert len([trace async for trace in attempts]) == len(candidates)

    asyncio.run(run())
    measured = cost.measure(tasks, loaded, image_store, teacher=images, student="source")

    def estimated(shown: ConversationTokens) -> float:
        return shown.prompt + 2 * shown.example + shown.solution

    assert sum(one.blind is not None for one in measured) == len(again.last) > 3
    assert sum(estimated(one.teacher) for one in measured) == pytest.approx(
        asked.tokens(image_store), rel=0.08
    )
    assert sum(estimated(one.blind) for one in measured if one.blind) == pytest.approx(
        again.tokens(image_store), rel=0.08
    )


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    # By transformers' Kimi_K25ImageProcessor: a page of A4 at 150 dpi, a screen, the largest that is drawn here.
    [
        (1240, 1754, 2835),
        (640, 480, 414),
        (28, 28, 1),
        (29, 28, 2),
        (2048, 1500, 3996),
        (2048, 2048, 4225),
    ],
)
def test_a_picture_takes_a_token_for_each_square_of_28_pixels(
    width: int, height: int, tokens: int
) -> None:
    size = {"width": width, "height": height}
    assert cost.image_tokens(size) == pytest.approx(tokens, rel=0.04)
