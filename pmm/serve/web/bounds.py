"""What stands between the network and the app: how much may come, how fast, and how many at once.

Bodies are read here, whole and bounded, so that nothing behind this waits for a client. A request
counts as in hand from then on; while its body arrives it costs no more than the bytes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pmm.serve.limits import (
    ANSWER_SECONDS,
    BODY_SECONDS,
    DISCARDED_BYTES,
    JSON_BYTES,
    REQUESTS,
    RETRY_SECONDS,
    UPLOAD_BYTES,
    UPLOADS,
)
from pmm.serve.web.access import is_writing

logger = logging.getLogger(__name__)

_ALWAYS = ("/health/live", "/health/ready", "/metrics")
"""Paths that are answered however much there is to do."""


class _Refusal(Exception):
    """Why a request is not taken."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status, self.told = status, told


class Bounds:
    """Refuses what is too large, too slow or too much."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_seconds: float = BODY_SECONDS,
        requests: int = REQUESTS,
        uploads: int = UPLOADS,
    ) -> None:
        """Stand in front of an app."""
        self._app, self._body_seconds = app, body_seconds
        self._most = {False: requests, True: uploads}
        self._in_hand = {False: 0, True: 0}
        """Reading and writing calls."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        bounded = _bounded_send(send)
        if scope["path"] in _ALWAYS:
            await self._app(scope, receive, bounded)
            return
        writing = is_writing(scope)
        try:
            # Writing calls are counted before their bodies come: those are large.
            if writing:
                self._enter(writing)
            try:
                if scope["method"] in ("POST", "PUT", "PATCH"):
                    receive = await self._whole_body(scope, receive)
                if not writing:
                    self._enter(writing)
                    try:
                        await self._app(scope, receive, bounded)
                    finally:
                        self._in_hand[writing] -= 1
                else:
                    await self._app(scope, receive, bounded)
            finally:
                if writing:
                    self._in_hand[writing] -= 1
        except _Refusal as refusal:
            headers = {"connection": "close"}
            if refusal.status == 503:
                headers["retry-after"] = str(RETRY_SECONDS)
            answer = JSONResponse({"error": refusal.told}, refusal.status, headers)
            await answer(scope, receive, bounded)

    def _enter(self, writing: bool) -> None:
        if self._in_hand[writing] >= self._most[writing]:
            raise _Refusal(503, "the server has its hands full; come back in a moment")
        self._in_hand[writing] += 1

    async def _whole_body(self, scope: Scope, receive: Receive) -> Receive:
        headers = Headers(scope=scope)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refusal(415, "send the body as it is: no content encoding is read")
        most = UPLOAD_BYTES if scope["method"] == "PUT" else JSON_BYTES
        try:
            async with asyncio.timeout(self._body_seconds):
                # Where a client says beforehand that it is too much, nothing is read.
                length = headers.get("content-length", "0")
                too_much = int(length) > most if length.isdecimal() and len(length) < 20 else True
                if too_much and "expect" in headers:
                    raise _too_large(most)
                body = await _read(receive, 0 if too_much else most)
        except TimeoutError:
            raise _Refusal(408, "the body came too slowly") from None
        if body is None:
            raise _too_large(most)
        return _replay(body, receive)


def _too_large(most: int) -> _Refusal:
    return _Refusal(413, f"a body of this call has {most >> 20} MB at most")


async def _read(receive: Receive, most: int) -> bytes | None:
    """A whole body; None where it is too long: then the rest is read up to a bound, and dropped.

    A client that has not sent all of it hears no answer.
    """
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts) if size <= most else None
        size += len(message.get("body", b""))
        if size <= most:
            parts.append(message.get("body", b""))
        elif parts:
            parts = []
        if not message.get("more_body", False) or size > most + DISCARDED_BYTES:
            return b"".join(parts) if size <= most else None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read, once more; then what the connection says."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _bounded_send(send: Send) -> Callable[[Message], Awaitable[None]]:
    """Of an answer that a client does not take, the rest is dropped."""
    until = None

    async def bounded(message: Message) -> None:
        nonlocal until
        until = until or time.monotonic() + ANSWER_SECONDS
        async with asyncio.timeout(max(0.001, until - time.monotonic())):
            await send(message)

    return bounded
