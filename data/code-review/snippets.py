"""The code that screenshots show: snippets.yaml filled in, run, and printed as it was printed.

Python and SQL are run here; what JavaScript prints is written in snippets.yaml.
"""

import contextlib
import io
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from teacher.domain import dealt

_SNIPPETS = yaml.safe_load(Path(__file__).with_name("snippets.yaml").read_text(encoding="utf-8"))
_NOUNS = (
    "anvil barrel basket bolt bottle brick bucket cable candle carpet chair clock crate cushion"
    " desk drum fender filter funnel hammer heater helmet kettle ladder lamp lens locker magnet"
    " mirror motor nail paddle panel parcel pillow pipe plank pulley pump rivet saddle sensor shovel"
    " spring stool tile tray trolley valve wheel"
)


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
    noun = rng.choice(dealt(_NOUNS.split(), split))
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
    noun = rng.choice(dealt(_NOUNS.split(), split))
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
