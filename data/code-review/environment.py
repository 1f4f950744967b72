"""The review desk: pull requests, their files, checks and reviews, the merge queue, issues with screenshots.

A world is six pull requests, each with three files and the issue it closes, built from the task's seed. Everything in
it is invented. Names and numbers of train and exam worlds come from disjoint pools, dealt out so that every digit and
every word part occurs in both. requests.yaml holds what people ask, snippets.yaml the code of the screenshots; the
templates with pictures are in visual.py.
"""

import contextlib
import io
import random
import sqlite3
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from teacher.domain import Answer, Blueprint, Environment, one_of, quoted, template
from teacher.scenes import Scene

Check = Literal["lint", "types", "unit", "build", "docs", "licences", "coverage", "browser"]
Severity = Literal["low", "medium", "high", "critical"]
Component = Literal[
    "billing", "search", "accounts", "exports", "sync", "mobile", "reports", "alerts"
]
Verdict = Literal["approve", "request_changes"]
Concern = Literal["bug", "naming", "style", "question"]
Plan = list[tuple[str, dict[str, Any]]]

CHECKS = get_args(Check)
SEVERITIES = get_args(Severity)
COMPONENTS = get_args(Component)
VERDICTS = get_args(Verdict)
CONCERNS = get_args(Concern)
SUFFIXES = {"python": "py", "javascript": "js", "sql": "sql"}

# ----------------------------------------------------------------------------------- invented names

_GIVEN = (
    "ada anton bea carl cleo dora emil edith felix greta hugo ida ines jonas karin leo lena marta"
    " nils nora otto petra quinn rosa simon tilda ugo vera willa yves"
)
_ONSETS = "al bar cor dren esk fal gor hem il jor kes lum mor nav or pel ras sol tam ur vin wes"
_ENDINGS = "ano by dahl ett fors gren holm ik land mark nes olt quist ric sund tal vik wen"
_ADJECTIVES = (
    "amber brisk calm copper dusty early fallow gentle hollow ivory late lucid mellow narrow pale"
    " quiet rapid silent steady tidy upper vivid western young"
)
_THINGS = (
    "anchor basin cable delta ember ferry gable harbour inlet jetty kettle lantern meadow needle"
    " orchard pepper quarry ribbon saddle timber valley willow"
)
_NOUNS = (
    "anvil barrel basket bolt bottle brick bucket cable candle carpet chair clock crate cushion"
    " desk drum fender filter funnel hammer heater helmet kettle ladder lamp lens locker magnet"
    " mirror motor nail paddle panel parcel pillow pipe plank pulley pump rivet saddle sensor shovel"
    " spring stool tile tray trolley valve wheel"
)
_SURNAMES = [onset + ending for onset in _ONSETS.split() for ending in _ENDINGS.split()]
_PAIRS = [(one, other) for one in _ADJECTIVES.split() for other in _THINGS.split()]


def _part(pool: list[Any], split: str) -> list[Any]:
    return [one for i, one in enumerate(pool) if (i % 3 == 0) == (split == "exam")]


@cache
def _pool(what: str, split: str) -> list[Any]:
    pools: dict[str, list[Any]] = {"surname": _SURNAMES, "pair": _PAIRS, "noun": _NOUNS.split()}
    return _part(pools[what], split)


@cache
def _numbers(split: str, first: int) -> list[int]:
    """Numbers of as many digits as `first`, which is the number of the tools' examples and of nothing else."""
    wanted = range(first + 1, first * 10)
    return [number for number in wanted if (number % 7 in (2, 5)) == (split == "exam")]


# ------------------------------------------------------------------------- the code of screenshots

