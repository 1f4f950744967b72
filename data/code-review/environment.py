"""The world of the review desk: pull requests with files, checks and reviews, the merge queue, issues with screenshots.

A world has six pull requests, each with three files and the issue it closes, built from the task's seed. Everything in
it is invented. Names and numbers of train and exam worlds come from disjoint pools, split so that every digit and every
word part occurs in both. snippets.py makes the code of the screenshots; textual.py and visual.py hold the task
templates.
"""

import random
from typing import Any

from teacher.domain import (
    Environment,
    get_entry,
    is_wide,
    quote,
    require_one_of,
    split_numbers,
    split_pool,
)
from teacher.scenes import Scene

from .records import (
    CHECKS,
    COMPONENTS,
    CONCERNS,
    GIVEN,
    PAIRS,
    SEVERITIES,
    SUFFIXES,
    SURNAMES,
    VERDICTS,
    Check,
    Component,
    Concern,
    Issue,
    Pull,
    Run,
    Severity,
    Verdict,
    language_of,
    released_files,
)
from .snippets import Code, crash, mistake, query

RELEASED = 25


class ReviewDesk(Environment):
    """A software team's review desk."""

    def reset(self, **task: Any) -> str | None:
        self._task = task
        self._split = split = task["split"]
        rng = random.Random(f"{split}:{task['seed']}")
        pairs = rng.sample(split_pool(PAIRS, split), 24)
        surnames = rng.sample(split_pool(SURNAMES, split), 12)
        self._people = [f"{rng.choice(GIVEN.split())}-{surname}" for surname in surnames]
        numbers = split_numbers(split, 10_000 if is_wide(split, task["seed"]) else 100)
        pulls, issues = rng.sample(numbers, 6), rng.sample(numbers, 8)
        runs = rng.sample(split_numbers(split, 10000), 40)
        builds = rng.sample(split_numbers(split, 1000), 8)
        self._issues: dict[str, Issue] = {}
        self._pulls: dict[str, Pull] = {}
        self._owners: dict[str, str] = {}
        self._release: dict[str, str] = {}
        for i, number in enumerate(pulls):
            author, *reviewers = rng.sample(self._people, 3)
            issue = Issue(
                f"IS-{issues[i]}",
                rng.choice(COMPONENTS),
                rng.choice(SEVERITIES),
                rng.choice([person for person in self._people if person != author]),
                builds[i],
            )
            files = {}
            for place, suffix in enumerate(SUFFIXES.values()):
                name = "_".join(pairs[3 * i + place])
                files[f"{rng.choice(COMPONENTS)}/{name}.{suffix}"] = 0
            for path, lines in zip(files, rng.sample(range(4, 400), 3), strict=True):
                files[path] = lines
                self._owners[path] = rng.choice([p for p in self._people if p != author])
            names = rng.sample(CHECKS, 6)
            failed = rng.choice(names)
            checks = {}
            for name, seconds in zip(names, rng.sample(range(12, 900), 6), strict=True):
                status = "failed" if name == failed else "passed"
                checks[name] = Run(f"R-{runs.pop()}", status, seconds)
            states = ["approved", "pending"]
            rng.shuffle(states)
            branch = f"{rng.choice(('fix', 'feature', 'chore'))}/{'-'.join(pairs[18 + i])}"
            reviews = dict(zip(reviewers, states, strict=True))
            pull = Pull(f"PR-{number}", branch, author, issue.id, files, checks, reviews)
            self._issues[issue.id], self._pulls[pull.id] = issue, pull
        self._queue = rng.sample(list(self._pulls), 4)
        # The build of an issue that is not open yet; only screenshots show it.
        self._new_build = builds[-1]
        self._next_issue = f"IS-{issues[-1]}"
        self._comments: set[tuple[str, str, int, str]] = set()
        self._rerun: set[str] = set()
        self._opened: list[dict[str, Any]] = []
        return None

    def _state(self) -> Any:
        return {
            "pulls": {
                p.id: [sorted(p.labels), sorted(p.requested), p.verdict]
                for p in self._pulls.values()
            },
            "issues": {i.id: [i.severity, i.assignee] for i in self._issues.values()},
            "comments": sorted(self._comments),
            "rerun": sorted(self._rerun),
            "queue": self._queue,
            "opened": self._opened,
        }

    def _release_files(self) -> dict[str, str]:
        """The files that the next release changes besides the pull requests', with their owners, made when needed."""
        if not self._release:
            rng = random.Random(f"release:{self._split}:{self._task['seed']}")
            pairs = rng.sample(split_pool(PAIRS, self._split), RELEASED)
            self._release = released_files(pairs, rng.sample(self._people, 6), rng)
        return self._release

    def _crash(self, path: str, rng: random.Random) -> Code:
        """A program that fails, in the language of the path."""
        return crash(language_of(path), path, self._split, rng)

    def _mistake(self, path: str, rng: random.Random) -> Code:
        """A function with a wrong line, in the language of the path."""
        return mistake(language_of(path), path, self._split, rng)

    def _query(self, rng: random.Random) -> tuple[str, list[str], list[list[Any]]]:
        """A query: its text, its columns and its rows."""
        return query(self._split, rng)

    def _screenshot(self, issue_id: str) -> tuple[str, Code]:
        """The content of an issue's screenshot: a path of its pull request, and the failing code."""
        rng = random.Random(f"{self._split}:{self._task['seed']}:{issue_id}")
        pull = next(pull for pull in self._pulls.values() if pull.issue == issue_id)
        path = rng.choice(list(pull.files))
        return path, self._crash(path, rng)

    # ------------------------------------------------------------------------------ tools that read

    def find_pull_request(self, branch: str) -> dict:
        """Find the pull request of a branch.

        Args:
            branch: e.g. fix/plain-example
        """
        for pull in self._pulls.values():
            if isinstance(branch, str) and pull.branch == branch.strip():
                return {"pull_id": pull.id, "author": pull.author}
        raise ValueError(
            f"no branch {quote(branch)}: give its full name, such as fix/plain-example"
        )

    def get_pull_request(self, pull_id: str) -> dict:
        """Get a pull request's author, branch and the issue it closes.

        Args:
            pull_id: e.g. PR-100
        """
        pull = self._pull(pull_id)
        return {"author": pull.author, "branch": pull.branch, "issue_id": pull.issue}

    def list_files(self, pull_id: str) -> dict:
        """List a pull request's files, and how many lines it changes in each.

        Args:
            pull_id: e.g. PR-100
        """
        return dict(self._pull(pull_id).files)

    def find_owner(self, path: str) -> dict:
        """Find the maintainer who owns a file.

        Args:
            path: e.g. billing/plain_example.py
        """
        known = isinstance(path, str) and path in self._owners
        files = self._owners if known else self._release_files()
        return {"owner": get_entry(files, path, "file", "billing/plain_example.py")}

    def list_checks(self, pull_id: str) -> dict:
        """List a pull request's checks and whether each passed.

        Args:
            pull_id: e.g. PR-100
        """
        pull = self._pull(pull_id)
        return {name: run.status for name, run in pull.checks.items()}

    def get_check(self, pull_id: str, check: Check) -> dict:
        """Get the latest run of a check.

        Args:
            pull_id: e.g. PR-100
            check: Which check
        """
        pull = self._pull(pull_id)
        run = pull.checks.get(require_one_of(check, CHECKS, "check"))
        if run is None:
            raise ValueError(f"{pull.id} has no check {check}: it has {', '.join(pull.checks)}")
        return {"run_id": run.id, "status": run.status, "seconds": run.seconds}

    def list_reviews(self, pull_id: str) -> dict:
        """List a pull request's reviewers and whether each has approved.

        Args:
            pull_id: e.g. PR-100
        """
        return dict(self._pull(pull_id).reviews)

    def get_queue_position(self, pull_id: str) -> dict:
        """Get a pull request's place in the merge queue, 1 is next.

        Args:
            pull_id: e.g. PR-100
        """
        pull = self._pull(pull_id)
        if pull.id not in self._queue:
            raise ValueError(f"{pull.id} is not in the merge queue")
        return {"position": self._queue.index(pull.id) + 1, "length": len(self._queue)}

    def get_issue(self, issue_id: str) -> dict:
        """Get an issue's component, severity, assignee and the build it was found in.

        Args:
            issue_id: e.g. IS-100
        """
        issue = self._issue(issue_id)
        return {
            "component": issue.component,
            "severity": issue.severity,
            "assignee": issue.assignee,
            "build": issue.build,
        }

    def view_screenshot(self, issue_id: str) -> Scene:
        """View the screenshot attached to an issue.

        Args:
            issue_id: e.g. IS-100
        """
        issue = self._issue(issue_id)
        path, code = self._screenshot(issue.id)
        return Scene("screen", code.screen(path), self._task["seed"])

    # ----------------------------------------------------------------------------- tools that write

    def comment_on_line(self, pull_id: str, path: str, line: int, concern: Concern) -> dict:
        """Comment on a line of a file of a pull request.

        Args:
            pull_id: e.g. PR-100
            path: e.g. billing/plain_example.py
            line: Counted from 1
            concern: What the comment is about
        """
        pull = self._pull(pull_id)
        path = require_one_of(path, pull.files, f"path: no such file in {pull.id}")
        if isinstance(line, bool) or not isinstance(line, int) or not 1 <= line <= 999:
            raise ValueError("line: expected a whole number from 1 to 999")
        self._comments.add((pull.id, path, line, require_one_of(concern, CONCERNS, "concern")))
        return {"pull_id": pull.id, "line": line, "concern": concern}

    def request_review(self, pull_id: str, reviewer: str) -> dict:
        """Ask somebody to review a pull request.

        Args:
            pull_id: e.g. PR-100
            reviewer: e.g. sam-example
        """
        pull = self._pull(pull_id)
        reviewer = self._person(reviewer, "reviewer")
        if reviewer == pull.author:
            raise ValueError(f"reviewer: {reviewer} wrote {pull.id} and cannot review it")
        if reviewer not in pull.requested:
            pull.requested.append(reviewer)
        return {"pull_id": pull.id, "requested": reviewer}

    def submit_review(self, pull_id: str, verdict: Verdict) -> dict:
        """Submit the desk's review of a pull request.

        Args:
            pull_id: e.g. PR-100
            verdict: The outcome
        """
        pull = self._pull(pull_id)
        pull.verdict = require_one_of(verdict, VERDICTS, "verdict")
        return {"pull_id": pull.id, "verdict": pull.verdict}

    def add_label(self, pull_id: str, label: str) -> dict:
        """Put a label on a pull request.

        Args:
            pull_id: e.g. PR-100
            label: One word, as it is to be shown
        """
        pull = self._pull(pull_id)
        if not isinstance(label, str) or not label.isidentifier() or len(label) > 40:
            raise ValueError(f"label: {quote(label)}: expected one word of letters and digits")
        if label not in pull.labels:
            pull.labels.append(label)
        return {"pull_id": pull.id, "label": label}

    def rerun_check(self, run_id: str) -> dict:
        """Start a run of a check again.

        Args:
            run_id: e.g. R-10000
        """
        runs = {run.id: run for pull in self._pulls.values() for run in pull.checks.values()}
        run = get_entry(runs, run_id, "run", "R-10000")
        self._rerun.add(run.id)
        return {"run_id": run.id, "status": "started"}

    def join_queue(self, pull_id: str) -> dict:
        """Put a pull request at the end of the merge queue.

        Args:
            pull_id: e.g. PR-100
        """
        pull = self._pull(pull_id)
        if pull.id in self._queue:
            raise ValueError(f"{pull.id} is in the merge queue already")
        self._queue.append(pull.id)
        return {"pull_id": pull.id, "position": len(self._queue)}

    def leave_queue(self, pull_id: str) -> dict:
        """Take a pull request out of the merge queue.

        Args:
            pull_id: e.g. PR-100
        """
        pull = self._pull(pull_id)
        if pull.id not in self._queue:
            raise ValueError(f"{pull.id} is not in the merge queue")
        self._queue.remove(pull.id)
        return {"pull_id": pull.id, "length": len(self._queue)}

    def assign_issue(self, issue_id: str, assignee: str) -> dict:
        """Assign an issue to somebody.

        Args:
            issue_id: e.g. IS-100
            assignee: e.g. sam-example
        """
        issue = self._issue(issue_id)
        issue.assignee = self._person(assignee, "assignee")
        return {"issue_id": issue.id, "assignee": issue.assignee}

    def set_severity(self, issue_id: str, severity: Severity) -> dict:
        """Change an issue's severity.

        Args:
            issue_id: e.g. IS-100
            severity: The new severity
        """
        issue = self._issue(issue_id)
        issue.severity = require_one_of(severity, SEVERITIES, "severity")
        return {"issue_id": issue.id, "severity": issue.severity}

    def open_issue(
        self, component: Component, severity: Severity, reporter: str, build: int
    ) -> dict:
        """Open an issue.

        Args:
            component: Where it was seen
            severity: How bad it is
            reporter: e.g. sam-example
            build: The build it was found in, e.g. 1000
        """
        if isinstance(build, bool) or not isinstance(build, int) or not 1 <= build <= 99999:
            raise ValueError("build: expected a whole number from 1 to 99999")
        opened = {
            "component": require_one_of(component, COMPONENTS, "component"),
            "severity": require_one_of(severity, SEVERITIES, "severity"),
            "reporter": self._person(reporter, "reporter"),
            "build": build,
        }
        if len(self._opened) == 1:
            raise ValueError("an issue was opened a moment ago: one at a time")
        self._opened.append(opened)
        return {"issue_id": self._next_issue}

    def _pull(self, pull_id: Any) -> Pull:
        return get_entry(self._pulls, pull_id, "pull request", "PR-100")

    def _issue(self, issue_id: Any) -> Issue:
        return get_entry(self._issues, issue_id, "issue", "IS-100")

    def _person(self, name: Any, what: str) -> str:
        """The argument, if it is the name of a person. Raises ValueError for any other."""
        if not isinstance(name, str) or name not in self._people:
            raise ValueError(f"{what}: no {quote(name)} here: expected a name such as sam-example")
        return name
