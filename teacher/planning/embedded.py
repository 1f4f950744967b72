"""Seconds of a run whose models llama.cpp serves whole on this machine, from measured rates.

The rates of a 135M model on two CPU cores (benchmarks/README.md) are scaled by cores and parameters.
"""

from typing import Any

from schemas.recipe import Recipe
from schemas.scorecard import HEADLINE, part_of
from schemas.task import Task
from teacher.inference.host import cores
from teacher.planning.cost import Conversation, fewest_replies, with_agents
from teacher.planning.hardware import Hardware

_MEASURED_PARAMETERS, _MEASURED_CORES = 134_515_008, 2
# Requests per second on the legal pack, nothing else running: of the constrained teacher (1,004 in 284 s), and of base
# and student in the exam with the whole toolbox (535 in 205 s).
TEACHER_REQUESTS, EXAM_REQUESTS = 3.5, 2.6
# The same on one H200, of a model with 1.5B parameters in 4 bits and 64 conversations at once: constrained, 176
# requests in 44 s (llama.cpp samples all conversations on one thread); free, 848 in 45 s.
_GPU_PARAMETERS, _GPU_CONSTRAINED, _GPU_FREE = 1_543_714_304, 4.0, 19.0
# Share of the tasks that need a second attempt: 156 of 220 whose first had no hint, 14 of 300 with one.
_RETRIED, _RETRIED_HINTED = 0.7, 0.05
# Tokens of a trace by the embedded models' tokenizer, relative to the estimate: 1.13 in the default run (736 tokens in
# the mean), 0.90 in one of recipe local-swarm (523).
_TOKENS_OF_ESTIMATE = 1.1
_KEPT = 0.95  # share of the tasks with a trace that is kept: 294 of 300 in the default run, 172 of 180 before
_FIXED_SECONDS = 90  # export, its checks, publishing


def embedded_seconds(
    tasks: list[Conversation],
    exam: list[Task],
    recipe: Recipe,
    *,
    teacher_requests_s: float,
    exam_requests_s: float,
    trained_tokens_s: float | None,
) -> dict[str, float]:
    """Seconds of each stage, for models that llama.cpp serves whole on this machine."""
    attempts: float = recipe.generate.attempts
    if not recipe.filter.agreement:
        hinted = recipe.generate.hint == "always"
        attempts = 1 + (_RETRIED_HINTED if hinted else _RETRIED) * (attempts > 1)
    everyone = with_agents(tasks)
    steps = attempts * sum(one.calls + 1 for one in everyone)
    if recipe.generate.blind:
        steps += sum(one.calls + 1 for one in everyone if one.blind)
    # The student is evaluated on every task, the base and further variants on those of the headline.
    further = 1 + len(recipe.evaluate.variants)
    exam_steps = sum(
        fewest_replies(task) * (1 + further * (part_of(task) == HEADLINE)) for task in exam
    )
    # The replies of this teacher are no longer than those of the solutions.
    trace_tokens = _TOKENS_OF_ESTIMATE * sum(
        one.student.prompt + one.student.solution for one in everyone
    )
    seconds = {"generate": steps / teacher_requests_s}
    if trained_tokens_s:
        seconds["train"] = trained_tokens(trace_tokens, recipe) / trained_tokens_s
    seconds["evaluate"] = exam_steps / exam_requests_s
    seconds["the rest"] = _FIXED_SECONDS
    return seconds


def trained_tokens(trace_tokens: float, recipe: Recipe) -> float:
    """Tokens that training computes, from those of a trace of each task, with its sub-agents' traces."""
    return _KEPT * (1 - recipe.train.holdout) * trace_tokens * recipe.train.epochs


def requests_s(
    model: dict[str, Any],
    hardware: Hardware,
    measured: float,
    *,
    constrained: bool,
    servers: int = 1,
) -> float:
    """Requests per second that llama.cpp answers here.

    measured: those of the embedded model on two cores. servers: side by side. Each samples on a thread of its own,
    which is what limits constrained replies; how much it speeds up free ones was not measured.
    """
    parameters = model.get("parameters") or _MEASURED_PARAMETERS
    if hardware.gpu:  # A smaller model is no faster: the time goes into sampling.
        requests = min(servers * _GPU_CONSTRAINED, _GPU_FREE) if constrained else _GPU_FREE
        return requests * min(1, _GPU_PARAMETERS / parameters)
    core_count = hardware.cores or cores()
    return measured * (core_count / _MEASURED_CORES) * (_MEASURED_PARAMETERS / parameters)
