"""Tasks of the review desk for a swarm: many files or pull requests, and one merged answer."""

import random
from collections import Counter

from teacher.domain import Answer, Blueprint, Part, Solution, Swarm, join_names, template

from .environment import ReviewDesk
from .records import Pull
from .textual import failed, phrase

REVIEWER = "file-reviewer"
BRIEF = (
    "You look up facts about files and pull requests on a review desk. Use the tools for every fact. Reply in one short"
    " sentence."
)


def owner_part(path: str, owner: str) -> Part:
    """The part that finds the owner of a file."""
    plan: Solution = [("find_owner", {"path": path})]
    return Part(path, f"Who owns {path}?", plan, f"{owner} owns {path}.", Answer("text", owner))


def failure_part(pull: Pull) -> Part:
    """The part that finds how long the failed check of a pull request ran."""
    name, run = failed(pull)
    return Part(
        pull.id,
        f"How many seconds did the failed check of {pull.id} run?",
        [("list_checks", {"pull_id": pull.id}), ("get_check", {"pull_id": pull.id, "check": name})],
        f"The failed check of {pull.id} ran {run.seconds} seconds.",
        Answer("number", run.seconds),
    )


@template(kind="swarm")
def different_owners(world: ReviewDesk, rng: random.Random) -> Blueprint:
    # Files of the three who own most, so that the answer is seldom just the number of files.
    most = {owner for owner, _ in Counter(world._owners.values()).most_common(3)}
    owned = [(path, owner) for path, owner in world._owners.items() if owner in most]
    chosen = rng.sample(owned, rng.choice((3, 4)))
    count = len({owner for _, owner in chosen})
    request = phrase("different_owners", rng, paths=join_names([path for path, _ in chosen]))
    swarm = Swarm(REVIEWER, BRIEF, [owner_part(*one) for one in chosen])
    people = "person" if count == 1 else "people"
    reply = f"The files are owned by {count} different {people}."
    return Blueprint(request, swarm.plan, reply, Answer("number", count), swarm=swarm)


@template(kind="swarm")
def slowest_failure(world: ReviewDesk, rng: random.Random) -> Blueprint:
    chosen = rng.sample(list(world._pulls.values()), rng.choice((2, 3, 4)))
    longest = max(failed(pull)[1].seconds for pull in chosen)
    request = phrase("slowest_failure", rng, pulls=join_names([pull.id for pull in chosen]))
    swarm = Swarm(REVIEWER, BRIEF, [failure_part(pull) for pull in chosen])
    reply = f"The slowest failed check ran {longest} seconds."
    return Blueprint(request, swarm.plan, reply, Answer("number", longest), swarm=swarm)


@template(kind="swarm")
def release_ownership(world: ReviewDesk, rng: random.Random) -> Blueprint:
    files = world._release_files()
    person = rng.choice(sorted(set(files.values())))
    count = sum(owner == person for owner in files.values())
    paths = rng.sample(list(files), len(files))
    request = phrase("release_ownership", rng, person=person, paths=join_names(paths))
    swarm = Swarm(REVIEWER, BRIEF, [owner_part(path, files[path]) for path in paths])
    reply = f"{person} owns {count} of the {len(paths)} files."
    return Blueprint(request, swarm.plan, reply, Answer("number", count), swarm=swarm)
