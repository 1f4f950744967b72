"""Checks the student before a teacher is started: its chat template and tokenizer, on the solutions of the tasks.

Two tasks of each template are solved as a teacher would, with calls side by side, text beside a call and a tool's
error among them, and rendered by transformers and by llama.cpp (student/export/early_gate.py).
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Any, cast

from flows.progress import log, step
from flows.run_context import RunContext
from schemas.error_text import one_line
from schemas.errors import GateError, InputError
from schemas.files import read_jsonl
from schemas.task import Task
from schemas.trace import Message

if TYPE_CHECKING:
    from student.evaluate import Vllm

_TASKS = 2  # of each template


def check_student(context: RunContext, *, install: bool = True, trains: bool = True) -> None:
    """Runs the checks and logs what they found.

    Args:
        install: build llama.cpp and fetch the student's tokenizer if they are missing. Without it, the checks are left
            to the start of the run, and a line says so.
        trains: whether the run uses the student's weights; with `install`, they have to be within reach.

    Raises:
        InputError: the template loses tools, calls or results; the exam cannot run on vLLM, which the recipe names.
        StageError: the student's tokenizer or weights cannot be fetched.
        GateError: llama.cpp renders, tokenizes or reads the conversations otherwise than the student is trained.
    """
    from student.export.early_gate import check_early
    from student.models import base, files, stand_in
    from student.models.chat_template import check_tool_template
    from teacher.inference import llamacpp

    student = context.student
    if not context.path("tasks", "train.jsonl").is_file():
        return  # the stage that needs the plan reports that it is missing
    if not install and not llamacpp.is_installed():
        log(
            f"  student     {student['name']}: not checked yet: llama.cpp is built when a run starts"
        )
        return
    directory = base.tokenizer_directory(student, log, download=install)
    if install and trains and directory is not None:
        files.check_weights(student, directory)
    whose = "its"
    if directory is None and student.get("stand_in") in stand_in.FAMILIES:
        family = stand_in.FAMILIES[student["stand_in"]]
        with step(f"reading the vocabulary of the {student['stand_in']} family"):
            directory = stand_in.directory(family, student["stop"][0], log)
        whose = f"the {student['stand_in']} family's"
    if directory is None:
        log(
            f"  student     {student['name']}: not checked yet: its tokenizer is not on this machine; it is checked"
            " when a run starts"
        )
        return
    with step(f"checking the template and tokenizer of {student['name']}"):
        renderer = context.renderer_of(directory)
        notes = check_tool_template(student, directory, renderer.tokenizer)
        notes += _check_constants(context, renderer)
        conversations = _conversations(context, renderer)
        if context.recipe.evaluate.engine == "vllm":
            how = exam_in_vllm(context, renderer, here=install)
            notes.append(f"the exam runs on vLLM, with its parser {how.tool_parser} for calls")
        result = check_early(
            directory, renderer, conversations, context.path("logs", "student-check.log"), log
        )
    failed = [check for check in result["checks"] if not check["passed"]]
    if failed:
        raise GateError(
            f"{student['name']}: {failed[0]['name']}: {failed[0]['detail']}; no teacher was asked: name a template that"
            f" llama.cpp and transformers read alike (template: in the student's file), or another student"
        )
    log(
        f"  student     {student['name']}: llama.cpp renders, tokenizes and reads {len(conversations)} solutions with"
        f" {whose} tokenizer and template as transformers does"
    )
    if words := result["overridden"]:
        notes.append(f"llama.cpp reads {', '.join(words)} as control: traces with it are rejected")
    if renderer.composes:
        notes.append("llama.cpp does not compose characters (NFC): traces with any are rejected")
    for note in notes:
        log(f"              {note}")


def exam_in_vllm(context: RunContext, renderer: Any, *, here: bool) -> "Vllm":
    """Returns how vLLM serves base and student in the exam.

    here: whether it has to be installed, as on the machine that runs the exam.

    Raises:
        InputError: it cannot: it is not installed, has no parser for the template's calls or too little memory, or the
            student reads images.
    """
    from student.evaluate import Vllm, vllm_gpus
    from student.export.serving import vllm_parsers
    from teacher.inference.vllm_server import interpreter
    from teacher.planning import hardware

    problem, parsers = "", vllm_parsers(renderer)
    if context.student_reads_pixels:
        problem = "the student reads images, which vLLM scales otherwise than in training"
    elif parsers.tool is None:
        problem = "vLLM has no known parser for the calls of the student's chat template"
    if problem or parsers.tool is None:
        raise InputError(f"evaluate.engine: found vllm, expected llama.cpp: {problem}")
    if here or context.hardware == hardware.find():
        interpreter()
    share = context.recipe.serve.gpu_memory_utilization
    gpus = vllm_gpus(2 * context.student["parameters"], context.hardware, share)
    return Vllm(parsers.tool, parsers.reasoning, gpus, share)


def _check_constants(context: RunContext, renderer: Any) -> list[str]:
    """Returns a line about calls that are rejected because the template writes True and None, which no server reads.

    Raises:
        GateError: every call of a tool is one.
    """
    from student.rendering import bare_values

    if renderer.bare is None or renderer.bare.writes_json:
        return []
    named = {
        f"{name}.{parameter}": always
        for name, tool in context.domain.tools.items()
        for parameter, always in bare_values.constants(tool).items()
    }
    why = f"the chat template of {context.student['name']} writes True and None, not true and null"
    if always := [place for place, certain in named.items() if certain]:
        raise GateError(
            f"{context.domain.name}: {', '.join(always)}: llama.cpp reads no call with it: {why}; no teacher was asked:"
            " name a template that writes JSON (template: in the student's file), or another student"
        )
    return (
        [f"calls with a boolean or null are rejected: {why}: {', '.join(named)}"] if named else []
    )


def _conversations(context: RunContext, renderer: Any) -> list[Any]:
    """The solutions of tasks of each template, as the student's server could lead them.

    Raises:
        GateError: the student's template cannot render one, or llama.cpp prints or reads a call of one otherwise.
    """
    from student.rendering.errors import Unrenderable
    from student.rendering.served import as_served
    from teacher.domain.drift import tools_of

    by_template: dict[str, list[Task]] = defaultdict(list)
    for row in read_jsonl(context.path("tasks", "train.jsonl")):
        task = cast(Task, row)
        by_template[task["template"]].append(task)
        for call in task["plan"]:
            tool = tools_of(context.domain, task).get(call["tool"])
            if problem := renderer.call_problem(call["arguments"], tool):
                raise GateError(_refusal(context, task, f"{call['tool']}: {problem}"))
    conversations = []
    for group in by_template.values():
        for number, task in enumerate(group[:_TASKS]):
            # The turns of a dialogue have words of the user between them.
            in_one_turn = number % 2 == 1 and "dialogue" not in task
            trace = _solved(context, task, in_one_turn=in_one_turn)
            try:
                served = as_served(cast(Any, trace), renderer)
                for index, message in enumerate(served["messages"]):
                    if message["role"] == "assistant":
                        renderer.check_calls(message, served["tools"])
                        renderer.turn(served["messages"], served["tools"], index)
            except Unrenderable as error:
                raise GateError(_refusal(context, task, str(error))) from error
            if not renderer.image_names(served["messages"]):
                conversations.append(
                    {key: served[key] for key in ("id", "messages", "tools")}  # type: ignore[literal-required]
                )
    return conversations


def _refusal(context: RunContext, task: Task, problem: str) -> str:
    file = context.domain.templates[task["template"]].file
    return (
        f"{file}: {task['template']}: seed {task['seed']}: {context.student['name']} cannot be trained on its solution:"
        f" {one_line(problem)}; no teacher was asked"
    )


def _solved(context: RunContext, task: Task, *, in_one_turn: bool) -> dict[str, Any]:
    """A trace of the task's solution.

    in_one_turn: all calls in one turn beside a text, after a call that fails. The results are the same: none of the
        student's text depends on them.
    """
    from teacher.domain.drift import tools_of
    from teacher.domain.prompts import demonstration
    from teacher.scenes.images import detach_images

    domain = context.domain
    messages = demonstration(task, domain, image_store=context.image_store)
    tools = [*tools_of(domain, task).values()]
    errors: list[int] = []
    if in_one_turn:
        tools = [*(tools_of(domain, task) | domain.tools).values()]
        messages = _joined(messages)
        errors = [2 + 1] if len(messages) > 2 else []
    stored, images = detach_images([{"role": "system", "content": task["system"]}, *messages])
    return {
        "id": task["id"],
        "messages": stored,
        "tools": tools,
        "images": images,
        "outcome": {"tool_errors": errors},
    }


def _joined(messages: list[Message]) -> list[Message]:
    """The messages of a worked example with its first call failing once, then all its calls in one turn."""
    request, *middle, reply = messages
    turns = [message for message in middle if message["role"] == "assistant"]
    if not turns:
        return messages
    calls = [call for turn in turns for call in turn["tool_calls"]]
    results = [message for message in middle if message["role"] == "tool"]
    failing = {**calls[0], "id": "call_failed"}
    return [
        request,
        {"role": "assistant", "content": "", "tool_calls": [failing]},
        {"role": "tool", "tool_call_id": "call_failed", "content": '{"error": "try again"}'},
        {"role": "assistant", "content": "I look that up.", "tool_calls": calls},
        *results,
        reply,
    ]
