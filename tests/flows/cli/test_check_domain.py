"""`stillhouse check-domain`: its lines, exit codes, JSON and page, and that `plan` runs a sample of it."""

import dataclasses
import json
from pathlib import Path

import pytest
from faulty_packs import GET, counted, write_pack

from flows.cli import main
from teacher.domain import check

FALSE = counted("", '"There are 7."', 'Answer("number", 7)')
PLAN = "--recipe local --set tasks.train=4 --set tasks.exam=2 --gpus cpu"


def test_a_pack_with_warnings_alone_exits_with_0_and_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack, out, page = write_pack(tmp_path / "stock"), tmp_path / "out.json", tmp_path / "page.html"
    assert (
        main._run(["check-domain", str(pack), "--json", str(out), "--html", str(page), "--show"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "take_item: no solution calls this tool" in printed
    assert "0 errors, 1 warning" in printed and "48 tasks played" in printed
    assert '"name": "find_item"' in printed and "call      move_item" in printed
    report = json.loads(out.read_text())
    assert report["errors"] == 0 and report["findings"][0]["tool"] == "take_item"
    assert report["statistics"]["by_template"]["moved_item"]["calls"] == 2
    assert report["statistics"]["by_template"]["moved_item"]["tokens"]["prompt"] > 0
    assert "moved_item" in page.read_text() and "<script" not in page.read_text()


def test_a_false_answer_exits_with_2_and_names_template_and_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = write_pack(tmp_path / "stock", *FALSE)
    assert main._run(["check-domain", str(pack)]) == 2
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("error")]
    assert "provable" in line and "environment.py: count_of_item: seed" in line


def test_results_that_are_too_long_are_an_error_with_the_tool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "FULL", check.SAMPLE)
    long = (GET, '        return {**self._known(item), "log": ["moved and counted"] * 2000}\n')
    assert main._run(["check-domain", str(write_pack(tmp_path / "stock", long))]) == 2
    lines = [text for text in capsys.readouterr().out.splitlines() if text.startswith("error")]
    assert any("sized" in line and "get_item" in line for line in lines)
    assert all("sized" in line for line in lines)


def test_a_pack_that_cannot_be_loaded_is_one_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = write_pack(tmp_path / "stock", ("import random\n", "import rnadom\n"))
    out = tmp_path / "out.json"
    assert main._run(["check-domain", str(pack), "--json", str(out)]) == 2
    assert "rnadom" in capsys.readouterr().err
    (finding,) = json.loads(out.read_text())["findings"]
    assert finding["check"] == "loads" and finding["level"] == "error"


def test_the_text_of_a_pack_is_escaped_in_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "FULL", dataclasses.replace(check.SAMPLE, built=1))
    hostile = ('f"Stock of {number}?"', 'f"<script>alert({number!r})</script>"')
    again = ('f"What is the count of {number}?"', hostile[1])
    also = ('f"How many of {number} do we have?"', hostile[1])
    pack, page = write_pack(tmp_path / "stock", hostile, again, also), tmp_path / "page.html"
    main._run(["check-domain", str(pack), "--html", str(page)])
    assert "<script" not in page.read_text() and "&lt;script&gt;" in page.read_text()


def test_plan_refuses_what_the_checks_find_and_prints_their_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    false = write_pack(tmp_path / "false", *FALSE)
    assert main._run(["plan", str(false), *PLAN.split(), "--run", str(tmp_path / "a")]) == 2
    assert "count_of_item" in (error := capsys.readouterr().err) and "check-domain" in error
