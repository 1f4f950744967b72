"""The stage export: what stays when a check fails, what a second start repeats, and how long the gate waits."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from gate_inputs import RENDERER, trace

from flows import recipe_file
from flows.run_context import RunContext
from flows.run_directory import Run
from flows.stages import PIPELINE
from schemas.errors import GateError, StageError
from schemas.files import read_json, write_jsonl
from student.export import gate, gguf, merge
from student.export.gate_traces import select_traces
from student.models import base
from student.training.mixture import is_held_out
from teacher.domain import pack
from teacher.models import catalog
from teacher.planning import hardware

EXPORT = PIPELINE["export"]
PASSED = [{"name": "template", "passed": True, "detail": "equal"}]
FAILED = [{"name": "ends_turns", "passed": False, "detail": "t/0: did not end"}]


@dataclass
class Tools:
    """Stands for merge, conversion and gate. verdicts: what the gate returns or raises, by variant."""

    verdicts: dict[str, Any] = field(default_factory=lambda: {"Q8_0": [PASSED], "Q4_K_M": [PASSED]})
    conversion: Any = field(default_factory=lambda: PASSED)
    made: list[str] = field(default_factory=list)
    checked: list[dict[str, Any]] = field(default_factory=list)

    def merge(self, base: Path, adapter: Path, to: Path, template: str) -> None:
        self.made.append("vllm")
        to.mkdir(parents=True)
        (to / "model.safetensors").write_text("merged")

    def convert(self, directory: Path, to: Path, report: Any) -> None:
        self.made.append(to.name)
        to.write_text("full")

    def importance_matrix(self, full: Path, texts: Any, to: Path) -> None:
        self.made.append(f"matrix of {len(list(texts))} texts")
        to.write_text("matrix")

    def quantize(self, full: Path, to: Path, variant: str, matrix: Path | None) -> None:
        assert matrix is None or matrix.read_text() == "matrix"
        self.made.append(variant)
        to.parent.mkdir(exist_ok=True)
        to.write_text(f"{variant} of {full.read_text()}")

    def check_conversion(self, full: Path, original: Any, **limits: Any) -> Any:
        assert full.read_text() == "full" and original == "original"
        return self.conversion

    def run_gate(self, file: Path, traces: Any, renderer: Any, **limits: Any) -> Any:
        self.checked.append({"file": file.name, "traces": [t["id"] for t in traces], **limits})
        verdict = self.verdicts[file.stem.rsplit("-", 1)[1]].pop(0)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Tools:
    tools = Tools()
    monkeypatch.setattr(merge, "merge", tools.merge)
    monkeypatch.setattr(gguf, "convert", tools.convert)
    monkeypatch.setattr(gguf, "quantize", tools.quantize)
    monkeypatch.setattr(gguf, "importance_matrix", tools.importance_matrix)
    monkeypatch.setattr(gate, "run_gate", tools.run_gate)
    monkeypatch.setattr(gate, "read_original", lambda *args: "original")
    monkeypatch.setattr(gate, "check_conversion", tools.check_conversion)
    monkeypatch.setattr(base, "prepare", lambda student, report: Path("base"))
    monkeypatch.setattr(RunContext, "renderer", lambda self: RENDERER)
    return tools


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    """A run that was trained, with kept traces of two templates."""
    recipe = recipe_file.load("local", ["evaluate.max_tokens=4096", "train.max_length=8192"])
    domain = pack.load("legal")
    with Run.open(tmp_path / "run", recipe, domain.name, domain.path) as run:
        teacher = catalog.load("smollm2-135m", catalog.TEACHERS, "teacher")
        student = {**base.load("smollm2-135m"), "context": 32768}
        context = RunContext(run, recipe, domain, teacher, student, hardware.parse("cpu"))
        for stage, files in {
            "train": ["train/adapter/adapter.safetensors"],
            "filter": ["filter/kept.jsonl"],
        }.items():
            outputs = [context.path(*file.split("/")) for file in files]
            with run.stage(stage, {}, outputs):
                for output in outputs:
                    output.parent.mkdir(parents=True)
                    write_jsonl(output, [*kept("often", 40), *kept("seldom", 3)])
        yield context


def kept(template: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            **trace(f"{template}/{n}"),
            "task": {"id": f"{template}/{n}", "template": template},
            "outcome": {"tool_errors": []},
        }
        for n in range(count)
    ]


def files(context: RunContext) -> set[str]:
    directory = context.path("export")
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}


ALL = {
    "vllm/model.safetensors",
    "gguf/legal-smollm2-135m-Q8_0.gguf",
    "gguf/legal-smollm2-135m-Q4_K_M.gguf",
    "gate.json",
    "serving/SERVING.md",
    "serving/Modelfile-Q8_0",
    "serving/Modelfile-Q4_K_M",
}


def test_what_passed_is_left_without_the_file_it_was_made_of(
    context: RunContext, tools: Tools
) -> None:
    EXPORT.run(context)
    assert files(context) == ALL
    assert EXPORT.is_current(context)


def test_a_failed_check_keeps_the_files_marked_and_a_second_start_repeats_the_gate_alone(
    context: RunContext, tools: Tools
) -> None:
    tools.verdicts["Q4_K_M"] = [FAILED, PASSED]
    tools.verdicts["Q8_0"] = [PASSED, PASSED]
    with pytest.raises(
        GateError, match="^legal-smollm2-135m-Q4_K_M.gguf: ends_turns: t/0: did not end"
    ):
        EXPORT.run(context)
    assert files(context) >= {file for file in ALL if not file.startswith("serving")}
    note = context.path("export", "NOT-PASSED.txt").read_text()
    assert "legal-smollm2-135m-Q4_K_M.gguf: ends_turns: t/0: did not end" in note
    assert read_json(context.path("export", "gate.json")) == {
        "16 bits": PASSED,
        "Q8_0": PASSED,
        "Q4_K_M": FAILED,
    }
    assert not EXPORT.is_current(context)
    made = list(tools.made)
    EXPORT.run(context)
    assert tools.made == made
    assert files(context) == ALL
    assert EXPORT.is_current(context)


def test_a_reply_that_does_not_come_keeps_the_files_too(context: RunContext, tools: Tools) -> None:
    late = StageError("llama-server: /v1/chat/completions: no answer within 300 s")
    tools.verdicts["Q8_0"] = [late, PASSED]
    with pytest.raises(StageError, match="no answer within 300 s"):
        EXPORT.run(context)
    assert "not checked to the end" in context.path("export", "NOT-PASSED.txt").read_text()
    made = list(tools.made)
    EXPORT.run(context)
    assert tools.made == made and files(context) == ALL


def test_an_importance_matrix_is_computed_once_where_the_recipe_wants_one(
    context: RunContext, tools: Tools
) -> None:
    wanted = recipe_file.load("local", ["export.imatrix=true", "train.max_length=8192"])
    EXPORT.run(replace(context, recipe=wanted))
    assert tools.made == ["vllm", "full.gguf", "matrix of 24 texts", "Q8_0", "Q4_K_M"]
    assert files(context) == ALL | {"imatrix.gguf"}


def test_a_conversion_that_predicts_otherwise_ends_the_gate_before_a_variant(
    context: RunContext, tools: Tools
) -> None:
    tools.conversion = [{"name": "logits", "passed": False, "detail": "KL 2 nats"}]
    with pytest.raises(GateError, match="^full.gguf: logits: KL 2 nats"):
        EXPORT.run(context)
    assert tools.checked == []
    assert "full.gguf: logits" in context.path("export", "NOT-PASSED.txt").read_text()


@pytest.mark.parametrize("change", ["another adapter", "a variant is gone", "a file is cut short"])
def test_files_of_another_adapter_or_incomplete_ones_are_made_again(
    context: RunContext, tools: Tools, change: str
) -> None:
    tools.verdicts["Q8_0"] = [FAILED, PASSED]
    with pytest.raises(GateError):
        EXPORT.run(context)
    if change == "another adapter":
        adapter = context.path("train", "adapter", "adapter.safetensors")
        with context.run.stage("train", {}, [adapter]):
            adapter.write_text("other")
    elif change == "a variant is gone":
        context.path("export", "gguf", "legal-smollm2-135m-Q4_K_M.gguf").unlink()
    else:
        context.path("export", "gguf", "legal-smollm2-135m-Q8_0.gguf").write_text("Q8")
    tools.made.clear()
    EXPORT.run(context)
    assert tools.made == ["vllm", "full.gguf", "Q8_0", "Q4_K_M"]


def test_the_gate_has_the_recipes_lengths_and_traces_of_every_template(
    context: RunContext, tools: Tools
) -> None:
    EXPORT.run(context)
    first = tools.checked[0]
    assert (first["context"], first["reply_tokens"]) == (8192 + 4096, 4096)
    templates = [name.split("/")[0] for name in first["traces"]]
    assert len(templates) == 24 and templates.count("seldom") == 3
    assert templates[:6] == ["often", "seldom"] * 3


def test_held_out_traces_come_first_and_the_order_of_the_file_does_not_count() -> None:
    rows: Any = kept("often", 40)
    drawn = select_traces(rows, 5, 0.1)
    assert select_traces(rows[::-1], 5, 0.1) == drawn
    assert [row["id"] for row in drawn] != [row["id"] for row in rows[:5]]
    held_out = sum(is_held_out(row, 0.1) for row in rows)
    assert 5 <= held_out < 40
    assert all(is_held_out(row, 0.1) for row in drawn)
