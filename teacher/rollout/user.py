"""Simulated users: they answer the model in a dialogue, by the task's blueprint.

`ScriptedUser` speaks by rule and is the same each time: the exam and CI use it. `ModelUser` is played by a model, whose
messages are audited by rule: it may not invent a fact, tell what it was not asked for, or end before its goal. A
message that breaks a rule ends the episode as user_fault, which is not the teacher's.

Its requests are no part of the teacher's (trace.user), and no user's message is ever trained on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.messages import text_of
from schemas.task import Dialogue, Fact, Task
from schemas.trace import Maker, Message, Request, UserTurns
from teacher.dialects.base import Dialect
from teacher.domain.kinds.dialogue import YES
from teacher.domain.kinds.facts import has_value
from teacher.domain.kinds.policy import CONFIRMING
from teacher.domain.scoring import asks, contains_words
from teacher.inference.client import Client
from teacher.inference.replies import request_row
from teacher.rollout.text_values import unquoted, values_in

_DONE = "DONE"
_PROMPT = (
    "You play a user who talks to an assistant; you are {persona}, {manner}. What you want: {goal}\n"
    "You know: {facts}. Tell a fact only when the assistant asks for it, in one short message, and nothing else. Invent"
    " no fact, number or name. Confirm what you want if you are asked. When the assistant has told you what you wanted"
    f" or has done it, write {_DONE} alone."
)
_LONGEST = 300  # characters of a message of the user
_MOST_MESSAGES = 12  # of the user, with the request: each gives the model a further step


@dataclass(frozen=True)
class Said:
    """What the user says. text: None where it has nothing more to say. fault: the rule that its message breaks."""

    text: str | None
    fault: str | None = None


class User(Protocol):
    """The user of one episode."""

    async def reply(self, messages: Sequence[Message]) -> Said:
        """The user's reply to the assistant's last message."""

    def turns(self) -> UserTurns:
        """Who plays the user, and its requests so far."""


@dataclass(frozen=True)
class PlayedBy:
    """A model that plays users. client: of its API; the replies are in the same journal as the teacher's."""

    client: Client
    maker: Maker
    dialect: Dialect
    parameters: dict[str, Any] = field(default_factory=dict)
    mode: str | None = None


def user_of(task: Task, played_by: PlayedBy | None, attempt: int) -> User | None:
    """Returns the user of a task's episode; None of a task that is no dialogue."""
    if "dialogue" not in task:
        return None
    return ModelUser(task, played_by, attempt) if played_by else ScriptedUser(task)


class ScriptedUser:
    """Tells a fact when asked for it, confirms once, changes its mind where the blueprint says, and then has no more to
    say."""

    def __init__(self, task: Task) -> None:
        self._dialogue = task["dialogue"]

    async def reply(self, messages: Sequence[Message]) -> Said:
        question, own = text_of(messages[-1].get("content")), _texts_of_user(messages)
        left = untold(self._dialogue, own)
        if asks(question):
            if asked := [fact for fact in left if is_asked(fact, question)]:
                return Said(" ".join(fact["text"] for fact in asked))
            if is_confirmation(question) and YES not in own:
                return Said(YES)
            if left:
                return Said(left[0]["text"])
        change = self._dialogue.get("change")
        if change and change["text"] not in own:
            return Said(change["text"])
        return Said(None)

    def turns(self) -> UserTurns:
        return {"played_by": None, "calls": []}


