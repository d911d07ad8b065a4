"""kill -9 of the server while it is written to: what it acknowledged is there, and nothing is half.

PMM_SERVE_KILLS=200 kills it more often.
"""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

KILLS = int(os.environ.get("PMM_SERVE_KILLS", "20"))
NAMES = [f"item {k}" for k in range(12)]
BOUNDARY = "b0"


@dataclass
class Known:
    """What may be of an item: what was acknowledged last, or anything that was tried since."""

    acknowledged: int | None = None
    """Version of the content; -1: withdrawn; None: not there."""
    tried: list[int] = field(default_factory=list)


def call(port: int, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Content-Type": kind} if kind else {}
        connection.request(method, path.replace(" ", "%20"), body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def form(text: str, image: bytes) -> bytes:
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    return (
        f'{part}text"\r\n\r\n{text}\r\n{part}image"; filename="a.png"\r\n\r\n'.encode()
        + image
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )


class Forking:
    """The process that forks servers."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def start(self) -> tuple[int, int]:
        """A server's process and port."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        pid, port = map(int, self._line().split())
        return pid, port

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        assert self._line() == "dead"

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, "the server ended by itself"
        return line


@contextmanager
def forking(shop: Any, runs: Path, data: Path) -> Iterator[Forking]:
    script = Path(__file__).with_name("forking_server.py")
    words = [sys.executable, str(script), str(shop.home.root), str(runs / "first"), str(data)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=script.parents[2]
    ) as process:
        try:
            yield Forking(process)
        finally:
            process.kill()


def write(
    port: int, seed: int, known: dict[str, Known], images: dict[int, bytes], answered: Any
) -> None:
    """Put and withdraw until the server dies. Each thread has items of its own."""
    generator = random.Random(seed)
    mine = NAMES[seed % 2 :: 2]
    while True:
        name = generator.choice(mine)
        version = generator.choice([-1, *images])
        state = known[name]
        if version == -1 and state.acknowledged is None:
            continue
        state.tried.append(version)
        try:
            if version == -1:
                status, _ = call(port, "DELETE", f"/items/{name}")
            else:
                body = form(f"version {version} of {name}", images[version])
                kind = f"multipart/form-data; boundary={BOUNDARY}"
                status, _ = call(port, "PUT", f"/items/{name}", body, kind)
        except (OSError, http.client.HTTPException):
            return
        assert status == 200
        state.acknowledged, state.tried = version, []
        answered.release()


def check(port: int, known: dict[str, Known], images: dict[int, bytes]) -> None:
    """Every item is as it was acknowledged, or as one of the calls without an answer wanted it."""
    body = json.dumps({"history": ["0000000001"], "k": 100}).encode()
    status, answer = call(port, "POST", "/recommend", body, "application/json")
    assert status == 200
    offered = {each["item_id"] for each in json.loads(answer)["items"]}
    for name, state in known.items():
        status, answer = call(port, "GET", f"/items/{name}")
        if status == 404:
            found = None
        else:
            item = json.loads(answer)
            found = -1 if item["withdrawn"] else int(item["text"].split()[1])
            assert (name in offered) == (found != -1)
            number = int(item["text"].split()[1])
            assert item["text"] == f"version {number} of {name}"
            assert item["has_picture"]
            assert call(port, "GET", f"/items/{name}/image") == (200, images[number])
        assert found in {state.acknowledged, *state.tried}, name
        state.acknowledged, state.tried = found, []


def test_no_kill_loses_an_acknowledged_item_or_leaves_half_of_one(
    shop: Any, served_runs: Path, tmp_path: Path, draw: Any
) -> None:
    images = {version: draw((version * 20, 9, 9)) for version in range(10)}
    known = {name: Known() for name in NAMES}
    generator, survived = random.Random(7), 0
    with forking(shop, served_runs, tmp_path / "data") as servers:
        pid, port = servers.start()
        for turn in range(KILLS):
            failures: list[BaseException] = []
            answered = threading.Semaphore(0)

            def run(
                seed: int, port: int = port, failures: Any = failures, a: Any = answered
            ) -> None:
                try:
                    write(port, seed, known, images, a)
                except BaseException as error:
                    failures.append(error)

            writers = [
                threading.Thread(target=run, args=(2 * turn + writer,)) for writer in range(2)
            ]
            for each in writers:
                each.start()
            assert answered.acquire(timeout=60)  # the first call of a server takes longest
            time.sleep(generator.uniform(0, 0.15))
            servers.kill(pid)
            for each in writers:
                each.join()
            assert not failures
            pid, port = servers.start()
            survived += sum(each.acknowledged is not None for each in known.values())
            check(port, known, images)
        servers.kill(pid)
    assert survived > KILLS


def test_a_process_that_serves(shop: Any, served_runs: Path, tmp_path: Path) -> None:
    """Its greeting, a second one on its folder, and its end by SIGTERM with a request in hand."""
    words = [sys.executable, "-m", "pmm", "serve", str(served_runs / "first")]
    words += ["--home", str(shop.home.root), "--port", "0", "--data", str(tmp_path / "data")]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        greeting = process.stdout.readline()
        assert greeting.startswith("first (version "), process.stderr.read()
        port = int(greeting.rpartition(":")[2].strip(" /\n"))
        assert "this machine alone" in process.stdout.readline()
        body = json.dumps({"history": ["0000000001"]}).encode()
        status, answer = call(port, "POST", "/recommend", body, "application/json")
        assert (status, len(json.loads(answer)["items"])) == (200, 10)

        again = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr.startswith("Error: another server holds")
        assert "--data" in again.stderr
        assert "Traceback" not in again.stderr

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("PUT", "/items/late")
        sent = form("a late hat", b"")
        connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        connection.putheader("Content-Length", str(len(sent)))
        connection.endheaders()
        connection.send(sent[:10])
        while json.loads(call(port, "GET", "/health/live")[1]) != {"state": "live"}:
            pass  # until the server has certainly begun with what was sent before
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        connection.send(sent[10:])
        late = connection.getresponse()
        assert (late.status, json.loads(late.read())["item"]["text"]) == (200, "a late hat")
        connection.close()
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the system likes
            call(port, "GET", "/health/live")
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert "every request in hand was answered" in out
    assert b"a late hat" in (tmp_path / "data" / "items.log").read_bytes()
