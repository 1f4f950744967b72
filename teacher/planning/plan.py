"""What a run will do, on what, and roughly how long and for how much: before anything starts.

Embedded runs: rates measured (benchmarks/README.md) on two CPU cores with a 135M model and scaled by cores and
parameters; they say minutes or hours, not seconds. Large teachers: whether they fit (teacher/planning/memory.py), the command that
serves them, their tokens and GPU-hours (teacher/planning/cost.py).
"""

from typing import Any

from schemas.task import Task
from teacher.inference import vllm_server
from teacher.planning import cost
from teacher.planning import hardware as gpus
from teacher.planning.cost import Conversation
from teacher.planning.memory import chosen, count, fit

_MEASURED_PARAMETERS, _MEASURED_CORES = 134_515_008, 2
# Requests a second of the constrained teacher (939 in 500 s on the legal pack); of the student at the exam.
_TEACHER_REQUESTS, _EXAM_REQUESTS = 1.9, 3.0
_AGAIN = 0.6  # of the tasks need a second attempt, or as many requests
# Tokens of a trace in the embedded models' template, which names tools without their schemas, to those measured: 386 of
# 564 there.
_SHORT = 0.69
_KEPT = 0.95  # of the tasks have a trace that is kept: 174 of 180 there
_FIXED_SECONDS = 90  # export, its checks, publishing