class ModelUser:
    """A user that a model plays."""

    def __init__(self, task: Task, played_by: PlayedBy, attempt: int) -> None:
        self._task, self._by, self._attempt = task, played_by, attempt
        self._calls: list[Request] = []

    async def reply(self, messages: Sequence[Message]) -> Said:
        dialogue = self._task["dialogue"]
        facts = ", ".join(f"{fact['name']}: {fact['value']}" for fact in dialogue["facts"])
        prompt = _PROMPT.format(**{**dialogue, "facts": facts or "nothing else"})
        if change := dialogue.get("change"):
            prompt += f" After the first answer you correct yourself: {change['text']}"
        # To the user's model, the assistant is the one who asks.
        talk: list[Message] = [
            {"role": "system", "content": prompt},
            {"role": "user", "content": "How can I help you?"},
        ]
        for message in messages:
            text = text_of(message.get("content"))
            if message["role"] == "user":
                talk.append({"role": "assistant", "content": text})
            elif message["role"] == "assistant" and not message.get("tool_calls"):
                talk.append({"role": "user", "content": text})
        adapted = self._by.dialect.adapt_request(talk, [], self._by.parameters, self._by.mode)
        answer = await self._by.client.complete(
            adapted.messages,
            adapted.tools,
            self._attempt,
            session=f"{self._task['id']}/{self._attempt}/user",
            **adapted.parameters,
        )
        self._calls.append(request_row(answer))
        if answer.message is None:
            return Said(None, f"no_reply: {answer.error}")
        parsed = self._by.dialect.parse_reply(answer.message, answer.finish_reason, ())
        text = unquoted(text_of(parsed.message.get("content")))
        if parsed.failure or parsed.message.get("tool_calls") or not text:
            return Said(None, "no_reply: no message in words")
        is_done = text.strip(" .!").upper() == _DONE
        fault = audit(dialogue, messages, None if is_done else text)
        return Said(None if is_done else text, fault)

    def turns(self) -> UserTurns:
        return {"played_by": self._by.maker, "calls": self._calls}


def audit(dialogue: Dialogue, messages: Sequence[Message], text: str | None) -> str | None:
    """Returns the rule that a user's message breaks, with what breaks it; None if it breaks none.

    invented: it has a value that is in no fact and in no message before. told_all: it tells a fact that was not asked
    for. ended_early: it ends while the assistant waits for a fact or a confirmation. too_long: it is no short message.
    goes_on: it does not come to an end.

    Args:
        messages: of the conversation so far; the last one is the assistant's. text: None where the user ends.
    """
    question, own = text_of(messages[-1].get("content")), _texts_of_user(messages)
    left = untold(dialogue, own)
    if text is None:
        waits = asks(question) and (bool(left) or (is_confirmation(question) and len(own) < 2))
        return f"ended_early: {question[:80]!r} is not answered" if waits else None
    if len(own) >= _MOST_MESSAGES:
        return f"goes_on: after {len(own)} messages, expected {_DONE}"
    if len(text) > _LONGEST:
        return f"too_long: {len(text)} characters, at most {_LONGEST}"
    known = " ".join(
        [
            dialogue["goal"],
            *(str(fact["value"]) for fact in dialogue["facts"]),
            dialogue.get("change", {}).get("text", ""),
            *(text_of(m.get("content")) for m in messages if m["role"] in ("user", "assistant")),
        ]
    )
    for value in values_in(text):
        if not has_value(known, value):
            return f"invented: {value}"
    told = [fact for fact in left if has_value(text, fact["value"])]
    unasked = [fact for fact in told if not (asks(question) and is_asked(fact, question))]
    # A question in other words than the blueprint expects may be for the one fact that is left.
    if unasked and not (asks(question) and len(left) == 1):
        return f"told_all: {unasked[0]['value']}"
    return None


def untold(dialogue: Dialogue, own: Sequence[str]) -> list[Fact]:
    """The facts that the user has not told. own: its messages."""
    return [f for f in dialogue["facts"] if not any(has_value(text, f["value"]) for text in own)]


def is_asked(fact: Fact, question: str) -> bool:
    """Whether a question is for a fact."""
    return any(contains_words(question, word) for word in fact["words"])


def is_confirmation(question: str) -> bool:
    """Whether a question wants a yes."""
    return any(re.search(rf"\b{re.escape(word)}", question, re.I) for word in CONFIRMING)


def has_text(message: Message) -> bool:
    """Whether a message has words that a user can reply to."""
    return bool(text_of(message.get("content")).strip())


def _texts_of_user(messages: Sequence[Message]) -> list[str]:
    return [text_of(m.get("content")) for m in messages if m["role"] == "user"]
