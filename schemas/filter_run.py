"""Decides which traces of a run the student learns from: every trace gets a verdict.

A trace is judged alone first (filter.py), then against the exam and against the other traces. A rejected trace has one
reason: the first check that it fails. The traces are read twice and never held: memory has about a kilobyte of each one
that passes alone, whatever its length.
"""

import base64
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, cast

import numpy as np

from schemas.dedup import (
    Exam,
    ImageLook,
    SameImages,
    Sketch,
    calls_of,
    named_values,
    near_duplicates,
    request_of,
    sketch,
)
from schemas.errors import StageError
from schemas.files import dumps
from schemas.filter import CountTokens, FilterSettings, check_trace
from schemas.json_text import parse_arguments
from schemas.messages import rejected, text_of
from schemas.task import Task
from schemas.trace import Message, Trace, Verdict

Look = Callable[[str], ImageLook | None]


def judge_run(
    read: Callable[[], Iterable[Trace]],
    exam_tasks: Sequence[Task],
    settings: FilterSettings,
    count_tokens: CountTokens | None = None,
    look: Look | None = None,
    report: Callable[[], None] = lambda: None,
) -> Iterator[Trace]:
    """Yields all traces of a run with their verdicts, in the order given.

    Of near-duplicates, the first is kept. Different tasks are compared by their requests, the attempts at one task by
    what the model wrote.

    Args:
        read: returns the traces as teacher.rollout writes them, each time in the same order; an earlier verdict is
            replaced.
        exam_tasks: the tasks of the held-out exam; their requests and images are compared.
        look: returns difference hash and content of an image by its sha256, or None if it is not known. Without it, two
            images are the same only where their files are.
        report: called when a trace was judged alone, which takes most of the time.

    Raises:
        StageError: no choice of the traces meets filter.per_template.
    """

    def judged() -> Iterator[Alone]:
        judge = JudgeAlone(exam_tasks, settings, count_tokens, look)
        for trace in read():
            yield judge(trace)
            report()

    yield from compare_run(read, judged(), exam_tasks, settings, look)


def compare_run(
    read: Callable[[], Iterable[Trace]],
    judged: Iterable["Alone"],
    exam_tasks: Sequence[Task],
    settings: FilterSettings,
    look: Look | None = None,
) -> Iterator[Trace]:
    """Yields all traces of a run with their verdicts, as `judge_run`.

    judged: of each trace, what JudgeAlone returns.
    """
    verdicts = _compare(judged, exam_tasks, settings, look)
    for index, trace in enumerate(read()):
        verdict = verdicts.get(index, {"kept": True})
        yield cast(Trace, {**trace, "verdict": verdict})


class Passing(TypedDict):
    """What is needed of a trace that passes alone to compare it, as JSON.

    written: a digest of what the model wrote. images: by sha256. request, calls: of a trace with images, which can be
    compared only when it is known which images of the run are the same. match, subject, grams: of one without: index of
    the exam task that its request repeats, and its sketch (the hashes as 64-bit integers in base64).
    """

    id: str
    task: str
    template: str
    hinted: bool
    written: str
    images: list[str]
    request: NotRequired[str]
    calls: NotRequired[list[str]]
    match: NotRequired[int | None]
    subject: NotRequired[int]
    grams: NotRequired[str]


class Alone(TypedDict):
    """A trace judged alone: why it is rejected, or what is needed to compare it. The other one is None."""

    rejected: Verdict | None
    passing: Passing | None


