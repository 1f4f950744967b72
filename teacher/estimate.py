"""How many tokens a large teacher will read and write for a recipe's tasks, and how long its server takes for them.

Every number is a range, [low, high], of an estimate: it tells hours from days, and no more.
"""

import math
from typing import Any

from teacher import gpus
from teacher.fit import Fit, host_tokens_s

# Of a conversation, in tokens of 4 characters. A tool's schema: 92 on average in the legal domain. A tool's result: 18
# there, a page of a document elsewhere. A reply that thinks: the 200 to 300 calls within 262,144 tokens of Kimi K2
# Thinking's model card leave it about 1,000 a step, the result included. One that does not: a call or a short answer.
_CHARACTERS, _TOOL_SCHEMA, _EXAMPLE_STEP = 4, 100, 150
_RESULT, _THOUGHT_REPLY, _REPLY = (20, 500), (300, 1200), (60, 250)
# Steps over those of the plan: a teacher that goes straight, and one that looks twice.
_STEPS = (1.0, 1.5)
# Prompt tokens/s of llama.cpp on a CPU host: 107 and 106 on the two servers of teacher/fit.py.
_HOST_PROMPT_S = 107.0


def context_needed(tasks: list[dict[str, Any]], teacher: dict[str, Any], recipe: Any) -> int:
    """Tokens of the longest conversation that the recipe allows, at most the teacher's context.

    The longest prompt, and as many of the longest replies, each with a tool's long result, as there may be steps; in
    whole 1,024s.
    """
    settings = recipe.generate
    prompt = max((_prompt(task, recipe) for task in tasks), default=0)
    longest = prompt + settings.max_steps * (settings.max_tokens + _RESULT[1])
    return min(teacher["context"], 1024 * math.ceil(longest / 1024))


def tokens(
    tasks: list[dict[str, Any]], teacher: dict[str, Any], recipe: Any
) -> dict[str, list[int]]:
    """{"traces", "prompt_tokens", "output_tokens", "trace_tokens"}; the last is the length of one trace.

    prompt_tokens: what a server that keeps prefixes has to read: each token of a conversation once.
    """
    settings = recipe.generate
    mode = settings.mode or teacher.get("mode")
    thinks = teacher["capabilities"]["thinking"] and mode != "instant"
    found: dict[str, list[int]] = {
        name: [] for name in ("traces", "prompt_tokens", "output_tokens", "trace_tokens")
    }
    for end, attempts in enumerate((1, settings.attempts)):
        reply = min((_THOUGHT_REPLY if thinks else _REPLY)[end], settings.max_tokens)
        read = written = 0.0
        for task in tasks:
            steps = min(settings.max_steps, math.ceil(_STEPS[end] * (len(task["plan"]) + 1)))
            read += _prompt(task, recipe) + (steps - 1) * (reply + _RESULT[end])
            written += steps * reply
        found["traces"].append(attempts * len(tasks))
        found["prompt_tokens"].append(round(attempts * read))
        found["output_tokens"].append(round(attempts * written))
        found["trace_tokens"].append(round(read / max(1, len(tasks)) + reply))
    return found


def _prompt(task: dict[str, Any], recipe: Any) -> float:
    """Tokens of a task's first request: its texts, the schemas of its tools, the worked examples."""
    text = (len(task["system"]) + len(task["request"])) / _CHARACTERS
    shown = recipe.generate.examples * _EXAMPLE_STEP * (len(task["plan"]) + 1)
    return text + _TOOL_SCHEMA * len(task["tools"]) + shown


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
