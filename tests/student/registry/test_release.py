"""The rule of a release (gate.against): who may become `latest`, in a table, and in a directory and a registry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oci_server import needs_registry, oci_server
from published_student import Q8, make_files, make_manifest, make_scorecard

from schemas.documents import check_document
from schemas.files import sha256, write_json
from student.registry.lookup import find_version, resolve
from student.registry.oci_layout import DirectoryStore
from student.registry.publish import LatestMoved, Published, publish
from student.registry.release import EvaluatedAgain, judge, same_student
from student.registry.store import Store

TASKS = [f"legal-exam-{number}" for number in range(40)]
OTHER = {"tasks": 100, "sha256": "c" * 64}


def scorecard(passed: list[str] | None, exam: dict[str, Any] | None = None) -> dict[str, Any]:
    """A scorecard of 40 tasks. passed: ids; None for a scorecard that does not name them."""
    card = make_scorecard("0" * 64)
    if exam:
        card["exam"] = exam
    student = card["models"]["student"]
    student["tasks"], student["passed"] = len(TASKS), len(passed or [])
    if passed is not None:
        student["passed_tasks"] = passed
    return card


def release(
    store: Store, where: Path, card: dict[str, Any] | None, *, gate_passed: bool = True
) -> Published:
    """Publishes a student with a scorecard, or without one."""
    where.mkdir(parents=True, exist_ok=True)
    files = make_files(where)
    if card is None:
        files = [file for file in files if file.name != "scorecard.json"]
    else:
        card["models"]["student"]["sha256"] = sha256(where / "legal-Q8_0.gguf")
        write_json(where / "scorecard.json", card)
    return publish(store, "legal", files, make_manifest(), gate_passed=gate_passed)


@pytest.fixture(params=["directory", pytest.param("registry", marks=needs_registry)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "directory":
        yield DirectoryStore(tmp_path / "store")
        return
    with oci_server(tmp_path / "registry") as server:
        yield server.store()


# (passed by latest, by the new student, level, may become latest)
@pytest.mark.parametrize(
    ("before", "after", "level", "may"),
    [
        (TASKS[:20], TASKS[:20], 0.05, True),  # equal
        (TASKS[:20], TASKS[:30], 0.05, True),  # better
        (TASKS[:20], TASKS[20:], 0.05, True),  # as many, others
        (TASKS[:20], TASKS[:16], 0.05, True),  # four fewer: p = 1/16
        (TASKS[:20], TASKS[:15], 0.05, False),  # five fewer: p = 1/32
        (TASKS[:20], TASKS[:16], 0.1, False),  # four fewer, at a higher level
        (TASKS[:20], TASKS[:17], 0.1, True),  # three fewer: p = 1/8
        (TASKS[:20], TASKS[:15], 1 / 32, False),  # p = level is worse
        (TASKS[:20], [], 0.05, False),
        ([], [], 0.05, True),
    ],
)
def test_a_student_that_is_significantly_worse_does_not_become_latest(
    before: list[str], after: list[str], level: float, may: bool, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "store")
    release(store, tmp_path / "1", scorecard(before))
    new = scorecard(after)
    verdict = judge(new, find_version(store, "legal"), None, level)
    assert (verdict["passed"], verdict["against"]) == (may, "legal:1")
    assert verdict["digest"] == resolve(store, "legal:1").digest
    assert (verdict["worse_p"] > level, verdict["evaluated"]) == (may, "published")
    assert f"{'not worse' if may else 'worse'} than legal:1: of 40 tasks" in verdict["detail"]
    check_document({**new, "release": verdict}, "scorecard", tmp_path)


# What is known of `latest`, and of being evaluated again: may the new student become latest, and why.
@pytest.mark.parametrize(
    ("card", "again", "may", "detail"),
    [
        (scorecard(TASKS, OTHER), {}, False, "it was evaluated on another exam"),
        (scorecard(None), {}, False, "its scorecard does not name the tasks that it passed"),
        (None, {}, False, "it has no scorecard"),
        (scorecard([f"x{n}" for n in range(99)]), {}, False, "not compared with legal:1"),
        (scorecard(TASKS, OTHER), {"reason": "no such file"}, False, "no such file"),
        (scorecard(TASKS, OTHER), {"passed": TASKS[:20]}, True, "not worse than legal:1"),
        (scorecard([], OTHER), {"passed": TASKS}, False, "worse than legal:1"),
        (scorecard(None), {"passed": TASKS[:20]}, True, "not worse than legal:1"),
        # Results on this exam that it was published with count, not those of another time.
        (scorecard(TASKS), {"passed": []}, False, "worse than legal:1"),
        # It was evaluated again, but `latest` is another version by now.
        (scorecard(TASKS, OTHER), {"passed": [], "digest": "sha256:old"}, False, "another exam"),
    ],
)
def test_what_cannot_be_compared_does_not_become_latest(
    card: dict[str, Any] | None, again: dict[str, Any], may: bool, detail: str, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "store")
    release(store, tmp_path / "1", card)
    latest = find_version(store, "legal")
    assert latest
    known: EvaluatedAgain = {"digest": again.get("digest", latest.model.digest)}
    if "reason" in again:
        known["reason"] = again["reason"]
    if "passed" in again:
        known["score"] = scorecard(again["passed"])["models"]["student"]
    new = scorecard(TASKS[:20])
    verdict = judge(new, latest, known if again else None, 0.05)
    assert (verdict["passed"], detail in verdict["detail"]) == (may, True), verdict
    check_document({**new, "release": verdict}, "scorecard", tmp_path)


def test_the_first_version_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    verdict = judge(scorecard([]), find_version(store, "legal"), None, 0.05)
    assert verdict["passed"] and "first version" in verdict["detail"]


def test_a_student_that_is_published_again_keeps_its_verdict() -> None:
    card = scorecard(TASKS)
    verdict = judge(card, None, None, 0.05)
    assert same_student(card, {**card, "release": verdict}) == verdict
    assert same_student(card, card) is None
    assert same_student(card, {**scorecard([]), "release": verdict}) is None


def test_a_version_that_is_held_back_is_stored_and_latest_stays(
    store: Store, tmp_path: Path
) -> None:
    release(store, tmp_path / "1", scorecard(TASKS[:20]))
    for number, passed in ((2, TASKS[:10]), (3, TASKS[:21])):
        card = scorecard(passed)
        latest = find_version(store, "legal")
        assert latest and latest.reference == "legal:1"
        card["release"] = judge(card, latest, None, 0.05)
        assert card["release"]["passed"] == (number == 3)
        release(store, tmp_path / str(number), card, gate_passed=card["release"]["passed"])
    assert resolve(store, "legal").tag == "3"
    assert not resolve(store, "legal:2").gate_passed


def test_latest_that_was_moved_since_the_comparison_is_not_moved_back(
    store: Store, tmp_path: Path
) -> None:
    compared_with = release(store, tmp_path / "1", scorecard(TASKS[:10])).digest
    release(store, tmp_path / "2", scorecard(TASKS))

    def publish_third(against: str) -> Published:
        files = make_files(tmp_path / "3", Q8 + b"3")
        return publish(
            store, "legal", files, make_manifest(), gate_passed=True, compared_with=against
        )

    for stale in (compared_with, ""):
        with pytest.raises(LatestMoved):
            publish_third(stale)
    assert resolve(store, "legal").tag == "2"
    third = publish_third(resolve(store, "legal").digest)
    assert (third.tag, resolve(store, "legal").tag) == ("3", "3")
    assert publish_third("") == Published("legal", "3", third.digest, new=False)
