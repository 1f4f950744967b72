"""Checks a pack before money is spent: what its author got wrong, with the place and the fix.

    findings, statistics = check(load("./my-domain"), FULL, needed={"lookup_a": 110, ...})

`teacher.domain.tasks.build` proves one task; the checks here look at many tasks of every template, and collect what is
wrong instead of stopping at the first. Nothing is sent to a model. `plan` runs the same with SAMPLE, in a few seconds.

    filled         nothing is left to be written (gaps.py); otherwise nothing else is looked at
    solvable       tasks are built, and what `build` refuses is listed (this module)
    deterministic  the same task is the same everywhere and beside any other (determinism.py, child.py)
    provable       answers, arguments and replies follow from what the solution sees (proof.py, evidence.py)
    fair           the exam is new and needs skill (fairness.py), tasks vary (variety.py) and meet the policy (kinds.py)

Sizes in tokens are checked by `teacher.planning.pack_size`, which knows the models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.errors import InputError
from schemas.task import Split, Task
from teacher.domain import tasks
from teacher.domain.check import determinism, fairness, kinds, proof, variety
from teacher.domain.check.episode import Episode, Job, play
from teacher.domain.check.finding import Finding
from teacher.domain.check.gaps import find_gaps
from teacher.domain.pack import Domain
from teacher.domain.seeds import FIRST_SEED
from teacher.domain.worlds import make_blueprint
from teacher.scenes.images import ImageStore


@dataclass(frozen=True)
class Amount:
    """How much of a pack is looked at.

    train, exam: tasks of each template that are played. built: tasks of each template that are built, images drawn.
    compared: tasks of each template that are played in `processes` other processes, and beside others.
    worlds: worlds of each split whose names and numbers are compared. requests: requests of each template.
    """

    train: int
    exam: int
    built: int
    compared: int
    processes: int
    worlds: int
    requests: int


FULL = Amount(train=16, exam=8, built=2, compared=2, processes=2, worlds=100, requests=80)
SAMPLE = Amount(train=3, exam=1, built=0, compared=1, processes=1, worlds=30, requests=0)


@dataclass
class Checked:
    """What the checks of a pack found, and what they looked at.

    tasks: those that were built, for sizes and samples. statistics: counts, by template where they are of templates.
    """

    findings: list[Finding]
    statistics: dict[str, Any]
    episodes: dict[str, list[Episode]]
    tasks: list[Task]


def check(
    domain: Domain,
    amount: Amount,
    *,
    needed: Mapping[str, int] | None = None,
    image_store: ImageStore | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Checked:
    """Returns what is wrong with a pack.

    Args:
        needed: how many training tasks a run needs of each template.
        image_store: stores the images of the tasks that are built.
        advance: called after each template of each of three rounds.
    """
    if gaps := find_gaps(domain.path):
        # What is not written yet would be found a second time as a failure of every task.
        nothing = {
            "templates": 0,
            "tools": len(domain.tools),
            "tasks": 0,
            "built": 0,
            "compared": 0,
        }
        return Checked(gaps, {**nothing, "by_template": {}}, {}, [])
    findings: list[Finding] = []
    episodes: dict[str, list[Episode]] = {}
    jobs = {name: _jobs(name, amount) for name in domain.templates}
    compared = [job for group in jobs.values() for job in group[: amount.compared]]
    # Started first, so that they run while this process plays the tasks.
    others = [
        determinism.OtherProcess(domain, compared, hash=977 + number)
        for number in range(amount.processes)
    ]
    try:
        for name, group in jobs.items():
            episodes[name] = [play(domain, job) for job in group]
            advance()
        by_job = {episode.job: episode for group in episodes.values() for episode in group}
        built: list[Task] = []
        for name in domain.templates:
            found, some = _build(domain, name, episodes[name], amount.built, image_store)
            findings += found
            built += some
            advance()
        few = [by_job[job] for job in compared]
        findings += determinism.check_processes(domain, few, others)
        differing = {finding.template for finding in findings}
        findings += determinism.check_episodes(
            domain, [episode for episode in few if episode.job.template not in differing]
        )
    finally:
        for other in others:
            other.close()
    for name, played in episodes.items():
        findings += proof.check_proof(domain, name, played)
        advance()
    findings += fairness.check_splits(domain, episodes, amount.worlds)
    findings += kinds.check_policy(domain, episodes, is_full=amount.requests > 0)
    requests: dict[str, list[str]] = {}
    if amount.requests:
        findings += fairness.check_agents(domain, episodes)
        requests = {name: _requests(domain, name, amount.requests) for name in domain.templates}
        findings += variety.check_variety(domain, episodes, requests, needed or {})
    statistics = {
        "templates": len(domain.templates),
        "tools": len(domain.tools),
        "tasks": sum(len(group) for group in episodes.values()),
        "built": len(built),
        "compared": len(compared),
        "by_template": {
            name: _template_statistics(domain, name, episodes[name], requests.get(name))
            for name in domain.templates
        },
    }
    return Checked(findings, statistics, episodes, built)


def _jobs(name: str, amount: Amount) -> list[Job]:
    """A template's tasks, of both splits, those of training first."""
    splits: list[tuple[Split, int]] = [("train", amount.train), ("exam", amount.exam)]
    return [
        Job(name, split, FIRST_SEED[split] + i) for split, count in splits for i in range(count)
    ]


