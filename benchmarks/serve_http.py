"""`pmm serve` over HTTP: latency at a steady rate, requests a second, a new item, memory.

    python -m benchmarks.serve_http RUN --home HOME [--items 20000] [--rate 50] [--seconds 20]

The server is started in a process of its own on a free port, with as many items as are wanted:
those of the run, and others near them (`benchmarks.serve.grown`). This process asks: at a steady
rate, where a late answer delays no other question and is measured from the moment it was due; then
four clients, each as soon as it is answered. Both share the machine's cores.
"""

import argparse
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import Any

import numpy as np

from benchmarks.results import record

CLIENTS = 4
NEW = 20
"""New items, one after the other."""


class Client:
    """Calls one server; each thread keeps a connection."""

    def __init__(self, host: str, port: int) -> None:
        """Of a server that listens there."""
        self._place, self._of = (host, port), local()

    def __call__(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> Any:
        """The answer's JSON; anything but a success ends the benchmark."""
        headers = {"Content-Type": kind} if body else {}
        try:
            answer = self._answer(method, path, body, headers)
        except (
            ConnectionError,
            http.client.HTTPException,
        ):  # closed, as nothing was asked for long
            self._of.__dict__.clear()
            answer = self._answer(method, path, body, headers)
        read = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {read[:300]!r}")
        return json.loads(read)

    def _answer(self, *request: Any) -> http.client.HTTPResponse:
        if not hasattr(self._of, "connection"):
            self._of.connection = http.client.HTTPConnection(*self._place, timeout=60)
        self._of.connection.request(*request)
        found: http.client.HTTPResponse = self._of.connection.getresponse()
        return found

    def is_ready(self) -> bool:
        """Whether there is a server, a model in it, and a catalogue that can be listed."""
        try:
            return bool(self("GET", "/health/ready")["search"])
        except (OSError, http.client.HTTPException, RuntimeError):
            self._of.__dict__.clear()
            return False

    def put(self, item_id: str, text: str) -> Any:
        """Add an item by its text."""
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="text"'
        form = f"{head}\r\n\r\n{text}\r\n--{edge}--\r\n"
        kind = f"multipart/form-data; boundary={edge}"
        return self("PUT", f"/items/{item_id}", form.encode(), kind)


def steady(ask: Callable[[], object], rate: float, seconds: float) -> list[float]:
    """Latencies in ms, from when each question was due."""
    begun = time.perf_counter() + 0.1

    def one(due: float) -> float:
        time.sleep(max(0.0, due - time.perf_counter()))
        ask()
        return 1e3 * (time.perf_counter() - due)

    with ThreadPoolExecutor(32) as pool:
        due = [begun + each / rate for each in range(int(rate * seconds))]
        return list(pool.map(one, due))


def at_most(ask: Callable[[], object], seconds: float) -> float:
    """Answers a second to clients that wait for nothing else."""
    until = time.perf_counter() + seconds

    def some() -> int:
        count = 0
        while time.perf_counter() < until:
            ask()
            count += 1
        return count

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(each.result() for each in [pool.submit(some) for _ in range(CLIENTS)]) / seconds


def until_recommended(client: Client) -> list[float]:
    """Seconds from a PUT to an answer that holds the new item, of each."""
    took = []
    for each in range(NEW):
        item_id, start = f"bench-{each}", time.perf_counter()
        client.put(item_id, f"a new item, number {each}")
        body = {"history": [item_id], "k": 1, "allow": [item_id], "keep_history": True}
        found = client("POST", "/recommend", json.dumps(body).encode())
        assert found["items"][0]["item_id"] == item_id
        took.append(time.perf_counter() - start)
    return took


def measure(client: Client, rate: float, seconds: float) -> list[str]:
    """Cells: latency, requests a second, a new item."""
    ids = [each["item_id"] for each in client("GET", "/items?limit=100")["items"]]
    draw = random.Random(0)

    def ask() -> object:
        body = {"history": draw.choices(ids, k=10), "k": 10}
        return client("POST", "/recommend", json.dumps(body).encode())

    at_most(ask, 2)
    took, most = steady(ask, rate, seconds), at_most(ask, seconds / 2)
    cells = [f"{np.quantile(took, q):.1f}" for q in (0.5, 0.99)]
    try:
        new = f"{np.median(until_recommended(client)):.3f}"
    except RuntimeError as error:  # a model on ids takes none
        print(error, file=sys.stderr)
        new = "-"
    return [*cells, f"{most:.0f}", new]


def resident(process: int) -> float:
    """MiB of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


# --- The server, in its own process.


class _Repeated:
    """An `ItemSource` of which each item stands for others."""

    def __init__(self, source: Any, items: int) -> None:
        self._source, self._items = source, items

    def text(self, row: int) -> Any:
        return self._source.text(row % self._items)

    def picture(self, row: int) -> Any:
        return self._source.picture(row % self._items)

    def categories(self, row: int) -> Any:
        return self._source.categories(row % self._items)


def grow_models(items: int) -> None:
    """Let `open_model` give every model so many items."""
    from benchmarks.serve import grown
    from pmm.recommend import open_run
    from pmm.recommend.catalogue_state import GrowingCatalogue
    from pmm.recommend.loaded_model import LoadedModel

    opened = open_run.open_model

    def larger(home: Any, run: Any, **how: Any) -> LoadedModel:
        model = opened(home, run, **how | {"index": "exact"})
        state, n = model.state, len(model.state)
        more = max(0, items - n)
        made = [grown(each, more, 0.5, 1) for each in (state.input_NW, state.score_ND)]
        catalogue = GrowingCatalogue(
            [*state.ids, *(f"near-{row}" for row in range(more))],
            np.concatenate([state.input_NW, made[0]]),
            np.concatenate([state.score_ND, made[1]]),
            np.concatenate([state.count_N, np.ones(more, np.int64)]),
        )
        return LoadedModel(
            model.encoder,
            catalogue,
            _Repeated(model._source, n),
            version=model.version,
            chosen=model.chosen,
            index=how.get("index", "auto"),
            sample=model.sample,
        )

    vars(open_run)["open_model"] = larger


def serve(items: int, arguments: list[str]) -> None:
    """`pmm serve` with a larger catalogue."""
    from pmm.cli import main as pmm

    grow_models(items)
    sys.argv = ["pmm", "serve", *arguments]
    pmm()


def started(given: argparse.Namespace, data: str) -> tuple[subprocess.Popen[bytes], Client, float]:
    """A server, what calls it, and the seconds until it was ready."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    asked = [given.run, "--home", given.home, "--port", str(port), "--data", data]
    begun = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serve_http", "--serve", str(given.items), *asked],
        stdout=subprocess.DEVNULL,
    )
    client = Client("127.0.0.1", port)
    while not client.is_ready():
        if server.poll() is not None:
            raise SystemExit("the server has ended; its message stands above")
        time.sleep(0.05)
    return server, client, time.perf_counter() - begun


def main() -> None:
    """Measure, print and record."""
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--home", required=True)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--no-record", action="store_true", help="print only")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        server, client, start = started(given, data)
        try:
            ready = client("GET", "/health/ready")
            cells = measure(client, given.rate, given.seconds)
            cells += [f"{start:.1f}", f"{resident(server.pid):.0f}"]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    table = "\n".join(
        [
            f"| items | ms p50 at {given.rate:.0f} requests/s | p99 | requests/s at most "
            "| s from PUT to recommended | s to start | MiB |",
            "|---|---|---|---|---|---|---|",
            f"| {given.items:,} | {' | '.join(cells)} |",
            "",
            f"{Path(given.run).name}; histories of 10, k = 10; ready said: `{json.dumps(ready)}`. "
            f"Load {os.getloadavg()[0]:.0f} at the end, asking and answering on the same cores.",
        ]
    )
    print(table)
    if not given.no_record:
        record(f"serve: {given.items:,} items over HTTP", table)


if __name__ == "__main__":
    main()
