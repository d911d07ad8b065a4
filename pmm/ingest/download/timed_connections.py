"""Connections of urllib3 that keep one deadline, and go to addresses that were checked.

urllib3 limits the silence between two bytes. A host that sends one now and then (of a status line,
of headers, of `100 Continue`, of a chunk's size, of a TLS handshake) is never silent and never
done. Here every wait on a socket ends with a clock as well, which each thread has one of: a thread
sends one request at a time, and reads its answer itself.

A name is resolved once, all that it resolves to is checked, and one of these addresses is connected
to: asking again, a name server might give another answer. TLS and the request still have the name.
"""

import contextlib
import math
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection
from urllib3.util.ssl_ import create_urllib3_context

from pmm.ingest.download.public_addresses import require_public, resolve

_Found = TypeVar("_Found")


class _Clock(threading.local):
    """When the request of this thread must be done."""

    until = math.inf
    allowed_s = math.inf
    """From the moment at which there is a connection for it."""

    def left_s(self) -> float:
        """Seconds that are left. TimeoutError if none is."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for the whole request is over")
        return left


_CLOCK = _Clock()


def allow_s(seconds: float) -> None:
    """Give this thread's next request so many seconds, from when it has a connection."""
    _CLOCK.allowed_s = seconds


def restart_clock(seconds: float) -> None:
    """Give this thread's request so many seconds from now on."""
    _CLOCK.until = time.monotonic() + seconds


def time_is_over() -> bool:
    """Whether this thread's request has had all its time."""
    return time.monotonic() >= _CLOCK.until


def _in_time(own: socket.socket, call: Callable[..., _Found], *args: Any) -> _Found:
    """Wait on a socket for as long as its own timeout and the clock allow, whichever is shorter."""
    left, silent = _CLOCK.left_s(), own.gettimeout()
    if silent is not None and silent <= left:
        return call(*args)
    if left == math.inf:
        return call(*args)
    own.settimeout(left)
    try:
        return call(*args)
    finally:
        with contextlib.suppress(OSError):  # it has been closed
            own.settimeout(silent)


class TimedSocket(socket.socket):
    """A socket that keeps the clock, of whichever kind stands behind it in a class's bases."""

    def recv_into(self, *args: Any) -> int:
        """Receive, as `socket.socket.recv_into`."""
        return _in_time(self, super().recv_into, *args)

    def recv(self, *args: Any) -> bytes:
        """Receive, as `socket.socket.recv`."""
        return _in_time(self, super().recv, *args)

    def sendall(self, *args: Any) -> None:
        """Send, as `socket.socket.sendall`."""
        return _in_time(self, super().sendall, *args)


class TimedTlsSocket(TimedSocket, ssl.SSLSocket):
    """The same with TLS, from its handshake on."""

    def do_handshake(self, *args: Any) -> None:
        """Agree on keys, as `ssl.SSLSocket.do_handshake`."""
        return _in_time(self, super().do_handshake, *args)


def _connected(connection: HTTPConnection, host: str, *, public: bool) -> TimedSocket:
    """A socket for a connection, in place of what urllib3 would open."""
    try:
        addresses = resolve(host, connection.port, _CLOCK.left_s())
        if public:
            require_public(connection.host, addresses)
        error: OSError = OSError(f"{connection.host} has no address")
        for address in addresses:
            patience = min(_seconds(connection.timeout), _CLOCK.left_s())
            try:
                plain = create_connection(
                    (address, connection.port),
                    None if patience == math.inf else patience,
                    source_address=connection.source_address,
                    socket_options=connection.socket_options,
                )
            except OSError as failure:
                error = failure
                continue
            sys.audit("http.client.connect", connection, connection.host, connection.port)
            return _timed(plain)
        raise error
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"{connection.host}: {error}") from error
    except OSError as error:
        raise NewConnectionError(connection, f"{connection.host}: {error}") from error


def _seconds(timeout: Any) -> float:
    return float(timeout) if isinstance(timeout, int | float) else math.inf


def _timed(plain: socket.socket) -> TimedSocket:
    silent = plain.gettimeout()
    timed = TimedSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
    timed.settimeout(silent)
    return timed


class _AnyHttp(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self, self._dns_host, public=False)


class _AnyHttps(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self, self._dns_host, public=False)


class _PublicHttp(_AnyHttp):
    def _new_conn(self) -> socket.socket:
        return _connected(self, self._dns_host, public=True)


class _PublicHttps(_AnyHttps):
    def _new_conn(self) -> socket.socket:
        return _connected(self, self._dns_host, public=True)


class _AnyHttpPool(HTTPConnectionPool):
    ConnectionCls: type[_AnyHttp] = _AnyHttp

    def _get_conn(self, timeout: float | None = None) -> Any:
        found = super()._get_conn(timeout)
        restart_clock(_CLOCK.allowed_s)
        return found


class _AnyHttpsPool(HTTPSConnectionPool):
    ConnectionCls: type[_AnyHttps] = _AnyHttps

    def _get_conn(self, timeout: float | None = None) -> Any:
        found = super()._get_conn(timeout)
        restart_clock(_CLOCK.allowed_s)
        return found


class _PublicHttpPool(_AnyHttpPool):
    ConnectionCls = _PublicHttp


class _PublicHttpsPool(_AnyHttpsPool):
    ConnectionCls = _PublicHttps


def timed_pools(
    settings: dict[str, Any], *, proxy: str | None = None, public: bool
) -> urllib3.PoolManager:
    """Pools of connections that keep the clock.

    Args:
        settings: of `urllib3.PoolManager`.
        proxy: the address of a proxy that all requests go through.
        public: connect to public addresses only (see `RefusedAddress`).
    """
    context = create_urllib3_context()
    context.load_default_certs()
    context.sslsocket_class = TimedTlsSocket
    settings = {**settings, "ssl_context": context}
    pools = urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)
    pools.pool_classes_by_scheme = (
        {"http": _PublicHttpPool, "https": _PublicHttpsPool}
        if public
        else {"http": _AnyHttpPool, "https": _AnyHttpsPool}
    )
    return pools
