"""The model that plays the simulated users of a run's dialogues: none, the teacher, or a model of another API."""

import contextlib
from collections.abc import AsyncIterator

from flows.run_context import RunContext
from schemas.api_key import key_for
from schemas.recipe_teacher import UserApi
from schemas.trace import Maker
from teacher.dialects.base import Dialect
from teacher.inference.client import Client
from teacher.inference.endpoint import NO_KEY, Endpoint
from teacher.inference.journal import Journal
from teacher.rollout.agent_loop import Settings
from teacher.rollout.user import PlayedBy

KEY = "STILLHOUSE_USER_KEY"


@contextlib.asynccontextmanager
async def simulated_user(
    context: RunContext, teacher: Client, loop: Settings, maker: Maker, journal: Journal
) -> AsyncIterator[PlayedBy | None]:
    """Yields who plays the users; None for the scripted user, and in a run without dialogues.

    Args:
        teacher: the teacher's client, loop: its settings, maker: the teacher.
    """
    settings = context.recipe.generate
    user = settings.user
    if user == "scripted" or not context.recipe.tasks.kinds.get("dialogue"):
        yield None
        return
    parameters = {
        "max_tokens": loop.max_tokens,
        "temperature": loop.temperature,
        "top_p": loop.top_p,
    }
    if not isinstance(user, UserApi):
        yield PlayedBy(teacher, maker, loop.dialect, parameters, loop.mode)
        return
    url = user.url.rstrip("/")
    async with Client(
        Endpoint(url, key_for(url, KEY) or NO_KEY, user.model),
        {"model": user.model, "revision": "user"},
        journal,
        settings.concurrency,
        settings.timeout_s,
        patience=settings.patience_s,
        serving={"url": url},
    ) as client:
        played_by: Maker = {
            "model": user.model,
            "revision": None,
            "engine": "openai",
            "licence": "unknown",
        }
        yield PlayedBy(client, played_by, Dialect(), parameters)