_SNIPPETS = yaml.safe_load(Path(__file__).with_name("snippets.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Code:
    """A file as an editor shows it, and what the program printed. line: the one at fault. error: its exception."""

    language: str
    text: str
    output: str
    line: int
    error: str = ""
    fix: str = ""  # the line as it should be
    cases: tuple[
        tuple[str, Any, Any], ...
    ] = ()  # of a mistake: the call, what it should give, what it gives

    def screen(self, path: str) -> dict[str, Any]:
        """The data of a Scene: the file, and what running it printed."""
        shown = {"variant": "editor", "title": path, "language": self.language}
        return {**shown, "code": self.text, "output": self.output}


def crash(language: str, path: str, split: str, rng: random.Random) -> Code:
    """A program that fails when it is run."""
    snippet = rng.choice(_SNIPPETS["crashes"][language])
    facts = _facts(snippet, split, rng)
    text = _preludes(language, facts, rng) + _fill(snippet["code"], facts)
    if language == "python":
        text, output, line = text, *_run_python(text, path)
    elif language == "sql":
        text, output, line = text, *_run_sql(text)
    else:
        marks = [
            (number, line.index("¦") + 1)
            for number, line in enumerate(text.splitlines(), 1)
            if "¦" in line
        ]
        (line, column), (caller, at) = marks
        text, inside = text.replace("¦", ""), _fill(snippet["inside"], facts)
        output = (
            f"{_fill(snippet['error'], facts)}\n"
            f"    at {inside} ({path}:{line}:{column})\n"
            f"    at Object.<anonymous> ({path}:{caller}:{at})"
        )
    error = next((said.partition(":")[0] for said in output.splitlines() if "Error: " in said), "")
    return Code(language, text.rstrip("\n"), output, line, error)


def mistake(language: str, path: str, split: str, rng: random.Random) -> Code:
    """A function that gives a wrong result because of one line, and the test that says so."""
    snippet = rng.choice(_SNIPPETS["bugs"][language])
    facts = _facts(snippet, split, rng)
    bug, fix = _fill(snippet["bug"], facts), _fill(snippet["fix"], facts)
    around = _preludes(language, facts, rng) + _fill(snippet["code"], facts)
    wrong, right = around.replace("<<bug>>", bug), around.replace("<<bug>>", fix)
    cases: list[tuple[str, Any, Any]] = []
    while len(cases) < 4:
        call = _fill(snippet["call"], facts)
        if language == "python":
            wanted, got = _value_of(right, call), _value_of(wrong, call)
        elif language == "sql":
            wanted, got = _last_row(right), _last_row(wrong)
        else:
            wanted, got = (_value_of("", _fill(snippet[name], facts)) for name in ("wants", "gets"))
        if wanted != got:  # chance may hide a mistake
            cases.append((call, wanted, got))
        if language == "sql":
            break  # its values are part of the code
        facts |= _values(snippet, rng)
    call, wanted, got = cases[0]
    output = f"FAIL {path}\n{call}\nexpected {wanted}\ngot {got}"
    line = around[: around.index("<<bug>>")].count("\n") + 1
    return Code(language, wrong.rstrip("\n"), output, line, fix=fix, cases=tuple(cases))


def query(split: str, rng: random.Random) -> tuple[str, list[str], list[list[Any]]]:
    """A query over invented rows: its text, its columns, and what it really returns, five rows or so."""
    noun = rng.choice(_pool("noun", split))
    low, count = rng.randrange(10, 40), rng.randrange(9, 15)
    codes = rng.sample(range(10, 99), count)
    column, order = rng.choice(("weight", "price", "stock")), rng.choice(("ASC", "DESC"))
    text = (
        f"SELECT code, {column}\nFROM {noun}_list\nWHERE {column} > {low}\n"
        f"ORDER BY {column} {order}\nLIMIT {rng.randrange(4, 7)};"
    )
    values = rng.sample(range(low - 9, low + 200), count)
    with contextlib.closing(sqlite3.connect(":memory:")) as opened:
        opened.execute(f"CREATE TABLE {noun}_list (code TEXT, {column} INTEGER)")
        rows = [(f"K{code}", value) for code, value in zip(codes, values, strict=True)]
        opened.executemany(f"INSERT INTO {noun}_list VALUES (?, ?)", rows)
        return text, ["code", column], [list(row) for row in opened.execute(text)]


def _facts(snippet: dict[str, Any], split: str, rng: random.Random) -> dict[str, str]:
    noun = rng.choice(_pool("noun", split))
    nouns = f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"
    facts = {"noun": noun, "nouns": nouns, "Noun": noun.title(), "Nouns": nouns.title()}
    facts["limit"] = str(rng.randrange(20, 400))
    return facts | _values(snippet, rng)


def _values(snippet: dict[str, Any], rng: random.Random) -> dict[str, str]:
    drawn: dict[str, Any] = {}
    for name, (low, high, *count) in snippet["values"].items():
        span = range(low, high + 1)
        drawn[name] = rng.sample(span, *count) if count else rng.choice(span)
    return {name: str(value) for name, value in drawn.items()}


def _preludes(language: str, facts: dict[str, str], rng: random.Random) -> str:
    """What stands before the code that matters, so that no line number is known beforehand."""
    pool = _SNIPPETS["preludes"][language]
    chosen = sorted(rng.sample(range(len(pool)), rng.randrange(len(pool))))
    return _fill("".join(pool[i] for i in chosen), facts)


def _fill(text: str, facts: dict[str, str]) -> str:
    for name, value in facts.items():
        text = text.replace(f"<<{name}>>", value)
    return text


def _run_python(text: str, path: str) -> tuple[str, int]:
    """What a program of snippets.yaml prints, its traceback included, and the line that raised."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(text, path, "exec"), {"__name__": "__main__"})
    except Exception as error:
        said, frames, trace = [], [], error.__traceback__
        while trace:
            if trace.tb_frame.f_code.co_filename == path:
                frames.append((trace.tb_lineno, trace.tb_frame.f_code.co_name))
            trace = trace.tb_next
        for number, name in frames:
            said.append(f'  File "{path}", line {number}, in {name}')
        said = ["Traceback (most recent call last):", *said, f"{type(error).__name__}: {error}"]
        return printed.getvalue() + "\n".join(said), frames[-1][0]
    raise RuntimeError(f"snippets.yaml: crashes: runs to its end:\n{text}")


def _statements(text: str) -> list[tuple[int, str]]:
    """The statements of a script, each with the line that it begins on."""
    found, begun, first = [], "", 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not begun and (not line.strip() or line.startswith("--")):
            continue
        first = number if not begun else first
        begun += line
        if sqlite3.complete_statement(begun):
            found.append((first, begun))
            begun = ""
    return found


def _run_sql(text: str) -> tuple[str, int]:
    """What a script prints up to its first error, and the line of the statement that failed."""
    printed: list[str] = []
    with contextlib.closing(sqlite3.connect(":memory:")) as opened:
        for line, statement in _statements(text):
            try:
                rows = opened.execute(statement).fetchall()
            except sqlite3.Error as error:
                return "\n".join([*printed, f"Error: near line {line}: {error}"]), line
            printed += ["|".join(map(str, row)) for row in rows]
    raise RuntimeError(f"snippets.yaml: crashes: runs to its end:\n{text}")


def _last_row(text: str) -> Any:
    with contextlib.closing(sqlite3.connect(":memory:")) as opened:
        for _, statement in _statements(text):
            rows = opened.execute(statement).fetchall()
        return rows[0][0]


def _value_of(text: str, call: str) -> Any:
    space: dict[str, Any] = {}
    exec(compile(text, "snippets.yaml", "exec"), space)
    return eval(call, space)


# ---------------------------------------------------------------------------------------- the world


@dataclass
class Run:
    id: str
    status: str
    seconds: int


@dataclass
class Issue:
    id: str
    component: str
    severity: str
    assignee: str
    build: int


@dataclass
class Pull:
    id: str
    branch: str
    author: str
    issue: str
    files: dict[str, int]  # path -> lines changed
    checks: dict[str, Run]
    reviews: dict[str, str]  # reviewer -> approved or pending
    labels: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)
    verdict: str | None = None


class ReviewDesk(Environment):
    """A software team's review desk."""

    def reset(self, **task: Any) -> str | None:
        self._task = task
        self._split = split = task["split"]
        rng = random.Random(f"{split}:{task['seed']}")
        pairs = rng.sample(_pool("pair", split), 24)
        surnames = rng.sample(_pool("surname", split), 12)
        self._people = [f"{rng.choice(_GIVEN.split())}-{surname}" for surname in surnames]
        pulls, issues = rng.sample(_numbers(split, 100), 6), rng.sample(_numbers(split, 100), 8)
        runs, builds = rng.sample(_numbers(split, 10000), 40), rng.sample(_numbers(split, 1000), 8)
        self._issues: dict[str, Issue] = {}
        self._pulls: dict[str, Pull] = {}
        self._owners: dict[str, str] = {}
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
        # What only screenshots show: the build of an issue that nobody has opened yet.
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

    def _crash(self, path: str, rng: random.Random) -> Code:
        return crash(_language(path), path, self._split, rng)

    def _mistake(self, path: str, rng: random.Random) -> Code:
        return mistake(_language(path), path, self._split, rng)

    def _query(self, rng: random.Random) -> tuple[str, list[str], list[list[Any]]]:
        return query(self._split, rng)

    def _screenshot(self, issue_id: str) -> tuple[str, Code]:
        """The screenshot of an issue: a path of its pull request, and the code that fails there."""
        rng = random.Random(f"{self._split}:{self._task['seed']}:{issue_id}")
        pull = next(pull for pull in self._pulls.values() if pull.issue == issue_id)
        path = rng.choice(list(pull.files))
        return path, self._crash(path, rng)

    def _say(self, what: str, rng: random.Random, **facts: Any) -> str:
        return rng.choice(_REQUESTS[what]).format(**facts)

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
            f"no branch {quoted(branch)}: give its full name, such as fix/plain-example"
        )

    def get_pull_request(self, pull_id: str) -> dict:
        """Get a pull request's author, branch and the issue it closes.

        Args:
            pull_id: e.g. PR-100
        """
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
        return {"author": pull.author, "branch": pull.branch, "issue_id": pull.issue}

    def list_files(self, pull_id: str) -> dict:
        """List a pull request's files, and how many lines it changes in each.

        Args:
            pull_id: e.g. PR-100
        """
        return dict(_known(self._pulls, pull_id, "pull request", "PR-100").files)

    def find_owner(self, path: str) -> dict:
        """Find the maintainer who owns a file.

        Args:
            path: e.g. billing/plain_example.py
        """
        return {"owner": _known(self._owners, path, "file", "billing/plain_example.py")}

    def list_checks(self, pull_id: str) -> dict:
        """List a pull request's checks and whether each passed.

        Args:
            pull_id: e.g. PR-100
        """
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
        return {name: run.status for name, run in pull.checks.items()}

    def get_check(self, pull_id: str, check: Check) -> dict:
        """Get the latest run of a check.

        Args:
            pull_id: e.g. PR-100
            check: Which check
        """
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
        run = pull.checks.get(one_of(check, CHECKS, "check"))
        if run is None:
            raise ValueError(f"{pull.id} has no check {check}: it has {', '.join(pull.checks)}")
        return {"run_id": run.id, "status": run.status, "seconds": run.seconds}

    def list_reviews(self, pull_id: str) -> dict:
        """List a pull request's reviewers and whether each has approved.

        Args:
            pull_id: e.g. PR-100
        """
        return dict(_known(self._pulls, pull_id, "pull request", "PR-100").reviews)

    def get_queue_position(self, pull_id: str) -> dict:
        """Get a pull request's place in the merge queue, 1 is next.

        Args:
            pull_id: e.g. PR-100
        """
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
        if pull.id not in self._queue:
            raise ValueError(f"{pull.id} is not in the merge queue")
        return {"position": self._queue.index(pull.id) + 1, "length": len(self._queue)}

    def get_issue(self, issue_id: str) -> dict:
        """Get an issue's component, severity, assignee and the build it was found in.

        Args:
            issue_id: e.g. IS-100
        """
        issue = _known(self._issues, issue_id, "issue", "IS-100")
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
        issue = _known(self._issues, issue_id, "issue", "IS-100")
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
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
        path = one_of(path, pull.files, f"path: no such file in {pull.id}")
        if isinstance(line, bool) or not isinstance(line, int) or not 1 <= line <= 999:
            raise ValueError("line: expected a whole number from 1 to 999")
        self._comments.add((pull.id, path, line, one_of(concern, CONCERNS, "concern")))
        return {"pull_id": pull.id, "line": line, "concern": concern}

    def request_review(self, pull_id: str, reviewer: str) -> dict:
        """Ask somebody to review a pull request.

        Args:
            pull_id: e.g. PR-100
            reviewer: e.g. sam-example
        """
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
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
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
        pull.verdict = one_of(verdict, VERDICTS, "verdict")
        return {"pull_id": pull.id, "verdict": pull.verdict}

    def add_label(self, pull_id: str, label: str) -> dict:
        """Put a label on a pull request.

        Args:
            pull_id: e.g. PR-100
            label: One word, as it is to be shown
        """
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
        if not isinstance(label, str) or not label.isidentifier() or len(label) > 40:
            raise ValueError(f"label: {quoted(label)}: expected one word of letters and digits")
        if label not in pull.labels:
            pull.labels.append(label)
        return {"pull_id": pull.id, "label": label}

    def rerun_check(self, run_id: str) -> dict:
        """Start a run of a check again.

        Args:
            run_id: e.g. R-10000
        """
        runs = {run.id: run for pull in self._pulls.values() for run in pull.checks.values()}
        run = _known(runs, run_id, "run", "R-10000")
        self._rerun.add(run.id)
        return {"run_id": run.id, "status": "started"}

    def join_queue(self, pull_id: str) -> dict:
        """Put a pull request at the end of the merge queue.

        Args:
            pull_id: e.g. PR-100
        """
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
        if pull.id in self._queue:
            raise ValueError(f"{pull.id} is in the merge queue already")
        self._queue.append(pull.id)
        return {"pull_id": pull.id, "position": len(self._queue)}

    def leave_queue(self, pull_id: str) -> dict:
        """Take a pull request out of the merge queue.

        Args:
            pull_id: e.g. PR-100
        """
        pull = _known(self._pulls, pull_id, "pull request", "PR-100")
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
        issue = _known(self._issues, issue_id, "issue", "IS-100")
        issue.assignee = self._person(assignee, "assignee")
        return {"issue_id": issue.id, "assignee": issue.assignee}

    def set_severity(self, issue_id: str, severity: Severity) -> dict:
        """Change an issue's severity.

        Args:
            issue_id: e.g. IS-100
            severity: The new severity
        """
        issue = _known(self._issues, issue_id, "issue", "IS-100")
        issue.severity = one_of(severity, SEVERITIES, "severity")
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
            "component": one_of(component, COMPONENTS, "component"),
            "severity": one_of(severity, SEVERITIES, "severity"),
            "reporter": self._person(reporter, "reporter"),
            "build": build,
        }
        if len(self._opened) == 1:
            raise ValueError("an issue was opened a moment ago: one at a time")
        self._opened.append(opened)
        return {"issue_id": self._next_issue}

    def _person(self, name: Any, what: str) -> str:
        if not isinstance(name, str) or name not in self._people:
            raise ValueError(f"{what}: no {quoted(name)} here: expected a name such as sam-example")
        return name


