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

from flows.generation.open_shards import OpenShards
from flows.generation.shards import Shard, ShardReceipt, Spools
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
from teacher.rollout.user import PlayedBy

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
    writer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    spools = Spools(context.directory, writer, teacher.inputs, serving(context))
    loop, maker = _loop_settings(context, teacher), _maker(context, teacher)
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
            rewriter = _rewriter(context, client, loop)
            opened = OpenShards(
                shards,
                RowFile(context.path("tasks", "train.jsonl")),
                spools,
                attempts=settings.attempts,
                wanted=wanted(context),
                blind=settings.blind,
                take_rewritten=rewriter.take_counts if rewriter else None,
            )
            prepare = rewriter.reword if rewriter else as_it_is
            examples = _examples(context, opened.templates)
            playing = rollouts(
                opened.tasks,
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
            sent_before = client.sent
            async for rollout in playing:
                settled = opened.add(rollout)
                # While nothing is sent, the attempts come from the journal.
                on_episode(rollout.trace, settled, client.sent == sent_before)
                sent_before = client.sent
                _update(counts, client, user)
            async for trace in blind_baseline.attempts(
                opened.blind_tasks(),
                context.domain,
                client,
                loop,
                maker,
                workers=settings.concurrency,
                examples=examples,
                prepare=prepare,
            ):
                opened.add_blind(trace)
                _update(counts, client, user)
            return opened.close()


def _update(counts: Counts, client: Client, user: PlayedBy | None) -> None:
    """Brings the counts up to date with the clients of the teacher and of the simulated users."""
    clients = {client, user.client} if user else {client}
    counts.sent = sum(each.sent for each in clients)
    counts.asked = sum(each.asked for each in clients)
    counts.retries, counts.waited = Counter(client.retries), client.waited
    counts.lowest = client.slots.lowest
    counts.without_logprobs = client.without_logprobs


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
