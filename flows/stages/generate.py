"""What the stage generate does with a served teacher: the attempts at the tasks, and what is counted of them."""

from pathlib import Path
from typing import Any

from flows.progress import say, track
from flows.run_context import Work
from schemas.errors import GateError, InputError
from schemas.files import read_jsonl, write_json, write_jsonl
from teacher.dialects.base import for_teacher
from teacher.domain import tasks
from teacher.inference.client import Client
from teacher.inference.journal import Journal
from teacher.inference.process import Endpoint
from teacher.models import catalog
from teacher.preflight import run
from teacher.preflight.target import Limits
from teacher.rollout import agent_loop, blind_baseline
from teacher.rollout.scheduler import rollouts

# Worked examples come from seeds that no task has: tasks.sample counts up from its split's first.
_EXAMPLE_SEEDS = 400_000_000


def must_take(work: Work, sampled: list[dict[str, Any]]) -> None:
    """Raises InputError where a first request has more pictures than the teacher's server takes."""
    limits = work.teacher.get("images")
    if not limits or work.grounding != "pixels":
        return
    for task in sampled:
        count = len(task.get("pictures", [])) * (1 + work.recipe.generate.examples)
        if count > limits["max_count"]:
            raise InputError(
                f"{task['id']}: {count} pictures in a request, its examples' included: expected at most"
                f" {limits['max_count']} (images.max_count of {work.teacher['name']})"
            )


def preflight(work: Work, endpoint: Endpoint) -> None:
    """Checks the served teacher before much is asked of it; what was found lies in RUN/preflight.json.

    Raises:
        GateError: a check failed.
    """
    say("checking the served teacher (generate.preflight)")
    settings = work.recipe.generate
    found = run.check(
        endpoint,
        work.teacher,
        work.domain,
        mode=settings.mode,
        limits=Limits(settings.concurrency, settings.timeout_s, settings.max_tokens),
    )
    write_json(work.path("preflight.json"), found)
    for line in run.lines(found):
        say(f"  {line}")
    failed = [check["name"] for check in found["checks"] if check["passed"] is False]
    if failed:
        raise GateError(
            f"{work.teacher['name']}: the served teacher fails {', '.join(failed)}: see"
            f" {work.path('preflight.json')}; --set generate.preflight=false goes on all the same"
        )


async def generate(work: Work, endpoint: Endpoint, to: Path) -> dict[str, Any]:
    """Writes the traces of all attempts to a file and returns the counts for the stage's receipt."""
    settings, teacher = work.recipe.generate, work.teacher
    todo = list(read_jsonl(work.path("tasks", "train.jsonl")))
    identity = {"model": teacher["name"], "revision": catalog.revision(teacher)}
    maker = {**identity, "engine": teacher["engine"], "licence": teacher["licence"]["id"]}
    loop = _loop_settings(work, endpoint)
    shown = {
        name: [
            tasks.build(work.domain, name, "train", _EXAMPLE_SEEDS + i, work.album)
            for i in range(settings.examples)
        ]
        for name in sorted({row["template"] for row in todo})
    }

    def examples(row: dict[str, Any], hinted: bool) -> list[list[dict[str, Any]]]:
        # A hint says what to do; one example shows how a hint is followed.
        chosen = shown[row["template"]][: 1 if hinted else None]
        return [tasks.demonstration(one, work.domain, hinted, work.album) for one in chosen]

    journal = Journal(work.path("journal"))
    before = len(journal)
    counts = {"tasks": len(todo), "traces": 0, "passed": 0, "hinted": 0}
    rows: list[dict[str, Any]] = []
    blinded: list[dict[str, Any]] = []
    every = work.recipe.filter.agreement is not None
    async with Client(
        endpoint, identity, journal, settings.concurrency, settings.timeout_s, work.album
    ) as client:
        with track("attempts", len(todo) * settings.attempts) as advance:
            async for trace in rollouts(
                todo,
                work.domain,
                client,
                loop,
                maker,
                settings.concurrency,
                settings.attempts,
                settings.hint,
                examples,
                every,
            ):
                rows.append(trace)
                counts["traces"] += 1
                counts["hinted"] += trace["hinted"]
                counts["passed"] += agent_loop.passed(trace)
                # A task that is solved needs none of its later attempts.
                attempt = int(trace["id"].rsplit("/", 1)[1])
                done = agent_loop.passed(trace) and not every
                advance(settings.attempts - attempt if done else 1)
        rows.sort(key=lambda row: row["id"])
        if settings.blind:
            blinded = await blind_baseline.check(
                rows, todo, work.domain, client, loop, maker, settings.concurrency, examples
            )
    write_jsonl(to, rows)
    journal.close()
    sent = len(journal) - before
    return {
        **counts,
        **({"blind": len(blinded)} if blinded else {}),
        "requests": sent,
        "replayed": sum(len(row["calls"]) for row in (*rows, *blinded)) - sent,
        "detected": agent_loop.count_detected(rows),
    }


def _loop_settings(work: Work, endpoint: Endpoint) -> agent_loop.Settings:
    """How the teacher's episodes are run."""
    settings, teacher = work.recipe.generate, work.teacher
    sampling = catalog.sampling(teacher, settings.mode)
    return agent_loop.Settings(
        max_steps=min(settings.max_steps, work.domain.spec["budgets"]["steps"]),
        max_tokens=settings.max_tokens,
        temperature=sampling["temperature"]
        if settings.temperature is None
        else settings.temperature,
        top_p=sampling["top_p"] if settings.top_p is None else settings.top_p,
        constrain=settings.constrain,
        call_prefix=teacher.get("call_prefix", ""),
        mode=settings.mode or teacher.get("mode"),
        dialect=for_teacher(teacher, endpoint.url),
        images=work.grounding,
        album=work.album,
        image_limits=teacher.get("images"),
    )
