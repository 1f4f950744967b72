"""Lets the teacher reword the requests of tasks, in the voice of one of the pack's personas and languages.

A template has a handful of wordings; a reworded request is new text about the same task. It is taken only if the task
is still the same by what can be checked: every number, date, name and identifier is there as it was, none is added, and
the answer is not in it. Else the original stands. A negation that the teacher adds is not noticed here: such a task is
not solved, and its traces are rejected.

In: tasks and `Client.complete`. Out: other requests for some of them, and the counts of what was rejected and why.
"""

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from schemas.json_text import texts_in
from schemas.ledger import Rewriting
from schemas.task import Task
from schemas.trace import Message
from teacher.domain.scoring import answer_matches
from teacher.rollout.agent_loop import Complete, Settings
from teacher.rollout.text_values import is_value, names_in, tokens_in, unquoted, values_in

_PROMPT = (
    "You rewrite what a user asks of an assistant. Write the user's message as {persona} would write it, in the"
    " language {language} (BCP 47). Keep its meaning. Copy every number, date, name and identifier. Add no fact,"
    " name, number or question. Answer with the rewritten message alone."
)
_LONGEST = 4  # times the length of the original
_SHORT = 200  # letters that a short request may grow to
# Words of a reply that is not the message alone.
_COMMENT = (
    *("rewrit", "rewrote", "reword", "here is the", "here's the"),
    *("happy to assist", "happy to help", "sorry for any", "how can i help", "how may i"),
)
# A rewording keeps at least so much of what is asked, and more where a question becomes a statement or the reverse;
# with less, a weak teacher has written about something else.
_LEAST_SHARED, _LEAST_OF_ANOTHER_FORM = 0.25, 0.6
_EMPTY_WORDS = frozenset({"please", "which", "there", "where", "thanks", "could", "would", "about"})
# English alone. "One", "first" and "second" also stand where no number is meant.
_NUMBER_WORDS = frozenset(
    {"zero", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"}
    | {"twelve", "twenty", "thirty", "forty", "fifty", "hundred", "thousand", "million"}
    | {"half", "twice", "third"}
)


@dataclass(frozen=True)
class Voice:
    """Who asks, and in which language."""

    persona: str
    language: str


class Rewriter:
    """Rewords the requests of a share of the tasks, each when its task is played.

    Which task is reworded in which voice depends on its id alone, so a resumed run asks for the same.

    Args:
        complete: `Client.complete`; it journals the replies.
        share: of the tasks, 0 to 1.
    """

    def __init__(
        self,
        complete: Complete,
        settings: Settings,
        *,
        share: float,
        personas: Sequence[str],
        languages: Sequence[str],
    ) -> None:
        self._complete, self._settings, self._share = complete, settings, share
        self._personas, self._languages = list(personas), list(languages)
        self._asked: dict[str, _Asked] = {}

    async def reword(self, task: Task) -> Task:
        """Returns the task with its request as the teacher reworded it, or as it is."""
        asked = self._asked.get(task["id"])
        if asked is None:
            voice = _voice(task, self._share, self._personas, self._languages)
            if voice is None:
                return task
            asked = _Asked(voice, *await _reworded(task, voice, self._complete, self._settings))
            self._asked[task["id"]] = asked
        return {**task, "request": asked.text} if asked.text else task

    def take_counts(self, task_ids: Iterable[str]) -> Rewriting:
        """Returns the counts of tasks that have ended, and forgets what was asked for them."""
        asked = [self._asked.pop(task_id) for task_id in task_ids if task_id in self._asked]
        taken = [one.voice for one in asked if one.text]
        return {
            "asked": len(asked),
            "taken": len(taken),
            "rejected": _counts(one.reason for one in asked if one.reason),
            "personas": _counts(voice.persona for voice in taken),
            "languages": _counts(voice.language for voice in taken),
        }


class _Asked(NamedTuple):
    """The reworded request of a task and "", or "" and the reason for which the original stands."""

    voice: Voice
    text: str
    reason: str


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def add_counts(rows: Iterable[Rewriting]) -> Rewriting | None:
    """Returns the sum of counts; None of none."""
    total: Rewriting | None = None
    for row in rows:
        if total is None:
            total = {"asked": 0, "taken": 0, "rejected": {}, "personas": {}, "languages": {}}
        total["asked"] += row["asked"]
        total["taken"] += row["taken"]
        for key in ("rejected", "personas", "languages"):
            total[key] = dict(sorted((Counter(total[key]) + Counter(row[key])).items()))
    return total


def _voice(
    task: Task, share: float, personas: Sequence[str], languages: Sequence[str]
) -> Voice | None:
    """Returns the voice in which a task's request is reworded, or None if it stays."""
    rng = random.Random(f"rewrite {task['id']}")
    answer = task["checks"]["answer"]
    # A request that states a schema must state it letter for letter.
    if rng.random() >= share or (answer and answer["type"] == "json"):
        return None
    return Voice(rng.choice(list(personas)), rng.choice(list(languages)))


async def _reworded(
    task: Task, voice: Voice, complete: Complete, settings: Settings
) -> tuple[str, str]:
    """Returns the reworded request and "", or "" and the reason for which the original stands."""
    messages: list[Message] = [
        {
            "role": "system",
            "content": _PROMPT.format(persona=voice.persona, language=voice.language),
        },
        {"role": "user", "content": task["request"]},
    ]
    parameters = {
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    adapted = settings.dialect.adapt_request(messages, [], parameters, settings.mode)
    reply = await complete(
        adapted.messages, adapted.tools, 0, session=f"{task['id']}/rewrite", **adapted.parameters
    )
    if reply.message is None:
        return "", "no_reply"
    if reply.finish_reason == "length":
        return "", "truncated"
    parsed = settings.dialect.parse_reply(reply.message, reply.finish_reason, ())
    content = parsed.message.get("content")
    if parsed.failure or parsed.message.get("tool_calls") or not isinstance(content, str):
        return "", "no_reply"
    text = unquoted(content)
    reason = refusal(task, text)
    return ("", reason) if reason else (text, "")


def refusal(task: Task, text: str) -> str:
    """Returns why a reworded request cannot stand for the original, or "" if it can.

    The reasons: empty, unchanged, too_long, comment (it is about the rewriting), lost (a value of the original is
    missing), added (it has another value), meaning (hardly a word of what is asked is left), gives_answer.
    """
    original = task["request"]
    if not text:
        return "empty"
    if text == original:
        return "unchanged"
    if len(text) > max(_SHORT, _LONGEST * len(original)):
        return "too_long"
    if any(word in text.casefold() and word not in original.casefold() for word in _COMMENT):
        return "comment"
    if not all(_has(text, value) for value in values_in(original)):
        return "lost"
    if not all(_has(text.casefold(), value) for value in _arguments(task)):
        return "lost"
    known = {*tokens_in(original), *original.split()}
    if _numbers_in_words(text) != _numbers_in_words(original) or any(
        token not in known and is_value(token) for token in tokens_in(text)
    ):
        return "added"
    words = re.findall(r"[^\W_]+", original)
    if any(word not in words for name in names_in(text) for word in name.split()):
        return "added"
    if _is_about_something_else(original, text):
        return "meaning"
    answer = task["checks"]["answer"]
    if answer and answer_matches(answer, text):
        return "gives_answer"
    return ""


def _is_about_something_else(original: str, text: str) -> bool:
    """Whether a text has too few of the original's words, names and short ones aside."""
    words = {word for word in re.findall(r"[^\W\d_]{5,}", original) if word.islower()}
    words -= _EMPTY_WORDS
    shared = sum(word[:5] in text.casefold() for word in words)
    asks, asked = ("?" in unicodedata.normalize("NFKC", one) for one in (text, original))
    if asks != asked:
        return shared < _LEAST_OF_ANOTHER_FORM * len(words)
    return len(words) > 1 and shared < _LEAST_SHARED * len(words)


def _arguments(task: Task) -> Iterator[str]:
    """Yields the texts among the solution's arguments that the request has, such as "on hold" for on_hold."""
    for step in task["plan"]:
        for value in texts_in(step["arguments"]):
            for spelling in {value, value.replace("_", " ")}:
                if spelling and _has(task["request"].casefold(), spelling.casefold()):
                    yield spelling.casefold()


def _has(text: str, value: str) -> bool:
    """Whether a text has a value, and not as a part of a longer word or number."""
    if any(c.isalpha() and c.lower() == c.upper() for c in value):
        return value in text  # a script that may be written without spaces
    pattern = rf"(?<!\w)(?<!\w[.,/-]){re.escape(value)}(?!\w|[.,/-]\w)"
    return re.search(pattern, text) is not None


def _numbers_in_words(text: str) -> Counter[str]:
    words = re.findall(r"[a-z]+", text.casefold())
    return Counter(word for word in words if word in _NUMBER_WORDS)
