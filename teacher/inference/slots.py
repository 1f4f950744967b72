"""How many requests are in flight: as many as may be, fewer while the server cannot serve so many.

The number grows by one for each round of replies, and by one for each reply while it is below the number that went well
before. It falls by a third at a sign of too many: a rate limit, an overload, a reply that takes nearly too long, or
what the server's metrics say (teacher/inference/load.py). One sign counts for all requests that were sent before it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

_FALL = 2 / 3


class Slots:
    """Places for requests in flight.

    Args:
        most: of them.

    Attributes:
        limit: of them now. lowest: the lowest limit so far.
    """

    def __init__(self, most: int) -> None:
        self._most = self._limit = self._steady = float(most)
        self.lowest = most
        self._taken = 0
        # Conversations that have begun come first, so that the server need not hold the caches of all at once.
        self._begun: deque[asyncio.Future[None]] = deque()
        self._new: deque[asyncio.Future[None]] = deque()
        self._turn = 0  # counts the falls: a request sent before the last one tells nothing new
        self._has_answered = True  # since the last fall

    @property
    def limit(self) -> int:
        return int(self._limit)

    @contextlib.asynccontextmanager
    async def take(self, *, has_begun: bool) -> AsyncIterator[int]:
        """Holds a place for the time of the block; yields the turn in which it was taken, for `shrink`.

        has_begun: whether the request continues a conversation.
        """
        if self._taken >= self.limit or self._begun or (self._new and not has_begun):
            await self._wait(self._begun if has_begun else self._new)
        else:
            self._taken += 1
        try:
            yield self._turn
        finally:
            self._leave()

    async def _wait(self, queue: deque[asyncio.Future[None]]) -> None:
        place = asyncio.get_running_loop().create_future()
        queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()
            raise

    def _leave(self) -> None:
        self._taken -= 1
        self._admit()

    def _admit(self) -> None:
        while self._taken < self.limit and (queue := self._begun or self._new):
            place = queue.popleft()
            if not place.done():
                self._taken += 1
                place.set_result(None)

    def grow(self) -> None:
        """A reply came in good time."""
        self._has_answered = True
        is_used_up = self._taken >= self.limit
        if is_used_up and self._limit < self._most:
            step = 1.0 if self._limit < self._steady else 1 / self._limit
            self._limit = min(self._limit + step, self._most)
            self._admit()

    def shrink(self, turn: int | None = None, to: int | None = None) -> None:
        """There are too many requests in flight.

        Args:
            turn: of the request that shows it; None for what the server says of all of them.
            to: as many as the server can serve; by default two thirds of the limit.
        """
        # A server that answers nothing is down, not overloaded: one fall is enough, and the client's retries wait.
        if not self._has_answered or (turn is not None and turn != self._turn):
            return
        self._turn += 1
        self._has_answered = False
        wanted = self._limit * _FALL if to is None else min(self._limit, to)
        self._limit = self._steady = max(wanted, 1.0)
        self.lowest = min(self.lowest, self.limit)
