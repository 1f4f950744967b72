"""The text-only task templates of the review desk. requests.yaml holds the wordings of the requests."""

import random
from pathlib import Path
from typing import Any

import yaml

from teacher.domain import Answer, Blueprint, Solution, template

from .environment import ReviewDesk
from .records import CHECKS, SEVERITIES, Pull, Run

REQUESTS = yaml.safe_load(Path(__file__).with_name("requests.yaml").read_text(encoding="utf-8"))


def phrase(name: str, rng: random.Random, /, **facts: Any) -> str:
    """A random wording of a request, filled in with the facts."""
    return rng.choice(REQUESTS[name]).format(**facts)


def a_pull(world: ReviewDesk, rng: random.Random) -> Pull:
    """A random pull request."""
    return rng.choice(list(world._pulls.values()))


def failed(pull: Pull) -> tuple[str, Run]:
    """The name and the run of the pull request's failed check."""
    return next((name, run) for name, run in pull.checks.items() if run.status == "failed")


@template(kind="lookup")
def pull_author(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = a_pull(world, rng)
    request = phrase("pull_author", rng, pull=pull.id)
    solution: Solution = [("get_pull_request", {"pull_id": pull.id})]
    return Blueprint(request, solution, f"{pull.author} wrote it.", Answer("text", pull.author))


@template(kind="lookup")
def file_owner(world: ReviewDesk, rng: random.Random) -> Blueprint:
    path, owner = rng.choice(list(world._owners.items()))
    request = phrase("file_owner", rng, path=path)
    solution: Solution = [("find_owner", {"path": path})]
    return Blueprint(request, solution, f"{owner} owns it.", Answer("text", owner))


@template(kind="lookup")
def failing_check(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = a_pull(world, rng)
    name, _ = failed(pull)
    request = phrase("failing_check", rng, pull=pull.id)
    solution: Solution = [("list_checks", {"pull_id": pull.id})]
    answer = Answer("choice", name, options=CHECKS)
    return Blueprint(request, solution, f"The check that failed is {name}.", answer)


@template(kind="lookup")
def lines_changed(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = a_pull(world, rng)
    total = sum(pull.files.values())
    request = phrase("lines_changed", rng, pull=pull.id)
    solution: Solution = [("list_files", {"pull_id": pull.id})]
    return Blueprint(request, solution, f"It changes {total} lines.", Answer("number", total))


@template(kind="lookup")
def queue_position(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = rng.choice(world._queue)
    place = world._queue.index(pull) + 1
    request = phrase("queue_position", rng, pull=pull)
    solution: Solution = [("get_queue_position", {"pull_id": pull})]
    return Blueprint(request, solution, f"{pull} is number {place}.", Answer("number", place))


@template(kind="lookup")
def issue_severity(world: ReviewDesk, rng: random.Random) -> Blueprint:
    issue = rng.choice(list(world._issues.values()))
    request = phrase("issue_severity", rng, issue=issue.id)
    solution: Solution = [("get_issue", {"issue_id": issue.id})]
    answer = Answer("choice", issue.severity, options=SEVERITIES)
    return Blueprint(request, solution, f"The severity of {issue.id} is {issue.severity}.", answer)


@template(kind="lookup")
def severity_before_change(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Sounds like a change of the severity and asks for no write."""
    issue = rng.choice(list(world._issues.values()))
    request = phrase("severity_before_change", rng, issue=issue.id)
    solution: Solution = [("get_issue", {"issue_id": issue.id})]
    answer = Answer("choice", issue.severity, options=SEVERITIES)
    return Blueprint(request, solution, f"It is {issue.severity} now.", answer)


@template(kind="lookup")
def pending_reviewer(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Sounds like remind_reviewer and asks for no write."""
    pull = a_pull(world, rng)
    late = next(name for name, state in pull.reviews.items() if state == "pending")
    request = phrase("pending_reviewer", rng, pull=pull.id)
    solution: Solution = [("list_reviews", {"pull_id": pull.id})]
    return Blueprint(request, solution, f"{late} has not answered.", Answer("text", late))


@template(kind="workflow")
def linked_build(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = a_pull(world, rng)
    build = world._issues[pull.issue].build
    request = phrase("linked_build", rng, pull=pull.id)
    solution: Solution = [
        ("get_pull_request", {"pull_id": pull.id}),
        ("get_issue", {"issue_id": pull.issue}),
    ]
    return Blueprint(request, solution, f"It was found in build {build}.", Answer("number", build))


@template(kind="workflow")
def largest_file_review(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = a_pull(world, rng)
    path = max(pull.files, key=lambda one: pull.files[one])
    owner = world._owners[path]
    request = phrase("largest_file_review", rng, pull=pull.id)
    solution: Solution = [
        ("list_files", {"pull_id": pull.id}),
        ("find_owner", {"path": path}),
        ("request_review", {"pull_id": pull.id, "reviewer": owner}),
    ]
    reply = f"I asked {owner}, who owns {path}."
    return Blueprint(request, solution, reply, Answer("text", owner))


@template(kind="workflow")
def rerun_failed(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = a_pull(world, rng)
    name, run = failed(pull)
    request = phrase("rerun_failed", rng, pull=pull.id)
    solution: Solution = [
        ("list_checks", {"pull_id": pull.id}),
        ("get_check", {"pull_id": pull.id, "check": name}),
        ("rerun_check", {"run_id": run.id}),
    ]
    return Blueprint(request, solution, f"I started {run.id}, the run of {name}, again.")


@template(kind="workflow")
def approve_and_queue(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = rng.choice([pull for pull in world._pulls.values() if pull.id not in world._queue])
    request = phrase("approve_and_queue", rng, branch=pull.branch)
    solution: Solution = [
        ("find_pull_request", {"branch": pull.branch}),
        ("submit_review", {"pull_id": pull.id, "verdict": "approve"}),
        ("join_queue", {"pull_id": pull.id}),
    ]
    return Blueprint(request, solution, f"{pull.id} is approved and in the merge queue.")


@template(kind="workflow")
def hold_back(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, label = world._pulls[rng.choice(world._queue)], rng.choice(("hold", "blocked", "waiting"))
    request = phrase("hold_back", rng, branch=pull.branch, label=label)
    solution: Solution = [
        ("find_pull_request", {"branch": pull.branch}),
        ("leave_queue", {"pull_id": pull.id}),
        ("add_label", {"pull_id": pull.id, "label": label}),
    ]
    return Blueprint(request, solution, f"{pull.id} left the merge queue and is labelled {label}.")


@template(kind="workflow")
def assign_to_author(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = a_pull(world, rng)
    request = phrase("assign_to_author", rng, pull=pull.id)
    solution: Solution = [
        ("get_pull_request", {"pull_id": pull.id}),
        ("assign_issue", {"issue_id": pull.issue, "assignee": pull.author}),
    ]
    return Blueprint(request, solution, f"{pull.issue} is assigned to {pull.author}.")


@template(kind="workflow")
def remind_reviewer(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = a_pull(world, rng)
    late = next(name for name, state in pull.reviews.items() if state == "pending")
    request = phrase("remind_reviewer", rng, pull=pull.id)
    solution: Solution = [
        ("list_reviews", {"pull_id": pull.id}),
        ("request_review", {"pull_id": pull.id, "reviewer": late}),
    ]
    return Blueprint(request, solution, f"I asked {late} for the review again.")
