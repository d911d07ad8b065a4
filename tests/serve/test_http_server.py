"""The protocol of the server: what a socket is told."""

import http.client
import socket
import threading
from typing import Any

import uvicorn

from pmm.serve.web.http_server import PatientProtocol


async def app(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def test_the_second_part_of_an_answer_waits_for_no_acknowledgement() -> None:
    """A head and a body are two writes; without TCP_NODELAY the second comes 40 ms later."""
    told = []

    class Noted(PatientProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            made = transport.get_extra_info("socket")
            told.append(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http=Noted, ws="none", log_config=None, interface="asgi3")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        client = http.client.HTTPConnection(*listening.getsockname(), timeout=30)
        client.request("GET", "/")
        assert client.getresponse().status == 204
        client.close()
        server.should_exit = True
        thread.join(timeout=30)
    assert len(told) == 1
    assert told[0] != 0
