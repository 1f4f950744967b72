"""export: merges the adapter and writes the student as GGUF files and as a directory for vLLM.

    stillhouse export RUN

Writes export/gguf/*.gguf, export/vllm, export/gate.json, and export/serving, which says how to serve them. Each GGUF
file must pass the export gate (student/export/gate.py): it has the merged weights, and llama.cpp renders, tokenizes,
predicts and stops with it as in training. Files that do not pass stay, with a note in export/NOT-PASSED.txt; the next
start repeats the gate alone.
"""

import itertools
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.progress import log, step
from flows.run_context import RunContext
from flows.stages.stage import Stage
from schemas.errors import GateError, StageError
from schemas.files import read_json, read_jsonl, whole, write_json, write_text

if TYPE_CHECKING:
    from student.export.checks import Check, Conversation
    from student.rendering.renderer import Renderer

_GATE_TRACES = 24
_NOT_PASSED = "NOT-PASSED.txt"
# What the files were made of and which they are, until they passed.
_MADE = "made.json"
_FULL = "full.gguf"  # in 16 bits, from which the variants are quantized


@partial(
    Stage,
    name="export",
    reads=("export", "train.max_length", "train.images"),
    # The gate's limits and its traces, and what the commands of serving have; the weights do not depend on them.
    also_reads=("evaluate.max_tokens", "evaluate.temperature", "train.holdout"),
    models=("student",),
    earlier={"train": "train/adapter/", "filter": "filter/kept.jsonl"},
    outputs=("export",),
)
def export(context: RunContext) -> dict[str, Any]:
    directory, renderer = context.path("export"), context.renderer()
    made_of, traces = export.inputs(context), _traces(context, renderer)
    if _is_made(directory, made_of):
        log("the files are there from the last start: only the gate is repeated")
    else:
        _write_files(context, renderer, traces, made_of)
    checks_by_variant = _run_gate(context, renderer, traces)
    (directory / _NOT_PASSED).unlink(missing_ok=True)
    (directory / _MADE).unlink()
    (directory / _FULL).unlink()
    if not context.recipe.export.vllm:
        shutil.rmtree(directory / "vllm")
    _write_serving(context, renderer)
    return {variant: len(checks) for variant, checks in checks_by_variant.items()}


def _is_made(directory: Path, made_of: dict[str, str]) -> bool:
    """Whether all files of an export are there that did not pass the gate, or were not checked to the end."""
    made = directory / _MADE
    if not made.is_file():
        return False
    record = read_json(made)
    return record["made_of"] == made_of and record["files"] == _sizes(directory)


def _sizes(directory: Path) -> dict[str, int]:
    """The bytes of each file that is published or from which one is made, by its path."""
    files = [directory / _FULL, *directory.glob("gguf/*"), *directory.glob("vllm/*")]
    return {
        file.relative_to(directory).as_posix(): file.stat().st_size
        for file in files
        if file.is_file()
    }


def _write_files(
    context: RunContext,
    renderer: "Renderer",
    traces: list["Conversation"],
    made_of: dict[str, str],
) -> None:
    from student.export import gguf, merge
    from student.models import base
    from student.registry.artifact import PROJECTOR

    with (
        whole(context.path("export")) as temporary,
        step("export", lambda: f"{_bytes_under(temporary) / 1e6:,.0f} MB written"),
    ):
        merged, full = temporary / "vllm", temporary / _FULL
        log("merging the adapter into the 16-bit weights")
        merge.merge(
            base.prepare(context.student, log),
            context.path("train", "adapter"),
            merged,
            renderer.template,
        )
        log("converting to GGUF")
        gguf.convert(merged, full, log)
        if context.student_reads_pixels:
            projector = temporary / "gguf" / context.gguf_name(PROJECTOR)
            gguf.convert(merged, projector, log, projector=True)
        matrix = None
        if context.recipe.export.imatrix:
            matrix = temporary / "imatrix.gguf"
            log("computing the importance matrix on kept traces")
            texts = (renderer.text(trace["messages"], trace["tools"]) for trace in traces)
            gguf.importance_matrix(full, texts, matrix)
        for variant in context.recipe.export.variants:
            gguf.quantize(full, temporary / "gguf" / context.gguf_name(variant), variant, matrix)
        write_json(temporary / _MADE, {"made_of": made_of, "files": _sizes(temporary)})
        write_text(temporary / _NOT_PASSED, "The export gate has not checked these files yet.\n")


