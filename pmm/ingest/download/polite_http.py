"""Polite HTTP: a named client, few connections to a host, and the pauses that a host asks for.

urllib3 does connections, TLS and parsing. Its `Retry` puts to sleep the one thread that got the
answer; here a host that says "later" is left alone by every thread, so retrying is done here, and
of `Retry` only the reading of Retry-After is used. Redirects are followed here as well: each goes
to a host of its own, whose limits hold. How long a request may take in all, and to which addresses
it may go, is kept by its connections (`pmm.ingest.download.timed_connections`).

No request leaves unless a method of `Web` is called.
"""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urljoin
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.util import Retry, Timeout, parse_url

from pmm.ingest.download.public_addresses import RefusedAddress, require_public, resolve
from pmm.ingest.download.timed_connections import (
    allow_s,
    restart_clock,
    time_is_over,
    timed_pools,
)
from pmm.version import __version__

USER_AGENT = f"pmm/{__version__}"

_HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
_CONNECT_S = 10.0
_RESOLVE_S = 5.0
_PIECE = 1 << 18
_WORTH_READING = 1 << 16

Trouble = Literal[
    "bad url",  # no http or https address
    "not found",  # 404 or 410
    "forbidden",  # 401, 403 or 451
    "refused",  # another 4xx
    "refused address",  # of this machine, its network or its provider: it is not asked
    "redirects",  # too many, or one that leads nowhere
    "too large",  # more bytes than allowed
    "timeout",
    "connection",  # no such host, refused, reset, TLS
    "cut off",  # fewer bytes than announced
    "server error",  # 5xx, or 429 and 408 to the end
]

PASSING: frozenset[str] = frozenset({"timeout", "connection", "cut off", "server error"})
"""Failures that a later try may not meet: the request is repeated."""


class WebError(Exception):
    """A request that brought nothing. The caller makes an outcome or a PmmError of it."""

    def __init__(
        self,
        trouble: Trouble,
        detail: str = "",
        *,
        status: int | None = None,
        pause_s: float | None = None,
        over: bool = False,
    ) -> None:
        super().__init__(f"{trouble} ({detail})" if detail else trouble)
        self.trouble: Trouble = trouble
        self.status = status
        self.pause_s = pause_s
        """Seconds for which the host wants to be left alone, where it said so."""
        self.over = over
        """The request had all the time that it may take: another one would only take it again."""


@dataclass(frozen=True, kw_only=True)
class WebOptions:
    """How many requests a host gets at once, and how often and when a failed one is repeated."""

    connections_per_host: int = 8
    timeout_s: float = 30.0
    """Without a single byte. To connect: 10 s at most."""
    longest_s: float = 120.0
    """For a request, from the moment of connecting to the last byte (`steady_pieces`: of its head):
    a host that sends a byte now and then is never silent, and never done."""
    steady_s: float = 60.0
    steady_bytes: int = 1 << 14
    """Of a file of any length, so many bytes must come in each so many seconds."""
    allow_private: bool = False
    """Ask addresses that are not public too."""
    tries: int = 5
    first_delay_s: float = 1.0
    """Before the second try; doubled before each further one, and varied by half."""
    longest_delay_s: float = 60.0
    longest_pause_s: float = 300.0
    """A host that asks for more with Retry-After is asked again after this many seconds."""
    redirects: int = 5

    def delay_s(self, tries: int) -> float:
        """Seconds to wait after this number of failed tries."""
        delay: float = min(self.longest_delay_s, self.first_delay_s * 2 ** (tries - 1))
        return delay * random.uniform(0.5, 1.0)


class Hosts:
    """Which hosts may be asked now: few requests to one at once, none while it is paused."""

    def __init__(self, at_once: int, longest_pause_s: float) -> None:
        self.changed = threading.Condition()
        """Held for each change; notified when a host has become free."""
        self._at_once, self._longest_pause_s = at_once, longest_pause_s
        self._asked: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def try_take(self, host: str) -> bool:
        """Take one of the host's places, if one is free and the host is not paused."""
        with self.changed:
            if self._asked.get(host, 0) >= self._at_once or self.pause_left_s(host) > 0:
                return False
            self._asked[host] = self._asked.get(host, 0) + 1
            return True

    def take(self, host: str) -> None:
        """Take one of the host's places as soon as that is possible."""
        with self.changed:
            while not self.try_take(host):
                self.changed.wait(self.pause_left_s(host) or None)

    def free(self, host: str) -> None:
        """Give a place back."""
        with self.changed:
            self._asked[host] -= 1
            if not self._asked[host]:
                del self._asked[host]
            self.changed.notify_all()

    def pause(self, host: str, seconds: float) -> None:
        """Leave the host alone, for no longer than the limit."""
        with self.changed:
            until = time.monotonic() + min(seconds, self._longest_pause_s)
            self._until[host] = max(until, self._until.get(host, 0.0))

    def pause_left_s(self, host: str) -> float:
        """Seconds until the host may be asked again; 0 = now."""
        until = self._until.get(host)
        return 0.0 if until is None else max(0.0, until - time.monotonic())


