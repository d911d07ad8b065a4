"""A local web server that fails in all the ways that real ones do, and counts what it is asked."""

import io
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import numpy as np
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How an address answers."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    """Silence before the answer."""
    send: int | None = None
    """Bytes of the body that are sent before the connection is closed; None = all."""
    announce: bool = True
    """Whether a Content-Length is sent; without it the end of the connection is the end."""
    reset: bool = False
    """Reset the connection instead of answering."""
    drip_s: float | None = None
    """Send a byte each so many seconds."""
    chunk_s: float = 0.0
    """Pause between pieces of 64 KiB."""
    start: bytes = b""
    again: bytes = b""
    """Instead of an answer: these bytes, then those again and again until the client has gone, a
    hundredth of a second apart."""
    etag: str | None = None
    ranges: bool = False
    """Whether a Range is honoured (and an If-Range compared)."""


class BadServer:
    """Serves `answers` on 127.0.0.1 while the block runs.

    `answers[path]` is an Answer, or several that take turns (the last one stays); other paths are
    not found. `asked` counts requests by path.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Sequence[Answer]] = {}
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, list[dict[str, str]]] = {}
        self.times: list[float] = []
        self.most_at_once = self.most_open = 0
        """The most requests and the most connections at one time."""
        self.open = 0
        self.sent = 0
        """Bytes of bodies."""
        self._at_once = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> "BadServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Answer with TLS from now on."""
        plain = self._server.socket
        # The handshake is the thread's of a connection, or one that fails would end the server.
        self._server.socket = context.wrap_socket(
            plain, server_side=True, do_handshake_on_connect=False
        )

    def begin(self, path: str, headers: dict[str, str]) -> Answer:
        """Count a request and choose its answer."""
        with self._lock:
            self.times.append(time.monotonic())
            self.asked[path] += 1
            self.headers.setdefault(path, []).append(headers)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            answers = self.answers.get(path, Answer(status=404, body=b"no"))
            if isinstance(answers, Answer):
                return answers
            return answers[min(self.asked[path], len(answers)) - 1]

    def connected(self, change: int) -> None:
        """Count open connections."""
        with self._lock:
            self.open += change
            self.most_open = max(self.most_open, self.open)

    def end(self) -> None:
        """A request has been answered."""
        with self._lock:
            self._at_once -= 1

    def wrote(self, count: int) -> None:
        """Count bytes of bodies."""
        with self._lock:
            self.sent += count


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: BadServer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def setup(self) -> None:
        """Begin a connection."""
        self.owner.connected(1)
        super().setup()

    def finish(self) -> None:
        """End it."""
        try:
            super().finish()
        finally:
            self.owner.connected(-1)

    def do_GET(self) -> None:
        """Answer, or fail as asked."""
        answer = self.owner.begin(self.path, dict(self.headers))
        self._counted = True
        try:
            if answer.wait_s:
                time.sleep(answer.wait_s)
            if answer.reset:
                self._reset()
            elif answer.again:
                self._never_end(answer)
            else:
                self._answer(answer)
        except OSError:  # the client has given up
            self.close_connection = True
        finally:
            self._done()

    def _done(self) -> None:
        """Count the request as answered: before its last byte, or the next would overlap it."""
        if self._counted:
            self._counted = False
            self.owner.end()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _never_end(self, answer: Answer) -> None:
        self.close_connection = True
        self.wfile.write(answer.start)
        while True:
            self.wfile.write(answer.again)
            time.sleep(0.01)

    def _answer(self, answer: Answer) -> None:
        status, body, headers = answer.status, answer.body, dict(answer.headers)
        if answer.etag:
            headers["ETag"] = answer.etag
        wanted = self.headers.get("Range", "")
        same = self.headers.get("If-Range") in (None, answer.etag)
        if answer.ranges and wanted.startswith("bytes=") and same:
            start = int(wanted[6:].split("-")[0])
            if start >= len(body):
                status, headers["Content-Range"], body = 416, f"bytes */{len(body)}", b""
            else:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[start:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if answer.announce:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        if not body:
            self._done()
        self.end_headers()
        self._send(answer, body if answer.send is None else body[: answer.send])
        if answer.send is not None or not answer.announce:
            self.close_connection = True

    def _send(self, answer: Answer, body: bytes) -> None:
        size = 1 if answer.drip_s is not None else 1 << 16
        for start in range(0, len(body), size):
            time.sleep(answer.drip_s or answer.chunk_s)
            if start + size >= len(body):
                self._done()
            self.wfile.write(body[start : start + size])
            self.owner.wrote(len(body[start : start + size]))


def picture(seed: int = 0, side: int = 32, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A picture of noise; each seed gives another."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def unused_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as unbound:
        unbound.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unbound.getsockname()[1]}"