def _run_gate(
    context: RunContext, renderer: "Renderer", traces: list["Conversation"]
) -> dict[str, list["Check"]]:
    """Checks every variant, writes export/gate.json and returns the results.

    Raises:
        GateError: a check failed. The note beside the files says which.
        StageError: a server was lost or did not answer in time. The note says so.
    """
    from student.export.gate import check_conversion, read_original, run_gate
    from student.registry.artifact import PROJECTOR

    directory, projector = context.path("export"), None
    if context.student_reads_pixels:
        projector = directory / "gguf" / context.gguf_name(PROJECTOR)
    reply_tokens, tokens = _limits(context)
    checks_by_variant: dict[str, list[Check]] = {}

    def check(name: str, file: Path, run: "Callable[[], list[Check]]") -> None:
        try:
            with step(f"checking {file.name}"):
                results = checks_by_variant[name] = run()
        except StageError as error:
            _note(context, f"{file.name}: not checked to the end: {error}")
            raise
        write_json(directory / "gate.json", checks_by_variant)
        if failed := [check for check in results if check["passed"] is False]:
            problem = f"{file.name}: {failed[0]['name']}: {failed[0]['detail']}"
            _note(context, problem)
            raise GateError(f"{problem} (the files stay in {directory}, see gate.json there)")

    log("computing what the merged weights predict on kept traces")
    with step("computing the reference"):
        original = read_original(directory / "vllm", directory, traces, renderer, None)
    log("checking the conversion to GGUF: next tokens")
    full, full_log = directory / _FULL, context.path("logs", "gate-full.log")
    check("16 bits", full, lambda: check_conversion(full, original, context=tokens, log=full_log))
    image = ", image" if projector else ""
    for variant in context.recipe.export.variants:
        file = directory / "gguf" / context.gguf_name(variant)
        log(
            f"checking {file.name}: template, weights, prompts, token ids, next tokens, end of turn, tool call{image}"
        )
        run = partial(
            run_gate,
            file,
            traces,
            renderer,
            context=tokens,
            reply_tokens=reply_tokens,
            log=context.path("logs", f"gate-{variant}.log"),
            projector=projector,
            original=original,
        )
        check(variant, file, run)
    return checks_by_variant


def _write_serving(context: RunContext, renderer: "Renderer") -> None:
    from student.export import serving
    from student.export.served_student import Served
    from student.registry.artifact import PROJECTOR

    licence, export = context.student["licence"], context.recipe.export
    served = Served(
        name=context.domain.name,
        ggufs={variant: context.gguf_name(variant) for variant in export.variants},
        projector=context.gguf_name(PROJECTOR) if context.student_reads_pixels else None,
        vllm=export.vllm,
        context=context.exam_tokens,
        temperature=context.recipe.evaluate.temperature,
        licence=", ".join(filter(None, (licence["id"], licence.get("url")))),
    )
    tools = list(context.domain.tools.values())
    serving.write(context.path("export", "serving"), served, renderer, tools)


def _note(context: RunContext, problem: str) -> None:
    """Marks the exported files as not passed."""
    write_text(
        context.path("export", _NOT_PASSED),
        f"These files did not pass the export gate.\n{problem}\n"
        f"`stillhouse export {context.directory}` repeats the gate alone.\n",
    )


def _traces(context: RunContext, renderer: "Renderer") -> list["Conversation"]:
    """Kept traces that fit in the student's training length, drawn over all templates of tasks."""
    from student.export.gate_traces import select_traces
    from student.rendering.served import as_served

    kept = read_jsonl(context.path("filter", "kept.jsonl"))
    # Of twice as many, because with train.overflow=split some are too long.
    drawn = select_traces(kept, 2 * _GATE_TRACES, context.recipe.train.holdout)
    served = (as_served(trace, renderer) for trace in drawn)
    fitting = (
        trace
        for trace in served
        if len(
            renderer.ids(
                renderer.text(trace["messages"], trace["tools"]),
                renderer.image_names(trace["messages"]),
            )
        )
        <= context.recipe.train.max_length
    )
    return cast(Any, list(itertools.islice(fitting, _GATE_TRACES)))


def _limits(context: RunContext) -> tuple[int, int]:
    """Returns most tokens of a reply and of a conversation: those of the exam, and room for the gate's own texts."""
    from student.export.checks import LEAST_REPLY
    from student.rendering.vision import MOST_TOKENS

    reply_tokens = max(LEAST_REPLY, context.recipe.evaluate.max_tokens)
    prompt = context.recipe.train.max_length
    if context.student_reads_pixels:
        prompt = max(prompt, MOST_TOKENS)
    return reply_tokens, min(context.student["context"], prompt + reply_tokens)


def _bytes_under(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
