"""The task templates of the review desk with screenshots: editors with code and output, check runs, dialogs, issue
forms.

The tools must be called with values that only the image shows (a path, a line, a run, a name of the world); the request
does not contain them.
"""

import random

from teacher.domain import Answer, Blueprint, Solution, at, every, run_program, template

from .environment import ReviewDesk
from .records import SEVERITIES
from .screens import (
    BUTTONS,
    EDITORS,
    FORGES,
    TRACKERS,
    a_file,
    a_program,
    checks_screen,
    comment_on_bug,
    failing_output,
    merge_dialog,
    point_task,
    query_screen,
    report_form,
    screen,
    table_of,
)
from .textual import a_pull, failed, phrase

# ------------------------------------------------------------------------------------------ editors


@template(kind="screen")
def crash_comment(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """The traceback shows the failing file and line."""
    pull, path = a_file(world, rng)
    code = world._crash(path, rng)
    data = code.screen(path)
    return Blueprint(
        phrase("crash_comment", rng, pull=pull.id),
        [comment_on_bug(pull, path, code)],
        f"I left a comment on line {code.line} of {path}.",
        Answer("number", code.line),
        [screen(data, EDITORS, rng)],
        {"op": "lookup", "cell": at(data, failing_output(code.output, code.line))},
    )


@template(kind="screen")
def label_exception(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """The name of the exception becomes a label."""
    pull, path = a_program(world, rng)
    code = world._crash(path, rng)
    # Fewer of the most frequent exception, because it would be a good guess.
    while code.error == "TypeError" and rng.random() < 0.6:
        code = world._crash(path, rng)
    data = code.screen(path)
    line = next(n for n, s in enumerate(code.output.splitlines(), 1) if s.startswith(code.error))
    return Blueprint(
        phrase("label_exception", rng, pull=pull.id, path=path),
        [("add_label", {"pull_id": pull.id, "label": code.error})],
        f"{pull.id} is labelled {code.error}.",
        Answer("text", code.error),
        [screen(data, EDITORS, rng)],
        {"op": "lookup", "cell": at(data, f"output.{line}")},
    )


@template(kind="screen")
def mistake_review(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """One line of the function is wrong; only reading the code finds it."""
    pull, path = a_file(world, rng)
    code = world._mistake(path, rng)
    data = code.screen(path)
    return Blueprint(
        phrase("mistake_review", rng, pull=pull.id, path=path),
        [
            comment_on_bug(pull, path, code),
            ("submit_review", {"pull_id": pull.id, "verdict": "request_changes"}),
        ],
        f"The mistake is on line {code.line}; I commented there and requested changes.",
        Answer("number", code.line),
        [screen(data, EDITORS, rng)],
        {"op": "lookup", "cell": at(data, f"code.{code.line}")},
    )


@template(kind="screen")
def shown_file_owner(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """The title shows the file; the desk knows its owner."""
    pull, path = a_file(world, rng)
    code = rng.choice((world._crash, world._mistake))(path, rng)
    data, owner = code.screen(path), world._owners[path]
    return Blueprint(
        phrase("shown_file_owner", rng, pull=pull.id),
        [
            ("find_owner", {"path": path}),
            ("request_review", {"pull_id": pull.id, "reviewer": owner}),
        ],
        f"I asked {owner}, who owns {path}.",
        Answer("text", owner),
        [screen(data, EDITORS, rng)],
        {"op": "lookup", "cell": at(data, "title")},
    )


@template(kind="screen")
def off_by(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Code beside its test results; the answer is the error of one result."""
    _, path = a_program(world, rng)
    code = world._mistake(path, rng)
    rows = [[f"case {n}", *both] for n, (_, *both) in zip("ABCD", code.cases, strict=True)]
    data = {key: value for key, value in code.screen(path).items() if key != "output"}
    data["table"] = {"columns": ["test", "expected", "got"], "rows": rows}
    row = rng.randrange(len(rows))
    _, expected, actual = rows[row]
    return Blueprint(
        phrase("off_by", rng, case=rows[row][0], path=path),
        [],
        f"Its result is off by {abs(expected - actual)}.",
        None,
        [screen(data, EDITORS, rng)],
        {
            "op": "difference",
            "cells": [at(data, f"table.{row}.1"), at(data, f"table.{row}.2")],
        },
    )


@template(kind="screen")
def query_value(world: ReviewDesk, rng: random.Random) -> Blueprint:
    data = query_screen(world, rng)
    (_, column), rows = data["table"]["columns"], data["table"]["rows"]
    row = rng.randrange(len(rows))
    code, value = rows[row]
    return Blueprint(
        phrase("query_value", rng, code=code, column=column),
        [],
        f"The {column} of {code} is {value}.",
        None,
        [screen(data, EDITORS, rng)],
        {"op": "lookup", "cell": at(data, f"table.{row}.1")},
    )


@template(kind="screen")
def query_total(world: ReviewDesk, rng: random.Random) -> Blueprint:
    data = query_screen(world, rng)
    total = sum(value for _, value in data["table"]["rows"])
    return Blueprint(
        phrase("query_total", rng, column=data["table"]["columns"][1]),
        [],
        f"Together they come to {total}.",
        None,
        [screen(data, EDITORS, rng)],
        {"op": "sum", "cells": every(data, "table.*.1")},
    )


@template(kind="screen")
def attached_screenshot(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """A tool returns the image, which is attached to the issue that the pull request closes."""
    pull = a_pull(world, rng)
    path, code = world._screenshot(pull.issue)
    return Blueprint(
        phrase("attached_screenshot", rng, pull=pull.id),
        [
            ("get_pull_request", {"pull_id": pull.id}),
            ("view_screenshot", {"issue_id": pull.issue}),
            comment_on_bug(pull, path, code),
        ],
        f"It fails on line {code.line} of {path}; I left a comment there.",
        Answer("number", code.line),
    )


# ------------------------------------------------------------------------------------------- checks


@template(kind="screen")
def rerun_shown(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, _, data = checks_screen(world, rng)
    name, run = failed(pull)
    return Blueprint(
        phrase("rerun_shown", rng),
        [("rerun_check", {"run_id": run.id})],
        f"I started {run.id}, the run of {name}, again.",
        Answer("text", run.id),
        [screen(data, FORGES, rng)],
        {
            "op": "cross_reference",
            "cell": {"value": "failed"},
            "among": every(data, "table.*.1"),
            "values": every(data, "table.*.3"),
        },
    )


@template(kind="screen")
def rerun_named(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, names, data = checks_screen(world, rng)
    name = rng.choice(names)
    run = pull.checks[name]
    return Blueprint(
        phrase("rerun_named", rng, check=name),
        [("rerun_check", {"run_id": run.id})],
        f"I started {run.id} again.",
        Answer("text", run.id),
        [screen(data, FORGES, rng)],
        {"op": "lookup", "cell": at(data, f"table.{names.index(name)}.3")},
    )


@template(kind="screen")
def slowest_check(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, names, data = checks_screen(world, rng)
    op, worst = rng.choice((("argmax", max), ("argmin", min)))
    name = worst(names, key=lambda one: pull.checks[one].seconds)
    which = {"argmax": "slowest", "argmin": "fastest"}[op]
    return Blueprint(
        phrase("slowest_check", rng, which=which),
        [("rerun_check", {"run_id": pull.checks[name].id})],
        f"The {which} check is {name}; I started it again.",
        Answer("choice", name, options=tuple(names)),
        [screen(data, FORGES, rng)],
        {"op": op, "cells": every(data, "table.*.2"), "names": every(data, "table.*.0")},
    )


@template(kind="screen")
def seconds_apart(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, names, data = checks_screen(world, rng)
    one, other = rng.sample(range(len(names)), 2)
    apart = abs(pull.checks[names[one]].seconds - pull.checks[names[other]].seconds)
    return Blueprint(
        phrase("seconds_apart", rng, one=names[one], other=names[other]),
        [],
        f"They are {apart} seconds apart.",
        None,
        [screen(data, FORGES, rng)],
        {"op": "difference", "cells": [at(data, f"table.{one}.2"), at(data, f"table.{other}.2")]},
    )


@template(kind="screen")
def check_maintainer(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Two images: the failed check of one is looked up in the other."""
    pull, names, data = checks_screen(world, rng)
    row = names.index(failed(pull)[0])
    people = rng.sample([p for p in world._people if p != pull.author], len(names))
    order = rng.sample(names, len(names))
    head = [
        rng.choice(("check", "check name")),
        rng.choice(("maintainer", "looked after by", "contact")),
    ]
    rows = [[name, person] for name, person in zip(order, people, strict=True)]
    list_of = table_of(rng.choice(("Maintainers", "Who looks after what")), head, rows)
    person = dict(rows)[names[row]]
    return Blueprint(
        phrase("check_maintainer", rng),
        [("request_review", {"pull_id": pull.id, "reviewer": person})],
        f"I asked {person} to review {pull.id}.",
        Answer("text", person),
        [screen(data, FORGES, rng), screen(list_of, FORGES, rng)],
        {
            "op": "cross_reference",
            "cell": at(data, f"table.{row}.0"),
            "among": every(list_of, "table.*.0", 1),
            "values": every(list_of, "table.*.1", 1),
        },
    )


@template(kind="screen")
def triage_table(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """The row of an issue shows the decision on it."""
    issues = rng.sample(list(world._issues.values()), rng.randrange(3, 6))
    chosen = rng.randrange(len(issues))
    rows = []
    for issue in issues:
        severity = rng.choice([s for s in SEVERITIES if s != issue.severity])
        person = rng.choice([p for p in world._people if p != issue.assignee])
        rows.append([issue.id, issue.component, severity, person])
    head = ["issue", "component", "severity", rng.choice(("assignee", "goes to", "owner"))]
    data = table_of(rng.choice(("Triage", "Bug triage, notes")), head, rows)
    name, _, severity, person = rows[chosen]
    return Blueprint(
        phrase("triage_table", rng, issue=name),
        [
            ("set_severity", {"issue_id": name, "severity": severity}),
            ("assign_issue", {"issue_id": name, "assignee": person}),
        ],
        f"{name} is {severity} now and assigned to {person}.",
        Answer("text", person),
        [screen(data, TRACKERS, rng)],
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
    """The dialog shows the pull request and the reviewer who has not answered."""
    pull = a_pull(world, rng)
    approved, waiting = rng.sample([p for p in world._people if p != pull.author], 2)
    data = merge_dialog(pull, approved, waiting, rng)
    return Blueprint(
        phrase("blocked_merge", rng),
        [("request_review", {"pull_id": pull.id, "reviewer": waiting})],
        f"I asked {waiting} to review {pull.id}.",
        Answer("text", waiting),
        [screen(data, FORGES, rng)],
        {"op": "lookup", "cell": at(data, "fields.Waiting for")},
    )


@template(kind="screen")
def file_report(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """An unsent form shows every argument of the new issue."""
    issue = rng.choice(list(world._issues.values()))
    reporter, build = rng.choice(world._people), world._new_build
    severity = rng.choice(SEVERITIES)
    data = report_form(issue.component, severity, reporter, build, rng)
    arguments = {
        "component": issue.component,
        "severity": severity,
        "reporter": reporter,
        "build": build,
    }
    return Blueprint(
        phrase("file_report", rng),
        [("open_issue", arguments)],
        f"I opened {world._next_issue}.",
        Answer("text", world._next_issue),
        [screen(data, TRACKERS, rng)],
        {"op": "lookup", "cell": at(data, "fields.Build")},
    )


@template(kind="screen")
def form_and_record(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """The form shows the assignee; the record is corrected if it differs."""
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
    solution: Solution = [("get_issue", {"issue_id": issue.id})]
    reply = f"Yes, both say {assignee}."
    if not same:
        solution.append(("assign_issue", {"issue_id": issue.id, "assignee": assignee}))
        reply = f"No, the record said {issue.assignee}; it is {assignee} now."
    cells = [at(data, "fields.Assignee"), {"value": issue.assignee}]
    # The value is asked for as well, because a bare "no" could be guessed.
    program = {"op": "consistency", "cells": cells, "tell": 0}
    answer, scene = run_program(program, [data]), screen(data, TRACKERS, rng)
    return Blueprint(phrase("form_and_record", rng), solution, reply, answer, [scene], program)


# ------------------------------------------------------------------------------------------- points


@template(kind="screen", pixels=True)
def point_at_button(world: ReviewDesk, rng: random.Random) -> Blueprint:
    _, _, data = checks_screen(world, rng)
    data["buttons"] = rng.sample(BUTTONS, 4)
    if rng.random() < 0.5:
        del data["table"]
        data |= {"variant": "dialog", "message": rng.choice(("All done?", "What now?", "Ready."))}
    place = rng.randrange(4)
    request = phrase("point_at_button", rng, button=data["buttons"][place])
    return point_task(request, screen(data, FORGES, rng), f"buttons.{place}")


@template(kind="screen", pixels=True)
def point_at_crash(world: ReviewDesk, rng: random.Random) -> Blueprint:
    _, path = a_file(world, rng)
    code = world._crash(path, rng)
    scene = screen(code.screen(path), EDITORS, rng)
    return point_task(phrase("point_at_crash", rng, path=path), scene, f"code.{code.line}")