class JudgeAlone:
    """Judges traces one by one, in any order and in any process. Arguments as `judge_run`'s."""

    def __init__(
        self,
        exam_tasks: Sequence[Task],
        settings: FilterSettings,
        count_tokens: CountTokens | None = None,
        look: Look | None = None,
    ) -> None:
        self._settings, self._count_tokens = settings, count_tokens
        self._exam = _exam(exam_tasks, settings, _Images(look))

    def __call__(self, trace: Trace) -> Alone:
        verdict = check_trace(trace, self._settings, self._count_tokens)
        if not verdict["kept"]:
            return {"rejected": verdict, "passing": None}
        passing: Passing = {
            "id": trace["id"],
            "task": trace["task"]["id"],
            "template": trace["task"]["template"],
            "hinted": trace["hinted"],
            "written": _digest_of_turns(trace["messages"]).hex(),
            "images": trace["images"],
        }
        request, calls = request_of(trace["messages"]), calls_of(trace["messages"])
        if trace["images"]:
            passing |= {"request": request, "calls": sorted(calls)}
        else:
            subject, grams = sketch(request, calls)
            packed = base64.b64encode(grams.tobytes()).decode()
            passing |= {"match": self._exam.find(request), "subject": subject, "grams": packed}
        return {"rejected": None, "passing": passing}


def _exam(exam_tasks: Sequence[Task], settings: FilterSettings, images: "_Images") -> Exam:
    return Exam(
        [images.with_text(task["request"], _images_of(task)) for task in exam_tasks],
        settings.contamination,
        [
            named_values(task["request"], [step["arguments"] for step in task["plan"]])
            for task in exam_tasks
        ],
    )


@dataclass(frozen=True, slots=True)
class _Passing:
    """What is remembered of a trace that passes alone. index: of the trace in the run."""

    index: int
    id: str
    task: str
    template: str
    hinted: bool
    match: int | None  # index of the exam task that its request repeats
    sketch: Sketch
    written: bytes  # a digest of what the model wrote
    images: tuple[str, ...]


def _compare(
    judged: Iterable[Alone],
    exam_tasks: Sequence[Task],
    settings: FilterSettings,
    look: Look | None,
) -> dict[int, Verdict]:
    """The verdict of each rejected trace, by its index."""
    images = _Images(look)
    exam = _exam(exam_tasks, settings, images)
    verdicts: dict[int, Verdict] = {}
    passing: list[_Passing] = []
    names: dict[str, str] = {}  # one object for all traces of a task or template
    for index, alone in enumerate(judged):
        if alone["rejected"] is not None:
            verdicts[index] = alone["rejected"]
            continue
        row = alone["passing"]
        assert row is not None
        if row["images"]:
            request = images.with_text(row["request"], row["images"])
            match, own = exam.find(request), sketch(request, row["calls"])
        else:
            grams = np.frombuffer(base64.b64decode(row["grams"]), np.int64)
            match, own = row["match"], Sketch(row["subject"], grams)
        passing.append(
            _Passing(
                index,
                row["id"],
                names.setdefault(row["task"], row["task"]),
                names.setdefault(row["template"], row["template"]),
                row["hinted"],
                match,
                own,
                bytes.fromhex(row["written"]),
                tuple(images.first(name) for name in row["images"]),
            )
        )
    del names

    def reject(one: _Passing, reason: str, detail: str) -> None:
        verdicts[one.index] = rejected(reason, detail)

    def left() -> list[_Passing]:
        return [one for one in passing if one.index not in verdicts]

    if settings.agreement is not None:
        agreed = Counter(one.task for one in passing if not one.hinted)
        for one in passing:
            if (count := agreed[one.task]) < settings.agreement:
                detail = f"{count} attempts without a hint passed, expected {settings.agreement}"
                reject(one, "disagreed", detail)
    for one in left():
        if one.match is not None:
            reject(one, "contaminated", f"like the exam task {exam_tasks[one.match]['id']}")
    for one, earlier, words in _duplicates(left(), settings.near_duplicate):
        reject(one, "near_duplicate", f"{words} {earlier.id}")
    for one, first in _same_images(left()):
        reject(one, "near_duplicate", f"has the same images as {first.id}")
    for one in _beyond(left(), settings.per_task, lambda one: one.task):
        detail = f"task {one.task} already has {settings.per_task} kept traces"
        reject(one, "over_represented", detail)
    if settings.per_template is not None:
        counts = Counter(one.template for one in left())
        limit = _template_limit(counts, settings.per_template)
        for one in _beyond(left(), limit, lambda one: one.template):
            detail = f"template {one.template} already has {limit} kept traces"
            reject(one, "over_represented", detail)
    return verdicts


