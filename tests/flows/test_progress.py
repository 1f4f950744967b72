"""Log lines, progress and the heartbeat: where it comes, what it counts, and when it stops."""

import datetime as dt
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from rich.console import Console

from flows import progress
from flows.activity import Activity, Numbers, fact_texts
from flows.estimate import Estimate
from flows.progress import log, step, track


class Client:
    """The counters of a client."""

    sent, waited = 57, 12.4
    retries: Mapping[str, int] = {"rate_limited": 3}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    text = io.StringIO()
    monkeypatch.setattr(progress, "_console", Console(file=text, highlight=False, width=200))
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.05)
    yield text
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def wait_for(printed: io.StringIO, words: str) -> None:
    """Waits for the words; N in them is a number of seconds."""
    deadline = time.monotonic() + 60
    while not re.search(re.escape(words).replace("N", r"\d+"), printed.getvalue()):
        assert time.monotonic() < deadline, printed.getvalue()
        time.sleep(0.01)


def test_a_silent_step_has_a_heartbeat_with_its_count_and_none_after_its_end(
    printed: io.StringIO,
) -> None:
    files = 0
    with step("copying", lambda: f"{files} of 8 files"):
        wait_for(printed, "] copying, N s so far: 0 of 8 files")
        files = 3
        wait_for(printed, "3 of 8 files")
    ended = printed.getvalue()
    time.sleep(0.3)
    assert printed.getvalue() == ended


def test_a_step_that_prints_lines_needs_no_heartbeat(
    printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 3600)
    with step("training"):
        log("step 1 of 2")
        time.sleep(0.2)
    assert "so far" not in printed.getvalue()


def test_a_step_without_a_count_names_the_line_since_which_it_is_silent(
    printed: io.StringIO,
) -> None:
    with step("export"):
        log(
            "converting to GGUF, of which there are many words to say, more than a line has room for"
        )
        wait_for(printed, "export, N s so far (since: converting to GGUF, of which")
    repeated = [line for line in printed.getvalue().splitlines() if "(since: " in line]
    assert all(line.endswith("…)") and len(line) < 110 for line in repeated)


def test_the_heartbeat_is_of_the_innermost_step_and_goes_back_to_the_outer_one(
    printed: io.StringIO,
) -> None:
    with step("outer"):
        with step("inner"):
            before = len(printed.getvalue())
            wait_for(printed, "inner, ")
            assert "outer, " not in printed.getvalue()[before:]
        wait_for(printed, "outer, ")


def test_progress_between_tenths_is_in_the_heartbeat(printed: io.StringIO) -> None:
    numbers = Numbers(requests=Client())
    with track("attempts", 400, numbers=numbers) as advance:
        advance(13)
        wait_for(printed, "attempts, N s so far: 13 of 400, 3 retries")
        advance(387)
    assert "attempts: 400 of 400" in printed.getvalue()


def test_the_heartbeat_says_what_the_plan_expected(printed: io.StringIO) -> None:
    estimate = Estimate("exam", "tasks", 8, {"evaluate": 180.0}, "evaluate", share=0.5)
    with track("exam", 8, estimate=estimate):
        wait_for(printed, "exam, N s so far: 0 of 8, planned 90 s in all")


def test_a_count_that_fails_does_not_end_the_heartbeat(printed: io.StringIO) -> None:
    def count() -> str:
        raise FileNotFoundError("moved")

    with step("moving", count):
        wait_for(printed, "moving, N s so far\n")


def test_lines_of_many_threads_stay_whole_and_pieces_are_all_counted(printed: io.StringIO) -> None:
    with track("pieces", 2000) as advance:

        def work() -> None:
            for _ in range(100):
                advance()
                log("a line of a thread")

        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = [line.partition("] ")[2] for line in printed.getvalue().splitlines()]
    known = {"a line of a thread", *(f"pieces: {n} of 2000" for n in range(1, 2001))}
    assert set(lines) - known == {line for line in lines if line.startswith("pieces, ")}
    assert lines.count("a line of a thread") == 2000 and "pieces: 2000 of 2000" in lines