class Web:
    """One pool of connections; many threads may use it."""

    def __init__(self, options: WebOptions | None = None) -> None:
        self.options = options or WebOptions()
        self.hosts = Hosts(self.options.connections_per_host, self.options.longest_pause_s)
        settings: dict[str, Any] = {
            "maxsize": self.options.connections_per_host,
            "block": True,  # no connection beyond those, not even an idle one
            "timeout": Timeout(
                connect=min(_CONNECT_S, self.options.timeout_s), read=self.options.timeout_s
            ),
            "retries": False,
        }
        self._direct = timed_pools(settings, public=not self.options.allow_private)
        # A proxy is the user's own choice, wherever it is.
        self._proxies: dict[str, urllib3.PoolManager] = {
            scheme: timed_pools(settings, proxy=address, public=False)
            for scheme, address in getproxies().items()
            if scheme in ("http", "https") and address.startswith(("http://", "https://"))
        }
        self._addresses: dict[str, list[str]] = {}
        """Host that was asked for through a proxy -> what it is here, if anything."""

    def ask(
        self, url: str, headers: Mapping[str, str] | None = None, *, unpack: bool = False
    ) -> urllib3.BaseHTTPResponse:
        """Send one GET now and return the answer, of any status; its body is not read yet.

        The caller is `done_with` the answer in the end: until then it has the connection.

        Args:
            url: http or https.
            headers: besides those that name this client.
            unpack: undo a Content-Encoding; without it the bytes are those of the file.

        Raises:
            WebError: there was no answer.
        """
        scheme = url.partition(":")[0].lower()
        pool, host = self._proxies.get(scheme), host_of(url).rpartition(":")[0]
        if pool is None or proxy_bypass(host):
            pool = self._direct
        with _web_errors():
            if pool is not self._direct and not self.options.allow_private:
                self._judge(host)
            allow_s(self.options.longest_s)
            return pool.request(
                "GET",
                url,
                headers={**_HEADERS, **(headers or {})},
                redirect=False,
                preload_content=False,
                decode_content=unpack,
            )

    def _judge(self, host: str) -> None:
        """Refuse a host that a proxy would be asked for, by what it is here.

        A name that is known to the proxy alone is the proxy's business.
        """
        if host not in self._addresses:
            found: list[str] = []
            with contextlib.suppress(socket.gaierror, TimeoutError):
                found = resolve(host, 80, _RESOLVE_S)
            self._addresses[host] = found
        require_public(host, self._addresses[host])

    def close_idle(self) -> None:
        """Close the connections that are not in use."""
        for pool in (self._direct, *self._proxies.values()):
            pool.clear()

    @contextmanager
    def opened(
        self, url: str, headers: Mapping[str, str] | None = None, accept: tuple[int, ...] = (200,)
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer of a GET, after redirects, pauses and further tries.

        One of the host's places is taken while the block runs.

        Args:
            url: http or https.
            headers: besides those that name this client.
            accept: the statuses that are wanted.

        Raises:
            WebError: another status to the end, or no answer at all.
        """
        response, host = self._patiently(url, headers, accept)
        try:
            yield response
        finally:
            done_with(response)
            self.hosts.free(host)

    def _patiently(
        self, url: str, headers: Mapping[str, str] | None, accept: tuple[int, ...]
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        tries = hops = 0
        while True:
            host = host_of(url)
            self.hosts.take(host)
            taken = True
            try:
                response = self.ask(url, headers)
                if response.status in accept:
                    taken = False  # the caller frees it
                    return response, host
                let_go(response)
                moved = moved_to(url, response)
                if moved is None:
                    raise failure_of(response)
                hops += 1
                if hops > self.options.redirects:
                    raise WebError("redirects", f"more than {self.options.redirects}")
                url = moved
            except WebError as error:
                tries += 1
                last = error.over or tries >= self.options.tries
                if error.trouble not in PASSING or last:
                    raise
                self.hosts.pause(host, error.pause_s or self.options.delay_s(tries))
            finally:
                if taken:
                    self.hosts.free(host)


def host_of(url: str) -> str:
    """The host and port that a request for the address goes to.

    >>> host_of("https://Images.Example.com/a.jpg")
    'images.example.com:443'

    Raises:
        WebError: it is no http or https address.
    """
    try:
        parts = parse_url(url)
    except (LocationValueError, ValueError) as error:
        raise WebError("bad url", str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise WebError("bad url", "http:// or https:// is expected")
    return f"{parts.host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def moved_to(url: str, response: urllib3.BaseHTTPResponse) -> str | None:
    """The address that a response redirects to; None if it does not redirect.

    Raises:
        WebError: the target is no http or https address.
    """
    if response.status not in (301, 302, 303, 307, 308):
        return None
    location = response.headers.get("Location", "")
    try:
        target = urljoin(url, location)
        host_of(target if location else "")
    except (WebError, ValueError):
        detail = f"{location!r} is no http address"
        raise WebError("redirects", detail, status=response.status) from None
    return target


def failure_of(response: urllib3.BaseHTTPResponse) -> WebError:
    """What an answer without the wanted status means."""
    status = response.status
    trouble: Trouble = "refused"
    if status in (404, 410):
        trouble = "not found"
    elif status in (401, 403, 451):
        trouble = "forbidden"
    elif status in (408, 425, 429) or status >= 500:
        trouble = "server error"
    asked = response.headers.get("Retry-After") if trouble == "server error" else None
    return WebError(trouble, f"status {status}", status=status, pause_s=_retry_after_s(asked))


def _retry_after_s(value: str | None) -> float | None:
    """Seconds, from a number or a date; None where the header is not there or makes no sense."""
    if value is None:
        return None
    try:
        return Retry().parse_retry_after(value)
    except (HTTPError, ValueError, OverflowError):
        return None


def let_go(response: urllib3.BaseHTTPResponse) -> None:
    """Give up a response whose body is not needed; a short one is read, to keep the connection."""
    length = response.headers.get("Content-Length", "")
    # In chunks a body is as long as it likes, whatever it says beside.
    sized = length.isascii() and length.isdigit() and "Transfer-Encoding" not in response.headers
    if sized and int(length[:18]) <= _WORTH_READING:
        with contextlib.suppress(HTTPError, OSError):
            response.read(decode_content=False)
    done_with(response)


def done_with(response: urllib3.BaseHTTPResponse) -> None:
    """Give the connection back, closed if not all of the body has been read."""
    response.close()
    response.release_conn()


def pieces(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The body as it comes, in pieces as the network delivers them.

    Raises:
        WebError: it ends before its announced length, or nothing comes for too long.
    """
    while True:
        with _web_errors("cut off"):
            piece = response.read1(_PIECE)
        if not piece:
            return
        yield piece


def steady_pieces(response: urllib3.BaseHTTPResponse, options: WebOptions) -> Iterator[bytes]:
    """`pieces` of a body that may take any time, as long as it goes on at a least rate.

    Raises:
        WebError: as `pieces`, and "timeout" where too little has come for too long.
    """
    restart_clock(options.steady_s)
    fresh = 0
    for piece in pieces(response):
        yield piece
        fresh += len(piece)
        if fresh >= options.steady_bytes:
            restart_clock(options.steady_s)
            fresh = 0


def read_body(response: urllib3.BaseHTTPResponse, most_bytes: int) -> bytes:
    """The whole body.

    Args:
        response: of `Web.ask`; the caller is `done_with` it then, also after an error.
        most_bytes: a longer body is refused, by its announced length if it has one.

    Raises:
        WebError: "too large", "timeout", "cut off" or "connection".
    """
    announced = response.headers.get("Content-Length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:18]) > most_bytes:
        raise WebError("too large", f"{announced} bytes", status=response.status)
    parts, size = [], 0
    for piece in pieces(response):
        parts.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise WebError("too large", f"over {most_bytes} bytes", status=response.status)
    return b"".join(parts)


@contextmanager
def _web_errors(otherwise: Trouble = "connection") -> Iterator[None]:
    """urllib3's exceptions as a WebError."""
    try:
        yield
    except LocationValueError as error:
        raise WebError("bad url", str(error)) from None
    except RefusedAddress as error:
        raise WebError("refused address", str(error)) from None
    except NewConnectionError as error:  # urllib3 counts it among the timeouts
        raise WebError("connection", str(error)) from None
    except (ConnectTimeoutError, ReadTimeoutError, TimeoutError) as error:
        raise WebError("timeout", str(error), over=time_is_over()) from None
    except (HTTPError, OSError) as error:
        raise WebError(otherwise, str(error)) from None
    except ValueError as error:  # http.client refuses some addresses so
        raise WebError("bad url", str(error)) from None
