"""Makes the plan of a run before anything starts: what it does, on which hardware, and about how long and for how much.

The time of an embedded run is estimated from measured rates (teacher/planning/embedded.py); it distinguishes minutes
from hours. For a large teacher the plan has the fit (teacher/planning/memory.py), the command that serves it, and its
tokens and GPU-hours (teacher/planning/cost.py).
"""

from typing import Any, NotRequired, TypedDict

from schemas.recipe import Recipe
from schemas.task import Task
from teacher.inference import vllm_server
from teacher.inference.host import cores
from teacher.planning import cost
from teacher.planning.cost import Conversation, with_agents
from teacher.planning.embedded import (
    EXAM_REQUESTS,
    TEACHER_REQUESTS,
    embedded_seconds,
    requests_s,
    trained_tokens,
)
from teacher.planning.hardware import Hardware, find
from teacher.planning.memory import chosen, count, fit
from teacher.planning.replicas import planned_servers, without_room

# Fewer tokens than this cut off the replies of a teacher that explains itself or thinks.
_SMALL_REPLY = 256
_SMALL_TEACHER = 4e9  # parameters


class TeacherPlan(TypedDict):
    """The teacher's part of a plan. Pairs are [low, high].

    Attributes:
        options: fields of the recipe's `serve` section that the plan decides.
        context: tokens of the longest conversation. blind: tasks that are repeated without their images.
        cost: price of the GPU-hours. load_seconds: part of `seconds`.
        on_a_host: seconds on a CPU host, if the teacher does not fit.
        The fields after it are those of memory.Fit.
    """

    name: str
    fits: bool
    reason: str
    options: dict[str, int]
    command: NotRequired[str]
    context: NotRequired[int]
    traces: NotRequired[list[int]]
    prompt_tokens: NotRequired[list[int]]
    output_tokens: NotRequired[list[int]]
    trace_tokens: NotRequired[list[int]]
    blind: NotRequired[int]
    seconds: NotRequired[list[int] | None]
    gpu_hours: NotRequired[list[float] | None]
    cost: NotRequired[list[float] | None]
    load_seconds: NotRequired[float]
    rates: NotRequired[cost.Rates]
    on_a_host: NotRequired[list[float] | None]
    alternatives: NotRequired[list[str]]
    concurrency: NotRequired[float]
    weights_per_rank: NotRequired[int]
    kv_per_rank: NotRequired[int]
    kv_tokens: NotRequired[int]


class Plan(TypedDict):
    """The content of plan.json.

    Attributes:
        lines: the plan as a person reads it.
        seconds: of each stage.
        machine: {"cores", "hardware"}.
        fits: whether the teacher does.
        command: shell commands that serve the teacher, one per line.
        student: what training takes (student.training.memory.memory), with the student's name.
    """

    lines: list[str]
    seconds: dict[str, int]
    machine: dict[str, Any]
    fits: bool
    command: str | None
    teacher: TeacherPlan
    student: dict[str, Any]


