"""The review desk's screenshots: editors with code and what it printed, check runs, dialogs, issue forms.

What a picture shows is planted: a path, a line, a run, a name of the world. A task's tools are called with it, and the
request says none of it.
"""

import random
from typing import Any

from teacher.domain import Answer, Blueprint, Plan, template
from teacher.domain.questions import at, every, run
from teacher.scenes import Scene, draw

from .environment import SEVERITIES, Pull, ReviewDesk
from .snippets import Code
from .textual import a_pull, failed, say

_EDITORS = ("Halyard Editor", "Quillpad", "Tern", "Ferrite Code", "Inkstone")
_FORGES = ("Greenlight", "Halyard Reviews", "Mergeboard", "Shipyard", "Slipway CI")
_TRACKERS = ("Bugbear", "Fieldnotes", "Halyard Issues", "Snaglist", "Tracery")
_BUTTONS = (
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


def _picture(data: dict[str, Any], applications: tuple[str, ...], rng: random.Random) -> Scene:
    return Scene(
        "screen", {**data, "application": rng.choice(applications)}, rng.randrange(1 << 31)
    )


def _a_file(world: ReviewDesk, rng: random.Random) -> tuple[Pull, str]:
    pull = a_pull(world, rng)
    return pull, rng.choice(list(pull.files))


def _a_program(world: ReviewDesk, rng: random.Random) -> tuple[Pull, str]:
    while True:
        pull, path = _a_file(world, rng)
        if not path.endswith(".sql"):
            return pull, path


def _bug(pull: Pull, path: str, code: Code) -> tuple[str, dict[str, Any]]:
    """The call that comments on the line at fault."""
    comment = {"pull_id": pull.id, "path": path, "line": code.line, "concern": "bug"}
    return "comment_on_line", comment


def _table(title: str, columns: list[str], rows: list[Any]) -> dict[str, Any]:
    return {"variant": "table", "title": title, "table": {"columns": columns, "rows": rows}}


def _named_in(output: str, line: int) -> str:
    """The key of the printed line that says which line of code failed: the last that names it."""
    signs = (f"line {line},", f"line {line}:", f":{line}:")
    lines = output.splitlines()
    return f"output.{max(n for n, said in enumerate(lines, 1) if any(s in said for s in signs))}"


# ------------------------------------------------------------------------------------------ editors


@template(kind="screen")
def crash_comment(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Which file and line fails stands in the traceback."""
    pull, path = _a_file(world, rng)
    code = world._crash(path, rng)
    data = code.screen(path)
    return Blueprint(
        say("crash_comment", rng, pull=pull.id),
        [_bug(pull, path, code)],
        f"I left a comment on line {code.line} of {path}.",
        Answer("number", code.line),
        [_picture(data, _EDITORS, rng)],
        {"op": "lookup", "cell": at(data, _named_in(code.output, code.line))},
    )


@template(kind="screen")
def label_exception(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """The exception's name, as a label."""
    pull, path = _a_program(world, rng)
    code = world._crash(path, rng)
    while code.error == "TypeError" and rng.random() < 0.6:  # the commonest would be a good guess
        code = world._crash(path, rng)
    data = code.screen(path)
    said = next(n for n, s in enumerate(code.output.splitlines(), 1) if s.startswith(code.error))
    return Blueprint(
        say("label_exception", rng, pull=pull.id, path=path),
        [("add_label", {"pull_id": pull.id, "label": code.error})],
        f"{pull.id} is labelled {code.error}.",
        Answer("text", code.error),
        [_picture(data, _EDITORS, rng)],
        {"op": "lookup", "cell": at(data, f"output.{said}")},
    )


@template(kind="screen")
def mistake_review(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """One line of the function is wrong: to be found by reading it."""
    pull, path = _a_file(world, rng)
    code = world._mistake(path, rng)
    data = code.screen(path)
    return Blueprint(
        say("mistake_review", rng, pull=pull.id, path=path),
        [
            _bug(pull, path, code),
            ("submit_review", {"pull_id": pull.id, "verdict": "request_changes"}),
        ],
        f"The mistake is on line {code.line}; I commented there and requested changes.",
        Answer("number", code.line),
        [_picture(data, _EDITORS, rng)],
        {"op": "lookup", "cell": at(data, f"code.{code.line}")},
    )


@template(kind="screen")
def shown_file_owner(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Which file it is stands in the title; who owns it, on the desk."""
    pull, path = _a_file(world, rng)
    code = rng.choice((world._crash, world._mistake))(path, rng)
    data, owner = code.screen(path), world._owners[path]
    return Blueprint(
        say("shown_file_owner", rng, pull=pull.id),
        [
            ("find_owner", {"path": path}),
            ("request_review", {"pull_id": pull.id, "reviewer": owner}),
        ],
        f"I asked {owner}, who owns {path}.",
        Answer("text", owner),
        [_picture(data, _EDITORS, rng)],
        {"op": "lookup", "cell": at(data, "title")},
    )


@template(kind="screen")
def off_by(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Code beside its test results: how far one result is off."""
    _, path = _a_program(world, rng)
    code = world._mistake(path, rng)
    rows = [[f"case {n}", *both] for n, (_, *both) in zip("ABCD", code.cases, strict=True)]
    data = {key: value for key, value in code.screen(path).items() if key != "output"}
    data["table"] = {"columns": ["test", "expected", "got"], "rows": rows}
    row = rng.randrange(len(rows))
    _, wanted, got = rows[row]
    return Blueprint(
        say("off_by", rng, case=rows[row][0], path=path),
        [],
        f"Its result is off by {abs(wanted - got)}.",
        None,
        [_picture(data, _EDITORS, rng)],
        {
            "op": "difference",
            "cells": [at(data, f"table.{row}.1"), at(data, f"table.{row}.2")],
        },
    )


def _query(world: ReviewDesk, rng: random.Random) -> dict[str, Any]:
    """A query beside the rows that it returned: a code and a number each."""
    text, columns, rows = world._query(rng)
    title = f"{rng.choice(('scratch', 'report', 'check'))}.sql"
    data = {"variant": "editor", "title": title, "language": "sql", "code": text}
    return {**data, "table": {"columns": columns, "rows": rows}}


@template(kind="screen")
def query_value(world: ReviewDesk, rng: random.Random) -> Blueprint:
    data = _query(world, rng)
    (_, column), rows = data["table"]["columns"], data["table"]["rows"]
    row = rng.randrange(len(rows))
    code, value = rows[row]
    return Blueprint(
        say("query_value", rng, code=code, column=column),
        [],
        f"The {column} of {code} is {value}.",
        None,
        [_picture(data, _EDITORS, rng)],
        {"op": "lookup", "cell": at(data, f"table.{row}.1")},
    )


@template(kind="screen")
def query_total(world: ReviewDesk, rng: random.Random) -> Blueprint:
    data = _query(world, rng)
    total = sum(value for _, value in data["table"]["rows"])
    return Blueprint(
        say("query_total", rng, column=data["table"]["columns"][1]),
        [],
        f"Together they come to {total}.",
        None,
        [_picture(data, _EDITORS, rng)],
        {"op": "sum", "cells": every(data, "table.*.1")},
    )


@template(kind="screen")
def attached_screenshot(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """The picture comes from a tool: it hangs on the issue that the pull request closes."""
    pull = a_pull(world, rng)
    path, code = world._screenshot(pull.issue)
    return Blueprint(
        say("attached_screenshot", rng, pull=pull.id),
        [
            ("get_pull_request", {"pull_id": pull.id}),
            ("view_screenshot", {"issue_id": pull.issue}),
            _bug(pull, path, code),
        ],
        f"It fails on line {code.line} of {path}; I left a comment there.",
        Answer("number", code.line),
    )


# ------------------------------------------------------------------------------------------- checks


def _checks(world: ReviewDesk, rng: random.Random) -> tuple[Pull, list[str], dict[str, Any]]:
    """A pull request, the names of its checks in the order of the table, and the screen.

    The table's columns are the check, its result, its seconds, its run. The failed check is always among the rows.
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
    data = _table(title.format(pull.id), columns, rows)
    if rng.random() < 0.6:
        data["buttons"] = rng.sample(_BUTTONS, rng.randrange(1, 4))
    return pull, names, data


@template(kind="screen")
def rerun_shown(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, _, data = _checks(world, rng)
    name, run = failed(pull)
    return Blueprint(
        say("rerun_shown", rng),
        [("rerun_check", {"run_id": run.id})],
        f"I started {run.id}, the run of {name}, again.",
        Answer("text", run.id),
        [_picture(data, _FORGES, rng)],
        {
            "op": "cross_reference",
            "cell": {"value": "failed"},
            "among": every(data, "table.*.1"),
            "values": every(data, "table.*.3"),
        },
    )


@template(kind="screen")
def rerun_named(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, names, data = _checks(world, rng)
    name = rng.choice(names)
    run = pull.checks[name]
    return Blueprint(
        say("rerun_named", rng, check=name),
        [("rerun_check", {"run_id": run.id})],
        f"I started {run.id} again.",
        Answer("text", run.id),
        [_picture(data, _FORGES, rng)],
        {"op": "lookup", "cell": at(data, f"table.{names.index(name)}.3")},
    )


@template(kind="screen")
def slowest_check(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, names, data = _checks(world, rng)
    op, worst = rng.choice((("argmax", max), ("argmin", min)))
    name = worst(names, key=lambda one: pull.checks[one].seconds)
    which = {"argmax": "slowest", "argmin": "fastest"}[op]
    return Blueprint(
        say("slowest_check", rng, which=which),
        [("rerun_check", {"run_id": pull.checks[name].id})],
        f"The {which} check is {name}; I started it again.",
        Answer("choice", name, options=tuple(names)),
        [_picture(data, _FORGES, rng)],
        {"op": op, "cells": every(data, "table.*.2"), "names": every(data, "table.*.0")},
    )


@template(kind="screen")
def seconds_apart(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, names, data = _checks(world, rng)
    one, other = rng.sample(range(len(names)), 2)
    apart = abs(pull.checks[names[one]].seconds - pull.checks[names[other]].seconds)
    return Blueprint(
        say("seconds_apart", rng, one=names[one], other=names[other]),
        [],
        f"They are {apart} seconds apart.",
        None,
        [_picture(data, _FORGES, rng)],
        {"op": "difference", "cells": [at(data, f"table.{one}.2"), at(data, f"table.{other}.2")]},
    )


@template(kind="screen")
def check_maintainer(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Two pictures: the failed check of one is looked up in the other."""
    pull, names, data = _checks(world, rng)
    row = names.index(failed(pull)[0])
    people = rng.sample([p for p in world._people if p != pull.author], len(names))
    order = rng.sample(names, len(names))
    head = [
        rng.choice(("check", "check name")),
        rng.choice(("maintainer", "looked after by", "contact")),
    ]
    rows = [[name, person] for name, person in zip(order, people, strict=True)]
    list_of = _table(rng.choice(("Maintainers", "Who looks after what")), head, rows)
    person = dict(rows)[names[row]]
    return Blueprint(
        say("check_maintainer", rng),
        [("request_review", {"pull_id": pull.id, "reviewer": person})],
        f"I asked {person} to review {pull.id}.",
        Answer("text", person),
        [_picture(data, _FORGES, rng), _picture(list_of, _FORGES, rng)],
        {
            "op": "cross_reference",
            "cell": at(data, f"table.{row}.0"),
            "among": every(list_of, "table.*.0", 1),
            "values": every(list_of, "table.*.1", 1),
        },
    )


@template(kind="screen")
def triage_table(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """What was decided on an issue stands in its row."""
    issues = rng.sample(list(world._issues.values()), rng.randrange(3, 6))
    chosen = rng.randrange(len(issues))
    rows = []
    for issue in issues:
        severity = rng.choice([s for s in SEVERITIES if s != issue.severity])
        person = rng.choice([p for p in world._people if p != issue.assignee])
        rows.append([issue.id, issue.component, severity, person])
    head = ["issue", "component", "severity", rng.choice(("assignee", "goes to", "owner"))]
    data = _table(rng.choice(("Triage", "Bug triage, notes")), head, rows)
    name, _, severity, person = rows[chosen]
    return Blueprint(
        say("triage_table", rng, issue=name),
        [
            ("set_severity", {"issue_id": name, "severity": severity}),
            ("assign_issue", {"issue_id": name, "assignee": person}),
        ],
        f"{name} is {severity} now and assigned to {person}.",
        Answer("text", person),
        [_picture(data, _TRACKERS, rng)],
        {
            "op": "cross_reference",
            "cell": {"value": name},
            "among": every(data, "table.*.0"),
            "values": every(data, "table.*.3"),
        },
    )


# -------------------------------------------------------------------------------- dialogs and forms


@template(kind="screen")
def blocked_merge(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Which pull request it is, and who has not answered, stands in the dialog."""
    pull = a_pull(world, rng)
    approved, waiting = rng.sample([p for p in world._people if p != pull.author], 2)
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
    data["buttons"] = rng.sample(_BUTTONS, 2)
    return Blueprint(
        say("blocked_merge", rng),
        [("request_review", {"pull_id": pull.id, "reviewer": waiting})],
        f"I asked {waiting} to review {pull.id}.",
        Answer("text", waiting),
        [_picture(data, _FORGES, rng)],
        {"op": "lookup", "cell": at(data, "fields.Waiting for")},
    )


@template(kind="screen")
def file_report(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """A form that nobody has sent: every argument of the new issue stands in it."""
    issue = rng.choice(list(world._issues.values()))
    reporter, build = rng.choice(world._people), world._new_build
    severity = rng.choice(SEVERITIES)
    fields = {
        "Component": issue.component,
        "Severity": severity,
        "Reporter": reporter,
        "Build": build,
        "Seen": f"{rng.randrange(2, 30)} times",
        "Browser": rng.choice(("any", "desktop only", "phones only")),
    }
    extra = rng.sample(["Seen", "Browser"], rng.randrange(3))
    kept = [name for name in fields if name not in extra]
    data = {"variant": "form", "title": rng.choice(("New issue", "Report a problem", "Bug report"))}
    data["fields"] = {name: fields[name] for name in rng.sample(kept, len(kept))}
    data["buttons"] = rng.sample(("Submit", "Save draft", "Cancel", "Attach file"), 2)
    arguments = {
        "component": issue.component,
        "severity": severity,
        "reporter": reporter,
        "build": build,
    }
    return Blueprint(
        say("file_report", rng),
        [("open_issue", arguments)],
        f"I opened {world._next_issue}.",
        Answer("text", world._next_issue),
        [_picture(data, _TRACKERS, rng)],
        {"op": "lookup", "cell": at(data, "fields.Build")},
    )


@template(kind="screen")
def form_and_record(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """The form says who has the issue; the record may say otherwise, and is then put right."""
    issue = rng.choice(list(world._issues.values()))
    same = rng.random() < 0.25
    others = [person for person in world._people if person != issue.assignee]
    assignee = issue.assignee if same else rng.choice(others)
    fields = {"Issue": issue.id, "Component": issue.component, "Assignee": assignee}
    fields |= {"Build": issue.build, "Severity": issue.severity}
    names = ["Issue", "Assignee", *rng.sample(["Component", "Build", "Severity"], 2)]
    rng.shuffle(names)
    data = {"variant": "form", "title": rng.choice(("Edit issue", "Issue", "Handover"))}
    data["fields"] = {name: fields[name] for name in names}
    data["buttons"] = ["Save", "Cancel"]
    plan: Plan = [("get_issue", {"issue_id": issue.id})]
    reply = f"Yes, both say {assignee}."
    if not same:
        plan.append(("assign_issue", {"issue_id": issue.id, "assignee": assignee}))
        reply = f"No, the record said {issue.assignee}; it is {assignee} now."
    cells = [at(data, "fields.Assignee"), {"value": issue.assignee}]
    # A no alone would be guessed.
    program = {"op": "consistency", "cells": cells, "tell": 0}
    answer, picture = run(program, [data]), _picture(data, _TRACKERS, rng)
    return Blueprint(say("form_and_record", rng), plan, reply, answer, [picture], program)


# ------------------------------------------------------------------------------------------- points


@template(kind="screen", pixels=True)
def point_at_button(world: ReviewDesk, rng: random.Random) -> Blueprint:
    _, _, data = _checks(world, rng)
    data["buttons"] = rng.sample(_BUTTONS, 4)
    if rng.random() < 0.5:
        del data["table"]
        data |= {"variant": "dialog", "message": rng.choice(("All done?", "What now?", "Ready."))}
    place = rng.randrange(4)
    request = say("point_at_button", rng, button=data["buttons"][place])
    return _pointed(request, _picture(data, _FORGES, rng), f"buttons.{place}")


@template(kind="screen", pixels=True)
def point_at_crash(world: ReviewDesk, rng: random.Random) -> Blueprint:
    _, path = _a_file(world, rng)
    code = world._crash(path, rng)
    scene = _picture(code.screen(path), _EDITORS, rng)
    return _pointed(say("point_at_crash", rng, path=path), scene, f"code.{code.line}")


def _pointed(request: str, scene: Scene, key: str) -> Blueprint:
    """A task whose answer is a place in its picture: the reply names the middle of the cell."""
    box = next(cell.box for cell in draw(scene).cells if cell.key == key)
    middle = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    program = {"op": "point", "cell": at(scene.data, key)}
    return Blueprint(request, [], f"It is at {middle}.", None, [scene], program)
