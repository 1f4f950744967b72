"""Plays the episodes of shards of tasks: one client, one journal, as many attempts at a time as the recipe says."""

import contextlib
import dataclasses
import os
import socket
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flows.generation.shards import BlindAttempt, Shard, ShardReceipt, Spools, failure_of
from flows.generation.users import simulated_user
from flows.run_context import RunContext
from schemas.files import read_json
from schemas.recipe import Serve
from schemas.row_file import RowFile
from schemas.task import Task
from schemas.trace import Maker, Message, Served, Trace
from teacher.dialects.base import for_teacher
from teacher.domain import tasks
from teacher.domain.drift_tasks import like_task
from teacher.domain.kinds.derive import derived_example
from teacher.domain.prompts import demonstration
from teacher.domain.swarm import Caps, as_asked
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.inference.pace import Pace
from teacher.models import catalog
from teacher.rollout import agent_loop, blind_baseline
from teacher.rollout.guidance import choose_guidance
from teacher.rollout.rewrite import Rewriter
from teacher.rollout.scheduler import Examples, as_it_is, rollouts

# Worked examples come from seeds that no task has: tasks.sample counts up from the first seed of the split.
_EXAMPLE_SEEDS = 400_000_000
# Settings of `serve` that have no influence on which requests are answered.
_NOT_SERVING = {"price_per_gpu_hour", "ready_timeout_s", "replicas", "stall_s"}


@dataclass(frozen=True)
class Teacher:
    """The served teacher as episodes need to know it.

    url, served, engine: of an API of another process, and what it says of itself; None for a server of this run.
    inputs: a digest of all that traces depend on.
    """

    inputs: str
    url: str | None = None
    engine: str | None = None
    served: Served | None = None


@dataclass
class Counts:
    """What the requests of some shards took. sent: requests with retries. asked: those that the journal lacked.

    lowest: the fewest requests that were let in flight at once. without_logprobs: replies without log-probabilities
    that were asked for.
    """

    sent: int = 0
    asked: int = 0
    retries: Counter[str] = dataclasses.field(default_factory=Counter)
    waited: float = 0
    lowest: int | None = None
    without_logprobs: int = 0

    def add(self, other: "Counts") -> None:
        self.sent += other.sent
        self.without_logprobs += other.without_logprobs
        self.asked += other.asked
        self.retries.update(other.retries)
        self.waited += other.waited
        self.lowest = min(
            (each for each in (self.lowest, other.lowest) if each is not None), default=None
        )


def wanted(context: RunContext) -> int:
    """How many attempts at a task must pass before it is not attempted again."""
    settings, limits = context.recipe.generate, context.recipe.filter
    all_attempts = limits.agreement is not None
    return settings.attempts if all_attempts else min(limits.per_task, settings.attempts)


def planned_serve(context: RunContext) -> Serve:
    """How the teacher is served: the recipe's settings, with what the plan chose where the recipe leaves it open."""
    planned = read_json(context.path("plan.json"))["teacher"]["options"]
    return context.recipe.serve.model_copy(update=planned)


def serving(context: RunContext) -> dict[str, Any]:
    """The settings that decide which requests the server can answer."""
    settings = planned_serve(context).model_dump(mode="json", exclude=_NOT_SERVING)
    return {**settings, "timeout_s": context.recipe.generate.timeout_s}


