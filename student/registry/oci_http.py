"""Requests to an OCI registry: login, retries, redirects, pages. What they mean is decided in oci_registry.py.

Its own client on httpx. The package oras 0.2.43 reads a whole blob into memory to upload it, cannot continue a
download, keeps one token for all rights, and repeats a refused login for two minutes; python-dxf 12.1 cannot continue
either, and sends the login to any host that an upload is redirected to.

What it guarantees: a login goes to the registry and to the token service that it names over TLS, nowhere else; no
header and no query of a URL is part of a message; a reply is limited in size before it is read.
"""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from schemas.error_text import one_line
from schemas.errors import InputError, StageError
from student.registry.credentials import PASSWORD, USER, Credentials, find
from student.registry.location import RegistryUrl, is_loopback

_HOSTS = {"docker.io": "registry-1.docker.io"}
_TIMEOUT = httpx.Timeout(60, connect=15)
_SHORT = httpx.Timeout(5)
WAITS_S = (0.5, 2.0, 5.0, 15.0)  # before each repetition of what failed
_LONGEST_WAIT_S = 60.0  # of what Retry-After asks for
_PASSING = {429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 5
_LARGEST_REPLY = 16 << 20  # bytes
_MOST_PAGES = 200
_CHALLENGE = re.compile(r'([A-Za-z]+)="([^"]*)"')

# A request's body: bytes, or a function that begins the stream again for each attempt.
Body = bytes | Callable[[], Iterable[bytes]] | None


class Interrupted(StageError):
    """A transfer that failed and may succeed when it is repeated."""


class Registry:
    """A registry and this process's login to it. Several threads may use it.

    patient: whether requests that fail are repeated; otherwise each has 5 s.
    """

    def __init__(self, url: RegistryUrl, *, patient: bool = True) -> None:
        self.url = url
        self._patient = patient
        self._base = f"{url.scheme}://{_HOSTS.get(url.host, url.host)}"
        self._plain = url.scheme == "http"
        # A registry of this machine is not reached through a proxy of the environment.
        local = is_loopback(urlsplit(self._base).hostname or "")
        self._client = httpx.Client(
            timeout=_TIMEOUT if patient else _SHORT,
            trust_env=not local,
            verify=httpx.create_ssl_context(trust_env=True),  # reads SSL_CERT_FILE
            # A compressed reply would have other bytes than its digest and its ranges say.
            headers={"Accept-Encoding": "identity", "User-Agent": "stillhouse"},
        )
        # A registry that gets its cookie back takes this for a browser and asks for a token against forgery (Harbor).
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._authorization: dict[str, str] = {}  # by scope
        self._lock = threading.Lock()
        self._looked_up = self._answered = False
        self._credentials: Credentials | None = None

    def request(
        self,
        method: str,
        path: str,
        scope: str,
        body: Body = None,
        headers: dict[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> httpx.Response:
        """Sends a request, repeated where the failure may pass, and returns the whole reply.

        Args:
            path: of the registry, or a URL that it gave.
            scope: of the token, such as repository:team/legal:pull.
            accept: status codes beside 2xx that are returned.

        Raises:
            InputError: the login is missing or refused.
            StageError: the registry cannot be reached, or replies with another status.
        """
        with self.stream(method, path, scope, body, headers, accept) as response:
            content = _limited(response)
            # The content is decoded: a response with the old header would be decoded again.
            kept = [(k, v) for k, v in response.headers.items() if k != "content-encoding"]
            return httpx.Response(response.status_code, headers=kept, content=content)

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        scope: str,
        body: Body = None,
        headers: dict[str, str] | None = None,
        accept: tuple[int, ...] = (),
        *,
        repeat: bool = True,
    ) -> Iterator[httpx.Response]:
        """Like `request`, but yields the reply before its body is read.

        repeat: whether a failure that may pass is repeated here; otherwise it raises `Interrupted` at once.
        """
        response = self._send(method, path, scope, body, headers or {}, repeat)
        try:
            if not response.is_success and response.status_code not in accept:
                raise self._error(response, path)
            yield response
        except httpx.TransportError as error:
            raise Interrupted(
                f"{self._shown(path)}: the transfer broke off: {_text(error)}"
            ) from error
        finally:
            response.close()

    def pages(
        self, path: str, scope: str, accept: tuple[int, ...] = ()
    ) -> Iterator[httpx.Response]:
        """Yields the pages of a list. A link that leads to another host is not followed.

        Raises:
            StageError: the list does not end.
        """
        for _ in range(_MOST_PAGES):
            response = self.request("GET", path, scope, accept=accept)
            yield response
            following = response.links.get("next", {}).get("url")
            if not following:
                return
            url = urlsplit(joined(self._base + path, following))
            if f"{url.scheme}://{url.netloc}" != self._base:
                raise StageError(
                    f"{self._shown(path)}: the next page is on another host: not followed"
                )
            path = f"{url.path}?{url.query}"
        raise StageError(f"{self._shown(path)}: found more than {_MOST_PAGES} pages")

    def _send(
        self, method: str, path: str, scope: str, body: Body, headers: dict[str, str], repeat: bool
    ) -> httpx.Response:
        """Returns the reply to a request, with its body unread."""
        renewed = False
        attempt, last = 0, len(WAITS_S) if repeat and self._patient else 0
        while True:
            try:
                response = self._follow(method, path, scope, body, headers)
            except httpx.TransportError as error:
                # Nobody has answered yet: perhaps the host is wrong.
                if attempt == (last if self._answered else min(last, 2)):
                    raise Interrupted(
                        f"{self._shown(path)}: cannot be reached: {_text(error)}{self._hint(error)}"
                    ) from error
                time.sleep(WAITS_S[attempt])
                attempt += 1
                continue
            self._answered = True
            if response.status_code == 401 and not renewed:
                # Also a token that has expired on the way.
                renewed = True
                used = response.request.headers.get("Authorization")
                challenge = response.headers.get("WWW-Authenticate", "")
                response.close()
                self._log_in(challenge, scope, used)
                continue
            if response.status_code in _PASSING and attempt < last:
                wait = _retry_after(response) or WAITS_S[attempt]
                response.close()
                time.sleep(wait)
                attempt += 1
                continue
            return response

    def _follow(
        self, method: str, path: str, scope: str, body: Body, headers: dict[str, str]
    ) -> httpx.Response:
        """Sends one request and follows its redirects; the login is for the registry alone."""
        url = joined(self._base, path)
        for _ in range(_MOST_REDIRECTS):
            self._check_url(url)
            sent = dict(headers)
            if self._is_own(url) and (authorization := self._authorization.get(scope)):
                sent["Authorization"] = authorization
            content = body() if callable(body) else body
            request = self._client.build_request(method, url, content=content, headers=sent)
            response = self._client.send(request, stream=True)
            target = response.headers.get("Location")
            if (
                response.status_code not in _REDIRECTS
                or method not in ("GET", "HEAD")
                or not target
            ):
                return response
            response.close()
            url = joined(url, target)
        raise StageError(f"{self._shown(path)}: redirected more than {_MOST_REDIRECTS} times")

    def _is_own(self, url: str) -> bool:
        parts, own = urlsplit(url), urlsplit(self._base)
        return (parts.scheme, parts.netloc) == (own.scheme, own.netloc)

    def _check_url(self, url: str) -> None:
        """Raises StageError for a URL without TLS, unless registry and target are this machine."""
        parts = urlsplit(url)
        if parts.scheme == "https":
            return
        if parts.scheme != "http" or not self._plain or not is_loopback(parts.hostname or ""):
            raise StageError(f"{self.url}: leads to {_shown_url(url)} without TLS: not followed")

    def _log_in(self, challenge: str, scope: str, used: str | None) -> None:
        """Gets what the registry's challenge asks for: basic authentication, or a token for the scope.

        used: the header that was refused; another thread may have got a new one since.

        Raises:
            InputError: there is no login, or it is refused.
        """
        scheme = challenge.partition(" ")[0].lower()
        with self._lock:
            if self._authorization.get(scope) != used:
                return
            if scheme == "basic":
                credentials = self._login()
                if credentials is None or not credentials.user or used == credentials.basic():
                    raise self._refused()
                self._authorization[scope] = credentials.basic()
            elif scheme == "bearer":
                self._authorization[scope] = f"Bearer {self._token(challenge, scope)}"
            else:
                raise StageError(f"{self.url}: asks for an unknown kind of login: {scheme[:20]!r}")

    def _token(self, challenge: str, scope: str) -> str:
        """Returns a token of the service that the registry names."""
        fields = dict(_CHALLENGE.findall(challenge))
        realm = joined(self._base, fields.get("realm", ""))
        self._check_url(realm)
        credentials = self._login()
        query = {"service": fields.get("service", ""), "scope": scope}
        if credentials and credentials.token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.token,
                "client_id": "stillhouse",
                **query,
            }
            request = self._client.build_request("POST", realm, data=form)
        else:
            headers = {"Authorization": credentials.basic()} if credentials else {}
            request = self._client.build_request("GET", realm, params=query, headers=headers)
        try:
            with contextlib.closing(self._client.send(request, stream=True)) as response:
                content = _limited(response)
        except httpx.TransportError as error:
            raise Interrupted(
                f"{_shown_url(realm)}: cannot be reached: {_text(error)}{self._hint(error)}"
            ) from error
        if response.status_code in (400, 401, 403):
            raise self._refused()
        if not response.is_success:
            raise StageError(
                f"{_shown_url(realm)}: replied with {response.status_code}, expected a token"
            )
        try:
            reply = json.loads(content)
            return str(reply.get("token") or reply["access_token"])
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise StageError(f"{_shown_url(realm)}: expected JSON with a token") from None

    def _login(self) -> Credentials | None:
        if not self._looked_up:
            self._credentials = find(self.url.host, self.url.namespace)
            self._looked_up = True
        return self._credentials

    def _refused(self) -> InputError:
        found = self._login()
        reason = f"the login of {found.source} was refused" if found else "it asks for a login"
        return InputError(
            f"{self.url}: {reason}: run `docker login {self.url.host}`, or set {USER} and {PASSWORD}"
        )

    def _error(self, response: httpx.Response, path: str) -> InputError | StageError:
        status = response.status_code
        if status == 401:
            return self._refused()
        if status == 403:
            found = self._login()
            return InputError(
                f"{self._shown(path)}: forbidden{f' for the login of {found.source}' if found else ''}:"
                " expected a login that may do this"
            )
        kind = Interrupted if status in _PASSING else StageError
        return kind(f"{self._shown(path)}: replied with {status}{_reasons(response)}")

    def _shown(self, path: str) -> str:
        return _shown_url(urljoin(self._base, path))

    def _hint(self, error: httpx.TransportError) -> str:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return ": name the certificate of its authority in SSL_CERT_FILE"
        local = is_loopback(urlsplit(self._base).hostname or "")
        if not self._plain and local and "SSL" in str(error):
            return f": a registry of this machine without TLS is http://{self.url.host}/{self.url.namespace}"
        return ""


def _limited(response: httpx.Response) -> bytes:
    """Returns the body of a reply. Raises StageError where it is longer than any that is expected."""
    chunks, size = [], 0
    url = _shown_url(str(response.request.url))
    try:
        for chunk in response.iter_bytes():
            chunks.append(chunk)
            size += len(chunk)
            if size > _LARGEST_REPLY:
                raise StageError(f"{url}: expected a reply of at most {_LARGEST_REPLY:,} bytes")
    except httpx.DecodingError:
        raise StageError(f"{url}: sent a compressed reply that cannot be read") from None
    return b"".join(chunks)


def joined(base: str, target: str) -> str:
    """Returns the URL that `target` means at `base`. Raises StageError where it is none."""
    try:
        url = urljoin(base, target)
        httpx.URL(url)
        return url
    except (ValueError, httpx.InvalidURL):
        where = _shown_url(base).removeprefix("://")
        raise StageError(f"{where}: leads to a URL that cannot be read") from None


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), _LONGEST_WAIT_S) if value.isdecimal() else None


def _shown_url(url: str) -> str:
    """Returns a URL without its query, which may hold a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _text(error: Exception) -> str:
    return one_line(str(error), 200) or type(error).__name__


def _reasons(response: httpx.Response) -> str:
    """Returns what the registry says about an error, made fit for a terminal."""
    try:
        content = next(response.iter_bytes(), b"")[:4096]
        errors: Any = json.loads(content)["errors"]
        said = "; ".join(f"{e.get('code', '')} {e.get('message', '')}".strip() for e in errors)
    except (ValueError, KeyError, TypeError, AttributeError, httpx.HTTPError):
        return ""
    printable = "".join(c if c.isprintable() else " " for c in said)[:200]
    return f": {printable}" if printable else ""
