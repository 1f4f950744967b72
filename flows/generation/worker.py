"""Plays one shard in a worker's process, from what lies in the run's directory alone: `play_shard`.

The driver writes stages/generate/job.json first: the recipe, the pack and the teacher's description. A worker that
needs a reply that the journal lacks writes stages/generate/wanted.ID and waits for stages/generate/endpoint.json, which
says where the teacher is served. The key of an API is in none of them: a worker takes it from its own environment.
"""

import asyncio
import contextlib
import functools
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, cast

from flows.generation.episodes import Counts, Teacher, play
from flows.generation.runners import returned_error
from flows.generation.shards import cut
from flows.run_context import RunContext
from flows.run_directory import Run
from schemas.errors import InputError, StageError
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

    id: of this start. share: workers among which the recipe's concurrency and limits per minute are divided.
    """

    id: str
    share: int
    recipe: dict[str, Any]
    domain: dict[str, str]
    description: dict[str, Any]
    teacher: dict[str, Any]


class Served(TypedDict):
    """Where the teacher is served. job: the id. servers: those behind a router, for their metrics."""

    job: str
    url: str
    model: str
    servers: list[str]


# Seconds between two looks for the teacher's address.
_LOOK = 0.2


def _path(run: Path, name: str) -> Path:
    return run / "stages" / "generate" / name


def write_job(context: RunContext, teacher: Teacher, share: int) -> str:
    """Writes the job of a run and returns its id.

    The recipe is the whole one: the context may be limited to some of its fields.
    """
    job: Job = {
        "id": uuid.uuid4().hex,
        "share": share,
        "recipe": read_json(context.path("run.json"))["recipe"],
        "domain": context.run.domain,
        "description": context.teacher,
        "teacher": asdict(teacher),
    }
    write_json(_path(context.directory, "job.json"), job)
    return job["id"]


def is_wanted(context: RunContext, job: str) -> bool:
    """Whether a worker waits for the teacher."""
    return _path(context.directory, f"wanted.{job}").exists()


def write_endpoint(context: RunContext, job: str, endpoint: Endpoint) -> None:
    """Tells the workers of a job where the teacher is served."""
    served: Served = {
        "job": job,
        "url": endpoint.url,
        "model": endpoint.model,
        "servers": list(endpoint.servers),
    }
    write_json(_path(context.directory, "endpoint.json"), served)


def play_shard(run: str, number: int) -> dict[str, Any]:
    """Plays a shard of a run and returns {"receipt", "counts"}, or {"error"}: no exception leaves the process."""
    try:
        return _play(Path(run), number)
    except Exception as error:
        return returned_error(error)


def _play(directory: Path, number: int) -> dict[str, Any]:
    keep_this_machine_off_proxies()
    job = cast(Job, read_json(_path(directory, "job.json")))
    recipe = _own_share(Recipe.model_validate(job["recipe"]), job["share"])
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

    async def find_endpoint() -> Endpoint:
        served = await _find_served(directory, job["id"])
        return Endpoint(
            served["url"],
            key_of(job["description"], served["url"]),
            served["model"],
            engine=teacher.engine or job["description"]["engine"],
            served=teacher.served,
            servers=tuple(served["servers"]),
        )

    counts = Counts()
    journal = Journal(
        context.path("journal"), f"shard-{number:05d}-", _replies_before(str(directory), job["id"])
    )
    [receipt] = asyncio.run(
        play(context, teacher, [shard], find_endpoint, counts=counts, journal=journal)
    )
    # Of the whole run's requests in flight, as the other workers fare alike.
    if counts.lowest is not None:
        is_lower = counts.lowest < recipe.generate.concurrency
        counts.lowest = counts.lowest * job["share"] if is_lower else None
    return {"receipt": receipt, "counts": asdict(counts)}


def _own_share(recipe: Recipe, workers: int) -> Recipe:
    """The recipe with one worker's share of what is in flight and of the limits per minute."""
    settings = recipe.generate
    limits = {
        name: max(1, most // workers)
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute")
        if (most := getattr(settings, name)) is not None
    }
    return recipe.model_copy(update={"generate": settings.model_copy(update=limits)})


async def _find_served(directory: Path, job: str) -> Served:
    """Where the teacher is served, once the driver has started it, which may take as long as weights take to load.

    Raises:
        StageError: the run was started again meanwhile.
    """
    _path(directory, f"wanted.{job}").touch()
    while True:
        with contextlib.suppress(InputError):
            served = cast(Served, read_json(_path(directory, "endpoint.json")))
            if served["job"] == job:
                return served
        if read_json(_path(directory, "job.json"))["id"] != job:
            raise StageError(f"{directory}: the run was started again")
        await asyncio.sleep(_LOOK)


@functools.lru_cache(maxsize=1)
def _replies_before(directory: str, job: str) -> Journal:
    """The replies that the journal had when this process played its first shard of a job."""
    return Journal(Path(directory, "journal"))