async def play(
    context: RunContext,
    teacher: Teacher,
    shards: Sequence[Shard],
    find_endpoint: Callable[[], Awaitable[Endpoint]],
    *,
    counts: Counts,
    on_episode: Callable[[Trace, int, bool], None] = lambda trace, pieces, replayed: None,
    journal: Journal,
) -> list[ShardReceipt]:
    """Writes the shards and returns their receipts, in order.

    Args:
        find_endpoint: returns the teacher's endpoint; called before the first request that the journal lacks.
        counts: is kept up to date while episodes are played.
        on_episode: called at the end of each episode with its trace, the number of attempts that it settles, and
            whether its replies are from the journal.
        journal: is closed at the end.

    Raises:
        StageError: the server is lost, or a file cannot be written. Replies so far are in the journal.
    """
    settings = context.recipe.generate
    todo = RowFile[Task](context.path("tasks", "train.jsonl"))
    shard_of: dict[str, Shard] = {}
    ids: dict[int, list[str]] = {}
    templates = set()
    for shard in shards:
        names = [
            (task["id"], task["template"]) for task in todo[shard.first : shard.first + shard.count]
        ]
        ids[shard.number] = [task_id for task_id, _ in names]
        shard_of |= dict.fromkeys(ids[shard.number], shard)
        templates |= {template for _, template in names}
    own = todo.select(
        index for shard in shards for index in range(shard.first, shard.first + shard.count)
    )
    receipts: dict[int, ShardReceipt] = {}
    writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    spools = Spools(context.directory, writer, teacher.inputs, serving(context))
    open_tasks = Counter({shard.number: shard.count for shard in shards})
    passes: Counter[str] = Counter()
    blind: dict[int, set[int]] = {}  # of each shard, the tasks that were solved with their images
    loop, maker = _loop_settings(context, teacher), _maker(context, teacher)
    examples = _examples(context, sorted(templates))
    with contextlib.ExitStack() as stack:
        stack.callback(spools.discard)
        stack.enter_context(contextlib.closing(journal))
        async with (
            Client(
                find_endpoint,
                _identity(context),
                journal,
                settings.concurrency,
                settings.timeout_s,
                context.image_store,
                patience=settings.patience_s,
                serving=serving(context),
                pace=Pace(settings.requests_per_minute, settings.tokens_per_minute),
            ) as client,
            contextlib.AsyncExitStack() as episodes,
        ):
            user = await episodes.enter_async_context(
                simulated_user(context, client, loop, maker, journal)
            )
            loop = dataclasses.replace(loop, user=user)
            clients = {client, user.client} if user else {client}

            def update() -> None:
                counts.sent = sum(each.sent for each in clients)
                counts.asked = sum(each.asked for each in clients)
                counts.retries, counts.waited = Counter(client.retries), client.waited
                counts.lowest = client.slots.lowest
                counts.without_logprobs = client.without_logprobs

            places = {task_id: i for shard in shards for i, task_id in enumerate(ids[shard.number])}
            rewriter = _rewriter(context, client, loop)
            prepare = rewriter.reword if rewriter else as_it_is

            def close(shard: Shard, without_images: Sequence[BlindAttempt] = ()) -> None:
                names = ids[shard.number]
                rewritten = rewriter.take_counts(names) if rewriter else None
                receipts[shard.number] = spools.close(shard, names, without_images, rewritten)

            sent_before = client.sent
            playing = rollouts(
                own,
                context.domain,
                client,
                loop,
                maker,
                workers=settings.concurrency,
                attempts=settings.attempts,
                hint=settings.hint,
                examples=examples,
                wanted=wanted(context),
                prepare=prepare,
            )
            # An error in this loop ends the episodes before the client.
            await episodes.enter_async_context(contextlib.aclosing(playing))
            async for rollout in playing:
                trace = rollout.trace
                task_id = trace["task"]["id"]
                shard = shard_of[task_id]
                spools.add(shard, trace)
                has_passed = agent_loop.passed(trace)
                passes[task_id] += has_passed
                is_last = rollout.attempt + 1 == settings.attempts
                is_last |= passes[task_id] >= wanted(context)
                if settings.blind and has_passed and trace["images"]:
                    blind.setdefault(shard.number, set()).add(shard.first + places[task_id])
                if is_last:
                    passes.pop(task_id)
                    open_tasks[shard.number] -= 1
                    if not open_tasks[shard.number] and shard.number not in blind:
                        close(shard)
                # A task that is solved needs none of its later attempts.
                pieces = settings.attempts - rollout.attempt if is_last else 1
                # While nothing is sent, the attempts come from the journal.
                on_episode(trace, pieces, client.sent == sent_before)
                sent_before = client.sent
                update()
            candidates = [
                index
                for number in sorted(blind)
                for index in sorted(blind[number])
                if blind_baseline.needs_image(todo[index])
            ]
            attempted: dict[int, list[BlindAttempt]] = {}
            async for trace in blind_baseline.attempts(
                todo.select(candidates),
                context.domain,
                client,
                loop,
                maker,
                workers=settings.concurrency,
                examples=examples,
                prepare=prepare,
            ):
                task_id = trace["task"]["id"]
                shard = shard_of[task_id]
                attempt = BlindAttempt(
                    shard.first + places[task_id],
                    agent_loop.passed(trace),
                    len(trace["calls"]),
                    failure_of(trace),
                )
                attempted.setdefault(shard.number, []).append(attempt)
                update()
            for shard in shards:
                if shard.number not in receipts:
                    close(shard, attempted.get(shard.number, ()))
    return [receipts[shard.number] for shard in shards]


