"""The report as it is written: its numbers, what it escapes, and that it needs no other file."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from published_student import make_files, make_manifest
from report_run import HOSTILE, add_exam, add_kept, finished, swarm, trace, with_parts

from flows import recipe_file
from flows.report import html, traces
from flows.report.charts import plot_training
from flows.report.coverage import Coverage
from flows.run_directory import Run
from schemas.documents import check_document
from schemas.errors import InputError
from schemas.files import write_json, write_jsonl
from student.registry.oci_layout import DirectoryStore
from student.registry.publish import publish


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run without the log of its training: drawing its charts takes longer than a test."""
    directory = finished(tmp_path / "run")
    (directory / "train" / "log.jsonl").unlink()
    return directory


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a finished run."""
    return html.write(finished(tmp_path_factory.mktemp("finished") / "run")).read_text()


def words_of(page: str) -> str:
    shown = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", shown))


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the texts that are shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_report_shows_funnel_scorecard_loss_and_stages(page: str) -> None:
    words = words_of(page)
    for text in (
        "420 traces of 160 tasks",
        "214 kept, 51 %",
        "2 → 80 % of the exam passed",
        "wrong_answer 150",
        "36 %",
        "78 points, at least 5",
        "price_of_item",
        "optimiser step",
        "held out",
        "publish not run yet",
        "filter/kept.jsonl",
    ):
        assert text in words, text


def test_an_exam_without_parts_has_a_line_with_its_interval_for_each_model(page: str) -> None:
    words = words_of(page)
    assert "base all tasks 1 of 60 2 % 0 to 9 % -" in words
    assert "student all tasks 48 of 60 80 % 68 to 88 % -" in words
    assert "Paired differences" not in words


def test_each_part_of_an_exam_has_its_line_its_interval_and_its_unasked_writes(run: Path) -> None:
    file = run / "evaluate" / "scorecard.json"
    scorecard = with_parts(json.loads(file.read_text()))
    check_document(scorecard, "scorecard", file)
    write_json(file, scorecard)
    words = words_of(html.write(run).read_text())
    assert "whole toolbox 48 of 60 80 % 68 to 88 % 4 " in words
    assert "renamed tools 12 of 30 40 % 25 to 58 % 7 " in words
    assert "47 were passed by the student alone and 0 by the base alone (p = 1.4e-14)" in words


def test_each_file_of_the_student_has_its_result_and_its_drift(run: Path) -> None:
    file = run / "evaluate" / "scorecard.json"
    scorecard = with_parts(json.loads(file.read_text()))
    drift = {"kl": 0.0449, "same_top": 0.948, "positions": 96}
    student = scorecard["models"]["student"]
    scorecard["variants"] = {
        "Q8_0": {"file": "q8.gguf", "sha256": student["sha256"], "drift": drift},
        "Q4_K_M": {"file": HOSTILE, "sha256": "e" * 64},
    }
    check_document(scorecard, "scorecard", file)
    write_json(file, scorecard)
    page = html.write(run).read_text()
    assert "q8.gguf 48 of 60 0.0449 94.8 %" in words_of(page)
    assert "not evaluated - -" in words_of(page) and "<script>alert" not in page


def test_models_are_compared_on_the_headlines_tasks_that_both_have(run: Path) -> None:
    add_exam(run, base=[False] * 7 + [True], student=[True] * 7 + [False])
    write_jsonl(
        run / "evaluate" / "Q4_K_M.jsonl",
        map(json.loads, (run / "evaluate" / "student.jsonl").read_text().splitlines()[:4]),
    )
    words = words_of(html.write(run).read_text())
    assert re.search(r"student base 8 \+75 points .* to \+\d+ points 7 1 0.07 ", words)
    assert "Q4_K_M base 4 +100 points" in words
    assert "Q4_K_M student 4 0 points" in words


def test_coverage_counts_templates_tools_and_the_exam(run: Path) -> None:
    add_exam(run, base=[False, True], student=[True, True], further=0)
    words = words_of(html.write(run).read_text())
    assert "moved 4 4 2 50 % 1 of 2 2 of 2" in words
    # Of four kept and two rejected traces, and of the exam's four.
    assert "get 0 6 4 0 4" in words


def test_a_tool_that_no_kept_trace_calls_is_named(run: Path) -> None:
    offered = trace(5, "moved", {"kept": True})
    offered["tools"] = [{"type": "function", "function": {"name": "erase"}}]
    add_kept(run, offered)
    assert "No kept trace calls erase:" in words_of(html.write(run).read_text())


def test_calls_of_a_renamed_tool_count_under_the_packs_name(run: Path) -> None:
    task = {
        "id": "pack-train-moved-1",
        "plan": [],
        "reply": "",
        "checks": {"answer": None},
        "drift": {"tools": {"get": "read_item"}},
    }
    write_jsonl(run / "tasks" / "train.jsonl", [task])
    words = words_of(html.write(run).read_text())
    assert "read_item 0 1 1 0 0" in words
    assert "get 0 5 3 0 0" in words


def test_names_in_a_scorecard_are_text_in_the_page(run: Path) -> None:
    file = run / "evaluate" / "scorecard.json"
    scorecard = with_parts(json.loads(file.read_text()))
    scorecard["models"]["student"]["by_template"] = {HOSTILE: {"tasks": 1, "passed": 0}}
    scorecard["gate"]["checks"][0]["detail"] = HOSTILE
    write_json(file, scorecard)
    page = html.write(run).read_text()
    assert "<script>alert" not in page and "onerror=&#34;" in page


def test_a_student_that_is_held_back_is_shown_with_the_reason(run: Path) -> None:
    detail = "worse than <b>pack:1</b>"
    release = {"passed": False, "detail": detail, "evaluated": "again"}
    write_json(run / "publish" / "scorecard.json", {"release": release})
    page = html.write(run).read_text()
    assert "<b>pack:1</b>" not in page
    row = "not_worse_than_latest held back worse than &lt;b&gt;pack:1&lt;/b&gt;, which was evaluated again"
    assert row in words_of(page)


def test_rejections_are_listed_most_frequent_first(page: str) -> None:
    words = words_of(page)
    assert (
        words.index("wrong_answer 150")
        < words.index("tool_error_unrecovered 50")
        < words.index("truncated 6")
    )


def test_only_the_reports_own_script_is_in_the_page_and_has_its_nonce(run: Path) -> None:
    hostile = trace(20, HOSTILE, {"kept": True}, "</script><script>alert(3)</script>")
    hostile["messages"][2]["tool_calls"][0]["function"] = {"name": HOSTILE, "arguments": HOSTILE}
    add_kept(run, hostile, swarm())
    page = html.write(run).read_text()
    elements = Elements(page)
    assert not elements.named("img") and "alert(3)" not in page
    data: list[dict[str, str | None]] = []
    program: list[dict[str, str | None]] = []
    for script in elements.named("script"):
        (data if script.get("type") else program).append(script)
    assert {script["type"] for script in data} == {"application/octet-stream"}
    policy = next(each for each in elements.named("meta") if each.get("http-equiv"))["content"]
    assert [script["nonce"] for script in program] == re.findall(r"'nonce-(\w+)'", policy or "")
    assert policy and policy.startswith("default-src 'none'; script-src 'nonce-")


def test_the_nonce_depends_on_what_the_page_shows(run: Path) -> None:
    nonces = set()
    for number in (20, 21):
        add_kept(run, trace(number, "moved", {"kept": True}))
        nonces |= set(re.findall(r"'nonce-(\w+)'", html.write(run).read_text()))
    assert len(nonces) == 2


def test_the_page_names_no_other_file(page: str) -> None:
    without_program = re.sub(r"<script nonce.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#)', without_program)
    assert "@import" not in page and "http:" not in page.replace("http://www.w3.org", "")


def test_every_input_and_table_column_has_a_name(page: str) -> None:
    labelled = re.findall(r"<label[^>]*>(.*?)</label>", page, flags=re.DOTALL)
    inputs = re.findall(r'<(?:select|input) id="([\w-]+)"', page)
    assert len(inputs) == 9
    for name in inputs:
        assert any(f'id="{name}"' in label and words_of(label).strip() for label in labelled), name
    for figure in Elements(page).named("figure"):
        assert figure["role"] == "img" and figure["aria-label"]


def test_the_report_of_a_new_run_names_the_stages_that_have_not_run(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    Run.open(tmp_path / "run", recipe_file.load("local"), "pack", pack).close()
    page = html.write(tmp_path / "run").read_text()
    for stage in ("filter", "train", "evaluate"):
        assert f"{stage}: not run yet" in page


def test_a_report_can_be_written_during_training_despite_a_torn_line(run: Path) -> None:
    rows = [{"step": step, "loss": 2.0 / step} for step in (1, 2)]
    write_jsonl(run / "train" / "log.jsonl", rows)
    with (run / "train" / "log.jsonl").open("a") as file:
        file.write('{"step": 125, "lo')
    assert "<svg" in html.write(run).read_text()


def test_a_malformed_trace_does_not_break_the_report(run: Path) -> None:
    broken = trace(1, "moved", {"kept": False, "reason": "malformed_trace", "detail": None})
    broken["messages"] = [
        {"content": ["no", "role"]},
        {"role": "user", "content": [{"type": "text"}, 7]},
        {"role": "assistant", "tool_calls": [{"function": None}]},
        "text",
        {"role": "assistant", "tool_calls": [{}]},
    ]
    without_fields: dict[str, Any] = {
        "verdict": {"kept": False, "reason": "malformed_trace"},
        "calls": [{}, None],
    }
    broken["outcome"]["steps"] = float("nan")
    rows = [broken, without_fields, [], "text"]
    (run / "filter" / "rejected.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert "8 traces" in words_of(html.write(run).read_text())


def test_traces_that_were_not_filtered_are_shown(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    Run.open(tmp_path / "run", recipe_file.load("local"), "pack", pack).close()
    write_jsonl(tmp_path / "run" / "traces" / "00000.jsonl.zst", [trace(1, "moved", None)])
    words = words_of(html.write(tmp_path / "run").read_text())
    assert "1 traces" in words and "moved 1 1 0 0 %" in words


def test_a_directory_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        html.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    add_kept(run, swarm())
    assert html.write(run).read_bytes() == html.write(run).read_bytes()


def test_pages_that_are_too_large_for_the_file_lie_beside_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "INLINE_BYTES", 100)
    page = html.write(run).read_text()
    assert [file.name for file in (run / "report").iterdir()] == ["traces-0.js"]
    assert 'id="page-0"' not in page
    script = (run / "report" / "traces-0.js").read_text()
    assert re.fullmatch(r'stillhousePage\(0,"[A-Za-z0-9+/=]+"\)\n', script)
    monkeypatch.undo()
    html.write(run)
    assert not (run / "report").exists()
    assert not [file for file in run.iterdir() if file.name.startswith(".report")]


# ------------------------------------------------------------------------------------- published students


def publish_before(run: Path, passed: list[str] | None, same_exam: bool = True) -> None:
    """Publishes pack:1, which passed these tasks of the run's exam."""
    where = run.parent / "published"
    files = make_files(where)
    scorecard = json.loads((where / "scorecard.json").read_text())
    if same_exam:
        scorecard["exam"] = json.loads((run / "evaluate" / "scorecard.json").read_text())["exam"]
    if passed is not None:
        scorecard["models"]["student"]["passed_tasks"] = passed
    write_json(where / "scorecard.json", scorecard)
    store = DirectoryStore(run.parent / "store")
    publish(store, "pack", files, make_manifest(), gate_passed=True)


