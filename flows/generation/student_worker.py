"""What workers do with the student's tokenizer: they judge the traces of a shard, or make examples of kept traces.

The driver writes stages/STAGE/job.json first. A worker leaves a file for each shard in filter/.judged or train/.parts,
which the driver joins in the order of the shards, so the results are those of one process.
"""

import functools
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from flows.generation.runners import returned_error
from flows.generation.shards import trace_files
from flows.run_context import RunContext
from flows.run_directory import Run
from schemas.files import read_json, read_jsonl, write_json, write_jsonl
from schemas.recipe import Recipe
from schemas.row_file import RowFile
from schemas.task import Task
from schemas.trace import Trace, nodes
from teacher.planning import hardware

if TYPE_CHECKING:
    from schemas.filter import CountTokens
    from student.rendering.renderer import Renderer

Stage = Literal["filter", "train"]


class Job(TypedDict):
    """What workers need to know. id: of this start. rows: where each row of filter/kept.jsonl begins, for train."""

    id: str
    recipe: dict[str, Any]
    domain: dict[str, str]
    student: dict[str, Any]
    limits: dict[str, Any]
    rows: list[int]


def write_job(
    context: RunContext,
    stage: Stage,
    *,
    limits: dict[str, Any] | None = None,
    rows: Sequence[int] = (),
) -> None:
    """Writes the job of a stage. limits: the settings of the filter."""
    job: Job = {
        "id": uuid.uuid4().hex,
        "recipe": read_json(context.path("run.json"))["recipe"],
        "domain": context.run.domain,
        "student": context.student,
        "limits": limits or {},
        "rows": list(rows),
    }
    write_json(_job_path(context.directory, stage), job)


def judged_path(run: Path, number: int) -> Path:
    """Where the judged traces of a file of traces lie."""
    return run / "filter" / ".judged" / f"{number:05d}.jsonl.zst"


def part_path(run: Path, number: int) -> Path:
    """The name of a part of the examples (student/training/mixture.py:make_part)."""
    return run / "train" / ".parts" / f"{number:05d}"


def judge_shard(run: str, number: int) -> dict[str, Any]:
    """Judges the traces of a file alone and returns {"traces", "rejected": count by reason}, or {"error"}."""
    try:
        return _judge(Path(run), number)
    except Exception as error:
        return returned_error(error)


def _judge(run: Path, number: int) -> dict[str, Any]:
    judge = _judge_of(run, _opened(run, "filter", _job(run, "filter")["id"]))
    traces = read_jsonl(trace_files(run)[number])
    rows = [judge(node) for trace in traces for node in nodes(trace)]
    write_jsonl(judged_path(run, number), rows)
    rejected = Counter(str(row["rejected"]["reason"]) for row in rows if row["rejected"])
    return {"traces": len(rows), "rejected": dict(rejected)}


def make_examples(run: str, number: int) -> dict[str, Any]:
    """Makes the examples of a shard of kept traces and returns {"counts"}, or {"error"}."""
    try:
        return _make_examples(Path(run), number)
    except Exception as error:
        return returned_error(error)


def _make_examples(run: Path, number: int) -> dict[str, Any]:
    from student.training import mixture

    opened = _opened(run, "train", _job(run, "train")["id"])
    recipe, size = opened.context.recipe, opened.context.recipe.generate.shard
    rows = opened.job["rows"][number * size : (number + 1) * size]
    traces = RowFile[Trace](run / "filter" / "kept.jsonl", rows)
    counts = mixture.make_part(traces, opened.renderer, recipe.train, part_path(run, number))
    return {"counts": dict(counts)}


class _Opened:
    """A job in this process: the tokenizer takes a second to load."""

    def __init__(self, run: Path, job: Job) -> None:
        self.job = job
        self.context = RunContext(
            Run(run, job["domain"]),
            Recipe.model_validate(job["recipe"]),
            cast(Any, None),  # neither the pack nor the teacher is needed
            {},
            job["student"],
            hardware.find(),
        )
        self.renderer = self.context.renderer()


@functools.lru_cache(maxsize=1)
def _opened(run: Path, stage: Stage, job_id: str) -> _Opened:
    return _Opened(run, _job(run, stage))


@functools.lru_cache(maxsize=1)
def _judge_of(run: Path, opened: _Opened) -> Any:
    from schemas.filter import FilterSettings
    from schemas.filter_run import JudgeAlone

    exam = cast(list[Task], list(read_jsonl(run / "tasks" / "exam.jsonl")))
    return JudgeAlone(
        exam,
        FilterSettings(**opened.job["limits"]),
        token_counter(opened.renderer),
        opened.context.image_store.fingerprint,
    )


def token_counter(renderer: "Renderer") -> "CountTokens":
    """The function that returns a trace's tokens at the end of each turn that it teaches."""
    from student.rendering.examples import turn_lengths

    return lambda trace, enough: turn_lengths(trace, renderer, enough)


def _job(run: Path, stage: Stage) -> Job:
    return cast(Job, read_json(_job_path(run, stage)))


def _job_path(run: Path, stage: Stage) -> Path:
    return run / "stages" / stage / "job.json"
