"""How many tokens a large teacher will read and write for a recipe's tasks, and how long its server takes for them.

Prompts are measured on the tasks themselves (`measure`); how much a teacher writes is not known before it is asked, so
every number of `tokens` is a range, [low, high]: it tells hours from days, and no more.
"""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.task import Task
from schemas.trace import Grounding, Message
from teacher.domain.pack import Domain
from teacher.domain.prompts import demonstration, request_content
from teacher.planning import hardware as gpus
from teacher.planning.memory import Fit, host_tokens_s
from teacher.scenes.images import ImageStore, message_images, request_messages

# Characters a token, by Kimi K2.5's tokenizer on 60 tasks of each pack here: 3.9 to 5.0 in system messages, 3.1 to 3.6
# in requests, 3.7 in the tools' schemas; 2.5 to 2.8 in calls and results, whose ids, dates and figures are short
# tokens, and 2.1 to 4.0 in the data behind a picture.
_OF_WORDS, _OF_VALUES = 3.7, 2.6
# Tokens with which a template marks a message, or a call: its role, where it begins and ends.
_MARKS = 5
# MoonViT of Kimi K2.5: patches of 14 px, merged 2 x 2, and of larger pictures at most 16,384 patches (transformers,
# models/kimi_k25/image_processing_kimi_k25.py). Qwen2.5-VL's are as large, Qwen3-VL's 32 px.
_SIDE, _MOST = 2 * 14, 16384 // 4
# Tasks of a template that are solved by their plans, to measure results and worked examples.
_SOLVED = 3
# A reply that thinks: the 200 to 300 calls within 262,144 tokens of Kimi K2 Thinking's model card leave it about 1,000
# a step, the result included. One that does not: a call or a short answer.
_THOUGHT_REPLY, _REPLY = (300, 1200), (60, 250)
# The longest result where a tool is asked for more than the plans ask for: a page of a document.
_RESULT = 500
# Steps over those of the plan: a teacher that goes straight, and one that looks twice.
_STEPS = (1.0, 1.5)
# Prompt tokens/s of llama.cpp on a CPU host: 107 and 106 on the two servers of teacher/planning/memory.py.
_HOST_PROMPT_S = 107.0


@dataclass(frozen=True)
class Shown:
    """Tokens of a task's conversation as one reader is shown it.

    prompt: system message, tools and request. example: a worked example of the task's template. solution: what follows
    the request there: calls, results, reply. result: of one call, on average; longest: of any.
    """

    prompt: float
    example: float
    solution: float
    result: float
    longest: float


@dataclass(frozen=True)
class Conversation:
    """A task's conversation, measured: calls of its plan, and its tokens as the teacher is shown it (`shown`), as the
    teacher is asked again without its pictures (`blind`, None for a task that is not), and as the student reads it
    (`read`)."""

    calls: int
    shown: Shown
    blind: Shown | None
    read: Shown


def measure(
    tasks: Sequence[Task],
    domain: Domain,
    album: ImageStore,
    shown: Grounding,
    read: Grounding,
) -> list[Conversation]:
    """The tasks' conversations, by the messages that a run sends.

    What is not known of a task before it is asked (results of tools, worked examples) is measured on the first tasks of
    its template, solved by their plans.

    Args:
        album: where the tasks' pictures lie; those that tools return are added.
        shown, read: what the teacher and the student are shown of pictures.
    """
    groups: dict[str, list[Task]] = defaultdict(list)
    for task in sorted(tasks, key=lambda task: "swapped" in task):  # no example is a swapped task
        groups[task["template"]].append(task)
    solved = {
        name: [demonstration(task, domain, album=album) for task in group[:_SOLVED]]
        for name, group in groups.items()
    }
    readers = {shown, read, "none"}
    parts = {
        (name, images): _parts(messages, images, album)
        for name, messages in solved.items()
        for images in readers
    }

    def one(task: Task, images: Grounding) -> Shown:
        opening: list[Message] = [
            {"role": "system", "content": task["system"]},
            {"role": "user", "content": request_content(task)},
        ]
        tools = len(json.dumps([domain.tools[name] for name in task["tools"]])) / _OF_WORDS
        prompt = tools + _tokens(opening, images, album)
        return Shown(prompt, **parts[task["template"], images])

    made = []
    for task in tasks:
        answer = task["checks"]["answer"]
        pictures = task.get("pictures") or any(map(message_images, solved[task["template"]]))
        asked_blind = pictures and not (answer and answer["type"] == "not_shown")
        blind = one(task, "none") if asked_blind else None
        made.append(Conversation(len(task["plan"]), one(task, shown), blind, one(task, read)))
    return made


