"""Sends requests to a served model: bounded concurrency, retries, limits. Replies are journalled before they are used.

What an error means is decided in failures.py, what an answer holds in replies.py, how fast requests go in pace.py.
"""

import asyncio
import contextlib
import random
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import aiohttp

from schemas.error_text import one_line
from schemas.errors import StageError
from schemas.files import dumps, sha256_text
from schemas.trace import Message, Tool
from teacher.inference import load
from teacher.inference.api import without_key
from teacher.inference.connection import Connection, EndlessAnswer, StatusError
from teacher.inference.endpoint import Endpoint
from teacher.inference.failures import Cause, Failure, UnusableAnswer, judge
from teacher.inference.journal import Journal, key
from teacher.inference.pace import Pace
from teacher.inference.placement import CONVERSATIONS
from teacher.inference.replies import Reply, failed, parse
from teacher.inference.slots import Slots
from teacher.scenes.images import ImageStore, inline_pixels

# Seconds before a retry: doubled each time, with jitter so that many clients do not return at once.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
# Failures of one request, while the server answers others, from which on the request is the reason.
_TRIES = 6
PATIENCE = 1800.0  # generate.patience_s
# Replies of the journal that go to their episodes in one turn of the event loop. With a thousand episodes in each turn,
# a reply of the server would wait for a second at every step of its way.
_REPLAYS = 8
# Share of the timeout from which a reply shows that too many requests are in flight.
_LATE = 0.8
_NO_REPLY = (StatusError, EndlessAnswer, aiohttp.ClientError, TimeoutError)
# Seconds that requests in flight get when an error ends the client, because their replies are paid for.
_LAST_REPLIES = 60.0
# Open files of this process besides its connections.
_OTHER_FILES = 256
# A request that any model can answer: it tells a server that is down from a request that always fails.
_PROBE = {"messages": [{"role": "user", "content": "Say yes."}], "tools": [], "max_tokens": 16}