def _build(
    domain: Domain,
    name: str,
    played: Sequence[Episode],
    count: int,
    image_store: ImageStore | None,
) -> tuple[list[Finding], list[Task]]:
    """Builds some tasks of a template, and those that failed when they were played; returns what is refused."""
    failed = [episode for episode in played if episode.failure]
    jobs = [episode.job for episode in [*failed[:1], *[e for e in played if not e.failure]]]
    built: list[Task] = []
    illegible: InputError | None = None
    for job in jobs[: count + len(failed[:1])]:
        try:
            built.append(tasks.build(domain, name, job.split, job.seed, image_store=image_store))
        except tasks.IllegibleImage as error:
            illegible = error  # one seed in some hundreds; `sample` takes the next
        except InputError as error:
            return [_refused(domain, job, str(error))], built
        except Exception as error:
            return [_refused(domain, job, f"{type(error).__name__}: {error}")], built
    if illegible and not built and count:
        return [_refused(domain, jobs[0], str(illegible))], built
    if failed:
        return [_refused(domain, failed[0].job, str(failed[0].failure))], built
    return [], built


def _refused(domain: Domain, job: Job, message: str) -> Finding:
    file = domain.templates[job.template].file
    place = f"{file}: {job.template}: seed {job.seed} ({job.split}): "
    return Finding(
        "solvable",
        "error",
        file,
        message.removeprefix(place),
        "correct the template, or the tool that it calls",
        template=job.template,
        seed=job.seed,
    )


def _requests(domain: Domain, name: str, count: int) -> list[str]:
    requests = []
    for seed in range(FIRST_SEED["train"], FIRST_SEED["train"] + count):
        try:
            _, blueprint = make_blueprint(
                domain.environment, domain.templates[name], split="train", seed=seed
            )
            requests.append(str(blueprint.request))
        except Exception:
            continue  # listed as solvable
    return requests


def _template_statistics(
    domain: Domain, name: str, played: Sequence[Episode], requests: Sequence[str] | None
) -> dict[str, Any]:
    solved = [episode for episode in played if not episode.failure]
    row: dict[str, Any] = {
        "kind": domain.templates[name].kind,
        "tasks": len(played),
        "failed": len(played) - len(solved),
        "calls": max((len(episode.results) for episode in solved), default=0),
        "writes": any(any(episode.writes) for episode in solved),
        "wordings": len(variety.find_wordings(played)),
    }
    if requests:
        different, total = variety.trigrams(requests)
        row |= {
            "requests": len(set(requests)),
            "of": len(requests),
            "capacity": variety.estimate_capacity(requests),
            "different_trigrams": different,
            "trigrams": total,
        }
    return row


__all__ = ["FULL", "SAMPLE", "Amount", "Checked", "Finding", "check"]