def _parts(solved: list[list[Message]], images: Grounding, album: ImageStore) -> dict[str, float]:
    """What the tasks of one template have in common, of their messages when they are solved."""
    requests = [_tokens(messages[:1], images, album) for messages in solved]
    rest = [_tokens(messages[1:], images, album) for messages in solved]
    results = [
        _tokens([message], images, album)
        for messages in solved
        for message in messages
        if message["role"] == "tool"
    ]
    solution = sum(rest) / len(rest)
    return {
        "example": sum(requests) / len(requests) + solution,
        "solution": solution,
        "result": sum(results) / max(1, len(results)),
        "longest": max(results, default=0),
    }


def _tokens(messages: Sequence[Message], images: Grounding, album: ImageStore) -> float:
    """Tokens of messages as a reader is shown them, pictures as pixels or in words included."""
    total = 0.0
    if images == "pixels":
        total += sum(picture_tokens(album.description(name)) for name in message_images(messages))
    elif images == "source":
        total += (
            sum(len(album.description(n)["source"]) for n in message_images(messages)) / _OF_VALUES
        )
    for message in request_messages(messages, "none", album):
        rate = _OF_VALUES if message["role"] == "tool" else _OF_WORDS
        total += _MARKS + len(message["content"]) / rate
        for call in message.get("tool_calls", []):
            total += _MARKS + len("".join(call["function"].values())) / _OF_VALUES
    return total


def picture_tokens(size: dict[str, Any]) -> int:
    """Tokens that a picture of "width" x "height" px takes where its pixels are shown."""
    across, down = (math.ceil(size[side] / _SIDE) for side in ("width", "height"))
    return min(across * down, _MOST)


def context_needed(
    conversations: Sequence[Conversation], teacher: dict[str, Any], recipe: Any
) -> int:
    """Tokens of the longest conversation that the recipe allows, at most the teacher's context.

    The longest prompt, and as many of the longest replies, each with a tool's longest result, as there may be steps; in
    whole 1,024s.
    """
    settings = recipe.generate
    prompt = max((_prompt(one.shown, recipe) for one in conversations), default=0)
    result = max((one.shown.longest for one in conversations), default=0)
    longest = prompt + settings.max_steps * (settings.max_tokens + max(result, _RESULT))
    return min(teacher["context"], 1024 * math.ceil(longest / 1024))