def _rewriter(context: RunContext, client: Client, loop: agent_loop.Settings) -> Rewriter | None:
    """What rewords the requests of tasks; None without tasks.rewrite."""
    spec, share = context.domain.spec, context.recipe.tasks.rewrite
    if not share:
        return None
    return Rewriter(
        client.complete,
        loop,
        share=share,
        personas=spec["personas"],
        languages=spec["languages"],
    )


def _identity(context: RunContext) -> dict[str, str]:
    """What identifies the model in the journal's keys. What an API says of itself is no part of it.

    A new field here would make every reply of an older journal be requested, and paid for, once more.
    """
    identity = {
        "model": context.teacher["name"],
        "revision": catalog.revision(context.teacher),
    }
    # Another name in the API is another model.
    model = context.recipe.serve.model
    return identity | {"served_model": model} if model else identity


def _maker(context: RunContext, teacher: Teacher) -> Maker:
    """The teacher as its traces name it: by what its API says, else by its description."""
    licence = context.teacher["licence"]["id"]
    if teacher.served is None:
        return {
            "model": context.teacher["name"],
            "revision": catalog.revision(context.teacher),
            "engine": context.teacher["engine"],
            "licence": licence,
        }
    return {
        "model": teacher.served["model"],
        "revision": None,
        "engine": teacher.engine or "openai",
        "licence": licence,
        "served": teacher.served,
    }


def _examples(context: RunContext, templates: Sequence[str]) -> Examples:
    """The function that returns the worked examples of a task of one of the templates."""
    count, store = context.recipe.generate.examples, context.image_store
    example_tasks = {
        name: [
            tasks.build(context.domain, name, "train", _EXAMPLE_SEEDS + i, image_store=store)
            for i in range(count)
        ]
        for name in templates
    }

    def examples(task: Task, hinted: bool) -> list[list[Message]]:
        # A hint gives the solution; one example shows how to follow it.
        chosen = example_tasks[task["template"]][: 1 if hinted else None]
        return [
            demonstration(as_asked(shown, task), context.domain, hinted=hinted, image_store=store)
            for example in chosen
            if (derived := derived_example(example, task, context.domain))
            and (shown := like_task(derived, task, context.domain))
        ]

    return examples


def _loop_settings(context: RunContext, teacher: Teacher) -> agent_loop.Settings:
    """How the teacher's episodes are run."""
    settings, description = context.recipe.generate, context.teacher
    sampling = catalog.sampling(description, settings.mode)
    return agent_loop.Settings(
        max_steps=min(settings.max_steps, context.domain.spec["budgets"]["steps"]),
        max_tokens=settings.max_tokens,
        temperature=sampling["temperature"]
        if settings.temperature is None
        else settings.temperature,
        top_p=sampling["top_p"] if settings.top_p is None else settings.top_p,
        mode=settings.mode or description.get("mode"),
        dialect=for_teacher(description, teacher.url),
        images=context.teacher_grounding,
        image_store=context.image_store,
        image_limits=description.get("images"),
        logprobs=settings.logprobs,
        caps=Caps(**description["capabilities"].get("swarm", {})),
        guidance=choose_guidance(
            constrain=settings.constrain,
            few=settings.toolbox == "few",
            call_prefix=description.get("call_prefix", ""),
        ),
    )
