"""Measured conversations for tests of the plan, and the teacher of a recipe."""

from dataclasses import replace
from typing import Any

from schemas.recipe import Recipe
from teacher.models import catalog
from teacher.planning.cost import Conversation, ConversationTokens


def conversation(calls: int = 2, prompt: float = 350.0, blind: bool = False) -> Conversation:
    """A conversation of so many calls; `blind`: its task has images, and is repeated without them."""
    tokens = ConversationTokens(
        prompt, example=140.0, solution=60.0 * calls, result=20.0, longest=40.0
    )
    without_images = replace(tokens, prompt=prompt - 100) if blind else None
    return Conversation(calls, tokens, without_images, tokens)


CONVERSATIONS = [conversation(1), conversation(2), conversation(4)] * 100


def teacher_of(recipe: Recipe) -> dict[str, Any]:
    return catalog.load(recipe.teacher, catalog.TEACHERS, "teacher")