def test_a_step_may_learn_its_pieces_later(printed: io.StringIO) -> None:
    with step("optimiser steps") as activity:
        wait_for(printed, "optimiser steps, N s so far\n")
        activity.done, activity.total = 3, 40
        wait_for(printed, "optimiser steps, N s so far: 3 of 40")
        assert activity in progress.tracked()


def test_an_error_in_a_step_ends_its_heartbeat(printed: io.StringIO) -> None:
    with pytest.raises(ValueError), step("failing"):
        raise ValueError


def test_on_a_terminal_the_table_is_enough(
    printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=printed, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "_console", console)
    with track("attempts", 4) as advance:
        advance()
        time.sleep(0.3)
    # The table says "so far" too, when it is drawn.
    assert not re.search(r"\] attempts, \d+ s so far", printed.getvalue())


def test_a_line_shows_tags_and_brackets_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = io.StringIO()
    monkeypatch.setattr(progress._console, "_file", text)
    line = "published legal:v:3 to ./runs/[old]/model [/red] :ok:"
    log(line)
    assert line in text.getvalue()


# ------------------------------------------------------------------------------------- what is counted


def attempt(reason: str | None = None) -> Any:
    """A trace of one request, and why it did not pass."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "cached_tokens": 800}
    return {"calls": [{"usage": usage}]}, reason


def counted(clock: Callable[[], float] = time.monotonic) -> Numbers:
    """Four traces, two of which passed."""
    numbers = Numbers(
        requests=Client(), price_per_hour=36.0, paid_since=time.monotonic() - 3600, clock=clock
    )
    for reason in (None, "wrong_answer", "step_limit", None):
        numbers.add(*attempt(reason))
    return numbers


def test_the_heartbeat_has_verdicts_retries_and_money_in_a_short_line(
    printed: io.StringIO,
) -> None:
    with track("attempts", 400, numbers=counted()) as advance:
        advance(4)
        wait_for(printed, "attempts, N s so far: 4 of 400, 2 passed, 2 rejected, ")
    line = max(printed.getvalue().splitlines(), key=len)
    assert re.search(r", 3 retries, 36\.\d\d spent, about .* left$", line) and len(line) < 130


def test_verdicts_tokens_waits_and_money_are_told_in_words() -> None:
    activity = Activity("attempts", total=400, done=4, numbers=counted())
    words = ", ".join(fact_texts(activity.facts()).values())
    assert "2 passed, 2 rejected (wrong_answer 1, step_limit 1)" in words
    assert "4,000 prompt tokens (80% cached), 200 in replies" in words
    assert "57 requests, retries: rate_limited 3; 12 s of waiting in all" in words
    assert re.search(r"36\.\d\d of about [\d,.]+ for the teacher's GPUs", words)


def test_the_speed_is_that_of_the_last_minute() -> None:
    clock = Clock()
    numbers = counted(clock)  # four at once, as replies of the journal come
    assert numbers.speed() is None
    clock.now = 10
    speed = numbers.speed()
    assert speed is not None and speed["traces"] == pytest.approx(0.4)
    for _ in range(200):
        clock.now += 2
        numbers.add(*attempt())
    speed = numbers.speed()
    assert speed is not None
    assert speed["traces"] == pytest.approx(0.5, rel=0.05)
    assert speed["prompt"] == pytest.approx(500, rel=0.05)
    clock.now += 59
    speed = numbers.speed()
    assert speed is not None and speed["traces"] < 0.05
    clock.now += 600
    assert (numbers.speed() or {"traces": 1})["traces"] == 0
    text = fact_texts(Activity("attempts", total=300, numbers=numbers).facts())["speed"]
    assert text == "0 traces/s, 0 prompt tokens/s and 0 in replies in the last minute"


def test_the_speed_counts_the_time_before_the_first_trace() -> None:
    clock = Clock()
    numbers = Numbers(clock=clock)
    clock.now = 40
    numbers.add(*attempt())
    clock.now = 50
    numbers.add(*attempt())
    speed = numbers.speed()
    assert speed is not None and speed["traces"] == pytest.approx(2 / 50)


def test_a_stage_without_requests_counts_verdicts_alone() -> None:
    numbers = Numbers(good="kept", with_tokens=False)
    numbers.add(*attempt())
    facts = Activity("traces judged", total=3, done=1, numbers=numbers).facts()
    assert facts["verdicts"] == {"kept": 1}
    assert "tokens" not in facts and "tokens_s" not in facts


def test_what_has_ended_costs_no_more_and_has_no_time_left() -> None:
    activity = Activity("attempts", total=9, done=3, numbers=counted())
    activity.ended = time.monotonic() - 1800
    facts = activity.facts()
    assert facts["money"] == pytest.approx(18.0, abs=0.1)
    assert not {"left_s", "money_in_all", "traces_s"} & facts.keys()


def test_the_time_left_counts_what_is_not_of_the_journal() -> None:
    clock = Clock()
    estimate = Estimate("attempts", "attempts", 100, {}, "generate", clock=clock)
    activity = Activity("attempts", total=100, estimate=estimate)
    assert activity.left() is None
    estimate.observe(50, replayed=True)
    assert activity.left() is None
    clock.now += 30
    estimate.observe(10)
    assert activity.left() == pytest.approx(120)  # 40 attempts of 3 s


def test_on_a_terminal_a_table_shows_what_is_counted_and_goes_away(
    printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(
        file=printed, force_terminal=True, width=100, highlight=False, markup=False, emoji=False
    )
    monkeypatch.setattr(progress, "_console", console)
    with step("generate"), track("attempts", 8, numbers=counted()) as advance:
        advance(4)
        log("a line with [/red] and :ok:")
        wait_for(printed, "2 rejected (wrong_answer 1, step_limit 1)")
        wait_for(printed, "4 of 8 (50%)")
    shown = printed.getvalue()
    assert "generate > attempts" in shown and "a line with [/red] and :ok:" in shown
    assert "so far:" not in shown and "attempts: 4 of 8" not in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the table's last line is erased
    assert "\x1b[?25h" in shown  # the cursor is back


def test_a_copy_is_shown_in_bytes_with_its_speed_or_in_the_heartbeat(
    printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.transfer("pulling legal:3") as show:
        show(30_000_000, 120_000_000, "legal-Q8_0.gguf")
        wait_for(printed, "pulling legal:3, N s so far: 30 of 120 MB: legal-Q8_0.gguf")
    monkeypatch.setattr(progress, "_console", Console(file=printed, force_terminal=True, width=100))
    with progress.transfer("pulling legal:3") as show:
        show(30_000_000, 120_000_000, "legal-Q8_0.gguf")
        wait_for(printed, "30.0 MB of 120.0 MB, ")


def test_an_error_gives_the_terminal_back(
    printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_console", Console(file=printed, force_terminal=True))
    with pytest.raises(KeyboardInterrupt), step("generate"), track("attempts", 8):
        raise KeyboardInterrupt
    assert printed.getvalue().count("\x1b[?25l") == printed.getvalue().count("\x1b[?25h") == 1


# ------------------------------------------------------------------------------------- JSON lines


@pytest.fixture
def as_json(printed: io.StringIO) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    progress.write_json(True)
    yield lambda: [json.loads(line) for line in printed.getvalue().splitlines()]
    progress.write_json(False)


def test_each_line_is_an_object_with_time_event_and_stage(
    as_json: Callable[[], list[dict[str, Any]]],
) -> None:
    log("legal with recipe local")
    with step("generate"):
        log('a "quoted" line\nof two')
    progress.log_error("no such file", 2)
    first, second, last = as_json()
    assert (first["event"], first["message"], "stage" in first) == (
        "log",
        "legal with recipe local",
        False,
    )
    assert (second["stage"], second["message"]) == ("generate", 'a "quoted" line\nof two')
    assert (last["level"], last["event"], last["exit_code"]) == ("error", "error", 2)
    assert dt.datetime.fromisoformat(first["time"]).tzinfo is not None


def test_progress_has_its_numbers_as_fields(
    printed: io.StringIO, as_json: Callable[[], list[dict[str, Any]]]
) -> None:
    with step("generate"), track("attempts", 40, numbers=counted()) as advance:
        advance(4)
        wait_for(printed, "so far")
    tenth, beat, *_ = as_json()
    assert (tenth["event"], tenth["done"], tenth["total"]) == ("progress", 4, 40)
    assert beat["event"] == "progress" and beat["stage"] == "generate"
    assert beat["verdicts"] == {"passed": 2, "wrong_answer": 1, "step_limit": 1}
    assert beat["tokens"] == {"prompt": 4000, "cached": 3200, "completion": 200}
    assert beat["retries"] == {"rate_limited": 3}


# ------------------------------------------------------------------------------------- revised estimates

PLAN = {"generate": 240.0, "train": 60.0, "evaluate": 60.0, "the rest": 60.0}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def observed(
    estimate: Estimate, clock: Clock, seconds: float, pieces: int, replayed: int = 0
) -> list[str]:
    """The lines of `pieces` that take `seconds` each, after those that were replayed."""
    lines = [estimate.observe(1, replayed=True) for _ in range(replayed)]
    for _ in range(pieces):
        clock.now += seconds
        lines.append(estimate.observe(1))
    return [line for line in lines if line]


def make(total: int, plan: dict[str, float] = PLAN, at_once: int = 1) -> tuple[Estimate, Clock]:
    clock = Clock()
    return (
        Estimate("attempts", "attempts", total, plan, "generate", at_once=at_once, clock=clock),
        clock,
    )


def test_a_slow_start_revises_the_estimate_once_with_the_reason() -> None:
    estimate, clock = make(240)
    (line,) = observed(estimate, clock, 3.0, 120)
    assert "attempts: about 12 min instead of the planned 4 min: 20 attempts a minute" in line
    assert "where the plan expected 60" in line
    assert "the whole run about 15 min instead of 7 min" in line


def test_what_changes_later_is_said_as_often_as_it_changes() -> None:
    estimate, clock = make(240)
    lines = observed(estimate, clock, 1.0, 40) + observed(estimate, clock, 4.0, 120)
    times = [line.split("about ")[1].split(" instead")[0] for line in lines]
    assert times == ["10 min", "13 min"]  # at 80 and 160 of 240, by all so far


def test_it_comes_after_a_tenth_of_the_pieces_at_most() -> None:
    estimate, clock = make(400)
    assert not observed(estimate, clock, 5.0, 31)
    assert observed(estimate, clock, 5.0, 9)


def test_a_plan_that_holds_is_not_revised() -> None:
    estimate, clock = make(240)
    assert observed(estimate, clock, 1.1, 240) == []


def test_replies_of_an_earlier_start_do_not_count_as_fast() -> None:
    estimate, clock = make(240)
    (line,) = observed(estimate, clock, 3.0, 100, replayed=120)
    assert "about 6 min instead of the planned 4 min" in line  # 120 attempts are left


def test_without_a_plan_the_first_pieces_give_the_estimate() -> None:
    estimate, clock = make(100, {})
    (line,) = observed(estimate, clock, 6.0, 20)
    assert "attempts: about 10 min, by the first 8 (10 attempts a minute)" in line


@pytest.mark.parametrize(("total", "at_once"), [(10, 8), (4, 1)])
def test_too_few_pieces_are_no_sample(total: int, at_once: int) -> None:
    estimate, clock = make(total, at_once=at_once)
    assert observed(estimate, clock, 100.0, total) == []


def test_a_text_of_others_does_not_steer_the_terminal(printed: io.StringIO) -> None:
    log("left out: \x1b[31mred\x9b0m\x00, and\ta tab")
    progress.log_error("found '\x1b]0;title\x07'", 2)
    lines = printed.getvalue()
    assert "left out: ?[31mred?0m?, and" in lines and "found '?]0;title?'" in lines
    assert "\x1b" not in lines and "\x9b" not in lines
