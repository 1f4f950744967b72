"""The check of a student before a teacher is asked (flows/student_check.py)."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_students import random_llama, trl_template
from turns import says, trace, user

from flows import distill, recipe_file, student_check
from flows.run_context import RunContext, prepare
from flows.stages import PIPELINE
from schemas.errors import GateError, InputError, StageError
from schemas.files import read_jsonl, write_jsonl
from student.export import early_gate
from student.models import stand_in
from student.models.chat_template import chat_template
from teacher.inference import llamacpp
from teacher.planning import hardware

pytestmark = pytest.mark.usefixtures("packs_are_checked_once")

SMALL = ["tasks.train=6", "tasks.exam=1", "tasks.exam_other=0"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("student")
    random_llama(directory)
    return directory


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces llama.cpp: `checks` are its results; keeps the conversations that it was given, and what is logged."""
    given: dict[str, Any] = {"checks": [{"name": "rendering", "passed": True, "detail": ""}]}
    given |= {"lines": [], "overridden": []}

    def check_early(directory: Path, renderer: Any, conversations: list, *more: Any) -> dict:
        given["conversations"] = conversations
        return {"checks": given["checks"], "overridden": given["overridden"]}

    monkeypatch.setattr(early_gate, "check_early", check_early)
    monkeypatch.setattr(student_check, "log", given["lines"].append)
    monkeypatch.setattr(llamacpp, "is_installed", lambda: True)
    return given


@pytest.fixture
def context(student: Path, tmp_path: Path) -> Iterator[RunContext]:
    recipe = recipe_file.load("local", [f"student={student}", *SMALL])
    with prepare("legal", recipe, tmp_path / "run") as prepared:
        PIPELINE["plan"].run(prepared)
        yield prepared


def test_two_solutions_of_each_template_are_compared_one_with_calls_side_by_side(
    context: RunContext, shown: dict[str, Any]
) -> None:
    student_check.check_student(context, install=False)
    tasks = list(read_jsonl(context.path("tasks", "train.jsonl")))
    assert 0 < len(shown["conversations"]) <= len(tasks)
    results = [
        m for talk in shown["conversations"] for m in talk["messages"] if m["role"] == "tool"
    ]
    called = {task["template"] for task in tasks if task["plan"]}
    assert len(results) >= len(called)
    assert "llama.cpp renders, tokenizes and reads" in shown["lines"][0]


def test_a_failed_check_ends_with_its_detail_and_what_to_do(
    context: RunContext, shown: dict[str, Any]
) -> None:
    detail = "found '15', expected '15.0'; line 7 of the template: {{ value * 1.0 }}"
    shown["checks"].append({"name": "rendering", "passed": False, "detail": detail})
    with pytest.raises(GateError) as refused:
        student_check.check_student(context, install=False)
    text = str(refused.value)
    assert detail in text and "no teacher was asked: name a template" in text


@pytest.mark.parametrize(("value", "refused"), [(15.0, False), (1234567.89, True)])
def test_a_solution_with_a_number_that_the_engines_print_otherwise_names_the_pack_s_file(
    context: RunContext,
    shown: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    refused: bool,
) -> None:
    path = context.path("tasks", "train.jsonl")
    tasks = list(read_jsonl(path))
    talk = trace([user("?"), says("Yes.")]) | {"id": "t/0", "images": []}
    monkeypatch.setattr(student_check, "_solved", lambda *args, **more: talk)  # get_tax is no tool
    tasks[0]["plan"] = [{"tool": "get_tax", "arguments": {"amount": value}}]
    write_jsonl(path, tasks)
    if not refused:
        return student_check.check_student(context, install=False)
    found = (
        r"/data/legal/\w+.py: .*get_tax: amount: found 1234567.89, expected .*no teacher was asked"
    )
    with pytest.raises(GateError, match=found):
        student_check.check_student(context, install=False)


def test_a_template_that_drops_calls_is_refused_by_what_it_loses(
    context: RunContext, shown: dict[str, Any], tmp_path: Path
) -> None:
    template = tmp_path / "drops.jinja"
    template.write_text(
        "{{ tools }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    context.student["template"] = str(template)
    with pytest.raises(InputError, match="drops the call|loses the name of a call"):
        student_check.check_student(context, install=False)


@pytest.mark.parametrize("required", [True, False])
def test_a_tool_whose_boolean_no_server_reads_is_named_before_any_solution_has_one(
    context: RunContext,
    shown: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    required: bool,
) -> None:
    template = tmp_path / "writes-true-as-python.jinja"
    template.write_text(trl_template("qwen3_5_nothink"))
    context.student["template"] = str(template)
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"open": {"type": "boolean"}, "matter_id": {"type": "string"}},
        "required": ["open"] * required,
    }
    function: Any = {"name": "set_open", "description": "Opens.", "parameters": parameters}
    tool: Any = {"type": "function", "function": function}
    monkeypatch.setitem(context.domain.tools, "set_open", tool)
    if not required:
        student_check.check_student(context, install=False)
        lines = [line for line in shown["lines"] if "with a boolean or null are rejected" in line]
        assert len(lines) == 1 and "set_open.open" in lines[0] and "matter_id" not in lines[0]
        return
    with pytest.raises(GateError, match=r"legal: set_open\.open: llama.cpp reads no call with it"):
        student_check.check_student(context, install=False)


