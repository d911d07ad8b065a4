"""`pmm serve` in this process, with what tests of its page turn: tokens, strangers, an end."""

import hashlib
import json
import socket
import threading
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.types import Message, Receive, Scope, Send

from pmm.recommend.answers import NewItem, TestUser
from pmm.recommend.loaded_model import LoadedModel
from pmm.serve.serving import Serving
from pmm.serve.web.access import AccessRules
from pmm.serve.web.http_server import PatientProtocol
from pmm.serve.web.web_app import make_app


class ServedShop:
    """Serves one model on a free port of this machine."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.asked: list[tuple[str, str, Any]] = []
        """Method, path and JSON of what came."""
        self.comes_from_elsewhere = False
        """Whether calls seem to come from another machine."""
        self.let_in(AccessRules())
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.start()

    def let_in(self, rules: AccessRules) -> None:
        """Ask for what these rules say, from now on."""
        self._app = make_app(self.serving, rules)

    def ask_for_a_token(self, token: str, *, reading_too: bool = False) -> None:
        digest = hashlib.sha256(token.encode()).digest()
        self.let_in(AccessRules(tokens=frozenset({digest}), reading_too=reading_too))

    def start(self) -> None:
        """Listen, at the address of before."""
        made = socket.create_server(("127.0.0.1", self._port))
        config = uvicorn.Config(
            self._answer,
            http=PatientProtocol,
            ws="none",
            log_config=None,
            interface="asgi3",  # of a bound method it is not seen
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([made],))
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.should_exit = True
        self._thread.join(timeout=30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    @property
    def model(self) -> LoadedModel:
        return self.serving.current.model

    @property
    def users(self) -> list[TestUser]:
        return self.serving.current.users.spread(1_000)

    def add(self, items: Sequence[NewItem]) -> None:
        for each in items:
            self.serving.put(each)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self.comes_from_elsewhere:
            scope["client"] = ("203.0.113.9", 50_000)
        body = bytearray()

        async def noted() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        path, is_json = scope["path"], (b"content-type", b"application/json") in scope["headers"]
        await self._app(scope, noted, send)
        self.asked.append((scope["method"], path, json.loads(body) if is_json else None))
