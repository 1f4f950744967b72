"""What takes long in a run, as numbers: one dictionary of facts for the table, the lines, the JSON and the metrics."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flows.estimate import Estimate, minutes
from schemas.error_text import one_line
from schemas.trace import Trace, nodes

Count = Callable[[], str]

# Speeds are those of the last minute, of counts that are kept for every second.
_SPEED_SECONDS, _SAMPLE_SECONDS = 60.0, 1.0


class Requests(Protocol):
    """The counters of a client (teacher/inference/client.py)."""

    sent: int
    waited: float

    @property
    def retries(self) -> Mapping[Any, int]: ...


@dataclass
class Numbers:
    """Counts traces while a stage works on them.

    Attributes:
        good: what a trace is called that goes on: passed or kept. The others have the reason that they do not.
        with_tokens: whether the tokens of their requests are counted.
        requests: the client that makes the traces.
        price_per_hour: of the machines that serve the model; None where nobody said it.
        paid_since: when they began to serve, by time.monotonic; None before.
        verdicts: traces by reason, the good ones included. tokens: of their requests, by prompt, cached, completion.
    """

    good: str = "passed"
    with_tokens: bool = True
    requests: Requests | None = None
    price_per_hour: float | None = None
    paid_since: float | None = None
    verdicts: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    clock: Callable[[], float] = time.monotonic
    _samples: deque[tuple[float, Counter[str]]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._samples.append((self.clock(), Counter()))

    def add(self, trace: Trace, reason: str | None) -> None:
        """Counts a trace. reason: why it does not go on; None for a good one."""
        self.verdicts[reason or self.good] += 1
        requests = (
            [call for node in nodes(trace) for call in node["calls"]] if self.with_tokens else []
        )
        for usage in (call["usage"] for call in requests):
            self.tokens["prompt"] += usage["prompt_tokens"]
            self.tokens["cached"] += usage.get("cached_tokens", 0)
            self.tokens["completion"] += usage["completion_tokens"]
        self._sample()

    def add_counts(self, verdicts: Mapping[str, int], tokens: Mapping[str, int]) -> None:
        """Counts the traces of a shard that another process made."""
        self.verdicts.update(verdicts)
        self.tokens.update(tokens)
        self._sample()

    def _sample(self) -> None:
        now = self.clock()
        if now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, self._totals()))
        while len(self._samples) > 1 and self._samples[1][0] <= now - _SPEED_SECONDS:
            self._samples.popleft()

    def speed(self) -> dict[str, float] | None:
        """Returns traces and tokens a second in the last minute; None before there is enough to tell.

        The filter judges all traces before it has the first verdict.
        Replies of the journal come at once, so a rate since the beginning would be wrong for a resumed run.
        """
        now, samples = self.clock(), [*self._samples]
        earlier = [each for each in samples if each[0] <= now - _SPEED_SECONDS]
        # Counts change at a sample alone, so those of a minute ago are those of the last sample before it.
        before = earlier[-1][1] if earlier else samples[0][1]
        seconds = min(_SPEED_SECONDS, now - samples[0][0])
        totals = self._totals()
        if seconds < _SAMPLE_SECONDS or not totals["traces"]:
            return None
        names = ("traces", "prompt", "completion")
        return {name: (totals[name] - before[name]) / seconds for name in names}

    def _totals(self) -> Counter[str]:
        return Counter({**self.tokens, "traces": sum(dict(self.verdicts).values())})


_LONGEST = 60  # characters of the last line that a heartbeat repeats


@dataclass
class Activity:
    """Something that takes long.

    Attributes:
        count: returns what was done of it in words; it is called in other threads.
        total: pieces of work; None where they are not known. done: pieces so far, those of the journal included.
        copied: of a copy: bytes done, bytes in total, name of the file.
        stage: the name of the outermost activity.
    """

    name: str
    count: Count | None = None
    total: int | None = None
    done: int = 0
    estimate: Estimate | None = None
    numbers: Numbers | None = None
    copied: tuple[int, int, str] | None = None
    stage: str = ""
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    last_line: str = ""

    def facts(self) -> dict[str, Any]:
        """What is known so far, for JSON: times in seconds, rates per second; what is not known is left out."""
        seconds = (self.ended or time.monotonic()) - self.started
        facts: dict[str, Any] = {"activity": self.name, "seconds": round(seconds, 1)}
        if self.total is not None:
            facts |= {"done": self.done, "total": self.total}
            left = self.left()
            if left is not None:
                facts["left_s"] = round(left)
        if self.estimate and self.estimate.planned is not None:
            facts["planned_s"] = round(self.estimate.planned)
        if self.copied:
            facts |= dict(zip(("bytes_done", "bytes", "file"), self.copied, strict=True))
        if self.numbers:
            facts |= _facts(self.numbers, self.ended, facts.get("left_s"))
        return facts

    def left(self) -> float | None:
        """Seconds until all pieces are done, by those so far that were not replayed; None before the first."""
        if self.ended:
            return None
        if self.estimate:
            return self.estimate.left()
        if not self.total or not self.done:
            return None
        return (time.monotonic() - self.started) / self.done * (self.total - self.done)

    def line(self) -> str:
        """The line of the heartbeat."""
        facts = self.facts()
        text = f"{self.name}, {facts['seconds']:.0f} s so far"
        parts = []
        # A count may read files that the step is just moving.
        try:
            counted = self.count() if self.count else ""
        except Exception:
            counted = ""
        if self.total is not None:
            parts.append(f"{self.done} of {self.total}")
        if self.copied:
            done, total, file = self.copied
            parts.append(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB: {file}")
        parts += [*([counted] if counted else []), *_brief(facts)]
        if parts:
            return f"{text}: {', '.join(parts)}"
        return f"{text} (since: {one_line(self.last_line, _LONGEST)})" if self.last_line else text


def _facts(numbers: Numbers, ended: float | None, left: float | None) -> dict[str, Any]:
    """The facts of numbers. Another thread may add to them, so each counter is copied before it is read."""
    facts: dict[str, Any] = {}
    if numbers.verdicts:
        facts["good"] = numbers.good
        facts["verdicts"] = dict(Counter(dict(numbers.verdicts)).most_common())
    if numbers.tokens:
        facts["tokens"] = dict(numbers.tokens)
    if ended is None and (speed := numbers.speed()):
        facts["traces_s"] = round(speed["traces"], 3)
        if numbers.tokens:
            facts["tokens_s"] = {name: round(speed[name], 1) for name in ("prompt", "completion")}
    if numbers.requests:
        facts["requests"] = numbers.requests.sent
        facts["retries"] = {str(cause): n for cause, n in dict(numbers.requests.retries).items()}
        facts["waited_s"] = round(numbers.requests.waited, 1)
    if numbers.price_per_hour and numbers.paid_since is not None:
        seconds = (ended or time.monotonic()) - numbers.paid_since
        spent = seconds / 3600 * numbers.price_per_hour
        facts["money"] = round(spent, 2)
        if left is not None:
            facts["money_in_all"] = round(spent + left / 3600 * numbers.price_per_hour, 2)
    return facts


def _brief(facts: Mapping[str, Any]) -> list[str]:
    """Returns of the facts in words those that a line has room for; the table and JSON have all."""
    texts, brief = fact_texts(facts), []
    if "traces" in texts:
        brief.append(texts["traces"])
        if rejected := sum(facts["verdicts"].values()) - facts["verdicts"].get(facts["good"], 0):
            brief.append(f"{rejected:,} rejected")
    if "traces_s" in facts:
        brief.append(f"{facts['traces_s']:.3g} traces/s")
    if retries := sum(facts.get("retries", {}).values()):
        brief.append(f"{retries:,} retries")
    if "money" in facts:
        brief.append(f"{facts['money']:,.2f} spent")
    if "time" in texts:
        brief.append(texts["time"])
    return brief


def fact_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Returns the facts in words, by what they are about; nothing about what is not known."""
    texts = {}
    if "verdicts" in facts:
        good = facts["verdicts"].get(facts["good"], 0)
        rejected = {name: n for name, n in facts["verdicts"].items() if name != facts["good"]}
        texts["traces"] = f"{good:,} {facts['good']}"
        if rejected:
            reasons = ", ".join(f"{name} {count:,}" for name, count in rejected.items())
            texts["rejected"] = f"{sum(rejected.values()):,} rejected ({reasons})"
    if "traces_s" in facts:
        texts["speed"] = f"{facts['traces_s']:.3g} traces/s"
        if speed := facts.get("tokens_s"):
            texts["speed"] += (
                f", {speed['prompt']:,.0f} prompt tokens/s and {speed['completion']:,.0f} in replies"
            )
        texts["speed"] += " in the last minute"
    if "tokens" in facts:
        prompt, cached = facts["tokens"]["prompt"], facts["tokens"]["cached"]
        share = f" ({cached / prompt:.0%} cached)" if cached else ""
        texts["tokens"] = (
            f"{prompt:,} prompt tokens{share}, {facts['tokens']['completion']:,} in replies"
        )
    if "requests" in facts:
        texts["requests"] = f"{facts['requests']:,} requests"
        if facts["retries"]:
            causes = ", ".join(f"{cause} {n:,}" for cause, n in facts["retries"].items())
            texts["waits"] = f"retries: {causes}; {facts['waited_s']:,.0f} s of waiting in all"
    if "money" in facts:
        in_all = f" of about {facts['money_in_all']:,.2f}" if "money_in_all" in facts else ""
        texts["money"] = f"{facts['money']:,.2f}{in_all} for the teacher's GPUs"
    time_texts = []
    if "planned_s" in facts:
        time_texts.append(f"planned {minutes(facts['planned_s'])} in all")
    if facts.get("left_s"):
        time_texts.append(f"about {minutes(facts['left_s'])} left")
    if time_texts:
        texts["time"] = ", ".join(time_texts)
    return texts
