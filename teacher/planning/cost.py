"""Estimates the tokens that a large teacher reads and writes for a recipe's tasks, and the time of its server.

Prompts are measured on the tasks themselves (`measure`). How much a teacher writes is unknown before the run, so
`tokens` returns ranges, [low, high], which distinguish hours from days and are no more precise than that.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from schemas.recipe import Recipe
from schemas.task import Task
from schemas.trace import Grounding, Message, Tool
from teacher.domain.drift import tools_of
from teacher.domain.pack import Domain
from teacher.domain.prompts import demonstration, request_content
from teacher.domain.swarm import gold_child, own_calls
from teacher.planning.hardware import Hardware, parse
from teacher.planning.memory import Fit, host_tokens_s
from teacher.rollout.guidance import Guidance
from teacher.scenes.images import ImageStore, message_images, request_messages

# Characters per token, measured with Kimi K2.5's tokenizer on 60 tasks of each pack here: 3.9 to 5.0 in system
# messages, 3.1 to 3.6 in requests, 3.7 in tool schemas; 2.5 to 2.8 in calls and results, whose ids, dates and figures
# are short tokens, and 2.1 to 4.0 in the source data of images.
CHARACTERS_PER_TOKEN, _CHARACTERS_PER_VALUE_TOKEN = 3.7, 2.6
# Tokens that a chat template adds to a message or a call: its role, begin and end markers.
_MARKERS = 5
# MoonViT of Kimi K2.5: patches of 14 px, merged 2 x 2; at most 16,384 patches of a larger image (transformers,
# models/kimi_k25/image_processing_kimi_k25.py). Qwen2.5-VL's patches have the same size, Qwen3-VL's 32 px after
# merging.
_IMAGE_TOKEN_SIDE, _MAX_IMAGE_TOKENS = 2 * 14, 16384 // 4
# Tasks of each template whose solutions are replayed to measure results and worked examples.
_SOLVED = 3
# Tokens of a reply, [low, high]. With thinking: 200 to 300 calls in 262,144 tokens (model card of Kimi K2 Thinking)
# leave about 1,000 per step, result included. Without: a call or a short answer.
_THINKING_REPLY, _REPLY = (300, 1200), (60, 250)
# Tokens of the longest result if the teacher requests more than the solutions do: a page of a document.
_RESULT = 500
# Steps of the teacher, relative to the solution's: the direct way, and one with detours.
_STEPS = (1.0, 1.5)
# Prompt tokens/s of llama.cpp on a CPU host: 107 and 106 on the two servers of teacher/planning/memory.py.
_HOST_PROMPT_S = 107.0


@dataclass(frozen=True)
class ConversationTokens:
    """Tokens of a task's conversation in the form that one model gets.

    Attributes:
        prompt: system message, tools and request.
        example: a worked example of the task's template.
        solution: calls, results and reply of the worked example.
        result: the average result of a call. longest: the longest result of a call.
    """

    prompt: float
    example: float
    solution: float
    result: float
    longest: float


@dataclass(frozen=True)
class Conversation:
    """A task's conversation, measured.

    Attributes:
        calls: calls of the solution; those of one message count once.
        teacher, student: its tokens as the teacher and the student get it.
        blind: its tokens when it is repeated without its images; None for a task that is not repeated.
        agents: the conversations of a swarm's sub-agents.
    """

    calls: int
    teacher: ConversationTokens
    blind: ConversationTokens | None
    student: ConversationTokens
    agents: tuple["Conversation", ...] = ()


class TokenRanges(TypedDict):
    """Estimates as [low, high]. trace_tokens: tokens of one trace as the student reads it."""

    traces: list[int]
    prompt_tokens: list[int]
    output_tokens: list[int]
    trace_tokens: list[int]


# Tokens/s at full load as [low, high] for prompts and output; "from" names the measurement.
Rates = TypedDict("Rates", {"prompt": list[float], "output": list[float], "from": str})


def measure(
    tasks: Sequence[Task],
    domain: Domain,
    images: ImageStore,
    *,
    teacher: Grounding,
    student: Grounding,
    student_tools: Callable[[list[Tool]], float] | None = None,
    guidance: Guidance | None = None,
) -> list[Conversation]:
    """Measures the tasks' conversations, in the form of the messages that a run sends.

    Tool results and worked examples are measured on the first tasks of each template, by replaying their solutions.

    Args:
        images: the images of the tasks; those that tools return are added.
        teacher, student: how each model gets images.
        student_tools: the tokens in which the student's template lists tools; by default those of their JSON.
        guidance: of the teacher; it may show fewer tools than a task offers.
    """
    groups: dict[str, list[Task]] = defaultdict(list)
    for task in sorted(tasks, key=lambda task: "swapped" in task):  # no swapped task is an example
        groups[task["template"]].append(task)
    examples = {(name, False): group[:_SOLVED] for name, group in groups.items()}
    for (name, _), group in [*examples.items()]:
        examples[name, True] = [part for task in group for part in _sub_tasks(task)[:1]]
    solved = {
        key: [demonstration(task, domain, image_store=images) for task in group]
        for key, group in examples.items()
    }
    groundings: set[Grounding] = {teacher, student, "none"}
    parts = {
        (key, grounding): _template_tokens(messages, grounding, images)
        for key, messages in solved.items()
        for grounding in groundings
        if messages
    }

    def converse(task: Task, is_part: bool, is_repeated: bool) -> Conversation:
        key = task["template"], is_part
        offered = tools_of(domain, task)
        shown = json_tokens((guidance or Guidance()).shown_tools(task, offered))
        listed = (student_tools or json_tokens)([*offered.values()])

        def count(grounding: Grounding, tools: float) -> ConversationTokens:
            opening: list[Message] = [
                {"role": "system", "content": task["system"]},
                {"role": "user", "content": request_content(task)},
            ]
            prompt = tools + _tokens(opening, grounding, images)
            return ConversationTokens(prompt, **parts[key, grounding])

        return Conversation(
            calls=_calls(task),
            teacher=count(teacher, shown),
            blind=count("none", shown) if is_repeated else None,
            student=count(student, listed),
            agents=tuple(converse(part, True, is_repeated) for part in _sub_tasks(task)),
        )

    conversations = []
    for task in tasks:
        answer = task["checks"]["answer"]
        seen = solved[task["template"], False] + solved[task["template"], True]
        has_images = task.get("pictures") or any(map(message_images, seen))
        is_repeated = has_images and not (answer and answer["type"] == "not_shown")
        conversations.append(converse(task, False, bool(is_repeated)))
    return conversations


def _sub_tasks(task: Task) -> list[Task]:
    """The tasks of a swarm's sub-agents."""
    if "swarm" not in task:
        return []
    state = task["checks"]["state"]
    return [gold_child(task, index, state) for index in range(len(task["swarm"]["parts"]))]


