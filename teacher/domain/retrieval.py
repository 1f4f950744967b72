"""Offers each task the tools that fit its request best, for packs with more tools than a student's context holds.

Tools are ranked by BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009) over the trigrams of
their words, which need no stemming and no spaces between words. A deployment of a student that was trained so ranks its
tools with `best_tools` too. The exam offers what the ranking finds, even if a tool of the solution is not among it.
"""

import logging
import re
import sys
from collections.abc import Sequence
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

from schemas.task import Task
from schemas.trace import Tool
from teacher.domain.drift import tools_of
from teacher.domain.pack import Domain

_WORD = re.compile(r"[^\W_]+")


def best_tools(tools: Sequence[Tool], request: str, count: int) -> list[Tool]:
    """Returns the `count` tools that fit a request best, the best one first; all if there are no more."""
    if count >= len(tools):
        return list(tools)
    index = _index(tuple(_text(tool) for tool in tools))
    best, _ = index.retrieve([_trigrams(request)], k=count, show_progress=False)
    return [tools[int(number)] for number in best[0]]


@lru_cache(maxsize=16)  # most tasks offer the same toolbox
def _index(texts: tuple[str, ...]) -> Any:
    index = _bm25s().BM25()
    index.index([_trigrams(text) for text in texts], show_progress=False)
    return index


def retrieve_tools(tasks: list[Task], domain: Domain, *, count: int, complete: bool) -> list[Task]:
    """Returns the tasks, in their order, with the best `count` of the tools that each offers.

    Args:
        tasks: with the whole toolbox, drifted or not.
        complete: whether a tool of the solution that is not among the best takes the place of the worst. Training
            tasks need it: without the tool they cannot be solved.
    """
    return [_retrieve(task, domain, count, complete) for task in tasks]


def found_share(tasks: Sequence[Task]) -> float:
    """Returns the share of the tasks, 0 to 1, that offer all tools of their solutions."""
    found = sum({step["tool"] for step in task["plan"]} <= set(task["tools"]) for task in tasks)
    return found / max(1, len(tasks))


@cache
def _bm25s() -> ModuleType:
    """Imports the library without JAX: where JAX is installed, it starts it, which takes 75 % of the GPU's memory."""
    is_there = "jax" in sys.modules
    if not is_there:
        sys.modules["jax"] = None  # type: ignore[assignment]  # an import of it raises ImportError
    try:
        import bm25s
    finally:
        if not is_there:
            del sys.modules["jax"]
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs each index that it builds
    return bm25s


def _retrieve(task: Task, domain: Domain, count: int, complete: bool) -> Task:
    tools = tools_of(domain, task)
    best = best_tools([tools[name] for name in task["tools"]], task["request"], count)
    names = [tool["function"]["name"] for tool in best]
    if complete:
        needed = list(dict.fromkeys(step["tool"] for step in task["plan"]))
        missing = [name for name in needed if name not in names]
        others = [name for name in names if name not in needed]
        dropped = set(others[len(others) - len(missing) :]) if missing else set()
        names = [name for name in names if name not in dropped] + missing
    changed = task.copy()
    changed["tools"] = names
    return changed


def _text(tool: Tool) -> str:
    """Returns the words by which a tool is found: its name, twice, its description, and its parameters."""
    function = tool["function"]
    parameters = function["parameters"].get("properties", {})
    described = (f"{name} {schema.get('description', '')}" for name, schema in parameters.items())
    return " ".join([function["name"], function["name"], function["description"], *described])


def _trigrams(text: str) -> list[str]:
    """Returns the trigrams of a text's words, with their edges: " co", "con", and so on."""
    words = (f" {word} " for word in _WORD.findall(text.lower()))
    return [word[start : start + 3] for word in words for start in range(len(word) - 2)]
