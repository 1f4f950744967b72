"""The screens that task templates of the review desk share: editors with code, queries, and tables of checks."""

import random
from typing import Any

from teacher.domain import Blueprint, at
from teacher.scenes import Scene, draw

from .environment import ReviewDesk
from .records import Pull
from .snippets import Code
from .textual import a_pull, failed

EDITORS = ("Halyard Editor", "Quillpad", "Tern", "Ferrite Code", "Inkstone")
FORGES = ("Greenlight", "Halyard Reviews", "Mergeboard", "Shipyard", "Slipway CI")
TRACKERS = ("Bugbear", "Fieldnotes", "Halyard Issues", "Snaglist", "Tracery")
BUTTONS = (
    "Approve",
    "Comment",
    "Close",
    "Dismiss",
    "Merge",
    "Open branch",
    "Remind",
    "Retry",
    "View log",
)


def screen(data: dict[str, Any], applications: tuple[str, ...], rng: random.Random) -> Scene:
    """A screen of a random application."""
    return Scene(
        "screen", {**data, "application": rng.choice(applications)}, rng.randrange(1 << 31)
    )


def a_file(world: ReviewDesk, rng: random.Random) -> tuple[Pull, str]:
    """A random pull request and the path of one of its files."""
    pull = a_pull(world, rng)
    return pull, rng.choice(list(pull.files))


def a_program(world: ReviewDesk, rng: random.Random) -> tuple[Pull, str]:
    """A random pull request and the path of one of its files that is not SQL."""
    while True:
        pull, path = a_file(world, rng)
        if not path.endswith(".sql"):
            return pull, path


def comment_on_bug(pull: Pull, path: str, code: Code) -> tuple[str, dict[str, Any]]:
    """The call that comments on the wrong line."""
    comment = {"pull_id": pull.id, "path": path, "line": code.line, "concern": "bug"}
    return "comment_on_line", comment


def table_of(title: str, columns: list[str], rows: list[Any]) -> dict[str, Any]:
    """The data of a screen with a table."""
    return {"variant": "table", "title": title, "table": {"columns": columns, "rows": rows}}


def failing_output(output: str, line: int) -> str:
    """The key of the last output line that names the failing line of the code."""
    signs = (f"line {line},", f"line {line}:", f":{line}:")
    lines = output.splitlines()
    return f"output.{max(n for n, text in enumerate(lines, 1) if any(s in text for s in signs))}"


def query_screen(world: ReviewDesk, rng: random.Random) -> dict[str, Any]:
    """The data of an editor with a query and the rows that it returned, each a code and a number."""
    text, columns, rows = world._query(rng)
    title = f"{rng.choice(('scratch', 'report', 'check'))}.sql"
    data = {"variant": "editor", "title": title, "language": "sql", "code": text}
    return {**data, "table": {"columns": columns, "rows": rows}}


def checks_screen(world: ReviewDesk, rng: random.Random) -> tuple[Pull, list[str], dict[str, Any]]:
    """A pull request, the names of its checks in the order of the table, and the data of the screen.

    The table's columns are check, result, seconds and run. The failed check is always among the rows.
    """
    pull = a_pull(world, rng)
    worst, _ = failed(pull)
    names = [worst, *rng.sample([n for n in pull.checks if n != worst], rng.randrange(3, 6))]
    rng.shuffle(names)
    columns = [
        rng.choice(("check", "check name", "required check")),
        rng.choice(("result", "status", "outcome")),
        rng.choice(("seconds", "time (s)", "duration, s")),
        rng.choice(("run", "run id", "last run")),
    ]
    runs = [(name, pull.checks[name]) for name in names]
    rows = [[name, run.status, run.seconds, run.id] for name, run in runs]
    title = rng.choice(("Checks of {}", "{}: checks", "{} pipeline", "Latest runs, {}"))
    data = table_of(title.format(pull.id), columns, rows)
    if rng.random() < 0.6:
        data["buttons"] = rng.sample(BUTTONS, rng.randrange(1, 4))
    return pull, names, data


def merge_dialog(pull: Pull, approved: str, waiting: str, rng: random.Random) -> dict[str, Any]:
    """The data of a dialog that refuses a merge: who has approved, and who has not answered."""
    message = rng.choice(
        (
            "Merging is blocked until all reviewers have answered.",
            "This pull request cannot be merged yet.",
            "One review is missing.",
        )
    )
    fields = {"Pull request": pull.id, "Author": pull.author, "Approved by": approved}
    fields["Waiting for"] = waiting
    fields = dict(rng.sample(list(fields.items()), len(fields)))
    title = rng.choice(("Cannot merge", "Merge blocked", "Not yet"))
    data = {"variant": "dialog", "title": title, "message": message, "fields": fields}
    data["buttons"] = rng.sample(BUTTONS, 2)
    return data


def report_form(
    component: str, severity: str, reporter: str, build: int, rng: random.Random
) -> dict[str, Any]:
    """The data of an unsent form that reports an issue."""
    fields = {
        "Component": component,
        "Severity": severity,
        "Reporter": reporter,
        "Build": build,
        "Seen": f"{rng.randrange(2, 30)} times",
        "Browser": rng.choice(("any", "desktop only", "phones only")),
    }
    extra = rng.sample(["Seen", "Browser"], rng.randrange(3))
    names = [name for name in fields if name not in extra]
    data = {"variant": "form", "title": rng.choice(("New issue", "Report a problem", "Bug report"))}
    data["fields"] = {name: fields[name] for name in rng.sample(names, len(names))}
    data["buttons"] = rng.sample(("Submit", "Save draft", "Cancel", "Attach file"), 2)
    return data


def point_task(request: str, scene: Scene, key: str) -> Blueprint:
    """A task whose answer is a point in its image; the reply names the centre of the cell."""
    box = next(cell.box for cell in draw(scene).cells if cell.key == key)
    middle = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    program = {"op": "point", "cell": at(scene.data, key)}
    return Blueprint(request, [], f"It is at {middle}.", None, [scene], program)
