"""What a run will do, on what, and roughly how long: before anything starts.

The rates are measured (benchmarks/README.md) on two CPU cores with a 135M model and scaled by cores and
parameters; they say minutes or hours, not seconds.
"""

import os
from typing import Any

_MEASURED_PARAMETERS, _MEASURED_CORES = 134_515_008, 2
# Requests a second of the constrained teacher; of the student at the exam; training tokens a second.
_TEACHER_REQUESTS, _EXAM_REQUESTS, _TRAINED_TOKENS = 1.9, 3.0, 180.0
_TOKENS_A_TRACE = 340
_FIXED_SECONDS = 90  # export, its checks, publishing


def plan(
    tasks: list[dict[str, Any]],
    exam: list[dict[str, Any]],
    teacher: dict[str, Any],
    student: dict[str, Any],
    recipe: Any,
) -> dict[str, Any]:
    """The plan of a run: {"lines": what is said, "seconds": of each stage, "machine"}.

    Args:
        tasks, exam: the proven tasks. teacher, student: their descriptions. recipe: the whole recipe.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    steps = sum(len(task["plan"]) + 1 for task in tasks) * (
        1 + 0.6 * (recipe.generate.attempts > 1)
    )
    exam_steps = sum(len(task["plan"]) + 1 for task in exam) * 2
    trained = 0.8 * len(tasks) * _TOKENS_A_TRACE * recipe.train.epochs
    seconds = {
        "generate": steps / (_TEACHER_REQUESTS * _speed(teacher, cores)),
        "train": trained / (_TRAINED_TOKENS * _speed(student, cores)),
        "evaluate": exam_steps / (_EXAM_REQUESTS * _speed(student, cores)),
        "the rest": _FIXED_SECONDS,
    }
    calls = sum(len(task["plan"]) for task in tasks)
    lines = [
        f"teacher   {teacher['name']}: {teacher['description']}",
        f"student   {student['name']}: {student['description']}",
        f"machine   {cores} CPU cores",
        f"tasks     {len(tasks)} to solve ({calls} calls in their plans), up to {recipe.generate.attempts} attempts"
        f" each; {len(exam)} held out; all proven solvable",
        "time      " + ", ".join(f"{stage} {_minutes(value)}" for stage, value in seconds.items()),
        f"in all    {_minutes(sum(seconds.values()))}, roughly",
    ]
    return {
        "lines": lines,
        "seconds": {k: round(v) for k, v in seconds.items()},
        "machine": {"cores": cores},
    }


def _speed(model: dict[str, Any], cores: int) -> float:
    return (cores / _MEASURED_CORES) * (
        _MEASURED_PARAMETERS / (model.get("parameters") or _MEASURED_PARAMETERS)
    )


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
