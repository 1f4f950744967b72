"""The code review pack: tasks are solvable, not trivial, and need values of the screenshots; code in images is real."""

import random
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas.documents import check_document
from schemas.files import dumps
from teacher import scenes
from teacher.domain import Answer, Blueprint, load, split_pool
from teacher.domain.questions import run, used
from teacher.domain.scoring import answer_matches, state_hash
from teacher.domain.tasks import build

pytestmark = pytest.mark.slow

PACK = load("code-review")
PACKAGE = PACK.environment.__module__.rpartition(".")[0]
RECORDS, SNIPPETS, TEXTUAL = (
    sys.modules[f"{PACKAGE}.{name}"] for name in ("records", "snippets", "textual")
)
NAMES = sorted(PACK.templates)
POINTS = {name for name in NAMES if PACK.templates[name].needs_pixels}
SCREENS = [name for name in NAMES if PACK.templates[name].kind == "screen"]
WORDS = [name for name in NAMES if name not in SCREENS]
NODE, SQLITE = shutil.which("node"), shutil.which("sqlite3")
Made = tuple[str, int, str, Blueprint, list[Any], str, str]


def world(split: str, seed: int) -> Any:
    environment = PACK.environment()
    environment.reset(seed=seed, split=split)
    return environment


def blueprint(name: str, split: str, seed: int) -> Blueprint:
    """A blueprint as the sampler makes it, before drawing."""
    return PACK.templates[name](world(split, seed), random.Random(f"{name}/{split}/{seed}"))


@cache
def tasks() -> list[Made]:
    """(split, seed, template, blueprint, results, state before, state after): 40 and 20 of each template.

    Without templates that ask for a point, because they must draw their image first.
    """
    made = []
    for name in sorted(set(NAMES) - POINTS):
        for split, count in (("train", 40), ("exam", 20)):
            for seed in range(count):
                task = blueprint(name, split, seed)
                opened = world(split, seed)
                before = state_hash(opened._state())
                results = [getattr(opened, tool)(**arguments) for tool, arguments in task.plan]
                after = state_hash(opened._state())
                made.append((split, seed, name, task, results, before, after))
    return made


def answer_of(task: Blueprint, unchanged: bool) -> Answer | None:
    if task.answer is None and unchanged and task.program:
        return run(task.program, [scene.data for scene in task.pictures])
    return task.answer


def passes(answer: Answer | None, state: str, after: str, text: str) -> bool:
    answered = bool(text.strip()) if answer is None else answer_matches(answer.as_row(), text)
    return answered and state == after


def said(result: Any) -> str:
    """A tool result as text; for an image, its data."""
    read = dumps(result.data if isinstance(result, scenes.Scene) else result)
    return read.replace("\\n", "\n")


def knows(text: str, value: Any) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(str(value))}(?![\w-])", text) is not None


# ------------------------------------------------------------------------------------------ the tasks


def test_pack_is_wide_enough() -> None:
    assert len(PACK.tools) >= 15
    assert len(WORDS) >= 10 and len(SCREENS) >= 10
    assert {task.answer.type for *_, task, _, _, _ in tasks() if task.answer} == {
        *("number", "choice", "text", "json")
    }
    assert (
        max(len(task.plan) for *_, task, _, _, _ in tasks() if not task.swarm)
        < PACK.spec["budgets"]["steps"]
    )
    assert {tool for *_, task, _, _, _ in tasks() for tool, _ in task.plan} == set(PACK.tools)
    assert sorted(POINTS) == ["point_at_button", "point_at_crash"]


@pytest.mark.parametrize("name", NAMES)
def test_a_task_of_each_template_is_proven_with_its_pictures(name: str) -> None:
    for split in ("train", "exam"):
        task = build(PACK, name, split, 7)
        check_document(task, "task", task["id"])
        assert ("pictures" in task) == (name in SCREENS and name != "attached_screenshot")


@pytest.mark.parametrize("name", NAMES)
def test_eighty_tasks_of_each_template_are_proven_with_their_pictures(name: str) -> None:
    built = [build(PACK, name, split, seed) for split in ("train", "exam") for seed in range(40)]
    asked = {(t["request"], *(p["sha256"] for p in t.get("pictures", []))) for t in built}
    assert len(asked) >= 0.95 * len(built)
    shown = [image["sha256"] for task in built for image in task.get("pictures", [])]
    assert len(set(shown)) == len(shown)