def plan(
    tasks: list[Conversation],
    exam: list[Task],
    *,
    teacher: dict[str, Any],
    student: dict[str, Any],
    recipe: Recipe,
    hardware: Hardware | None = None,
    training: dict[str, Any] | None = None,
    student_remark: str = "",
) -> Plan:
    """The plan of a run.

    Args:
        tasks: the training tasks, measured by `cost.measure`. exam: the held-out tasks.
        teacher, student: their descriptions.
        hardware: the machine of the run; by default this one.
        training: what training takes (student.training.memory.memory); None leaves it out of the plan.
        student_remark: ends the line about the student.

    Raises:
        InputError: no machine can serve this teacher with the recipe's `serve` section.
    """
    hardware = hardware or find()
    core_count = hardware.cores or cores()
    student_plan = {"name": student["name"], "fits": True, "reason": "not planned"}
    student_plan |= training or {}
    trained_tokens_s = student_plan.get("tokens_s")
    seconds: dict[str, float] = {}
    teacher_plan: TeacherPlan
    if teacher["engine"] == "llama.cpp" and "memory" not in teacher and not recipe.serve.url:
        # Two bytes a parameter are at least what a GGUF of it takes.
        weights = 2 * (teacher.get("parameters") or 0)
        servers = planned_servers(recipe.serve, hardware, recipe.generate.concurrency, weights)
        no_room = servers > 1 and without_room(servers, hardware, weights)
        teacher_plan = {
            "options": {"replicas": servers},
            "name": teacher["name"],
            "fits": not no_room,
            "reason": no_room or "it is embedded",
        }
        seconds = embedded_seconds(
            tasks,
            exam,
            recipe,
            teacher_requests_s=requests_s(
                teacher,
                hardware,
                TEACHER_REQUESTS,
                constrained=recipe.generate.constrain,
                servers=servers,
            ),
            exam_requests_s=requests_s(student, hardware, EXAM_REQUESTS, constrained=False),
            trained_tokens_s=trained_tokens_s,
        )
        lines = [
            f"teacher   {teacher['name']}: {teacher['description']}",
            f"student   {student['name']}: {student['description']}{student_remark}",
            f"machine   {_machine(core_count, hardware)}",
            *_server_lines(servers, recipe),
            _task_line(tasks, exam, recipe),
            "time      "
            + ", ".join(f"{stage} {_minutes(value)}" for stage, value in seconds.items()),
            f"in all    {_minutes(sum(seconds.values()))}, roughly",
        ]
        lines += [
            f"no fit    {part['reason']}"
            for part in (teacher_plan, student_plan)
            if not part["fits"]
        ]
    else:
        teacher_plan = _large_teacher(tasks, teacher, recipe, hardware)
        if teacher_seconds := teacher_plan["seconds"]:
            seconds["generate"] = sum(teacher_seconds) / 2
        if trained_tokens_s:
            traces = len(with_agents(tasks))
            trace_tokens = traces * sum(teacher_plan["trace_tokens"]) / 2
            seconds["train"] = trained_tokens(trace_tokens, recipe) / trained_tokens_s
        lines = [
            *_teacher_lines(teacher_plan, teacher, hardware, recipe),
            _task_line(tasks, exam, recipe),
            *_cost_lines(teacher_plan),
            *_student_lines(student, student_plan, seconds.get("train"), student_remark),
        ]
    return {
        "lines": lines,
        "seconds": {k: round(v) for k, v in seconds.items()},
        "machine": {"cores": core_count, "hardware": str(hardware)},
        "fits": teacher_plan["fits"],
        "command": teacher_plan.get("command"),
        "teacher": teacher_plan,
        "student": student_plan,
    }