def _calls(task: Task) -> int:
    """Calls of the solution, of a swarm those of its orchestrator; those of one message count once."""
    if "swarm" not in task:
        return len(task["plan"])
    return 2 + len(own_calls(task))  # one creates the sub-agents, one message assigns all parts


def with_agents(conversations: Sequence[Conversation]) -> list[Conversation]:
    """Returns the conversations, and those of their sub-agents."""
    return [each for one in conversations for each in (one, *one.agents)]


def fewest_replies(task: Task) -> int:
    """Replies of the task's solution, of a swarm's sub-agents too: one a call, and the answer."""
    return sum(_calls(one) + 1 for one in (task, *_sub_tasks(task)))


def json_tokens(tools: list[Tool]) -> float:
    """Returns the tokens of tools as JSON."""
    return len(json.dumps(tools)) / CHARACTERS_PER_TOKEN


def _template_tokens(
    solved: list[list[Message]], grounding: Grounding, images: ImageStore
) -> dict[str, float]:
    """The fields of ConversationTokens that the tasks of one template share, from the messages of solved tasks."""
    requests = [_tokens(messages[:1], grounding, images) for messages in solved]
    rest = [_tokens(messages[1:], grounding, images) for messages in solved]
    results = [
        _tokens([message], grounding, images)
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


def _tokens(messages: Sequence[Message], grounding: Grounding, images: ImageStore) -> float:
    """Tokens of messages with their images, as pixels or as source data in words."""
    total = 0.0
    if grounding == "pixels":
        total += sum(image_tokens(images.description(name)) for name in message_images(messages))
    elif grounding == "source":
        sources = (images.description(name)["source"] for name in message_images(messages))
        total += sum(map(len, sources)) / _CHARACTERS_PER_VALUE_TOKEN
    for message in request_messages(messages, "none", images):
        is_result = message["role"] == "tool"
        rate = _CHARACTERS_PER_VALUE_TOKEN if is_result else CHARACTERS_PER_TOKEN
        total += _MARKERS + len(message["content"]) / rate
        for call in message.get("tool_calls", []):
            characters = len("".join(call["function"].values()))
            total += _MARKERS + characters / _CHARACTERS_PER_VALUE_TOKEN
    return total


def result_tokens(result: Any) -> float:
    """Tokens of a tool's result, a JSON value."""
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    return _MARKERS + len(text) / _CHARACTERS_PER_VALUE_TOKEN


def image_tokens(size: dict[str, Any]) -> int:
    """Tokens of an image of size["width"] x size["height"] px whose pixels are sent."""
    across, down = (math.ceil(size[side] / _IMAGE_TOKEN_SIDE) for side in ("width", "height"))
    return min(across * down, _MAX_IMAGE_TOKENS)


def context_needed(
    conversations: Sequence[Conversation], teacher: dict[str, Any], recipe: Recipe
) -> int:
    """Tokens of the longest conversation that the recipe allows, at most the teacher's context.

    The longest prompt plus, for each allowed step, the longest reply and the longest result; rounded up to a multiple
    of 1,024.
    """
    settings, everyone = recipe.generate, with_agents(conversations)
    prompt = max((_prompt(one.teacher, recipe) for one in everyone), default=0)
    result = max((one.teacher.longest for one in everyone), default=0)
    longest = prompt + settings.max_steps * (settings.max_tokens + max(result, _RESULT))
    return min(teacher["context"], 1024 * math.ceil(longest / 1024))


def tokens(
    conversations: Sequence[Conversation], teacher: dict[str, Any], recipe: Recipe
) -> TokenRanges:
    """Estimates traces and tokens of a run.

    prompt_tokens counts each token of a conversation once, because the server's prefix cache holds the earlier ones.
    Prompt and output tokens include the tasks that are repeated without their images, which leave no traces.
    """
    settings = recipe.generate
    mode = settings.mode or teacher.get("mode")
    thinks = teacher["capabilities"]["thinking"] and mode != "instant"
    ranges: TokenRanges = {
        "traces": [],
        "prompt_tokens": [],
        "output_tokens": [],
        "trace_tokens": [],
    }
    everyone = with_agents(conversations)
    fewest = settings.attempts if recipe.filter.agreement else 1
    for end, attempts in enumerate((fewest, settings.attempts)):
        reply = min((_THINKING_REPLY if thinks else _REPLY)[end], settings.max_tokens)
        prompt = output = trained = 0.0
        for one in everyone:
            steps = min(settings.max_steps, math.ceil(_STEPS[end] * (one.calls + 1)))
            prompt += attempts * (
                _prompt(one.teacher, recipe) + (steps - 1) * (reply + one.teacher.result)
            )
            output += attempts * steps * reply
            detours = max(0, steps - 1 - one.calls) * one.student.result
            trained += one.student.prompt + one.student.solution + detours + steps * reply
            if settings.blind and one.blind:
                # In the best case the teacher replies at once that there is no image.
                steps = steps if end else 1
                prompt += _prompt(one.blind, recipe) + (steps - 1) * (reply + one.blind.result)
                output += steps * reply
        ranges["traces"].append(attempts * len(everyone))
        ranges["prompt_tokens"].append(round(prompt))
        ranges["output_tokens"].append(round(output))
        ranges["trace_tokens"].append(round(trained / max(1, len(everyone))))
    return ranges


def _prompt(conversation: ConversationTokens, recipe: Recipe) -> float:
    """Tokens of the first request, including worked examples."""
    return conversation.prompt + recipe.generate.examples * conversation.example


def rates(teacher: dict[str, Any], hardware: Hardware, fit: Fit, gpu_count: int) -> Rates | None:
    """Tokens/s at full load on `gpu_count` GPUs; None without a measurement of the teacher.

    A measurement on other GPUs is scaled by memory bandwidth, which bounds decoding.
    """
    if teacher["engine"] == "llama.cpp":
        if hardware.gpu:
            return None
        speeds = list(host_tokens_s(teacher, teacher["memory"]["weights_bytes"]))
        origin = "one reply at a time, bound by the memory bandwidth of one to two sockets"
        return {"prompt": [_HOST_PROMPT_S] * 2, "output": speeds, "from": origin}
    gpu = hardware.gpu
    measurements = [row for row in teacher["memory"].get("measured", []) if "total_tokens_s" in row]
    if not gpu or not gpu.bandwidth or not measurements:
        return None

    def distance(row: dict[str, Any]) -> tuple[bool, int]:
        parts = row.get("decode_context_parallel", 1)
        return parse(row["gpus"]).gpu != gpu, abs(parts - fit.decode_context_parallel)

    row = min(measurements, key=distance)
    machine = parse(row["gpus"])
    assert machine.gpu and machine.gpu.bandwidth
    scale = gpu_count * gpu.bandwidth / (machine.gpus * machine.gpu.bandwidth)
    output, total = row["output_tokens_s"], row["total_tokens_s"]
    origin = f"{output:,.0f} output of {total:,.0f} total tokens/s measured on {row['gpus']}"
    if scale != 1:
        origin += f", times {scale:.2f} for the memory bandwidth here"
    return {
        "prompt": [(total - output) * scale] * 2,
        "output": [output * scale] * 2,
        "from": origin,
    }


def seconds(
    prompt_tokens: Sequence[int], output_tokens: Sequence[int], rates: Rates
) -> list[float]:
    """Seconds to generate, as [low, high].

    Prompt and output rates were measured together on one mix of both. For another mix, the slower of the two alone is a
    lower bound, and their sum an upper bound.
    """
    fast = [prompt_tokens[0] / rates["prompt"][1], output_tokens[0] / rates["output"][1]]
    slow = [prompt_tokens[1] / rates["prompt"][0], output_tokens[1] / rates["output"][0]]
    return [max(fast), sum(slow)]


def seconds_on_cpu_host(
    teacher: dict[str, Any], prompt_tokens: Sequence[int], output_tokens: Sequence[int]
) -> list[float] | None:
    """Seconds on a CPU host that holds the teacher's largest GGUF, as [low, high]; None if no GGUF is described."""
    sizes = [file["bytes"] for file in teacher["memory"].get("gguf", [])]
    if not sizes:
        return None
    output = list(host_tokens_s(teacher, max(sizes)))
    rates: Rates = {"prompt": [_HOST_PROMPT_S] * 2, "output": output, "from": ""}
    return seconds(prompt_tokens, output_tokens, rates)
