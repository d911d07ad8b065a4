"""The process that serves: its socket, its signals, its end."""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pmm.errors import InputError
from pmm.serve.limits import (
    CONNECTIONS,
    HEADER_BYTES,
    HEADER_SECONDS,
    KEEP_ALIVE_SECONDS,
    STOP_SECONDS,
)
from pmm.serve.load_served import ServedModel, load_served
from pmm.serve.serve_options import ServeRequest
from pmm.serve.serving import Serving
from pmm.serve.web.access import LOCAL_NAMES, AccessRules, read_tokens
from pmm.serve.web.web_app import make_app

logger = logging.getLogger(__name__)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 whose request heads must arrive in time; uvicorn itself waits for ever."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        # Head and body of an answer are two writes, and the second would wait for the client's
        # acknowledgement of the first, 40 ms. asyncio does this for sockets that say TCP alone.
        made = transport.get_extra_info("socket")
        if made is not None and made.family in (socket.AF_INET, socket.AF_INET6):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop waiting once a head is whole; begin when the first bytes of the next one come."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._head_came()
        elif self.cycle is None or self.cycle.response_complete:
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _head_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Stops on the first signal with the requests in hand answered; its end is a success."""

    def __init__(self, config: uvicorn.Config, serving: Serving) -> None:
        super().__init__(config)
        self._serving = serving

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals; uvicorn's own raises them once more at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        asked = (signal.SIGTERM, signal.SIGINT)
        former = {each: signal.signal(each, self.handle_exit) for each in asked}
        try:
            yield
        finally:
            for each, handler in former.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Say no more that it is ready, and stop."""
        self._serving.stopping = True
        super().handle_exit(sig, frame)


def serve(request: ServeRequest) -> None:
    """Serve until a signal comes.

    Raises:
        PmmError: the model cannot be loaded, the port or the folder is taken, or a token file
            cannot be used.
    """
    home, run = request.place()
    rules = _rules(request)
    listening = _listen(request.host, request.port)
    with contextlib.closing(listening):

        def load_model(place: Path) -> ServedModel:
            target = request.target_of(place, run)
            served = load_served(
                place, home, device=request.device, target=target, onnx=request.onnx
            )
            # Ids of a million items are a million objects, and each round of the garbage collector
            # would stop all answers to walk through them.
            gc.collect()
            gc.freeze()
            return served

        serving = Serving(request.folder(home, run), load_model)
        app = make_app(serving, rules, place_of=lambda name: request.place_of(name, run))
        server = _Server(_config(app), serving)
        failed: list[Exception] = []

        def load() -> None:
            try:
                served = serving.start(run)
                print(_greeting(request, listening, served.name, served.version, serving))
            except Exception as error:
                failed.append(error)
                server.should_exit = True

        loading = threading.Thread(target=load, name="pmm-first-model", daemon=True)
        loading.start()
        try:
            server.run(sockets=[listening])
        finally:
            stopped = serving.stopping
            loading.join(timeout=5)  # a model that is half loaded is let go
            serving.close()
        if failed and not stopped:
            raise failed[0]
        print("Stopped; every request in hand was answered.", flush=True)


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # what a client says of its address is not believed
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        h11_max_incomplete_event_size=HEADER_BYTES,
    )


def _rules(request: ServeRequest) -> AccessRules:
    tokens = read_tokens(request.token_file) if request.token_file else frozenset[bytes]()
    names = LOCAL_NAMES | {request.host.lower()} if _is_loopback(request.host) else None
    return AccessRules(
        tokens=tokens,
        reading_too=request.read_token,
        names=names,
        origins=frozenset(request.allow_origin),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: the port is taken, or there is no such address here.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: there is no such address ({error})") from error
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(socket.SOMAXCONN)
    except OSError as error:
        made.close()
        raise InputError(
            f"{host}:{port} cannot be listened at ({error.strerror}). Choose another --port; 0 "
            "takes a free one"
        ) from error
    made.set_inheritable(True)
    return made


def _greeting(
    request: ServeRequest, listening: socket.socket, name: str, version: str, serving: Serving
) -> str:
    host, port = listening.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    served = serving.current
    items = int(served.model.state.offered_N.sum())
    if request.token_file:
        who = "need a token" + (", and so does reading" if request.read_token else "")
    else:
        who = "are taken from this machine alone (--token-file FILE opens them to others)"
    return (
        f"{name} (version {version}, {items:,} items, {len(serving.log):,} of them added) answers "
        f"at http://{host}:{port}/\nCalls that change something {who}. Stop: Ctrl-C"
    )