@pytest.fixture
def run_with_store(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_STORE", str(run.parent / "store"))
    add_exam(run, base=[False] * 4, student=[True] * 3 + [False], further=1)
    return run


def test_the_newest_published_student_is_paired_on_the_same_exam(run_with_store: Path) -> None:
    publish_before(run_with_store, ["pack-exam-moved-0", "pack-exam-moved-3"])
    words = words_of(html.write(run_with_store).read_text())
    assert "pack:1 published 2" in words
    assert "student pack:1 4 +25 points" in words
    assert "its difference is not paired" not in words
    words = words_of(html.write(run_with_store, "pack:1").read_text())
    assert "student here pack:1 4 +25 points" in words


@pytest.mark.parametrize(("passed", "same_exam"), [(None, True), (["pack-exam-moved-0"], False)])
def test_a_student_of_another_exam_or_without_results_is_not_paired(
    run_with_store: Path, passed: list[str] | None, same_exam: bool
) -> None:
    publish_before(run_with_store, passed, same_exam)
    words = words_of(html.write(run_with_store).read_text())
    assert "pack:1 published 2" in words and "its difference is not paired" in words
    assert "student pack:1" not in words
    words = words_of(html.write(run_with_store, "pack:1").read_text())
    assert "so there is no paired difference: see the intervals" in words
    assert re.search(r"traces kept 214 \(51 %\) 120", words)


def test_a_store_that_is_broken_does_not_keep_the_report_from_being_written(
    run_with_store: Path,
) -> None:
    publish_before(run_with_store, [])
    for file in (run_with_store.parent / "store").rglob("index.json"):
        file.write_text("{")
    assert "pack:1" not in words_of(html.write(run_with_store).read_text())


# ------------------------------------------------------------------------------------- --against


def test_a_run_is_compared_with_another_one(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (tmp_path / "b").mkdir()
    other = finished(tmp_path / "b" / "before")
    add_exam(run, base=[False] * 4, student=[True] * 4, further=0)
    add_exam(other, base=[False] * 4, student=[False, True, True, True], further=0)
    record = json.loads((other / "run.json").read_text())
    record["recipe"]["train"]["epochs"] = 77.0
    write_json(other / "run.json", record)
    path = html.write(run, str(other))
    assert path == run / "report-against-before.html"
    words = words_of(path.read_text())
    assert "Comparison with before" in words
    assert re.search(r"train.epochs [\d.]+ 77.0", words)
    assert "student here student of before 4 +25 points" in words
    assert "rejected: wrong_answer 150 (36 %) 150 (36 %)" in words


def test_a_task_that_is_another_one_in_the_other_run_is_not_paired(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (tmp_path / "b").mkdir()
    other = finished(tmp_path / "b" / "before")
    for directory in (run, other):
        add_exam(directory, base=[False] * 4, student=[True] * 4, further=0)
    tasks = [json.loads(line) for line in (other / "tasks" / "exam.jsonl").read_text().splitlines()]
    tasks[0]["reply"] = "another"
    write_jsonl(other / "tasks" / "exam.jsonl", tasks)
    assert "student here student of before 3 " in words_of(html.write(run, str(other)).read_text())


@pytest.mark.parametrize(
    ("against", "message"),
    [
        (".", "found the same run"),
        ("./none", "not a run: expected a directory with a run.json, or NAME:TAG"),
        ("filter", "not a run: expected a directory"),
        ("pack:3", "pack: no such model"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_written(
    run: Path, against: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    with pytest.raises(InputError, match=message):
        html.write(run, against)
    assert not list(run.glob("report*"))


def test_coverage_counts_each_task_once_in_whatever_order_its_attempts_come() -> None:
    coverage = Coverage()
    for number, kept in ((2, True), (10, True), (2, False), (10, False)):
        attempt: Any = trace(number, "stock", {"kept": kept})
        coverage.add(traces.TEACHER, attempt, {})
    assert (coverage.templates["stock"].tasks, coverage.templates["stock"].attempts) == (2, 4)


def test_a_count_that_is_none_is_zero() -> None:
    for value in (10**400, float("nan"), float("inf"), "7", None, [7]):
        assert traces.number({"tokens": value}, "tokens") == 0
    assert traces.number({"tokens": 7}, "tokens") == 7


def test_dollars_in_a_run_s_name_are_no_formula() -> None:
    rows = [{"step": 1, "loss": 2.0}]
    (chart,) = plot_training([("a$\\frac$b", rows), ("c", rows)])
    assert "a$\\frac$b" in chart[1]