def test_plans_pass_their_own_checks_and_build_the_same_way_twice() -> None:
    for split, seed, name, task, _, before, after in tasks():
        assert passes(answer_of(task, before == after), after, after, task.reply), task
        assert blueprint(name, split, seed) == task


def test_doing_nothing_or_repeating_the_request_passes_no_task() -> None:
    for *_, task, _, before, after in tasks():
        answer = answer_of(task, before == after)
        for text in ("", "Done.", task.request):
            assert not passes(answer, before, after, text), task


def test_stopping_before_the_last_call_passes_no_task() -> None:
    for split, seed, name, task, results, before, after in tasks():
        if not task.plan or name == "form_and_record":  # the picture says what it says
            continue
        if task.swarm:  # any part may be the slowest
            continue
        opened = world(split, seed)
        for tool, arguments in task.plan[:-1]:
            getattr(opened, tool)(**arguments)
        state = state_hash(opened._state())
        answer = answer_of(task, before == after)
        assert not any(passes(answer, state, after, said(result)) for result in results[:-1])


def test_no_argument_is_magic() -> None:
    """Every id, name, path and number of a call was in the request, an image or an earlier result."""
    for *_, task, results, _, _ in tasks():
        known = task.request + "".join(said(scene) for scene in task.pictures)
        for (tool, arguments), result in zip(task.plan, results, strict=True):
            for key, value in arguments.items():
                if key in {"concern", "verdict"}:  # said in words
                    continue
                if key == "line":
                    known += _line_numbers(known)
                assert knows(known, value), (tool, key, value, known)
            known += said(result)


def _line_numbers(known: str) -> str:
    """Lines of code are counted, not written."""
    return " ".join(map(str, range(1, known.count("\n") + 2)))


def test_no_screen_task_can_be_done_from_its_words_and_tools_alone() -> None:
    """Only the image shows an argument, or the answer where there are no calls."""
    for *_, name, task, results, before, after in tasks():
        if not task.pictures:
            continue
        known, needed = task.request, []
        for (_, arguments), result in zip(task.plan, results, strict=True):
            needed += [value for value in arguments.values() if not knows(known, value)]
            known += said(result)
        planted = [value for value in needed if value not in ("bug", "request_changes")]
        if not task.plan:
            answer = answer_of(task, before == after)
            assert answer is not None and not knows(known, answer.value)
        else:
            assert planted, (name, task)


def test_the_question_uses_the_cell_that_the_plan_needs() -> None:
    for _, _, name, task, *_ in tasks():
        if name in {"rerun_named", "shown_file_owner", "blocked_merge", "file_report"}:
            assert task.program is not None
            computed = run(task.program, [scene.data for scene in task.pictures])
            values = [value for _, arguments in task.plan for value in arguments.values()]
            assert computed.value in values
        if task.program:
            assert used(task.program)


def test_answers_are_spread() -> None:
    """No answer is frequent enough to be a good guess."""
    for name in ("failing_check", "slowest_check", "label_exception", "crash_comment"):
        answers = [task.answer.value for _, _, n, task, *_ in tasks() if n == name and task.answer]
        commonest = max(answers.count(answer) for answer in set(answers))
        assert commonest < 0.45 * len(answers), (name, answers)


def test_train_and_exam_share_no_entity() -> None:
    seen: dict[str, set[str]] = {"train": set(), "exam": set()}
    for split, seed, *_ in tasks():
        desk = world(split, seed)
        for pull in desk._pulls.values():
            seen[split] |= {pull.id, pull.branch.partition("/")[2], pull.author.partition("-")[2]}
            seen[split] |= {path.partition("/")[2].partition(".")[0] for path in pull.files}
            seen[split] |= {run.id for run in pull.checks.values()}
        seen[split] |= {*desk._issues, *desk._people, f"build {desk._new_build}"}
    assert len(seen["train"]) > 1000 and len(seen["exam"]) > 500
    assert not seen["train"] & seen["exam"]
    nouns = {split: set(split_pool(SNIPPETS._NOUNS.split(), split)) for split in seen}
    assert not nouns["train"] & nouns["exam"] and len(nouns["exam"]) > 15
    examples = set(re.findall(r"\b(?:PR|IS|R)-\d+\b|\b[a-z]+-example\b", dumps(PACK.tools)))
    assert examples and not examples & (seen["train"] | seen["exam"])