def tokens(
    conversations: Sequence[Conversation], teacher: dict[str, Any], recipe: Any
) -> dict[str, list[int]]:
    """{"traces", "prompt_tokens", "output_tokens", "trace_tokens"}; the last is what a student reads of one trace.

    prompt_tokens: what a server that keeps prefixes has to read: each token of a conversation once. Read and written
    tokens include those of the tasks that are asked again without their pictures, which leave no traces.
    """
    settings = recipe.generate
    mode = settings.mode or teacher.get("mode")
    thinks = teacher["capabilities"]["thinking"] and mode != "instant"
    found: dict[str, list[int]] = {
        name: [] for name in ("traces", "prompt_tokens", "output_tokens", "trace_tokens")
    }
    fewest = settings.attempts if recipe.filter.agreement else 1
    for end, attempts in enumerate((fewest, settings.attempts)):
        reply = min((_THOUGHT_REPLY if thinks else _REPLY)[end], settings.max_tokens)
        read = written = learned = 0.0
        for one in conversations:
            steps = min(settings.max_steps, math.ceil(_STEPS[end] * (one.calls + 1)))
            read += attempts * (
                _prompt(one.shown, recipe) + (steps - 1) * (reply + one.shown.result)
            )
            written += attempts * steps * reply
            more = max(0, steps - 1 - one.calls) * one.read.result
            learned += one.read.prompt + one.read.solution + more + steps * reply
            if settings.blind and one.blind:
                # A teacher that goes straight says at once that there is no picture.
                steps = steps if end else 1
                read += _prompt(one.blind, recipe) + (steps - 1) * (reply + one.blind.result)
                written += steps * reply
        found["traces"].append(attempts * len(conversations))
        found["prompt_tokens"].append(round(read))
        found["output_tokens"].append(round(written))
        found["trace_tokens"].append(round(learned / max(1, len(conversations))))
    return found


def _prompt(shown: Shown, recipe: Any) -> float:
    """Tokens of a first request, with its worked examples."""
    return shown.prompt + recipe.generate.examples * shown.example


def rates(
    teacher: dict[str, Any], hardware: gpus.Hardware, found: Fit, used: int
) -> dict[str, Any] | None:
    """Tokens/s at full load on `used` GPUs: {"prompt", "output", "from": in words}; None where nobody measured.

    What was measured on other GPUs is scaled by memory bandwidth, which bounds decoding.
    """
    if teacher["engine"] == "llama.cpp":
        if hardware.gpu:
            return None
        speeds = list(host_tokens_s(teacher, teacher["memory"]["weights_bytes"]))
        words = "one reply at a time, bound by the memory bandwidth of one to two sockets"
        return {"prompt": [_HOST_PROMPT_S] * 2, "output": speeds, "from": words}
    gpu = hardware.gpu
    measured = [row for row in teacher["memory"].get("measured", []) if "total_tokens_s" in row]
    if not gpu or not gpu.bandwidth or not measured:
        return None

    def unlike(row: dict[str, Any]) -> tuple[bool, int]:
        parts = row.get("decode_context_parallel", 1)
        return gpus.parse(row["gpus"]).gpu != gpu, abs(parts - found.decode_context_parallel)

    row = min(measured, key=unlike)
    machine = gpus.parse(row["gpus"])
    assert machine.gpu and machine.gpu.bandwidth
    scale = used * gpu.bandwidth / (machine.gpus * machine.gpu.bandwidth)
    output, total = row["output_tokens_s"], row["total_tokens_s"]
    words = f"{output:,.0f} output of {total:,.0f} total tokens/s measured on {row['gpus']}"
    if scale != 1:
        words += f", times {scale:.2f} for the memory bandwidth here"
    return {"prompt": [(total - output) * scale] * 2, "output": [output * scale] * 2, "from": words}


def seconds(amounts: dict[str, list[int]], speeds: dict[str, Any]) -> list[float]:
    """Least and most time to generate.

    Prompt and output rates were measured at once, on one mix of both: the slower of the two alone is too short a time
    for another mix, their sum too long.
    """
    kinds = ("prompt", "output")
    fast = [amounts[f"{kind}_tokens"][0] / speeds[kind][1] for kind in kinds]
    slow = [amounts[f"{kind}_tokens"][1] / speeds[kind][0] for kind in kinds]
    return [max(fast), sum(slow)]


def on_a_host(teacher: dict[str, Any], amounts: dict[str, list[int]]) -> list[float] | None:
    """Least and most time on a CPU host that holds the largest GGUF, or None where there is none."""
    sizes = [file["bytes"] for file in teacher["memory"].get("gguf", [])]
    if not sizes:
        return None
    output = list(host_tokens_s(teacher, max(sizes)))
    return seconds(amounts, {"prompt": [_HOST_PROMPT_S] * 2, "output": output})
