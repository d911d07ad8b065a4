"""Pictures a second from a local server to checked files on disk, beside img2dataset.

    python -m benchmarks.picture_download [--count 800]

A server in a process of its own serves drawn JPEGs (`benchmarks.pictures.draw`), each different;
it shares the cores with its clients, and its processor time is shown. Where img2dataset cannot be
installed, ours is measured alone. Every run is a fresh process; the clock starts when it has
imported its modules; for img2dataset when the first of its workers begins its first shard.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import simplejpeg

from benchmarks import img2dataset_peer
from benchmarks.pictures import draw
from benchmarks.results import record

SIZES = {"500 px": (500, 500), "1166x1750": (1166, 1750)}
REPEATS = 3
MORE = 3
"""Ours fetches so many times the pictures: its start counts, and img2dataset's does not."""
VARIANTS = 20
THREADS = (4, 8)
"""Of each of img2dataset's two processes; the best is used."""

OURS = {"pmm": 2, "pmm, threads only": 0}
"""Helper processes."""

WAYS = {
    "no resize": {"resize_mode": "no", "skip_reencode": True},
    "256 px": {},
}
"""Options of img2dataset: decode as ours and write what came; or its default, resized JPEGs."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: pictures/s by the clock, processor seconds of the client and of the server."""

    rate: float
    cores: float
    """Processor seconds of the client a second."""
    each_ms: float
    """Processor milliseconds of the client a picture."""
    server_ms: float


def serve(width: int, height: int) -> None:
    """Answer /N.jpg with a JPEG of its own, /cpu with the seconds used; print the port."""
    drawn = [draw(k, width, height) for k in range(VARIANTS)]

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport, self.read = transport, b""

        def data_received(self, data: bytes) -> None:
            self.read += data
            while (end := self.read.find(b"\r\n\r\n")) >= 0:
                path = self.read[:end].split(b" ", 2)[1]
                self.read = self.read[end + 4 :]
                if path == b"/cpu":
                    body = str(time.process_time()).encode()
                else:
                    number = int(path[1:-4])
                    jpeg = drawn[number % VARIANTS]
                    # A comment of its own behind the start mark: no two files are equal.
                    body = b"%s\xff\xfe\x00\x0a%08d%s" % (jpeg[:2], number, jpeg[2:])
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                self.transport.write(body)

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def served(width: int, height: int) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.picture_download", "--serve", f"{width}x{height}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def fetch(base: str, folder: Path, processes: int, count: int) -> None:
    """Download with ours; print seconds by the clock and of the processors, helpers included."""
    from pmm.ingest.download.picture_download import DownloadOptions, download_pictures
    from pmm.ingest.download.picture_store import PictureStore

    wanted = [(str(n), [f"{base}/{n}.jpg"]) for n in range(count)]
    options = DownloadOptions(processes=processes, allow_private_addresses=True)
    start, used = time.perf_counter(), time.process_time()
    counts = download_pictures(PictureStore(folder), wanted, options)
    assert counts == {"ok": len(wanted)}, counts
    clock, helpers = time.perf_counter() - start, getrusage(RUSAGE_CHILDREN)
    print(json.dumps([clock, time.process_time() - used + helpers.ru_utime + helpers.ru_stime]))


