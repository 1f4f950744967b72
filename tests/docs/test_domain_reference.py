"""docs/domain-reference.md is what its script writes, its examples run, and it names all that packs can use."""

import doctest
import importlib.util
import random
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from teacher.domain import questions, scoring
from teacher.domain.blueprint import AnswerType
from teacher.scenes import kinds

ROOT = Path(__file__).resolve().parents[2]


def _script() -> Any:
    path = ROOT / "docs" / "domain_reference.py"
    spec = importlib.util.spec_from_file_location("domain_reference", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


reference = _script()
ENTRIES = {entry.title: entry for entries in reference.sections().values() for entry in entries}
OPERATIONS = {title for title in ENTRIES if title.split(", ")[0] in questions.OPERATIONS}


def run_examples(entry: Any, names: dict[str, Any]) -> tuple[int, str]:
    """Runs the examples of an entry; returns how many failed, and what they printed instead."""
    test = doctest.DocTestParser().get_doctest(entry.text, names, entry.title, None, 0)
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    return result.failed, "".join(report)


def names_for(entry: Any) -> dict[str, Any]:
    """The names that the examples of an entry may use: those of its module, and the scenes of the programs."""
    names = dict(vars(entry.module))
    if entry.module is questions and entry.title != "Programs":
        for example in doctest.DocTestParser().get_examples(ENTRIES["Programs"].text):
            exec(example.source, names)
    return names


def gaps(entry: Any) -> list[str]:
    """What an entry lacks, a sentence each."""
    lacks = [] if entry.text.strip() else [f"{entry.title}: no docstring"]
    if not doctest.DocTestParser().get_examples(entry.text):
        lacks.append(f"{entry.title}: no example (>>>)")
    defined = reference.definitions(entry.text)
    lacks += [f"{entry.title}.{name}: not defined" for name in entry.members if name not in defined]
    lacks += [f"{entry.title}.{call}: no docstring" for call, text in entry.methods.items() if not text]  # fmt: skip
    return lacks


def test_the_page_is_what_its_script_writes() -> None:
    assert reference.FILE.read_text(encoding="utf-8") == reference.page(), (
        "run python -m docs.domain_reference"
    )


def test_every_public_name_of_both_faces_is_on_the_page() -> None:
    listed = {name for names in reference.SECTIONS.values() for name in names}
    listed |= set(reference.OF_PROGRAMS)
    assert listed - {"answer_matches"} == set(reference.public_names())


@pytest.mark.parametrize("title", ENTRIES)
def test_a_name_has_a_docstring_an_example_and_all_its_fields(title: str) -> None:
    assert gaps(ENTRIES[title]) == []


def test_a_name_without_docstring_example_or_field_is_found() -> None:
    bare = reference.Entry("bare", "", questions)
    assert gaps(bare) == ["bare: no docstring", "bare: no example (>>>)"]
    text = "A point.\n\nx: to the right.\n\n>>> 1\n1"
    entry = reference.Entry("Point", text, questions, members=["x", "y"], methods={"turn()": ""})
    assert gaps(entry) == ["Point.y: not defined", "Point.turn(): no docstring"]


@pytest.mark.parametrize("title", ENTRIES)
def test_the_examples_run(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    failed, report = run_examples(ENTRIES[title], names_for(ENTRIES[title]))
    assert not failed, report


def test_a_wrong_example_is_found() -> None:
    wrong = reference.Entry("wrong", "A sum.\n\n>>> 1 + 1\n3", questions)
    assert run_examples(wrong, {})[0] == 1


def test_every_type_of_answer_is_shown_with_a_text_that_gives_it_and_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry, matches, shown = ENTRIES["answer_matches"], scoring.answer_matches, set()

    def answer_matches(answer: Any, text: str) -> bool:
        shown.add((answer["type"], matches(answer, text)))
        return matches(answer, text)

    monkeypatch.setattr(scoring, "answer_matches", answer_matches)
    run_examples(entry, names_for(entry))
    types = set(get_args(AnswerType))
    assert shown == {(kind, passes) for kind in types for passes in (True, False)}
    assert types <= reference.definitions(entry.text)


def test_every_operation_of_a_program_is_run_in_its_example() -> None:
    for title in OPERATIONS:
        ran: set[str] = set()

        def run_program(program: Any, *scenes: Any, ran: set[str] = ran) -> Any:
            ran.add(program["op"])
            return questions.run_program(program, *scenes)

        run_examples(ENTRIES[title], {**names_for(ENTRIES[title]), "run_program": run_program})
        assert ran == set(title.split(", "))
    assert {op for title in OPERATIONS for op in title.split(", ")} == set(questions.OPERATIONS)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_variant_of_a_scene_and_every_field_of_its_data_is_defined(kind: str) -> None:
    text = ENTRIES[kind].text
    assert [variant for variant in kinds.KINDS[kind]().VARIANTS if variant not in text] == []
    samples = [kinds.example(kind, random.Random(seed)).data for seed in range(200)]
    used = {name for data in samples for name in data}
    assert used - reference.definitions(text) == set()
