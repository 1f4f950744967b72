"""export: merges the adapter and writes the student as GGUF files and as a directory for vLLM.

    stillhouse export RUN

Writes export/gguf/*.gguf, export/vllm and export/gate.json. Each GGUF file must pass the export gate
(student/export/gate.py): llama.cpp has to render, tokenize and stop as in training.
"""

import itertools
import shutil
from functools import partial
from pathlib import Path
from typing import Any, cast

from flows.progress import log, step
from flows.run_context import RunContext
from flows.stages.stage import Stage
from schemas.errors import GateError
from schemas.files import read_jsonl, whole, write_json

_GATE_TRACES = 24
_GATE_CONTEXT = 4096


@partial(
    Stage,
    name="export",
    reads=("export", "train.max_length", "train.images"),
    models=("student",),
    earlier={"train": "train/adapter/", "filter": "filter/kept.jsonl"},
    outputs=("export",),
)
def export(context: RunContext) -> dict[str, Any]:
    from student.export import gguf, merge
    from student.export.checks import Check
    from student.export.gate import run_gate
    from student.models import base
    from student.registry.artifact import PROJECTOR
    from student.rendering.examples import as_served

    settings, student = context.recipe.export, context.student
    renderer = context.renderer()
    kept = itertools.islice(read_jsonl(context.path("filter", "kept.jsonl")), _GATE_TRACES)
    traces = [as_served(trace, renderer) for trace in kept]
    with (
        whole(context.path("export")) as temporary,
        step("export", lambda: f"{_bytes_under(temporary) / 1e6:,.0f} MB written"),
    ):
        merged = temporary / "vllm"
        log("merging the adapter into the 16-bit weights")
        merge.merge(
            base.prepare(student, log), context.path("train", "adapter"), merged, renderer.template
        )
        log("converting to GGUF")
        full = temporary / "full.gguf"
        gguf.convert(merged, full, log)
        gate_context, projector = _GATE_CONTEXT, None
        if context.student_reads_pixels:
            projector = temporary / "gguf" / context.gguf_name(PROJECTOR)
            gguf.convert(merged, projector, log, projector=True)
            # Prompts with images may be longer than the context of a text-only check.
            gate_context = max(gate_context, context.recipe.train.max_length + 512)
        checks_by_variant: dict[str, list[Check]] = {}
        for variant in settings.variants:
            file = temporary / "gguf" / context.gguf_name(variant)
            gguf.quantize(full, file, variant)
            image = ", image" if projector else ""
            log(
                f"checking {file.name}: template, prompts, token ids, end of turn, tool call{image}"
            )
            with step(f"checking {file.name}"):
                checks = run_gate(
                    file,
                    cast(Any, traces),
                    renderer,
                    context=min(student["context"], gate_context),
                    log=context.path("logs", f"gate-{variant}.log"),
                    projector=projector,
                )
            checks_by_variant[variant] = checks
            failed = [check for check in checks if not check["passed"]]
            if failed:
                write_json(context.path("logs", "export-gate.json"), checks_by_variant)
                raise GateError(
                    f"{file.name}: {failed[0]['name']}: {failed[0]['detail']} (see logs/export-gate.json)"
                )
        full.unlink()
        if not settings.vllm:
            shutil.rmtree(merged)
        write_json(temporary / "gate.json", checks_by_variant)
    return {variant: len(checks) for variant, checks in checks_by_variant.items()}


def _bytes_under(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