def _server_lines(servers: int, recipe: Recipe) -> list[str]:
    """What a plan says of several servers of llama.cpp."""
    if servers == 1:
        return []
    each = -(-recipe.generate.concurrency // servers)
    return [
        f"serve     {servers} servers of llama.cpp with {each} conversations each, because one samples on one thread"
        " (serve.replicas)"
    ]


def _machine(core_count: int, hardware: Hardware) -> str:
    cores = f"{core_count} CPU cores"
    if hardware.gpu:
        return f"{cores}, {hardware}"
    return f"{cores} ({hardware.remark})" if hardware.remark else cores


def _large_teacher(
    tasks: list[Conversation], teacher: dict[str, Any], recipe: Recipe, hardware: Hardware
) -> TeacherPlan:
    """The plan of a teacher that is not embedded."""
    context = cost.context_needed(tasks, teacher, recipe)
    ranges = cost.tokens(tasks, teacher, recipe)
    base: TeacherPlan = {
        "options": {},
        "name": teacher["name"],
        "fits": True,
        "reason": "",
        "context": context,
        **ranges,  # type: ignore[typeddict-item]
        "blind": _blind_tasks(tasks, recipe),
        "seconds": None,
        "gpu_hours": None,
        "cost": None,
    }
    if recipe.serve.url or teacher["engine"] == "openai":
        url = recipe.serve.url or teacher["source"]["url"]
        return {**base, "reason": f"it is already served at {url}"}
    if "memory" not in teacher:
        return {**base, "reason": "not planned: its description has no memory section"}
    serve = recipe.serve
    if teacher["engine"] == "llama.cpp":
        servers = planned_servers(
            serve, hardware, recipe.generate.concurrency, teacher["memory"]["weights_bytes"]
        )
        base["options"] = {"replicas": servers}
        serve = serve.model_copy(update=base["options"])
    fitted = fit(teacher, hardware, context, serve)
    base |= {
        "fits": fitted.fits,
        "reason": fitted.reason,
        "alternatives": list(fitted.alternatives),
        "concurrency": fitted.concurrency,
        "weights_per_rank": fitted.weights_per_rank,
        "kv_per_rank": fitted.kv_per_rank,
        "kv_tokens": fitted.kv_tokens,
    }
    prompt, output = ranges["prompt_tokens"], ranges["output_tokens"]
    if not fitted.fits:
        return {**base, "on_a_host": cost.seconds_on_cpu_host(teacher, prompt, output)}
    if teacher["engine"] == "vllm":
        base["options"] = chosen(fitted)
        base["command"] = vllm_server.shell_commands(
            teacher,
            teacher["source"].get("hub") or teacher["source"]["path"],
            recipe.serve.model_copy(update=base["options"]),
        )
    gpu_count = fitted.tensor_parallel * serve.data_parallel * serve.replica_count * fitted.nodes
    rates = cost.rates(teacher, hardware, fitted, gpu_count)
    if rates is None:
        return base
    load = teacher["memory"].get("load_seconds", 0)
    base |= {"load_seconds": load, "rates": rates}
    seconds = [round(load + time) for time in cost.seconds(prompt, output, rates)]
    base["seconds"] = seconds
    if hardware.gpu:
        gpu_hours = [round(gpu_count * time / 3600, 1) for time in seconds]
        base["gpu_hours"] = gpu_hours
        if serve.price_per_gpu_hour:
            base["cost"] = [round(serve.price_per_gpu_hour * hours, 2) for hours in gpu_hours]
    return base


# ------------------------------------------------------------------------------------- the lines of a plan


def _task_line(tasks: list[Conversation], exam: list[Task], recipe: Recipe) -> str:
    calls, blind = sum(one.calls for one in with_agents(tasks)), _blind_tasks(tasks, recipe)
    agents = sum(len(task.agents) for task in tasks)
    with_them = f", with {agents} sub-agents" if agents else ""
    attempts = "all" if recipe.filter.agreement else "up to"
    repeated = f", {blind} repeated without their images" if blind else ""
    return (
        f"tasks     {len(tasks)} to solve{with_them} ({calls} calls in their solutions), {attempts}"
        f" {recipe.generate.attempts} attempts each{repeated}; {len(exam)} held out; all proven solvable"
    )


def _blind_tasks(tasks: list[Conversation], recipe: Recipe) -> int:
    """The number of tasks that are repeated without their images."""
    return sum(task.blind is not None for task in tasks) if recipe.generate.blind else 0


def _teacher_lines(
    plan: TeacherPlan, teacher: dict[str, Any], hardware: Hardware, recipe: Recipe
) -> list[str]:
    lines = [
        f"teacher   {teacher['name']}: {teacher['description']}",
        f"machine   {hardware}",
        f"{'fits' if plan['fits'] else 'no fit':10}{plan['reason']}",
    ]
    for index, line in enumerate(plan.get("alternatives", [])):
        lines.append(f"{'instead' if index == 0 else '':10}{line}")
    if on_a_host := plan.get("on_a_host"):
        low, high = on_a_host
        lines.append(
            f"          these traces from a CPU host: {_minutes(low)} to {_minutes(high)} (estimate)"
        )
    for index, line in enumerate(plan.get("command", "").splitlines()):
        lines.append(f"{'serve' if index == 0 else '':10}{line}")
    if (nodes := plan["options"].get("nodes", 1)) != recipe.serve.nodes and plan["options"]:
        lines.append(f"set       serve.nodes={nodes}")
    mode = recipe.generate.mode or teacher.get("mode")
    least = teacher.get("modes", {}).get(mode, {}).get("max_tokens", 0)
    if recipe.generate.max_tokens < least:
        lines.append(
            f"warning   generate.max_tokens={recipe.generate.max_tokens} cuts replies short: mode {mode} needs"
            f" {least:,} or more"
        )
    if teacher.get("advice"):
        lines.append(f"advice    {' '.join(teacher['advice'].split())}")
    return lines + _small_teacher_lines(teacher, recipe)


def _small_teacher_lines(teacher: dict[str, Any], recipe: Recipe) -> list[str]:
    """Lines about settings for a small teacher that a recipe still has although another teacher was chosen."""
    settings = recipe.generate
    is_small = teacher.get("parameters", _SMALL_TEACHER) < _SMALL_TEACHER
    if is_small or not (settings.constrain or settings.examples):
        return []
    named = {
        "examples": settings.examples,
        "constrain": settings.constrain,
        "toolbox": settings.toolbox if settings.toolbox != "offered" else None,
        "hint": settings.hint if settings.hint != "never" else None,
        "max_tokens": settings.max_tokens if settings.max_tokens < _SMALL_REPLY else None,
        "temperature": settings.temperature,
        "preflight": None if settings.preflight else "false",
    }
    held = [f"{key}={str(value).lower()}" for key, value in named.items() if value]
    return [
        f"warning   settings for a small teacher still hold: generate.{', '.join(held)}",
        "          --recipe api-teacher has none of them and fits this teacher",
    ]


def _cost_lines(plan: TeacherPlan) -> list[str]:
    traces, prompt, output = plan["traces"], plan["prompt_tokens"], plan["output_tokens"]
    lines = [
        f"tokens    {traces[0]:,} to {traces[1]:,} traces: {count(prompt[0])} to {count(prompt[1])} read,"
        f" {count(output[0])} to {count(output[1])} written (estimate); {plan['context']:,} in the longest"
    ]
    if seconds := plan["seconds"]:
        line = f"time      {_minutes(seconds[0])} to {_minutes(seconds[1])}"
        if plan["load_seconds"]:
            line += f", {_minutes(plan['load_seconds'])} of it to load"
        if gpu_hours := plan["gpu_hours"]:
            line += f"; {gpu_hours[0]:,.0f} to {gpu_hours[1]:,.0f} GPU-hours"
        lines.append(f"{line} (estimate from {plan['rates']['from']})")
    elif plan["fits"]:
        lines.append("time      not known: no measurement of this teacher on such a machine")
    if price := plan["cost"]:
        lines.append(
            f"money     {price[0]:,.0f} to {price[1]:,.0f} for the teacher's GPUs (estimate)"
        )
    return lines


def _student_lines(
    student: dict[str, Any], plan: dict[str, Any], seconds: float | None, remark: str
) -> list[str]:
    line = f"student   {student['name']}: {plan['reason']}"
    if not plan["fits"]:
        line += f"; {plan['advice']}"
    elif seconds:
        line += f"; about {plan['tokens_s']:,.0f} tokens/s, {_minutes(seconds)} (estimate)"
    line += remark
    if student.get("advice"):
        return [line, f"advice    {' '.join(student['advice'].split())}"]
    return [line]


def _minutes(seconds: float) -> str:
    """Seconds as minutes, hours and minutes, or days."""
    minutes = max(1, round(seconds / 60))
    if minutes >= 72 * 60:
        return f"{minutes / 60 / 24:,.0f} days"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