def plan(
    tasks: list[Conversation],
    exam: list[Task],
    teacher: dict[str, Any],
    student: dict[str, Any],
    recipe: Any,
    hardware: gpus.Hardware | None = None,
    learner: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The plan of a run.

    Args:
        tasks: what is to be solved, as teacher/planning/cost.py measures it. exam: the tasks held out.
        teacher, student: their descriptions. recipe: the whole recipe.
        hardware: what it runs on; what this machine has, when None.
        learner: what training takes (student.training.memory.memory); not planned when None.

    Returns:
        {"lines": what is said, "seconds": of each stage, "machine", "fits": whether the teacher does, "command": that
        serves it or None, "teacher": {"name", "fits", "reason", "options": what the recipe's `serve` left open, ...},
        "student": {"name", "fits", "reason", ...}}.

    Raises:
        InputError: a `serve` section with which no machine can serve this teacher.
    """
    hardware = hardware or gpus.find()
    cores = hardware.cores or gpus.cores()
    trainee = {"name": student["name"], "fits": True, "reason": "not planned", **(learner or {})}
    if teacher["engine"] == "llama.cpp" and "memory" not in teacher and not recipe.serve.url:
        made: dict[str, Any] = {"name": teacher["name"], "fits": True, "reason": "it is embedded"}
        seconds = _embedded(tasks, exam, teacher, student, recipe, cores, trainee.get("tokens_s"))
        lines = [
            f"teacher   {teacher['name']}: {teacher['description']}",
            f"student   {student['name']}: {student['description']}",
            f"machine   {cores} CPU cores",
            _task_line(tasks, exam, recipe),
            "time      "
            + ", ".join(f"{stage} {_minutes(value)}" for stage, value in seconds.items()),
            f"in all    {_minutes(sum(seconds.values()))}, roughly",
        ]
        if not trainee["fits"]:
            lines.append(f"no fit    {trainee['reason']}")
    else:
        made = _large(tasks, teacher, recipe, hardware)
        seconds = {}
        if made["seconds"]:
            seconds["generate"] = sum(made["seconds"]) / 2
        if trainee.get("tokens_s"):
            trained = len(tasks) * sum(made["trace_tokens"]) / 2
            seconds["train"] = _trained(trained, recipe) / trainee["tokens_s"]
        lines = [
            *_teacher_lines(made, teacher, hardware, recipe),
            _task_line(tasks, exam, recipe),
            *_cost_lines(made),
            *_student_lines(student, trainee, seconds.get("train")),
        ]
    return {
        "lines": lines,
        "seconds": {k: round(v) for k, v in seconds.items()},
        "machine": {"cores": cores, "hardware": str(hardware)},
        "fits": made["fits"],
        "command": made.get("command"),
        "teacher": {"options": {}, **made},
        "student": trainee,
    }


def _embedded(
    tasks: list[Conversation],
    exam: list[Task],
    teacher: dict[str, Any],
    student: dict[str, Any],
    recipe: Any,
    cores: int,
    tokens_s: float | None,
) -> dict[str, float]:
    """Seconds of each stage, for models that a CPU serves and trains."""
    attempts = recipe.generate.attempts
    if not recipe.filter.agreement:
        attempts = 1 + _AGAIN * (attempts > 1)
    steps = attempts * sum(task.calls + 1 for task in tasks)
    if recipe.generate.blind:
        steps += sum(task.calls + 1 for task in tasks if task.blind)
    exam_steps = sum(len(task["plan"]) + 1 for task in exam) * 2
    # This teacher says no more than the plan does.
    trained = _SHORT * sum(task.read.prompt + task.read.solution for task in tasks)
    return {
        "generate": steps / (_TEACHER_REQUESTS * _speed(teacher, cores)),
        **({"train": _trained(trained, recipe) / tokens_s} if tokens_s else {}),
        "evaluate": exam_steps / (_EXAM_REQUESTS * _speed(student, cores)),
        "the rest": _FIXED_SECONDS,
    }


def _trained(tokens: float, recipe: Any) -> float:
    """Tokens that training computes, of those of one trace of each task."""
    return _KEPT * (1 - recipe.train.holdout) * tokens * recipe.train.epochs


def _speed(model: dict[str, Any], cores: int) -> float:
    return (cores / _MEASURED_CORES) * (
        _MEASURED_PARAMETERS / (model.get("parameters") or _MEASURED_PARAMETERS)
    )


def _large(
    tasks: list[Conversation], teacher: dict[str, Any], recipe: Any, hardware: gpus.Hardware
) -> dict[str, Any]:
    """What is known of a large teacher's part, as numbers; ranges are [low, high]."""
    wanted = cost.context_needed(tasks, teacher, recipe)
    made: dict[str, Any] = {
        "name": teacher["name"],
        "fits": True,
        "context": wanted,
        **cost.tokens(tasks, teacher, recipe),
        "blind": _blind(tasks, recipe),
        "seconds": None,
        "gpu_hours": None,
        "cost": None,
    }
    if recipe.serve.url or teacher["engine"] == "openai":
        url = recipe.serve.url or teacher["source"]["url"]
        return made | {"reason": f"it is served already at {url}"}
    if "memory" not in teacher:
        return made | {"reason": "not planned: its description has no memory section"}
    found = fit(teacher, hardware, wanted, recipe.serve)
    made |= {
        "fits": found.fits,
        "reason": found.reason,
        "alternatives": list(found.alternatives),
        "concurrency": found.concurrency,
        "weights_per_rank": found.weights_per_rank,
        "kv_per_rank": found.kv_per_rank,
        "kv_tokens": found.kv_tokens,
    }
    if not found.fits:
        return made | {"on_a_host": cost.on_a_host(teacher, made)}
    if teacher["engine"] == "vllm":
        made["options"] = chosen(found)
        made["command"] = _command(teacher, recipe, made["options"])
    used = found.tensor_parallel * recipe.serve.data_parallel * recipe.serve.replicas * found.nodes
    rates = cost.rates(teacher, hardware, found, used)
    if rates is None:
        return made
    load = teacher["memory"].get("load_seconds", 0)
    made |= {"load_seconds": load, "rates": rates}
    made["seconds"] = [round(load + time) for time in cost.seconds(made, rates)]
    if hardware.gpu:
        made["gpu_hours"] = [round(used * time / 3600, 1) for time in made["seconds"]]
        if recipe.serve.price_per_gpu_hour:
            made["cost"] = [
                round(recipe.serve.price_per_gpu_hour * hours, 2) for hours in made["gpu_hours"]
            ]
    return made


def _command(teacher: dict[str, Any], recipe: Any, options: dict[str, Any]) -> str:
    weights = teacher["source"].get("hub") or teacher["source"]["path"]
    return vllm_server.shell_commands(teacher, weights, recipe.serve.model_copy(update=options))


# ------------------------------------------------------------------------------------- in words


def _task_line(tasks: list[Conversation], exam: list[Task], recipe: Any) -> str:
    calls, blind = sum(task.calls for task in tasks), _blind(tasks, recipe)
    attempts = "all" if recipe.filter.agreement else "up to"
    again = f", {blind} asked again without their pictures" if blind else ""
    return (
        f"tasks     {len(tasks)} to solve ({calls} calls in their plans), {attempts} {recipe.generate.attempts}"
        f" attempts each{again}; {len(exam)} held out; all proven solvable"
    )


def _blind(tasks: list[Conversation], recipe: Any) -> int:
    """How many of the tasks are asked again without their pictures."""
    return sum(task.blind is not None for task in tasks) if recipe.generate.blind else 0


def _teacher_lines(
    made: dict[str, Any], teacher: dict[str, Any], hardware: gpus.Hardware, recipe: Any
) -> list[str]:
    lines = [
        f"teacher   {teacher['name']}: {teacher['description']}",
        f"machine   {hardware}",
        f"{'fits' if made['fits'] else 'no fit':10}{made['reason']}",
    ]
    for index, line in enumerate(made.get("alternatives", [])):
        lines.append(f"{'instead' if index == 0 else '':10}{line}")
    if made.get("on_a_host"):
        low, high = made["on_a_host"]
        lines.append(
            f"          these traces from a CPU host: {_minutes(low)} to {_minutes(high)} (estimate)"
        )
    for index, line in enumerate(made.get("command", "").splitlines()):
        lines.append(f"{'serve' if index == 0 else '':10}{line}")
    if made.get("options", {}).get("nodes", 1) != recipe.serve.nodes:
        lines.append(f"set       serve.nodes={made['options']['nodes']}")
    mode = recipe.generate.mode or teacher.get("mode")
    least = teacher.get("modes", {}).get(mode, {}).get("max_tokens", 0)
    if recipe.generate.max_tokens < least:
        lines.append(
            f"warning   generate.max_tokens={recipe.generate.max_tokens} cuts replies short: mode {mode} wants"
            f" {least:,} or more"
        )
    if teacher.get("advice"):
        lines.append(f"advice    {' '.join(teacher['advice'].split())}")
    return lines


def _cost_lines(made: dict[str, Any]) -> list[str]:
    traces, read, written = made["traces"], made["prompt_tokens"], made["output_tokens"]
    lines = [
        f"tokens    {traces[0]:,} to {traces[1]:,} traces: {count(read[0])} to {count(read[1])} read,"
        f" {count(written[0])} to {count(written[1])} written (estimate); {made['context']:,} in the longest"
    ]
    if made["seconds"]:
        low, high = made["seconds"]
        line = f"time      {_minutes(low)} to {_minutes(high)}"
        if made["load_seconds"]:
            line += f", {_minutes(made['load_seconds'])} of it to load"
        if made["gpu_hours"]:
            line += f"; {made['gpu_hours'][0]:,.0f} to {made['gpu_hours'][1]:,.0f} GPU-hours"
        lines.append(f"{line} (estimate from {made['rates']['from']})")
    elif made["fits"]:
        lines.append("time      not known: no measurement of this teacher on such a machine")
    if made["cost"]:
        lines.append(
            f"money     {made['cost'][0]:,.0f} to {made['cost'][1]:,.0f} for the teacher's GPUs (estimate)"
        )
    return lines


def _student_lines(
    student: dict[str, Any], trainee: dict[str, Any], seconds: float | None
) -> list[str]:
    line = f"student   {student['name']}: {trainee['reason']}"
    if not trainee["fits"]:
        line += f"; {trainee['advice']}"
    elif seconds:
        line += f"; about {trainee['tokens_s']:,.0f} tokens/s, {_minutes(seconds)} (estimate)"
    if student.get("advice"):
        return [line, f"advice    {' '.join(student['advice'].split())}"]
    return [line]


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    if minutes >= 72 * 60:
        return f"{minutes / 60 / 24:,.0f} days"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
