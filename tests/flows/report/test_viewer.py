"""The viewer of a report's traces, in a real browser: Debian's Chromium, opened from disk as a person does."""

import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_run import HOSTILE, add_exam, add_kept, finished, swarm, trace

from flows.report import html, pages

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,  # a browser
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium"),
]

SIZES = {"desk": (1440, 900), "tablet": (820, 1100), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM
    if subprocess.run([CHROMIUM, "--version"], capture_output=True).returncode:
        pytest.skip(f"{CHROMIUM} does not run")  # Ubuntu's is a note about snap
    playwright.expect.set_options(timeout=30_000)
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox refuses to run as root, which a container's user often is; its /dev/shm is small.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        arguments.append("--disable-dev-shm-usage")
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


class Report:
    """Reports opened in the browser. A script that fails, a refused load or a dialog fails the test at its end."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self.problems: list[str] = []
        self.asked: list[str] = []
        self._tabs: list[Any] = []

    def open(self, path: Path, hash_: str = "", size: str = "desk", scheme: str = "light") -> Any:
        width, height = SIZES[size]
        tab = self._browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        tab.set_default_timeout(30_000)
        tab.on("pageerror", lambda error: self.problems.append(str(error)))
        tab.on("dialog", self._refuse)
        tab.on("console", self._note)
        tab.on("request", lambda request: self.asked.append(request.url))
        tab.goto(path.as_uri() + hash_)
        tab.wait_for_selector("html[data-ready]")
        self._tabs.append(tab)
        return tab

    def _refuse(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def close(self) -> None:
        for tab in self._tabs:
            tab.close()


@pytest.fixture
def report(browser: Any) -> Iterator[Report]:
    opened = Report(browser)
    yield opened
    opened.close()
    assert opened.problems == []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Kept: four of three templates, one of them hostile, and a swarm. Rejected: two. The exam of two models."""
    directory = finished(tmp_path / "run")
    (directory / "train" / "log.jsonl").unlink()  # drawing its charts takes longer than a test
    add_exam(directory, base=[False, False], student=[True, False], further=1)
    add_kept(directory, swarm())
    return directory


def counted(tab: Any, text: str) -> None:
    playwright.expect(tab.locator("#count")).to_have_text(text)


def image_of(tab: Any) -> Any:
    return tab.locator("#pane-main img")


def key(maker: str, name: str) -> str:
    return f"#trace={maker}/{name}"


# ------------------------------------------------------------------------------------- hostile texts


def test_a_script_in_a_trace_is_shown_as_text_and_never_runs(run: Path, report: Report) -> None:
    hostile = trace(20, HOSTILE, {"kept": False, "reason": HOSTILE, "detail": HOSTILE})
    hostile["task"]["kind"] = hostile["teacher"]["model"] = HOSTILE
    hostile["id"] = f"{HOSTILE}/0"
    hostile["messages"][0]["role"] = HOSTILE
    hostile["messages"][2]["reasoning_content"] = HOSTILE
    hostile["messages"][2]["tool_calls"] = [
        {"id": "c1", "function": {"name": HOSTILE, "arguments": text}}
        for text in (HOSTILE, json.dumps({HOSTILE: HOSTILE}))
    ]
    hostile["messages"][3]["content"] = [
        {"type": "text", "text": HOSTILE},
        HOSTILE,
        {"type": HOSTILE},
    ]
    hostile["images"] = ['x" onerror="alert(3)', "../../secret"]
    hostile["tools"] = [{"function": {"name": HOSTILE, "description": HOSTILE}}]
    hostile["outcome"]["detected"] = [{"step": 1, "name": HOSTILE, "action": HOSTILE}]
    hostile["children"] = [swarm(0)]
    (run / "filter" / "rejected.jsonl").write_text(json.dumps(hostile) + "\n")
    tab = report.open(html.write(run), "#state=rejected")
    tab.locator("#rows a").click()
    tab.locator("#pane-main h3").wait_for()
    tab.keyboard.press("e")
    tab.get_by_text("1 tools were offered").click()
    tab.locator("#pane-main .tree summary").click()
    assert HOSTILE in tab.locator("#pane-main h3").inner_text()
    assert tab.locator("#pane-main").inner_text().count("<script>alert(1)</script>") >= 10
    assert tab.locator("#viewer script, #viewer img, #filters script").count() == 0


def test_a_script_that_got_into_the_page_would_not_run_and_nothing_can_be_sent(
    run: Path, report: Report
) -> None:
    tab = report.open(html.write(run))
    ran = tab.evaluate(
        """async () => {
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", '<img src=x onerror="window.ran = true">');
          const sent = await fetch("http://127.0.0.1:9/").then(() => true, () => false);
          await new Promise((done) => setTimeout(done, 100));
          return [window.ran === true, sent];
        }"""
    )
    assert ran == [False, False]
    refused = [each for each in report.problems if "Content Security Policy" in each]
    assert len(refused) >= 3
    report.problems.clear()


# ------------------------------------------------------------------------------------- finding a trace


def test_traces_are_found_by_verdict_reason_kind_template_and_words(
    run: Path, report: Report
) -> None:
    tab = report.open(html.write(run))
    counted(tab, "1 to 12 of 12 traces")
    for name, option, left in (
        ("verdict", "rejected", 2),
        ("reason", "truncated", 1),
        ("template", "price_of_item", 1),
        ("made by", "student", 3),
        ("kind", "lookup", 12),
        ("has", "sub-agents", 1),
    ):
        select = tab.get_by_role("combobox", name=name, exact=True)
        select.select_option(option)
        counted(tab, f"1 to {left} of {left} traces")
        assert f"({left})" in select.locator("option:checked").inner_text()
        tab.get_by_role("button", name="Clear").click()
        counted(tab, "1 to 12 of 12 traces")
    words = tab.get_by_role("searchbox", name="words in id, request or detail")
    words.fill("MOVED train cost")
    counted(tab, "1 to 4 of 4 traces")
    words.fill("no such words")
    counted(tab, "No trace passes these filters.")


def test_words_of_a_conversation_are_found_where_that_is_asked_for(
    run: Path, report: Report
) -> None:
    tab = report.open(html.write(run))
    tab.get_by_role("searchbox").fill("13 eur")
    counted(tab, "No trace passes these filters.")
    tab.get_by_role("checkbox", name="in whole conversations").check()
    counted(tab, "1 to 3 of 3 traces")
    # The third level of the swarm.
    tab.get_by_role("searchbox").fill('"level 0:" alert'.replace('"', ""))
    counted(tab, "1 to 1 of 1 traces")
    assert "found 1" in tab.locator("#search-progress").inner_text()


def test_a_count_of_the_funnel_leads_to_its_traces(run: Path, report: Report) -> None:
    tab = report.open(html.write(run))
    tab.get_by_role("link", name="wrong_answer").first.click()
    counted(tab, "1 to 1 of 1 traces")
    assert tab.locator("#rows .badge").inner_text() == "rejected: wrong_answer"


def test_an_address_opens_its_trace_and_going_back_closes_it(run: Path, report: Report) -> None:
    path = html.write(run)
    tab = report.open(path, "#state=rejected")
    tab.locator("#rows a").first.click()
    playwright.expect(tab.locator("#pane-main h3")).to_have_text("pack-train-moved-10/0")
    address = tab.evaluate("location.hash")
    tab.go_back()
    playwright.expect(tab.locator("#pane-main")).to_have_text("Choose a trace from the list.")
    other = report.open(path, address)
    playwright.expect(other.locator("#pane-main h3")).to_have_text("pack-train-moved-10/0")
    counted(other, "1 to 2 of 2 traces")


def test_traces_without_an_id_can_be_told_apart(run: Path, report: Report) -> None:
    verdict = {"kept": False, "reason": "malformed_trace", "detail": "no task"}
    rows = [{"messages": [{"role": "user", "content": text}], "verdict": verdict} for text in "ab"]
    (run / "filter" / "rejected.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    tab = report.open(html.write(run), "#reason=malformed_trace")
    for place, text in enumerate("ab"):
        tab.locator("#rows a").nth(place).click()
        playwright.expect(tab.locator("#pane-main .message pre")).to_have_text(text)


def test_arguments_nested_deeply_and_calls_that_are_null_are_shown(
    run: Path, report: Report
) -> None:
    deep = trace(22, "deep", {"kept": True})
    deep["calls"] = [None, 7]
    nested = "[" * 1200 + "7" + "]" * 1200
    deep["messages"][2]["tool_calls"][0]["function"]["arguments"] = nested
    add_kept(run, deep)
    tab = report.open(html.write(run), "#trace=teacher/pack-train-deep-22/0")
    shown = tab.locator("#pane-main pre.arguments")
    assert max(map(len, shown.text_content().splitlines())) < 100


# ------------------------------------------------------------------------------------- reading a trace


def test_a_call_is_folded_and_shows_its_arguments_in_colours_as_they_were_written(
    run: Path, report: Report
) -> None:
    row = trace(30, "moved", {"kept": True})
    arguments = '{"amount":15.0,"big":12345678901234567890,"tags":["a",null],"none":{}}'
    row["messages"][2]["tool_calls"][0]["function"]["arguments"] = arguments
    add_kept(run, row)
    tab = report.open(html.write(run), key("teacher", "pack-train-moved-30/0"))
    call = tab.locator("#pane-main details.call")
    assert call.get_attribute("open") is None
    assert not call.locator("pre").is_visible()
    call.locator("summary").click()
    assert call.locator("pre").inner_text() == (
        '{\n  "amount": 15.0,\n  "big": 12345678901234567890,\n  "tags": [\n    "a",\n    null\n  ],\n'
        '  "none": {}\n}'
    )
    assert call.locator(".json-number").all_inner_texts() == ["15.0", "12345678901234567890"]
    assert call.locator(".json-key").first.inner_text() == '"amount"'


def test_arguments_that_are_no_json_are_shown_as_they_are_and_named(
    run: Path, report: Report
) -> None:
    row = trace(30, "moved", {"kept": True})
    row["messages"][2]["tool_calls"][0]["function"]["arguments"] = '{"id": S-1'
    add_kept(run, row)
    tab = report.open(html.write(run), key("teacher", "pack-train-moved-30/0"))
    call = tab.locator("#pane-main details.call")
    call.locator("summary").click()
    assert call.locator("pre").inner_text() == '{"id": S-1'
    assert call.locator(".failing").inner_text() == "The arguments are not JSON."


def test_the_failed_check_stands_at_its_message(run: Path, report: Report) -> None:
    row = trace(
        30,
        "moved",
        {"kept": False, "reason": "invalid_arguments", "detail": "id: missing", "message_index": 2},
    )
    (run / "filter" / "rejected.jsonl").write_text(json.dumps(row) + "\n")
    tab = report.open(html.write(run), key("teacher", "pack-train-moved-30/0"))
    tab.locator("#pane-main h3").wait_for()
    assert tab.locator("#pane-main .failing").count() == 1
    at = tab.get_by_role("region", name="assistant, message 3")
    assert at.locator(".failing").inner_text() == "invalid_arguments id: missing"
    assert at.locator("details.call").get_attribute("open") is not None


def test_a_failed_answer_of_the_exam_says_what_was_expected(run: Path, report: Report) -> None:
    tab = report.open(html.write(run), key("student", "pack-exam-moved-1/0"))
    failing = tab.locator("#pane-main .message").last.locator(".failing")
    playwright.expect(failing).to_have_text('wrong_answer expected {"type":"amount","value":12}')
    tab.get_by_text("What was expected").click()
    assert "It costs 12 EUR." in tab.locator("#pane-main .expected").inner_text()


def test_tokens_errors_and_known_failures_stand_at_their_turns(run: Path, report: Report) -> None:
    row = trace(30, "moved", {"kept": True})
    usage = {"prompt_tokens": 1200, "completion_tokens": 34, "cached_tokens": 1000}
    row["calls"] = [{"key": "0" * 64, "finish_reason": "stop", "seconds": 1.5, "usage": usage}] * 2
    row["outcome"] |= {
        "tool_errors": [3],
        "unasked_writes": [3],
        "detected": [{"step": 2, "name": "stray_marker", "action": "repaired"}],
    }
    add_kept(run, row)
    tab = report.open(html.write(run), key("teacher", "pack-train-moved-30/0"))
    roles = tab.locator("#pane-main .role")
    playwright.expect(roles.nth(2)).to_have_text("assistant 34 tokens, 1.5 s")
    playwright.expect(roles.nth(3)).to_have_text("tooltool errorunasked write")
    playwright.expect(roles.nth(4)).to_have_text("assistant 34 tokens, 1.5 srepaired: stray_marker")
    facts = tab.locator("#pane-main dl").inner_text()
    assert "2,400 prompt tokens (2,000 cached), 68 in replies, 3.0 s" in facts


def test_a_long_system_message_is_folded_and_a_very_long_text_is_cut(
    run: Path, report: Report
) -> None:
    row = trace(30, "moved", {"kept": True}, "long answer " * 1000)
    row["messages"][0]["content"] = "You run a stock room. " * 50
    add_kept(run, row)
    tab = report.open(html.write(run), key("teacher", "pack-train-moved-30/0"))
    system = tab.get_by_role("region", name="system, message 1")
    system.get_by_text("(1,100 characters)").click()
    assert system.locator("pre").inner_text().count("stock room") == 50
    answer = tab.get_by_role("region", name="assistant, message 5")
    assert len(answer.locator("pre").inner_text()) == 3001
    answer.get_by_role("button", name="Show all 12,000 characters").click()
    assert len(answer.locator("pre").inner_text()) >= 11_999
    assert answer.get_by_role("button").count() == 0


def test_sub_agents_are_a_tree_that_opens_level_by_level(run: Path, report: Report) -> None:
    tab = report.open(html.write(run), key("teacher", "pack-train-swarm-92/0"))
    top = tab.locator("#pane-main > .tree")
    playwright.expect(top.locator("> li")).to_have_count(2)
    assert "2 sub-agents" in top.locator("> li > details > summary").first.inner_text()
    top.locator("> li > details > summary").first.click()
    below = top.locator("> li").first.locator("> details > .tree > li")
    playwright.expect(below).to_have_count(2)
    below.last.locator("> details > summary").click()
    assert "level 0:" in below.last.locator(".message.assistant").last.inner_text()
    assert below.last.locator(".tree").count() == 0


def test_two_attempts_stand_side_by_side_with_the_first_difference_marked(
    run: Path, report: Report
) -> None:
    first = trace(40, "moved", {"kept": False, "reason": "wrong_answer", "detail": "no"}, "13 EUR")
    second = trace(40, "moved", {"kept": True})
    second["id"] = f"{second['task']['id']}/1"
    second["messages"][2]["tool_calls"][0]["id"] = "another id, which is no difference"
    (run / "filter" / "rejected.jsonl").write_text(json.dumps(first) + "\n")
    add_kept(run, second)
    tab = report.open(html.write(run), key("teacher", first["id"]))
    tab.get_by_role("combobox", name="compare with").select_option(f"teacher/{second['id']}")
    playwright.expect(tab.locator("#pane-side h3")).to_have_text(second["id"])
    for pane in ("main", "side"):
        marked = tab.locator(f"#pane-{pane} .message", has_text="differs from here")
        assert marked.get_attribute("aria-label") == "assistant, message 5"
    boxes = [tab.locator(f"#pane-{pane}").bounding_box() for pane in ("main", "side")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"]


def test_a_trace_stands_beside_the_students_answer_to_the_same_template(
    run: Path, report: Report
) -> None:
    tab = report.open(html.write(run), key("teacher", "pack-train-moved-1/0"))
    select = tab.get_by_role("combobox", name="compare with")
    select.select_option("student/pack-exam-moved-0/0")
    playwright.expect(tab.locator("#pane-side dl")).to_contain_text("student: t")
    tab.goto(tab.url.split("#")[0] + key("student", "pack-exam-moved-0/0"))
    group = select.locator("optgroup").first
    playwright.expect(group).to_have_attribute("label", "The same task")
    assert group.locator("option").all_inner_texts() == ["base, failed: pack-exam-moved-0/0"]


def test_a_run_that_is_compared_brings_its_traces(
    tmp_path: Path, run: Path, report: Report
) -> None:
    (tmp_path / "b").mkdir()
    other = finished(tmp_path / "b" / "before")
    tab = report.open(html.write(run, str(other)), key("teacher", "pack-train-counted-3/0"))
    select = tab.get_by_role("combobox", name="compare with")
    select.select_option("before: teacher/pack-train-counted-3/0")
    playwright.expect(tab.locator("#pane-side dl")).to_contain_text("before: teacher: t")


@pytest.mark.parametrize("limit", [html.INLINE_BYTES, 100], ids=["in the file", "beside it"])
def test_images_are_shown_from_the_report_or_from_the_run(
    run: Path, report: Report, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "INLINE_BYTES", limit)
    name, lost = "ab" * 32, "cd" * 32
    file = io.BytesIO()
    Image.new("RGB", (31, 17), "white").save(file, "PNG")
    (run / "images").mkdir()
    (run / "images" / f"{name}.png").write_bytes(file.getvalue())
    row = trace(30, "moved", {"kept": True})
    parts = [{"type": "image"}, {"type": "text", "text": "Read both."}, {"type": "image"}]
    row["messages"][1]["content"], row["images"] = parts, [name, lost]
    add_kept(run, row, {**swarm(0), "id": "pack-train-agents-1/0", "children": [row]})
    tab = report.open(html.write(run), key("teacher", "pack-train-moved-30/0"))
    image = image_of(tab)
    image.wait_for()
    image.scroll_into_view_if_needed()
    playwright.expect(image).to_have_js_property("naturalWidth", 31)
    assert (image.get_attribute("src") or "").startswith("data:" if limit > 100 else "images/")
    assert "not in the run's directory" in tab.locator("#pane-main").inner_text()
    (run / "filter" / "kept.jsonl").write_text(
        (run / "filter" / "kept.jsonl").read_text().splitlines()[-1] + "\n"
    )
    tab = report.open(html.write(run), key("teacher", "pack-train-agents-1/0"))
    tab.locator("#pane-main .tree summary").first.click()
    playwright.expect(image_of(tab)).to_have_js_property("naturalWidth", 31)


# ------------------------------------------------------------------------------------- many traces


def test_pages_beside_the_report_are_loaded_one_by_one_from_disk(
    run: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "INLINE_BYTES", 100)
    monkeypatch.setattr(pages, "PAGE_TRACES", 5)
    tab = report.open(html.write(run), key("teacher", "pack-train-moved-2/0"))
    playwright.expect(tab.locator("#pane-main h3")).to_have_text("pack-train-moved-2/0")
    loaded = [Path(url).name for url in report.asked if url.endswith(".js")]
    assert len(loaded) == 1
    tab.get_by_role("checkbox", name="in whole conversations").check()
    tab.get_by_role("searchbox").fill("13 eur")
    counted(tab, "1 to 3 of 3 traces")
    (run / "report" / "traces-2.js").unlink()
    again = report.open(run / "report.html", key("student", "pack-exam-moved-2/0"))
    alert = again.locator("#pane-main").get_by_role("alert")
    playwright.expect(alert).to_contain_text("report/traces-2.js is not beside this report")
    assert len(report.problems) == 1
    report.problems.clear()


def test_of_50000_traces_the_browser_holds_one_list_page_and_a_few_pages(
    run: Path, report: Report
) -> None:
    with (run / "filter" / "kept.jsonl").open("w") as file:
        for number in range(50_000):
            row = trace(number, f"template_{number % 40}", {"kept": True}, os.urandom(2000).hex())
            file.write(json.dumps(row) + "\n")
    (run / "filter" / "rejected.jsonl").unlink()
    path = html.write(run)
    assert path.stat().st_size < 5_000_000
    tab = report.open(path)
    counted(tab, "1 to 50 of 50,005 traces")
    playwright.expect(tab.locator("#rows li")).to_have_count(50)
    tab.get_by_role("combobox", name="template").select_option("template_7")
    counted(tab, "1 to 50 of 1,250 traces")
    tab.get_by_role("button", name="Next page").click()
    counted(tab, "51 to 100 of 1,250 traces")
    tab.locator("#rows a").first.click()
    playwright.expect(tab.locator("#pane-main .message")).to_have_count(5)
    assert len([url for url in report.asked if url.endswith(".js")]) == 1


# ------------------------------------------------------------------------------------- keys, sizes, schemes


def test_the_keys_lead_through_the_traces(run: Path, report: Report) -> None:
    tab = report.open(html.write(run), "#made=x")
    tab.locator("h1").click()
    heading = tab.locator("#pane-main h3")
    shown = [link.get_attribute("href") for link in tab.locator("#rows a").all()]
    tab.keyboard.press("j")
    heading.wait_for()
    first = heading.inner_text()
    tab.keyboard.press("j")
    playwright.expect(heading).not_to_have_text(first)
    assert tab.locator("#rows a[aria-current]").get_attribute("href") == shown[1]
    tab.keyboard.press("k")
    playwright.expect(heading).to_have_text(first)
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "filter-text"
    tab.keyboard.type("jk")  # letters, not commands
    counted(tab, "No trace passes these filters.")
    tab.keyboard.press("Control+a")
    tab.keyboard.press("Delete")
    counted(tab, "1 to 12 of 12 traces")
    tab.keyboard.press("Escape")
    tab.keyboard.press("?")
    assert tab.get_by_role("dialog", name="Keys").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.get_by_role("dialog", name="Keys").is_visible()
    tab.keyboard.press("j")
    heading.wait_for()
    tab.keyboard.press("Escape")
    playwright.expect(tab.locator("#pane-main")).to_have_text("Choose a trace from the list.")


def test_on_a_phone_a_trace_takes_the_lists_place(run: Path, report: Report) -> None:
    tab = report.open(html.write(run), size="phone")
    tab.locator("#rows a").first.click()
    playwright.expect(tab.locator("#list")).to_be_hidden()
    playwright.expect(tab.locator("#pane-main h3")).to_be_focused()
    tab.get_by_role("button", name="Back to the list").click()
    playwright.expect(tab.locator("#list")).to_be_visible()
    playwright.expect(tab.locator("#pane-main")).to_be_hidden()


@pytest.mark.parametrize("size", SIZES)
def test_no_size_makes_the_page_scroll_sideways(run: Path, report: Report, size: str) -> None:
    long = trace(30, "moved", {"kept": True}, "w" * 5000)
    long["id"] = f"{'i' * 300}/0"
    add_kept(run, long)
    tab = report.open(html.write(run), key("teacher", long["id"]), size=size)
    tab.locator("#pane-main h3").wait_for()
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size][0]


# Of each element that has text of its own: the contrast of its colour with the first background behind it.
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3)
    .map((each) => (each /= 255) <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.body.querySelectorAll("*:not(script):not(style):not(button:disabled)")]
    .filter((each) => each.checkVisibility() && !each.closest("svg") &&
      [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
    .map((each) => {
      const [one, two] = [light(getComputedStyle(each).color), light(behind(each))].sort((a, b) => b - a);
      return [(one + 0.05) / (two + 0.05), each.outerHTML.slice(0, 80)];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_wcag_asks_for(
    run: Path, report: Report, scheme: str
) -> None:
    tab = report.open(html.write(run), key("teacher", "pack-train-moved-10/0"), scheme=scheme)
    tab.locator("#pane-main h3").wait_for()
    tab.keyboard.press("e")
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [each for each in contrasts if each[0] < 4.5] == []


def test_every_control_has_a_name(run: Path, report: Report) -> None:
    tab = report.open(html.write(run), key("teacher", "pack-train-swarm-92/0"))
    tab.locator("#pane-main h3").wait_for()
    nameless = tab.evaluate(
        """() => [...document.querySelectorAll("button, select, input, a, summary, img, [role=img]")]
          .filter((each) => !(each.innerText || each.ariaLabel || each.alt || each.labels?.[0]?.innerText || "").trim()
                            && each.checkVisibility())
          .map((each) => each.outerHTML)"""
    )
    assert nameless == []
