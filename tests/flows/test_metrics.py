"""The numbers of a run as OpenMetrics, read over HTTP as Prometheus reads them."""

import socket
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from flows import metrics, progress
from flows.activity import Numbers
from flows.progress import step, track
from schemas.errors import InputError


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(progress, "_output", progress._Output())
    with metrics.serve(0) as opened:
        yield opened


def read(port: int) -> dict[tuple[str, frozenset[str]], float]:
    """The samples by name and the values of their labels."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Client:
    sent, waited = 9, 4.5
    retries = {"rate_limited": 2}


def trace() -> Any:
    return {"calls": [{"usage": {"prompt_tokens": 100, "completion_tokens": 7}}]}


def test_a_stage_can_be_watched_while_it_runs_and_its_counts_stay(port: int) -> None:
    numbers = Numbers(requests=Client())
    with step("generate"), track("attempts", 10, numbers=numbers) as advance:
        for reason in (None, None, 'a "reason"\\ with\nodd characters'):
            numbers.add(trace(), reason)
            advance()
        during = read(port)

    def value(name: str, *labels: str) -> float:
        return during[f"stillhouse_{name}", frozenset(("generate", "attempts", *labels))]

    assert during["stillhouse_stage_running", frozenset(("generate",))] == 1
    assert value("pieces_done") == 3
    assert value("pieces") == 10
    assert value("traces_total", "passed") == 2
    assert value("traces_total", 'a "reason"\\ with\nodd characters') == 1
    assert value("tokens_total", "prompt") == 300
    assert value("requests_total") == 9
    assert value("retries_total", "rate_limited") == 2
    assert value("wait_seconds_total") == 4.5
    assert value("left_seconds") >= 0
    with step("filter"):
        after = read(port)
    assert after["stillhouse_stage_running", frozenset(("filter",))] == 1
    passed = frozenset(("generate", "attempts", "passed"))
    assert after["stillhouse_traces_total", passed] == 2


def test_nothing_is_running_before_the_first_stage(port: int) -> None:
    assert not any(name.startswith("stillhouse_stage_running") for name, *_ in read(port))


def test_the_port_is_of_this_machine_alone_and_closed_at_the_end() -> None:
    with metrics.serve(0) as opened, socket.create_connection(("127.0.0.1", opened)):
        others = [each for each in _addresses() if not each.startswith("127.")]
        for address in others:
            with pytest.raises(OSError):
                socket.create_connection((address, opened), timeout=5)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", opened), timeout=5)


def _addresses() -> list[str]:
    try:
        return socket.gethostbyname_ex(socket.gethostname())[2]
    except OSError:
        return []


def test_a_port_that_is_taken_is_an_error_of_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=f"--metrics-port {number}: cannot be opened"),
            metrics.serve(number),
        ):
            pass
