"""The code of the screenshots: templates of snippets.yaml, filled in, with the output of running them.

Python and SQL run here; the output of JavaScript is written in snippets.yaml.
"""

import contextlib
import io
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from teacher.domain import split_pool

_SNIPPETS = yaml.safe_load(Path(__file__).with_name("snippets.yaml").read_text(encoding="utf-8"))
_NOUNS = (
    "anvil barrel basket bolt bottle brick bucket cable candle carpet chair clock crate cushion"
    " desk drum fender filter funnel hammer heater helmet kettle ladder lamp lens locker magnet"
    " mirror motor nail paddle panel parcel pillow pipe plank pulley pump rivet saddle sensor shovel"
    " spring stool tile tray trolley valve wheel"
)


@dataclass(frozen=True)
class Code:
    """A file as an editor shows it, and its output. line: the wrong one. error: the name of the exception."""

    language: str
    text: str
    output: str
    line: int
    error: str = ""
    fix: str = ""  # the corrected line
    # Of a mistake: (call, expected result, actual result).
    cases: tuple[tuple[str, Any, Any], ...] = ()

    def screen(self, path: str) -> dict[str, Any]:
        """The data of a scene: the file and its output."""
        editor = {"variant": "editor", "title": path, "language": self.language}
        return {**editor, "code": self.text, "output": self.output}


def crash(language: str, path: str, split: str, rng: random.Random) -> Code:
    """A program that fails at run time."""
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
    error = next((o.partition(":")[0] for o in output.splitlines() if "Error: " in o), "")
    return Code(language, text.rstrip("\n"), output, line, error)


def mistake(language: str, path: str, split: str, rng: random.Random) -> Code:
    """A function with one wrong line, and the failing test that shows it."""
    snippet = rng.choice(_SNIPPETS["bugs"][language])
    facts = _facts(snippet, split, rng)
    bug, fix = _fill(snippet["bug"], facts), _fill(snippet["fix"], facts)
    around = _preludes(language, facts, rng) + _fill(snippet["code"], facts)
    wrong, right = around.replace("<<bug>>", bug), around.replace("<<bug>>", fix)
    cases: list[tuple[str, Any, Any]] = []
    while len(cases) < 4:
        call = _fill(snippet["call"], facts)
        if language == "python":
            expected, actual = _value_of(right, call), _value_of(wrong, call)
        elif language == "sql":
            expected, actual = _last_row(right), _last_row(wrong)
        else:
            expected, actual = (
                _value_of("", _fill(snippet[name], facts)) for name in ("wants", "gets")
            )
        if expected != actual:  # with some arguments the mistake does not matter
            cases.append((call, expected, actual))
        if language == "sql":
            break  # the values are part of the code, so there is one case
        facts |= _values(snippet, rng)
    call, expected, actual = cases[0]
    output = f"FAIL {path}\n{call}\nexpected {expected}\ngot {actual}"
    line = around[: around.index("<<bug>>")].count("\n") + 1
    return Code(language, wrong.rstrip("\n"), output, line, fix=fix, cases=tuple(cases))


def query(split: str, rng: random.Random) -> tuple[str, list[str], list[list[Any]]]:
    """A query over invented rows: its text, its columns, and the four to six rows that it returns."""
    noun = rng.choice(split_pool(_NOUNS.split(), split))
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
    """The words and values that fill in a snippet."""
    noun = rng.choice(split_pool(_NOUNS.split(), split))
    nouns = f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"
    facts = {"noun": noun, "nouns": nouns, "Noun": noun.title(), "Nouns": nouns.title()}
    facts["limit"] = str(rng.randrange(20, 400))
    return facts | _values(snippet, rng)


def _values(snippet: dict[str, Any], rng: random.Random) -> dict[str, str]:
    """Random values of a snippet, from the ranges in snippets.yaml."""
    values: dict[str, Any] = {}
    for name, (low, high, *count) in snippet["values"].items():
        span = range(low, high + 1)
        values[name] = rng.sample(span, *count) if count else rng.choice(span)
    return {name: str(value) for name, value in values.items()}


def _preludes(language: str, facts: dict[str, str], rng: random.Random) -> str:
    """Code before the snippet, so that line numbers cannot be guessed."""
    pool = _SNIPPETS["preludes"][language]
    chosen = sorted(rng.sample(range(len(pool)), rng.randrange(len(pool))))
    return _fill("".join(pool[i] for i in chosen), facts)


def _fill(text: str, facts: dict[str, str]) -> str:
    """Replaces each <<name>> in a text."""
    for name, value in facts.items():
        text = text.replace(f"<<{name}>>", value)
    return text


def _run_python(text: str, path: str) -> tuple[str, int]:
    """The output of a program, including its traceback, and the line that raised."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(text, path, "exec"), {"__name__": "__main__"})
    except Exception as error:
        lines, frames, trace = [], [], error.__traceback__
        while trace:
            if trace.tb_frame.f_code.co_filename == path:
                frames.append((trace.tb_lineno, trace.tb_frame.f_code.co_name))
            trace = trace.tb_next
        for number, name in frames:
            lines.append(f'  File "{path}", line {number}, in {name}')
        lines = ["Traceback (most recent call last):", *lines, f"{type(error).__name__}: {error}"]
        return printed.getvalue() + "\n".join(lines), frames[-1][0]
    raise RuntimeError(f"snippets.yaml: crashes: runs to its end:\n{text}")


def _statements(text: str) -> list[tuple[int, str]]:
    """The statements of a script, each with the number of its first line."""
    statements, begun, first = [], "", 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not begun and (not line.strip() or line.startswith("--")):
            continue
        first = number if not begun else first
        begun += line
        if sqlite3.complete_statement(begun):
            statements.append((first, begun))
            begun = ""
    return statements


def _run_sql(text: str) -> tuple[str, int]:
    """The output of a script up to its first error, and the line of the failed statement."""
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
    """The first value of the last statement of a script."""
    with contextlib.closing(sqlite3.connect(":memory:")) as opened:
        for _, statement in _statements(text):
            rows = opened.execute(statement).fetchall()
        return rows[0][0]


def _value_of(text: str, call: str) -> Any:
    """The value of an expression after running Python code."""
    space: dict[str, Any] = {}
    exec(compile(text, "snippets.yaml", "exec"), space)
    return eval(call, space)