def test_a_plan_checks_that_vllm_can_run_the_exam(
    context: RunContext, shown: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = context.recipe.evaluate.model_copy(update={"engine": "vllm"})
    recipe = context.recipe.model_copy(update={"evaluate": evaluate})
    elsewhere = replace(context, recipe=recipe, hardware=hardware.parse("8xH100"))
    monkeypatch.setenv("STILLHOUSE_VLLM", str(tmp_path / "nothing"))
    student_check.check_student(elsewhere, install=False)
    assert any("the exam runs on vLLM, with its parser hermes" in line for line in shown["lines"])
    serve = recipe.serve.model_copy(update={"gpu_memory_utilization": 0.5})
    half = replace(elsewhere, recipe=recipe.model_copy(update={"serve": serve}))
    how = student_check.exam_in_vllm(half, half.renderer(), here=False)
    assert (how.tool_parser, how.memory_share) == ("hermes", 0.5)
    with pytest.raises(InputError, match="STILLHOUSE_VLLM"):  # this machine has none
        student_check.check_student(replace(elsewhere, hardware=hardware.find()), install=False)
    elsewhere.student["parameters"] = 10**12
    with pytest.raises(InputError, match=r"evaluate.engine: found vllm: 2000 GB .* do not fit on"):
        student_check.check_student(elsewhere, install=False)
    template = tmp_path / "other-form.jinja"
    text = chat_template(context.student, Path(context.student["source"]["path"]))
    template.write_text(text.replace("<tool_call>", "<call>").replace("</tool_call>", "</call>"))
    context.student["template"] = str(template)
    with pytest.raises(InputError, match="expected llama.cpp: vLLM has no known parser"):
        student_check.check_student(elsewhere, install=False)


def test_what_cannot_be_checked_yet_is_said(
    context: RunContext, shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    context.student["source"] = {"hub": "nobody/nothing"}
    student_check.check_student(context, install=False)
    assert "not checked yet: its tokenizer is not on this machine" in shown["lines"].pop()
    monkeypatch.setattr(llamacpp, "is_installed", lambda: False)
    student_check.check_student(context, install=False)
    assert "not checked yet: llama.cpp is built when a run starts" in shown["lines"].pop()


def test_a_student_that_is_not_downloaded_is_checked_with_its_family_s_vocabulary(
    context: RunContext, shown: dict[str, Any], student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in, "directory", lambda family, eos, report: student)
    context.student.update(source={"hub": "nobody/nothing"}, stand_in="qwen3")
    student_check.check_student(context, install=False)
    assert "the qwen3 family's tokenizer and template" in shown["lines"][0]


@pytest.mark.parametrize("family", ["qwen3", None])
def test_a_run_ends_before_the_teacher_where_the_student_cannot_be_fetched(
    context: RunContext, shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch, family: str | None
) -> None:
    from huggingface_hub import constants

    def ask(context: RunContext) -> dict[str, Any]:
        raise AssertionError("a teacher was asked")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(PIPELINE, "generate", replace(PIPELINE["generate"], body=ask))
    context.student.update(source={"hub": "nobody/nothing"}, stand_in=family)
    with pytest.raises(StageError, match="nobody/nothing: .* HF_HUB_OFFLINE is set: unset it"):
        distill.run_stages(context, only="generate")


def test_a_run_that_trains_needs_the_weights_within_reach_and_one_that_only_generates_does_not(
    context: RunContext, shown: dict[str, Any], student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = student / "model.safetensors"
    away = weights.rename(student / "elsewhere")
    try:
        student_check.check_student(context, trains=False)
        with pytest.raises(InputError, match=r"no model.safetensors, expected the weights"):
            student_check.check_student(context)
    finally:
        away.rename(weights)


# ------------------------------------------------------------------------------------- llama.cpp itself

TOOL, ARGUMENTS = "{{- tool | tojson }}", "{{- tool_call.arguments | tojson }}"
# Python prints 15.0, llama.cpp's jinja 15.
PLANTED = "{{- [15.0, 2.5] | tojson }}"


@pytest.mark.slow
def test_a_plan_ends_with_exit_code_3_where_llama_cpp_prints_a_value_otherwise(
    tmp_path: Path,
) -> None:
    family = stand_in.directory(stand_in.FAMILIES["qwen2.5"], "<|im_end|>")
    template = (family / "chat_template.jinja").read_text()
    assert TOOL in template and ARGUMENTS in template
    templates = {
        "agrees": template,
        "differs": template.replace(TOOL, TOOL + PLANTED),
        "unread": template.replace(ARGUMENTS, ARGUMENTS + PLANTED),
    }
    described = (Path(stand_in.__file__).parent / "qwen2.5-32b.yaml").read_text()
    for name, text in templates.items():
        (tmp_path / f"{name}.jinja").write_text(text)
        own = described.replace("template: null", f"template: {tmp_path / name}.jinja")
        (tmp_path / f"{name}.yaml").write_text(own)
    settings = [part for setting in SMALL for part in ("--set", setting)]

    def plan(name: str) -> tuple[int, str]:
        run = ["--recipe", "kimi-k2.5-qwen3-32b", "--gpus", "8xH200", "--run", str(tmp_path / name)]
        student = ["--set", f"student={tmp_path / name}.yaml", "--set", "gate.min_parts=null"]
        command = [sys.executable, "-m", "flows.cli", "plan", "legal", *run, *student, *settings]
        ended = subprocess.run(command, capture_output=True, text=True)
        return ended.returncode, ended.stdout + ended.stderr

    code, output = plan("agrees")
    assert (code, "with the qwen2.5 family's tokenizer" in output) == (0, True), output
    code, output = plan("differs")
    assert code == 3
    assert "rendering: legal-train-" in output and f"line 11 of the template: {TOOL}" in output
    assert "no teacher was asked: name a template" in output
    code, output = plan("unread")
    assert code == 3
    assert "template: llama.cpp cannot use it: Unable to generate parser" in output