def test_requests_are_many_and_short() -> None:
    wordings = TEXTUAL.REQUESTS
    assert all(len(set(group)) >= 4 for group in wordings.values())
    assert len({line for group in wordings.values() for line in group}) == sum(
        len(group) for group in wordings.values()
    )
    # Without the code that code_outline has below its question.
    asked = [t.request.partition("\n\n")[0] for *_, t, _, _, _ in tasks() if not t.swarm]
    assert max(len(request.split()) for request in asked) <= 40
    assert set(wordings) == set(NAMES)
    for name in WORDS:
        asked = [t.request for split, _, n, t, *_ in tasks() if n == name and split == "train"]
        assert len(set(asked)) >= 0.9 * len(asked)


def test_results_are_small_and_arguments_fit_the_schemas() -> None:
    validators = {}
    for name, described in PACK.tools.items():
        schema = described["function"]["parameters"]
        Draft202012Validator.check_schema(schema)
        assert 1 <= len(schema["properties"]) <= 4
        validators[name] = Draft202012Validator(schema)
    for *_, task, results, _, _ in tasks():
        for (tool, arguments), result in zip(task.plan, results, strict=True):
            validators[tool].validate(arguments)
            assert isinstance(result, scenes.Scene) or len(dumps(result)) <= 160, result


# ------------------------------------------------------------------------------- the code that is shown


def codes(kind: str, language: str, split: str = "train") -> list[tuple[str, Any]]:
    """Each snippet several times, with different preludes and values."""
    path = f"sync/plain_example.{RECORDS.SUFFIXES[language]}"
    make = SNIPPETS.crash if kind == "crashes" else SNIPPETS.mistake
    return [(path, make(language, path, split, random.Random(seed))) for seed in range(60)]


def in_program(command: list[str], text: str, path: Path) -> tuple[str, str]:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=60)
    return done.stdout, done.stderr


@pytest.mark.parametrize("language", ["python", "javascript", "sql"])
def test_every_crash_is_on_its_line_and_no_two_are_alike(language: str) -> None:
    made = codes("crashes", language)
    assert len({code.text for _, code in made}) >= 50
    assert len({code.line for _, code in made}) >= 8
    for path, code in made:
        lines = code.text.splitlines()
        assert 1 <= code.line <= len(lines) <= 40 and max(map(len, lines)) <= 76
        assert "<<" not in code.text + code.output and "¦" not in code.text
        assert path in code.output or language == "sql"
        assert str(code.line) in code.output


def test_python_crashes_are_what_python_says(tmp_path: Path) -> None:
    for path, code in codes("crashes", "python")[:12]:
        out, err = in_program([sys.executable], code.text, tmp_path / path)
        frames = re.findall(r"line (\d+), in (\S+)", err)
        shown = re.findall(r"line (\d+), in (\S+)", code.output)
        assert frames == shown and frames[-1][0] == str(code.line)
        assert err.splitlines()[-1] == code.output.splitlines()[-1]
        assert code.output.startswith(out) and code.error in err


@pytest.mark.skipif(NODE is None, reason="needs Node")
def test_javascript_crashes_are_what_node_says(tmp_path: Path) -> None:
    seen = set()
    for path, code in codes("crashes", "javascript"):
        if code.output.splitlines()[0].split("(")[0] in seen:
            continue
        seen.add(code.output.splitlines()[0].split("(")[0])
        _, err = in_program([str(NODE)], code.text, tmp_path / path)
        message, inside, caller = code.output.splitlines()
        printed = [line for line in err.splitlines() if line.startswith(("    at ", message[:9]))]
        assert message in printed
        at = [line.replace(f"{tmp_path}/", "") for line in printed if line.startswith("    at ")]
        assert at[:2] == [inside, caller]
    assert len(seen) >= 5


@pytest.mark.skipif(SQLITE is None, reason="needs the sqlite3 shell")
def test_sql_crashes_are_where_sqlite_says(tmp_path: Path) -> None:
    for path, code in codes("crashes", "sql")[:20]:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(code.text)
        with file.open() as script:
            done = subprocess.run(
                [str(SQLITE), "-bail", ":memory:"], stdin=script, capture_output=True, text=True
            )
        assert (
            f"near line {code.line}: {code.output.rpartition(f'{code.line}: ')[2]}" in done.stderr
        )


