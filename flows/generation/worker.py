"""Plays one shard in a worker's process, from what lies in the run's directory alone: `play_shard`.

The driver writes stages/generate/job.json first: the recipe, the pack, the teacher's description and where it is
served. The key of an API is not in it: a worker takes it from its own environment.
"""

import asyncio
import functools
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, cast

from flows.generation.episodes import Counts, Teacher, play
from flows.generation.shards import cut
from flows.run_context import RunContext
from flows.run_directory import Run
from schemas.error_text import one_line
from schemas.files import read_json, write_json
from schemas.recipe import Recipe
from schemas.row_file import RowFile
from teacher.domain import pack
from teacher.inference.endpoint import Endpoint, keep_this_machine_off_proxies
from teacher.inference.journal import Journal
from teacher.inference.launch import key_of
from teacher.planning import hardware


class Job(TypedDict):
    """What workers need to know of a run.

    id: of this start. model: the teacher's name in the API at `url`. servers: those behind a router, for their metrics.
    """

    id: str
    recipe: dict[str, Any]
    domain: dict[str, str]
    description: dict[str, Any]
    teacher: dict[str, Any]
    url: str
    model: str
    servers: list[str]


def job_path(run: Path) -> Path:
    return run / "stages" / "generate" / "job.json"


def write_job(context: RunContext, teacher: Teacher, endpoint: Endpoint) -> None:
    """Writes the job of a run. The recipe is the whole one: the context may be limited to some of its fields."""
    job: Job = {
        "id": uuid.uuid4().hex,
        "recipe": read_json(context.path("run.json"))["recipe"],
        "domain": context.run.domain,
        "description": context.teacher,
        "teacher": asdict(teacher),
        "url": endpoint.url,
        "model": endpoint.model,
        "servers": list(endpoint.servers),
    }
    write_json(job_path(context.directory), job)


def play_shard(run: str, number: int) -> dict[str, Any]:
    """Plays a shard of a run and returns {"receipt", "counts"}, or {"error"}: no exception leaves the process.

    An exception may hold what does not pickle, such as a lock; its type and text always do.
    """
    try:
        return _play(Path(run), number)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {one_line(str(error), 2000)}"}


def _play(directory: Path, number: int) -> dict[str, Any]:
    keep_this_machine_off_proxies()
    job = cast(Job, read_json(job_path(directory)))
    recipe = Recipe.model_validate(job["recipe"])
    context = RunContext(
        Run(directory, job["domain"]),
        recipe,
        pack.load(job["domain"]["path"]),
        job["description"],
        {},  # generation does not depend on the student
        hardware.find(),
    )
    teacher = Teacher(**job["teacher"])
    tasks: RowFile[Any] = RowFile(context.path("tasks", "train.jsonl"))
    shard = cut(len(tasks), recipe.generate.shard)[number]
    endpoint = Endpoint(
        job["url"],
        key_of(job["description"], job["url"]),
        job["model"],
        engine=teacher.engine or job["description"]["engine"],
        served=teacher.served,
        servers=tuple(job["servers"]),
    )

    async def find_endpoint() -> Endpoint:
        return endpoint

    counts = Counts()
    journal = Journal(
        context.path("journal"), f"shard-{number:05d}-", _replies_before(str(directory), job["id"])
    )
    [receipt] = asyncio.run(
        play(context, teacher, [shard], find_endpoint, counts=counts, journal=journal)
    )
    return {"receipt": receipt, "counts": asdict(counts)}


@functools.lru_cache(maxsize=1)
def _replies_before(directory: str, job: str) -> Journal:
    """The replies that the journal had when this process played its first shard of a job."""
    return Journal(Path(directory, "journal"))