class Client:
    """Sends chat requests of one model to one endpoint. Use as an async context manager.

    Where an error ends the block, replies to requests in flight are waited for and journalled, for a minute at most. A
    block that is cancelled ends at once.

    Args:
        endpoint: where the model is served, or a function that returns it and is called before the first request that
            the journal has no reply to (teacher/inference/late_start.py).
        identity: {"model", "revision"}; part of the key of each reply in the journal.
        concurrency: most requests in flight at once; how many there are follows from the server's load
            (teacher/inference/slots.py). A request that waits for its retry does not count.
        timeout: seconds for one reply, or a function that returns them once the endpoint is there.
        image_store: the images that messages refer to by hash.
        patience: seconds without a reply to any request after which the server counts as dead.
        serving: the settings of the server that decide which requests it can answer. A stored failure of a server with
            other settings is asked again.
        pace: the limits of an API; by default none.

    Attributes:
        sent: requests sent to the server, retries included. asked: requests that the journal had no reply to.
        retries: retries by cause. waited: seconds that requests waited for a retry, all added up.
        failures: requests that got no reply, by cause, those of the journal included.
        slots: the requests in flight.
        without_logprobs: replies that have no log-probabilities although they were asked for.
    """

    def __init__(
        self,
        endpoint: Endpoint | Callable[[], Awaitable[Endpoint]],
        identity: dict[str, str],
        journal: Journal,
        concurrency: int,
        timeout: float | Callable[[], float],
        image_store: ImageStore | None = None,
        *,
        patience: float = PATIENCE,
        serving: Mapping[str, Any] | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._find_endpoint = endpoint
        self._identity, self._journal = identity, journal
        self._concurrency = concurrency
        self.slots = Slots(concurrency)
        # Sessions that have sent a request, the last one at the end.
        self._begun: dict[str, None] = {}
        self._replays = asyncio.Semaphore(_REPLAYS)
        self._find_timeout, self._image_store, self._patience = timeout, image_store, patience
        self._timeout = 0.0  # known with the endpoint
        self._serving = sha256_text(dumps(serving or {}))[:16]
        self._pace = pace or Pace()
        # One lock for each request that is being asked.
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._opening, self._probing = asyncio.Lock(), asyncio.Lock()
        self._connection: Connection | None = None
        # Requests that have no reply yet, and those of them that the server has. After an error none is sent.
        self._running: set[asyncio.Task[Any]] = set()
        self._sent_now: set[asyncio.Task[Any]] = set()
        self._ended_by = ""
        self._answers = 0  # of the server, since this client exists
        self._silent_since: float | None = None  # the first failure after the last answer
        self.sent = self.asked = self.without_logprobs = 0
        self.retries: Counter[Cause] = Counter()
        self.waited = 0.0
        self.failures: Counter[str] = Counter()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._ended_by = self._ended_by or f"the client ended: {error.__name__ if error else ''}"
        await self._end_requests(waits=error is not None and issubclass(error, Exception))
        if self._connection is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            await self._connection.close()

    async def _end_requests(self, *, waits: bool) -> None:
        """Cancels the requests that are left. waits: for the replies of those in flight."""
        for request in self._running - self._sent_now:
            request.cancel()
        silent = time.monotonic() - self._silent_since if self._silent_since else 0.0
        seconds = min(_LAST_REPLIES, self._timeout) - silent
        if waits and self._sent_now and seconds > 0:
            await asyncio.wait(self._sent_now, timeout=seconds)
        for request in self._running:
            request.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def complete(
        self,
        messages: list[Message],
        tools: list[Tool],
        sample: int,
        session: str | None = None,
        **parameters: Any,
    ) -> Reply:
        """The reply to a conversation: from the journal, else from the server. Equal requests are sent once.

        Args:
            messages, tools: in the form of OpenAI's chat completions, but with images by hash
                (teacher/scenes/images.py), so that the journal's key holds the hash and only the server gets the bytes.
            sample: index of this reply among several replies to the same request.
            session: name of the agent or sub-agent whose conversation it is. Of several servers, it leads to the one
                that has the conversation's prefix cached. It changes no reply, so it is not part of the journal's key.
            parameters: temperature, top_p, max_tokens, tool_choice, extra_body.

        Returns:
            The reply. It has an `error` if the server refuses the request for good, or if the request fails again and
            again while the server answers others.

        Raises:
            StageError: the server answers no request for the time of `patience`, refuses the key or does not know the
                model; or the reply cannot be written to the journal.
        """
        request = {
            **self._identity,
            "messages": messages,
            "tools": tools,
            "sample": sample,
            **parameters,
        }
        reply_key = key(request)
        async with self._asking.setdefault(reply_key, asyncio.Lock()):
            row = self._journal.get(reply_key)
            if row is not None and ("error" not in row or row.get("serving") == self._serving):
                # Replies of the journal alone would keep the event loop from all other work.
                async with self._replays:
                    await asyncio.sleep(0)
            else:
                body = {"messages": messages, "tools": tools, **parameters}
                if session is not None:
                    body["extra_headers"] = {"X-Session-ID": quote(session, safe="/:")}
                self.asked += 1
                await self._open()
                # A task of its own: the reply is journalled although who asked is cancelled.
                asking = asyncio.create_task(self._ask_and_store(reply_key, request, body, session))
                self._running.add(asking)
                asking.add_done_callback(self._forget)
                row = await asyncio.shield(asking)
        reply = Reply.of_row(reply_key, row)
        if reply.error is not None:
            self.failures[reply.error.partition(":")[0]] += 1
        elif parameters.get("logprobs") and "logprobs" not in row:
            self.without_logprobs += 1
        return reply

    async def _open(self) -> None:
        """Connects to the endpoint, which is started first if nothing was asked before."""
        async with self._opening:
            if self._connection is not None:
                return
            endpoint = self._find_endpoint
            self._endpoint = endpoint if isinstance(endpoint, Endpoint) else await endpoint()
            _allow_open_files(self._concurrency + _OTHER_FILES)
            timeout = self._find_timeout
            self._timeout = timeout() if callable(timeout) else timeout
            self._connection = Connection(self._endpoint, self._timeout, self._concurrency)
            self._following = asyncio.create_task(self._follow_load(self._connection))

    async def _follow_load(self, connection: Connection) -> None:
        """Looks at the server's metrics as long as it has some, and lowers the number of requests in flight."""
        state = load.Load()
        with contextlib.suppress(ValueError):  # no metrics
            while (text := await connection.metrics()) is not None:
                if text and (most := state.most(load.parse(text))) is not None:
                    self.slots.shrink(to=most)
                await asyncio.sleep(load.SECONDS)

    async def _ask_and_store(
        self, reply_key: str, request: dict[str, Any], body: dict[str, Any], session: str | None
    ) -> dict[str, Any]:
        """The row of the journal for a request, which has it when this returns."""
        try:
            row = await self._ask(body, session)
            if "error" in row:
                row |= {"serving": self._serving, "request": request}
            self._journal.put(reply_key, row)
        except StageError as error:
            # No request is sent whose reply nobody would use.
            self._ended_by = self._ended_by or str(error)
            raise
        return row

    def _forget(self, asking: asyncio.Task[Any]) -> None:
        self._running.discard(asking)
        if not asking.cancelled():
            asking.exception()  # nobody waits for it if who asked was cancelled

    async def _ask(self, body: dict[str, Any], session: str | None) -> dict[str, Any]:
        """The row of the journal for a request: sent until there is a reply, or until no retry can help."""
        wait, tries, tries_while_alive = _FIRST_WAIT, 0, 0
        answers, first_failure = self._answers, 0.0
        while True:
            started = time.monotonic()
            failure = await self._send(body, session)
            if not isinstance(failure, Failure):
                return failure
            now = time.monotonic()
            if failure.lasts:
                return failed(failure, now - started)
            tries += 1
            first_failure = first_failure or now
            self._silent_since = self._silent_since or now
            if tries >= _TRIES and self._answers == answers:
                await self._probe()
            # Since this request's last failure, the server has answered another one.
            is_alive, answers = self._answers > answers, self._answers
            tries_while_alive += is_alive and failure.may_be_the_requests
            if tries_while_alive >= _TRIES or (is_alive and now - first_failure > self._patience):
                return failed(failure, now - started)
            await self._wait_to_retry(failure, wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _send(self, body: dict[str, Any], session: str | None) -> dict[str, Any] | Failure:
        """Sends a request once. Returns the row of the journal for its reply, or why there is none.

        Raises:
            StageError: as `judge`.
        """
        assert self._connection is not None
        await self._pace.admit(body)
        async with self.slots.take(has_begun=session in self._begun) as turn:
            self._check_open()
            if session is not None:
                self._remember(session)
            self.sent += 1
            started = time.monotonic()
            # Image files are read here, so that memory holds only those of the requests in flight.
            sent = {**body, "messages": inline_pixels(body["messages"], self._image_store)}
            headers = sent.pop("extra_headers", {})
            sent |= sent.pop("extra_body", {})
            if not sent["tools"]:
                del sent["tools"]
                sent.pop("tool_choice", None)
            if sent.get("logprobs") and self._endpoint.engine == "vllm":
                # It changes how a token is written, not which.
                sent["return_tokens_as_token_ids"] = True
            try:
                with self._endpoint.request_in_flight(), self._on_its_way():
                    answer = await self._connection.ask(sent, headers, session)
                seconds = time.monotonic() - started
                row, model = parse(answer, seconds)
            except (*_NO_REPLY, UnusableAnswer) as error:
                failure = judge(error, self._endpoint)
                if failure.is_overload:
                    self.slots.shrink(turn)
                return failure
            if seconds > _LATE * self._timeout:
                self.slots.shrink(turn)
            self.slots.grow()
        self._answers += 1
        self._silent_since = None
        self._pace.learn(body, row["usage"])
        return row | self._origin(model)

    def _check_open(self) -> None:
        if self._ended_by:
            raise StageError(self._ended_by)

    def _remember(self, session: str) -> None:
        """Notes that a conversation has begun; the oldest ones are forgotten."""
        self._begun.pop(session, None)
        self._begun[session] = None
        if len(self._begun) > CONVERSATIONS * self._concurrency:
            del self._begun[next(iter(self._begun))]

    @contextlib.contextmanager
    def _on_its_way(self) -> Iterator[None]:
        """Notes for the time of the block that the server has the request of this task."""
        task = asyncio.current_task()
        assert task
        self._sent_now.add(task)
        try:
            yield
        finally:
            self._sent_now.discard(task)

    async def _wait_to_retry(self, failure: Failure, seconds: float) -> None:
        """Returns when a request may be sent again; restarts a dead server of this process first.

        Raises:
            StageError: the server has answered no request for the time of `patience`, or cannot be restarted.
        """
        self._check_open()
        restarts = self._endpoint.restarts
        await self._endpoint.revive()
        now = time.monotonic()
        if self._endpoint.restarts > restarts:
            self._silent_since = now
        silent = now - (self._silent_since or now)
        if silent > self._patience:
            raise StageError(
                f"{self._endpoint.url}: no reply to any request for {silent:.0f} s (generate.patience_s):"
                f" {failure}; the same command continues with the replies so far"
            )
        seconds = max(
            seconds * random.uniform(0.5, 1.5), failure.retry_after * random.uniform(1, 1.1)
        )
        # The last retry comes when the patience ends, even if the server asks for more.
        seconds = min(seconds, self._patience - silent + _FIRST_WAIT)
        self.retries[failure.cause] += 1
        self.waited += seconds
        await asyncio.sleep(seconds)

    async def _probe(self) -> None:
        """Sends a request that any model can answer. Its reply counts as an answer of the server."""
        if self._probing.locked():
            return
        async with self._probing:
            await self._send(_PROBE, None)

    def _origin(self, model: Any) -> dict[str, str]:
        """{"host", "model"} of an answer of an API, where it names the model; empty for a server of this process."""
        if self._endpoint.served is None:
            return {}
        name = one_line(model, 120) if isinstance(model, str) else ""
        origin = {
            "host": self._endpoint.served["host"],
            "model": without_key(name, self._endpoint.key),
        }
        return {key: value for key, value in origin.items() if value}


def _allow_open_files(count: int) -> None:
    """Raises this process's own limit of open files, which is often 1,024, as far as the system lets it.

    Raises:
        StageError: the system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise StageError(
            f"found a limit of {hard:,} open files (ulimit -Hn), expected {count:,} for the requests in flight: lower"
            " generate.concurrency or raise the limit"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