def repeats_exam(exam_tasks: Sequence[Task], settings: FilterSettings) -> Callable[[Trace], bool]:
    """Returns a function that says whether the request of a trace in words repeats one of the exam's."""
    exam = _exam(exam_tasks, settings, _Images(None))
    return lambda trace: exam.find(request_of(trace["messages"])) is not None


class _Images:
    """The images of a run, each by the name of the first that looks the same."""

    def __init__(self, look: Look | None) -> None:
        self._look, self._same = look, SameImages()
        self._first: dict[str, str] = {}

    def first(self, name: str) -> str:
        if name not in self._first:
            look = self._look(name) if self._look else None
            self._first[name] = self._same.first(name, look) if look else name
        return self._first[name]

    def with_text(self, text: str, names: Sequence[str]) -> str:
        """The text followed by its images, so that texts about different images are never near-duplicates."""
        return " ".join([text, *(self.first(name) for name in names)])


def _images_of(task: Task) -> list[str]:
    return [image["sha256"] for image in task.get("pictures", [])]


def _digest_of_turns(messages: Sequence[Message]) -> bytes:
    """A digest of what the model wrote: reasoning, texts and calls, without regard to case, width and spaces."""
    turns: list[Any] = []
    for message in messages:
        if message["role"] == "assistant":
            texts = (message.get("reasoning_content") or "", text_of(message.get("content")))
            turns += [_plain(text) for text in texts]
            for call in message.get("tool_calls") or []:
                function = call["function"]
                turns += [function["name"], parse_arguments(function.get("arguments"))]
    return hashlib.sha256(dumps(turns).encode("utf-8", "surrogatepass")).digest()[:16]


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _duplicates(
    traces: Sequence[_Passing], threshold: float
) -> Iterator[tuple[_Passing, _Passing, str]]:
    """Yields each near-duplicate with the trace that it repeats and the words for it."""
    matches = near_duplicates(
        [one.sketch for one in traces], threshold, [one.task for one in traces]
    )
    written: dict[tuple[str, bytes], _Passing] = {}
    for one, match in zip(traces, matches, strict=True):
        if match is not None:
            yield one, traces[match], "like"
        elif (first := written.setdefault((one.task, one.written), one)) is not one:
            yield one, first, "wrote the same as"


def _same_images(traces: Iterable[_Passing]) -> Iterator[tuple[_Passing, _Passing]]:
    """Yields the traces whose images all look like those of an earlier trace of another task, with the earlier one."""
    first: dict[tuple[str, ...], _Passing] = {}
    for one in traces:
        if one.images:
            earlier = first.setdefault(one.images, one)
            if earlier.task != one.task:
                yield one, earlier


def _beyond(
    traces: Iterable[_Passing], limit: int, group: Callable[[_Passing], str]
) -> Iterator[_Passing]:
    """Yields the traces after the first `limit` of each group."""
    counts: Counter[str] = Counter()
    for one in traces:
        counts[group(one)] += 1
        if counts[group(one)] > limit:
            yield one


def _template_limit(counts: Counter[str], share: float) -> int:
    """The most traces of one template so that none has more than its share of what is kept.

    Raises:
        StageError: there are too few templates for that.
    """

    def is_within(limit: int) -> bool:
        return limit <= share * sum(min(count, limit) for count in counts.values()) + 1e-9

    if counts and not is_within(1):
        raise StageError(
            f"filter.per_template: found {share:g} and passing traces of {len(counts)} templates, expected a share of"
            f" {1 / len(counts):.2g} or more: --set filter.per_template=null sets no limit"
        )
    low, high = 1, max(counts.values(), default=1)
    # Whatever is within a limit is within each lower one, too: the kept traces grow ever slower than the limit.
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_within(middle) else (low, middle - 1)
    return low
