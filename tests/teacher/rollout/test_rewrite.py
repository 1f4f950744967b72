"""Which reworded requests are taken: the same task by its values, and new words."""

import asyncio
from typing import Any

import pytest
from scripted_model import LOOP, Model

from schemas.ledger import Rewriting
from schemas.task import Task
from teacher.domain.pack import load
from teacher.domain.tasks import build, sample
from teacher.rollout.rewrite import Rewriter, add_counts, refusal, unquoted

LEGAL = load("legal")
PERSONAS, LANGUAGES = ("a clerk", "a partner, terse"), ("en",)


def task(request: str, *arguments: Any, answer: Any = None) -> Task:
    made = build(LEGAL, "unused_retainer", "train", 0)
    plan: Any = [{"tool": "t", "arguments": {"value": value}} for value in arguments]
    return {**made, "request": request, "plan": plan, "checks": {"state": "x", "answer": answer}}


ORIGINAL = "What does Aldgate Foods owe under C-104 since 2026-03-02, EUR 10,280.50 or half of it?"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Since 2026-03-02, has Aldgate Foods owed EUR 10,280.50 or half of it under C-104?", ""),
        ("Quick one: C-104 and Aldgate Foods, since 2026-03-02. EUR 10,280.50 or half?", ""),
        ("Since 2026-03-02, has Aldgate Foods owed EUR 10,280.50 or half under C-1041?", "lost"),
        ("Since 2026-03-02, has Aldgate Foods owed EUR 10,280.50 or half of it?", "lost"),
        ("Since 2 March 2026, does Aldgate Foods owe EUR 10,280.50 or half on C-104?", "lost"),
        ("Since 2026-03-02, has Aldgate owed EUR 10,280.50 or half of it under C-104?", "lost"),
        ("Since 2026-03-02, Aldgate Foods owes EUR 10280.50 or half of it on C-104?", "lost"),
        (f"{ORIGINAL} And is C-105 open?", "added"),
        (f"{ORIGINAL} Ask for Ms Miller.", "added"),
        (f"{ORIGINAL} I need it in ten minutes.", "added"),
        (f"{ORIGINAL} See notes/owed.txt please.", "added"),
        (ORIGINAL, "unchanged"),
        ("", "empty"),
        (ORIGINAL + " please" * 200, "too_long"),
    ],
)
def test_a_request_is_reworded_only_if_its_values_stay(text: str, reason: str) -> None:
    assert refusal(task(ORIGINAL), text) == reason


def test_words_that_the_solution_uses_stay() -> None:
    original = task("Please put the matter M-869 on hold.", "on_hold", "M-869")
    assert refusal(original, "M-869 should go on hold, thanks.") == ""
    assert refusal(original, "M-869 should be closed, thanks.") == "lost"


def test_a_request_that_gives_the_answer_is_not_taken() -> None:
    answer = {"type": "choice", "value": "open", "options": ["open", "closed"]}
    original = task("What is the state of M-869?", "M-869", answer=answer)
    assert refusal(original, "Is M-869 open?") == "gives_answer"
    assert refusal(original, "Tell me the state of M-869.") == ""


@pytest.mark.parametrize(
    ("original", "text", "reason"),
    [
        ("Please check the retainer balance of M-759.", "M-759, please.", "meaning"),
        (
            "Please check the retainer balance of M-759.",
            "How much retainer has M-759 left?",
            "meaning",
        ),
        ("Please check the retainer balance of M-759.", "Balance of the retainer, M-759?", ""),
        ("Reception: a call about M-406. Which lawyer runs it?", "A call about M-406.", "meaning"),
        ("Reception: a call about M-406. Which lawyer runs it?", "Who is the lawyer on M-406?", ""),
        ("Flag M-406 as a conflict.", "Here is the rewritten message: Flag M-406.", "comment"),
    ],
)
def test_a_reply_about_something_else_is_not_taken(original: str, text: str, reason: str) -> None:
    assert refusal(task(original), text) == reason


def test_names_without_capitals_and_paths_stay() -> None:
    original = task("请关闭张伟的 fix/late-kettle", "张伟", "fix/late-kettle")
    assert refusal(original, "张伟的 fix/late-kettle 可以关闭吗") == ""
    assert refusal(original, "请关闭 fix/late-kettle 吧") == "lost"
    assert refusal(original, "张伟的 fix/late-kettles 可以关闭吗") == "lost"


@pytest.mark.parametrize("quoted", ['"Is it open?"', "“Is it open?”", "  Is it open?\n"])
def test_quotation_marks_around_a_reply_are_not_part_of_it(quoted: str) -> None:
    assert unquoted(quoted) == "Is it open?"
    assert unquoted('"A" or "B"?') == '"A" or "B"?'


def reword(tasks: list[Task], model: Any, share: float) -> tuple[list[Task], Rewriting]:
    """The tasks, each reworded twice as for a second attempt, and the counts."""

    async def scene() -> tuple[list[Task], Rewriting]:
        rewriter = Rewriter(
            model.complete, LOOP, share=share, personas=PERSONAS, languages=LANGUAGES
        )
        first = [await rewriter.reword(task) for task in tasks]
        asked = len(model.shown)
        assert [await rewriter.reword(task) for task in tasks] == first
        assert len(model.shown) == asked
        counts = rewriter.take_counts(task["id"] for task in tasks)
        assert rewriter.take_counts(task["id"] for task in tasks)["asked"] == 0
        return first, counts

    return asyncio.run(scene())


def test_a_share_is_reworded_and_the_rest_stays() -> None:
    tasks = sample(LEGAL, "train", 40, seed=0, mix={"lookup": 1, "workflow": 0}, pixels=False)
    model = Echo()
    result, counts = reword(tasks, model, share=0.5)
    assert 10 < counts["asked"] < 30
    assert counts["taken"] + sum(counts["rejected"].values()) == counts["asked"]
    assert sum(counts["personas"].values()) == counts["languages"]["en"] == counts["taken"] > 5
    changed = [new for new, old in zip(result, tasks, strict=True) if new != old]
    assert len(changed) == counts["taken"]
    assert all(new["request"].endswith(", please?") for new in changed)
    assert [{**new, "request": ""} for new in result] == [{**old, "request": ""} for old in tasks]
    assert not any(model.tools)
    twice = add_counts([counts, counts])
    assert twice is not None and twice["taken"] == 2 * counts["taken"]
    assert twice["rejected"] == {reason: 2 * n for reason, n in counts["rejected"].items()}
    assert add_counts([]) is None


class Echo(Model):
    """Rewords by adding a word, and loses the values of every fourth request."""

    def __init__(self) -> None:
        super().__init__([""])

    async def complete(self, messages: list, tools: list, sample: int, **more: Any) -> Any:
        request = messages[-1]["content"].rstrip("?.")
        lost = len(self.shown) % 4 == 3
        self.turns = ["What is it?" if lost else f"{request}, please?"]
        return await super().complete(messages, tools, sample, **more)


@pytest.mark.parametrize(
    ("turn", "finish", "reason"),
    [(None, None, "no_reply"), ("A text that is cut", "length", "truncated"), ("", None, "empty")],
)
def test_a_reply_that_cannot_be_used_leaves_the_original(
    turn: Any, finish: str | None, reason: str
) -> None:
    tasks = [build(LEGAL, "unused_retainer", "train", 0)]
    result, counts = reword(tasks, Model([turn], finish), share=1)
    assert result == tasks
    assert counts["rejected"] == {reason: 1} and not counts["personas"]
