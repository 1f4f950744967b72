"""Serves the numbers of a run to Prometheus, or anything that reads OpenMetrics, on a port of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from flows.progress import current_stage, log, tracked
from schemas.errors import InputError

_LABELS = ["stage", "activity"]
# Facts (flows/activity.py) that are one number, and what they mean.
_GAUGES = {
    "seconds": ("stillhouse_activity_seconds", "How long the activity has taken."),
    "done": ("stillhouse_pieces_done", "Pieces of work that are done."),
    "total": ("stillhouse_pieces", "All pieces of work."),
    "left_s": ("stillhouse_left_seconds", "Time until all pieces are done, by those so far."),
    "planned_s": ("stillhouse_planned_seconds", "Time that the plan expected."),
    "traces_s": ("stillhouse_traces_per_second", "Traces a second in the last minute."),
    "money": ("stillhouse_money", "Price of the teacher's GPUs so far, in the recipe's currency."),
    "money_in_all": ("stillhouse_money_in_all", "That price at the end, by the pieces so far."),
}
_COUNTERS = {
    "requests": ("stillhouse_requests", "Requests sent to the model, retries included."),
    "waited_s": ("stillhouse_wait_seconds", "Time that requests waited for a retry, all added up."),
}
# Facts that are numbers by name, with the label for the name.
_COUNTERS_BY_NAME = {
    "verdicts": ("stillhouse_traces", "verdict", "Traces by verdict, or by the reason of failing."),
    "tokens": ("stillhouse_tokens", "kind", "Tokens; the cached ones are part of the prompts."),
    "retries": ("stillhouse_retries", "cause", "Requests that were sent again."),
}


class _Collector(Collector):
    """Reads the facts of all activities when it is asked."""

    def collect(self) -> Iterator[Any]:
        activities = [(activity, activity.facts()) for activity in tracked()]
        running = GaugeMetricFamily(
            "stillhouse_stage_running", "The stage that is running.", labels=["stage"]
        )
        if stage := current_stage():
            running.add_metric([stage], 1)
        yield running
        families: list[tuple[Any, str, tuple[str, str]]] = [
            *((GaugeMetricFamily, fact, spec) for fact, spec in _GAUGES.items()),
            *((CounterMetricFamily, fact, spec) for fact, spec in _COUNTERS.items()),
        ]
        for make, fact, (name, text) in families:
            family = make(name, text, labels=_LABELS)
            for activity, facts in activities:
                if fact in facts:
                    family.add_metric([activity.stage, activity.name], facts[fact])
            yield family
        for fact, (name, label, text) in _COUNTERS_BY_NAME.items():
            counter = CounterMetricFamily(name, text, labels=[*_LABELS, label])
            for activity, facts in activities:
                for key, value in facts.get(fact, {}).items():
                    counter.add_metric([activity.stage, activity.name, key], value)
            yield counter


@contextmanager
def serve(port: int) -> Iterator[int]:
    """Serves http://127.0.0.1:PORT/metrics for the time of the block and yields the port; 0 takes a free one.

    Raises:
        InputError: the port cannot be opened.
    """
    registry = CollectorRegistry()
    registry.register(_Collector())
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"--metrics-port {port}: cannot be opened on 127.0.0.1: {reason}: expected a free port, or 0"
        ) from None
    log(f"metrics at http://127.0.0.1:{server.server_port}/metrics")
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