def _language(path: str) -> str:
    suffix = path.rpartition(".")[2]
    return next(language for language, known in SUFFIXES.items() if known == suffix)


def _known(table: dict[str, Any], key: Any, what: str, example: str) -> Any:
    if not isinstance(key, str) or key not in table:
        raise ValueError(f"no {what} {quoted(key)}: expected one such as {example}")
    return table[key]


# --------------------------------------------------------------------------------- what people ask


_REQUESTS = yaml.safe_load(Path(__file__).with_name("requests.yaml").read_text(encoding="utf-8"))


def _a_pull(world: ReviewDesk, rng: random.Random) -> Pull:
    return rng.choice(list(world._pulls.values()))


def _failed(pull: Pull) -> tuple[str, Run]:
    return next((name, run) for name, run in pull.checks.items() if run.status == "failed")


@template(kind="lookup")
def pull_author(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = _a_pull(world, rng)
    request = world._say("pull_author", rng, pull=pull.id)
    plan: Plan = [("get_pull_request", {"pull_id": pull.id})]
    return Blueprint(request, plan, f"{pull.author} wrote it.", Answer("text", pull.author))


@template(kind="lookup")
def file_owner(world: ReviewDesk, rng: random.Random) -> Blueprint:
    path, owner = rng.choice(list(world._owners.items()))
    request = world._say("file_owner", rng, path=path)
    plan: Plan = [("find_owner", {"path": path})]
    return Blueprint(request, plan, f"{owner} owns it.", Answer("text", owner))


@template(kind="lookup")
def failing_check(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = _a_pull(world, rng)
    name, _ = _failed(pull)
    request = world._say("failing_check", rng, pull=pull.id)
    plan: Plan = [("list_checks", {"pull_id": pull.id})]
    answer = Answer("choice", name, options=CHECKS)
    return Blueprint(request, plan, f"The check that failed is {name}.", answer)


@template(kind="lookup")
def lines_changed(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = _a_pull(world, rng)
    total = sum(pull.files.values())
    request = world._say("lines_changed", rng, pull=pull.id)
    plan: Plan = [("list_files", {"pull_id": pull.id})]
    return Blueprint(request, plan, f"It changes {total} lines.", Answer("number", total))


@template(kind="lookup")
def queue_position(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = rng.choice(world._queue)
    place = world._queue.index(pull) + 1
    request = world._say("queue_position", rng, pull=pull)
    plan: Plan = [("get_queue_position", {"pull_id": pull})]
    return Blueprint(request, plan, f"{pull} is number {place}.", Answer("number", place))


@template(kind="lookup")
def issue_severity(world: ReviewDesk, rng: random.Random) -> Blueprint:
    issue = rng.choice(list(world._issues.values()))
    request = world._say("issue_severity", rng, issue=issue.id)
    plan: Plan = [("get_issue", {"issue_id": issue.id})]
    answer = Answer("choice", issue.severity, options=SEVERITIES)
    return Blueprint(request, plan, f"The severity of {issue.id} is {issue.severity}.", answer)


@template(kind="workflow")
def linked_build(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = _a_pull(world, rng)
    build = world._issues[pull.issue].build
    request = world._say("linked_build", rng, pull=pull.id)
    plan: Plan = [
        ("get_pull_request", {"pull_id": pull.id}),
        ("get_issue", {"issue_id": pull.issue}),
    ]
    return Blueprint(request, plan, f"It was found in build {build}.", Answer("number", build))


@template(kind="workflow")
def largest_file_review(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = _a_pull(world, rng)
    path = max(pull.files, key=lambda one: pull.files[one])
    owner = world._owners[path]
    request = world._say("largest_file_review", rng, pull=pull.id)
    plan: Plan = [
        ("list_files", {"pull_id": pull.id}),
        ("find_owner", {"path": path}),
        ("request_review", {"pull_id": pull.id, "reviewer": owner}),
    ]
    reply = f"I asked {owner}, who owns {path}."
    return Blueprint(request, plan, reply, Answer("text", owner))


@template(kind="workflow")
def rerun_failed(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = _a_pull(world, rng)
    name, run = _failed(pull)
    request = world._say("rerun_failed", rng, pull=pull.id)
    plan: Plan = [
        ("list_checks", {"pull_id": pull.id}),
        ("get_check", {"pull_id": pull.id, "check": name}),
        ("rerun_check", {"run_id": run.id}),
    ]
    return Blueprint(request, plan, f"I started {run.id}, the run of {name}, again.")


@template(kind="workflow")
def approve_and_queue(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = rng.choice([pull for pull in world._pulls.values() if pull.id not in world._queue])
    request = world._say("approve_and_queue", rng, branch=pull.branch)
    plan: Plan = [
        ("find_pull_request", {"branch": pull.branch}),
        ("submit_review", {"pull_id": pull.id, "verdict": "approve"}),
        ("join_queue", {"pull_id": pull.id}),
    ]
    return Blueprint(request, plan, f"{pull.id} is approved and in the merge queue.")


@template(kind="workflow")
def hold_back(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull, label = world._pulls[rng.choice(world._queue)], rng.choice(("hold", "blocked", "waiting"))
    request = world._say("hold_back", rng, branch=pull.branch, label=label)
    plan: Plan = [
        ("find_pull_request", {"branch": pull.branch}),
        ("leave_queue", {"pull_id": pull.id}),
        ("add_label", {"pull_id": pull.id, "label": label}),
    ]
    return Blueprint(request, plan, f"{pull.id} left the merge queue and is labelled {label}.")


@template(kind="workflow")
def assign_to_author(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = _a_pull(world, rng)
    request = world._say("assign_to_author", rng, pull=pull.id)
    plan: Plan = [
        ("get_pull_request", {"pull_id": pull.id}),
        ("assign_issue", {"issue_id": pull.issue, "assignee": pull.author}),
    ]
    return Blueprint(request, plan, f"{pull.issue} is assigned to {pull.author}.")


@template(kind="workflow")
def remind_reviewer(world: ReviewDesk, rng: random.Random) -> Blueprint:
    pull = _a_pull(world, rng)
    late = next(name for name, state in pull.reviews.items() if state == "pending")
    request = world._say("remind_reviewer", rng, pull=pull.id)
    plan: Plan = [
        ("list_reviews", {"pull_id": pull.id}),
        ("request_review", {"pull_id": pull.id, "reviewer": late}),
    ]
    return Blueprint(request, plan, f"I asked {late} for the review again.")