def ours(base: str, folder: Path, count: int, processes: int) -> tuple[float, float]:
    """Seconds by the clock and of the processors."""
    command = [sys.executable, "-m", "benchmarks.picture_download", "--fetch", base]
    command += [str(folder / "store"), str(processes), str(count)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    clock, used = json.loads(told)
    return clock, used


def peers(
    base: str, folder: Path, count: int, way: str, threads: int
) -> tuple[float, float, float]:
    """Seconds between its first shard's begin and its last one's end; of processor; in all."""
    options = {
        "output_format": "files",
        "processes_count": 2,
        "thread_count": threads,
        **WAYS[way],
    }
    return img2dataset_peer.run((f"{base}/{n}.jpg" for n in range(count)), folder, options)


def measured(base: str, count: int, way: str, threads: int) -> Run:
    """One run of one way into an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = server_s(base)
        if way in OURS:
            count *= MORE
            clock, used = ours(base, folder, count, OURS[way])
            whole = clock
        else:
            clock, used, whole = peers(base, folder, count, way, threads)
        server = server_s(base) - server
    return Run(
        rate=count / clock,
        cores=used / whole,
        each_ms=1e3 * used / count,
        server_ms=1e3 * server / count,
    )


def server_s(base: str) -> float:
    """Processor seconds that the server has used."""
    with urllib.request.urlopen(f"{base}/cpu") as answer:
        return float(answer.read())


def decode_rates(width: int, height: int) -> tuple[float, float]:
    """Pictures/s of the JPEG library on one core: at an eighth of the size as ours, and whole."""
    drawn = [draw(k, width, height) for k in range(VARIANTS)] * 3
    rates = []
    for colour, least in (("GRAY", 1), ("RGB", 0)):
        start = time.process_time()
        for each in drawn:
            simplejpeg.decode_jpeg(each, colour, min_width=least, min_height=least)
        rates.append(len(drawn) / (time.process_time() - start))
    return rates[0], rates[1]


def tuned(count: int) -> int:
    """The number of threads with which img2dataset is fastest."""
    with served(*SIZES["500 px"]) as base:
        rates = {n: measured(base, count, "no resize", n).rate for n in THREADS}
    return max(rates, key=lambda n: rates[n])


def rows_of(label: str, count: int, threads: int) -> list[str]:
    """The rows of one size; ways take turns, medians count. No threads: without img2dataset."""
    width, height = SIZES[label]
    eighth, whole = decode_rates(width, height)
    ways = [*OURS, *(WAYS if threads else ())]
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    with served(width, height) as base:
        for _ in range(REPEATS):
            for way in ways:
                runs[way].append(measured(base, count, way, threads))
    first = statistics.median(run.rate for run in runs["pmm"])
    rows = []
    for way, found in runs.items():
        rate, cores, each, server = (
            statistics.median(getattr(run, name) for run in found)
            for name in ("rate", "cores", "each_ms", "server_ms")
        )
        name = way if way in OURS else f"img2dataset, {way}, 2 x {threads} threads"
        rows.append(
            f"| {label} | {name} | {rate:,.0f} | {first / rate:.1f}x | {cores:.2f} | {each:.2f} | "
            f"{server:.2f} | {eighth:,.0f} | {whole:,.0f} |"
        )
    return rows


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=800, help="pictures of each size")
    parser.add_argument("--no-record", action="store_true", help="print only")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--fetch", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*map(int, options.serve.split("x")))
        return
    if options.fetch:
        base, folder, processes, count = options.fetch
        fetch(base, Path(folder), int(processes), int(count))
        return
    version = img2dataset_peer.install()
    lines = [
        "Address to checked file on disk, from a server on the same machine: fetch, decode,",
        "sha256, write, journal. "
        f"{options.count:,} different pictures a run ({MORE} times as many of ours);",
        f"medians of {REPEATS} turns.",
        f'img2dataset {version}: two processes; "no resize" decodes and writes what came, as ours.',
        'pmm: with two helper processes, their start included; "threads only": without them.',
        "Cores: processor seconds a second of the client (of img2dataset with its start, as is its",
        "ms a picture; its pictures/s are without); the server runs on the same two. Limits:",
        "decoding alone on one core, at an eighth of the size (as ours checks) and whole.",
        "",
        "| picture | way | pictures/s | pmm is faster by | cores | ms a picture | server ms "
        "| limit, eighth | limit, whole |",
        "|" + "---|" * 9,
    ]
    if version is None:
        lines[3] = "img2dataset could not be installed here: ours is measured alone."
    threads = 0 if version is None else tuned(max(100, options.count // 2))
    for label in SIZES:
        lines += rows_of(label, options.count, threads)
    print("\n".join(lines))
    if not options.no_record:
        record("picture_download", "\n".join(lines))


if __name__ == "__main__":
    main()
