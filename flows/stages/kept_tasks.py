"""Keeps the proven tasks of a run for a plan that is made again with settings that change no task.

In: RUN/tasks, with made.json, which names what the tasks were made from and the digests of their files. Out: the tasks,
where nothing of that has changed. The plan repeats with each setting of training, and proving 2,000 tasks takes half a
minute.
"""

import importlib.metadata
from dataclasses import asdict, dataclass
from typing import Any

from flows.run_context import RunContext
from flows.stages.other_packs import other_packs
from schemas.files import dumps, read_json, read_jsonl, sha256, sha256_text, write_json, write_jsonl
from schemas.task import Task
from teacher.domain.capacity import Capacity
from teacher.scenes.images import task_images

_FILES = ("train.jsonl", "exam.jsonl")


@dataclass
class Made:
    """The tasks of a run. seconds: what it took to make one of training."""

    train: list[Task]
    exam: list[Task]
    capacities: list[Capacity]
    seconds: float


def load(context: RunContext) -> Made | None:
    """Returns the tasks of an earlier plan in this run, or None if they have to be made."""
    path = context.path("tasks", "made.json")
    row = read_json(path) if path.is_file() else {}
    files = [context.path("tasks", name) for name in _FILES]
    if row.get("source") != _source(context) or not all(file.is_file() for file in files):
        return None
    if row["files"] != [sha256(file) for file in files]:
        return None
    train, exam = ([*read_jsonl(file)] for file in files)
    if context.image_store.missing(name for task in (*train, *exam) for name in task_images(task)):
        return None
    return Made(train, exam, [Capacity(**each) for each in row["capacities"]], row["seconds"])


def store(context: RunContext, made: Made) -> None:
    """Writes the tasks, and then what they were made from."""
    files = [context.path("tasks", name) for name in _FILES]
    for file, rows in zip(files, (made.train, made.exam), strict=True):
        write_jsonl(file, rows)
    row = {
        "source": _source(context),
        "files": [sha256(file) for file in files],
        "capacities": [asdict(each) for each in made.capacities],
        "seconds": made.seconds,
    }
    write_json(context.path("tasks", "made.json"), row)


def _source(context: RunContext) -> str:
    """Returns a digest of everything that the tasks and their order depend on."""
    source: dict[str, Any] = {
        "domain": context.run.domain["sha256"],
        **other_packs(context),
        "tasks": context.recipe.tasks.model_dump(mode="json"),
        "toolbox": context.recipe.generate.toolbox,
        "pixels": [context.teacher_grounding, context.student_reads_pixels],
        "sampled": context.sampled,
        "version": importlib.metadata.version("stillhouse"),
    }
    return sha256_text(dumps(source))
