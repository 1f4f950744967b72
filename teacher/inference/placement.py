"""Chooses the server of a request where several equal servers stand side by side without a router."""

import contextlib
import time
from collections.abc import Iterator, Sequence

# Seconds for which a server that failed gets no request that another one can take. It is restarted meanwhile.
_AVOIDED_SECONDS = 5.0
# Conversations that are remembered, for each request that may be in flight: an episode may have sub-agents.
CONVERSATIONS = 16


class Placement:
    """A conversation stays with one server, whose prefix cache has its beginning.

    It moves if its server has as many requests as it is meant for while another has fewer, or if its server failed: to
    read a prompt anew costs less than to wait.

    Args:
        servers: their base URLs.
        most: requests in flight at all of them together.
    """

    def __init__(self, servers: Sequence[str], most: int) -> None:
        self._in_flight = dict.fromkeys(servers, 0)
        self._share = -(-most // len(servers))
        self._servers: dict[str, str] = {}  # by session, the last used one at the end
        self._remembered = CONVERSATIONS * most
        self._avoided_until = dict.fromkeys(servers, 0.0)

    @contextlib.contextmanager
    def server(self, session: str | None) -> Iterator[str]:
        """Yields the base URL for a request, which counts as in flight for the time of the block.

        session: name of the conversation; None for a request without one.
        """
        server = self._choose(session)
        self._in_flight[server] += 1
        try:
            yield server
        finally:
            self._in_flight[server] -= 1

    def avoid(self, server: str) -> None:
        """A server has shown that it cannot answer now."""
        self._avoided_until[server] = time.monotonic() + _AVOIDED_SECONDS

    def _choose(self, session: str | None) -> str:
        now, in_flight = time.monotonic(), self._in_flight
        able = [server for server in in_flight if self._avoided_until[server] <= now]
        able = able or list(in_flight)
        emptiest = min(able, key=in_flight.__getitem__)
        if session is None:
            return emptiest
        own = self._servers.pop(session, None)
        if own in able and (in_flight[own] < self._share or in_flight[emptiest] >= self._share):
            self._servers[session] = own
        else:
            self._servers[session] = emptiest
        if len(self._servers) > self._remembered:
            del self._servers[next(iter(self._servers))]
        return self._servers[session]