@pytest.mark.parametrize("language", ["python", "javascript", "sql"])
def test_every_mistake_is_one_line_and_its_test_fails(language: str) -> None:
    made = codes("bugs", language)
    assert len({code.text for _, code in made}) >= 50
    for _, code in made:
        lines = code.text.splitlines()
        assert lines[code.line - 1].strip() != code.fix and "<<" not in code.text + code.output
        assert all(wanted != got for _, wanted, got in code.cases)
        assert code.output.endswith(f"expected {code.cases[0][1]}\ngot {code.cases[0][2]}")


def fixed(code: Any) -> str:
    lines = code.text.splitlines()
    bad = lines[code.line - 1]
    lines[code.line - 1] = bad[: len(bad) - len(bad.lstrip())] + code.fix
    return "\n".join(lines)


def test_mistakes_in_python_and_sql_go_away_with_their_line() -> None:
    for _, code in codes("bugs", "python"):
        for call, wanted, got in code.cases:
            assert SNIPPETS._value_of(fixed(code), call) == wanted
            assert SNIPPETS._value_of(code.text, call) == got
    for _, code in codes("bugs", "sql"):
        ((_, wanted, got),) = code.cases
        assert SNIPPETS._last_row(fixed(code)) == wanted
        assert SNIPPETS._last_row(code.text) == got


@pytest.mark.skipif(NODE is None, reason="needs Node")
def test_mistakes_in_javascript_are_what_node_computes(tmp_path: Path) -> None:
    script, expected, kinds = "", [], set()
    for _, code in codes("bugs", "javascript"):
        kinds.add(re.match(r"[a-z]+", code.cases[0][0])[0])  # type: ignore[index]
        calls = "".join(f"console.log({call});\n" for call, *_ in code.cases)
        script += f"{{\n{fixed(code)}\n{calls}}}\n{{\n{code.text}\n{calls}}}\n"
        expected += [str(case[which]) for which in (1, 2) for case in code.cases]
    out, err = in_program([str(NODE)], script, tmp_path / "all" / "mistakes.js")
    assert out.split() == expected, err
    assert len(kinds) == len(SNIPPETS._SNIPPETS["bugs"]["javascript"])


def test_a_query_returns_what_it_shows() -> None:
    for seed in range(60):
        text, columns, rows = SNIPPETS.query("train", random.Random(seed))
        low, limit = int(re.search(r"> (\d+)", text)[1]), int(re.search(r"LIMIT (\d+)", text)[1])  # type: ignore[index]
        values = [value for _, value in rows]
        assert len(rows) == limit and min(values) > low and len(columns) == 2
        assert values == sorted(values, reverse="DESC" in text)


def test_the_tool_shows_the_same_readable_screenshot_each_time() -> None:
    one, other = world("train", 3), world("train", 3)
    for issue in one._issues:
        scene = one.view_screenshot(issue)
        assert scene == other.view_screenshot(issue)
    assert scenes.check(scenes.draw(scene)) == []


# ------------------------------------------------------------------------------------------- the world

SOME_DESK = world("train", 1)
HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["PR-100", "lint", "__class__", "{0}", "x" * 5000, "\ud800", "high", "bug"]),
    st.integers(),
    st.sampled_from([0, -1, 10**400]),
    st.floats(),
    st.none() | st.booleans() | st.lists(st.integers(), max_size=2) | st.just({"a": []}),
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_hostile_arguments_raise_value_error_only(data: st.DataObject) -> None:
    desk = SOME_DESK
    exists = [*desk._pulls, *desk._issues, *desk._people, *desk._owners]
    hostile.call(data, PACK, desk, exists, HOSTILE, 300)


def test_what_was_done_twice_counts_once_and_what_makes_no_sense_is_refused() -> None:
    desk = world("train", 2)
    pull = next(iter(desk._pulls.values()))
    other = next(person for person in desk._people if person != pull.author)
    desk.request_review(pull.id, other)
    once = state_hash(desk._state())
    desk.request_review(pull.id, other)
    assert state_hash(desk._state()) == once
    with pytest.raises(ValueError, match="wrote"):
        desk.request_review(pull.id, pull.author)
    with pytest.raises(ValueError, match="no such file"):
        desk.comment_on_line(pull.id, "sync/plain_example.py", 3, "bug")
    with pytest.raises(ValueError, match="line: expected"):
        desk.comment_on_line(pull.id, next(iter(pull.files)), True, "bug")
    with pytest.raises(ValueError, match="in the merge queue already"):
        desk.join_queue(desk._queue[0])
