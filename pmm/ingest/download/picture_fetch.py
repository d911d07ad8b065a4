"""Fetching one picture: request, read, check, store; in this process or in helper processes.

Python's lock lets one thread of a process run at a time, and each picture takes a third of a
millisecond or so of plain Python. So once there is a lot to do, helper processes do this part;
which host may be asked when is decided in the process that started them.
"""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

from pmm.ingest.download.picture_judge import Fault, judge
from pmm.ingest.download.polite_http import (
    Trouble,
    Web,
    WebError,
    WebOptions,
    done_with,
    failure_of,
    let_go,
    moved_to,
    read_body,
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused."""

    max_bytes: int
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A body was read: a picture in the store, or a fault."""

    fault: Fault | None
    bytes: int
    width: int | None
    height: int | None
    path: str | None


@dataclass(frozen=True, kw_only=True)
class Moved:
    """The address redirects to another one."""

    target: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """There was no body."""

    trouble: Trouble
    status: int | None = None
    pause_s: float | None = None
    over: bool = False
    """It took all the time that it may take: it is not worth another try now."""


@dataclass(frozen=True, kw_only=True)
class Crashed:
    """The picture could not be written."""

    errno: int | None
    message: str
    file: str | None


Reply: TypeAlias = Judged | Moved | Failed | Crashed


class PictureFetcher:
    """Asks for addresses; many threads may use it. As many decode at once as `decoders` says."""

    def __init__(self, folder: Path, web: WebOptions, limits: Limits, decoders: int) -> None:
        self._folder, self._limits = folder, limits
        self._web = Web(web)
        self._decoders = threading.BoundedSemaphore(decoders)  # a decoded picture is large

    def get(self, url: str, read: Callable[[], None]) -> Reply:
        """One request; `read` is called when its host has nothing more to do for it."""
        try:
            data = self._ask(url)
        except WebError as error:
            return Failed(
                trouble=error.trouble, status=error.status, pause_s=error.pause_s, over=error.over
            )
        if isinstance(data, str):
            return Moved(target=data)
        read()
        with self._decoders:
            found = judge(data, self._limits.max_pixels)
            try:
                path = None if found.fault else keep(self._folder, data, found.suffix)
            except OSError as error:
                return Crashed(errno=error.errno, message=str(error.strerror), file=error.filename)
        return Judged(
            fault=found.fault, bytes=len(data), width=found.width, height=found.height, path=path
        )

    def close_idle(self) -> None:
        """Close the connections that are not in use."""
        self._web.close_idle()

    def _ask(self, url: str) -> bytes | str:
        """The bytes at an address, or the address that it leads to."""
        response = self._web.ask(url, unpack=True)
        try:
            if response.status == 200:
                return read_body(response, self._limits.max_bytes)
            let_go(response)
            target = moved_to(url, response)
            if target is None:
                raise failure_of(response)
            return target
        finally:
            done_with(response)


def keep(folder: Path, data: bytes, suffix: str) -> str:
    """Put a picture into its place in a store, unless it is there; returns its path below it.

    A reader sees all of it or nothing.
    """
    digest = hashlib.sha256(data).hexdigest()
    path = f"pictures/{digest[:2]}/{digest}{suffix}"
    place = f"{folder}/{path}"
    if os.path.exists(place) and os.path.getsize(place) == len(data):  # noqa: PTH110, PTH202
        return path
    draft = f"{folder}/incoming/{threading.get_native_id()}"
    with open(draft, "wb", buffering=0) as file:  # noqa: PTH123
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
    os.replace(draft, place)  # noqa: PTH105
    return path


class FetchProcesses:
    """Helper processes that fetch, and for each thread of this process a socket to one of them.

    A host's connections are shared out among the processes, so that together they have no more
    open than one may. The processes run a program of their own: those of `multiprocessing` would
    import the caller's main module once more.
    """

    def __init__(
        self, folder: Path, web: WebOptions, limits: Limits, processes: int, sockets: int
    ) -> None:
        processes = min(processes, web.connections_per_host)
        each, more = divmod(web.connections_per_host, processes)
        self._ours: list[Connection] = []
        self._ready = [False] * sockets
        self._processes: list[subprocess.Popen[bytes]] = []
        theirs: list[int] = []
        for _ in range(sockets):
            near, far = socket.socketpair()
            self._ours.append(Connection(near.detach()))
            theirs.append(far.detach())
        try:
            for k in range(processes):
                self._processes.append(_start(theirs[k::processes]))
                options = replace(web, connections_per_host=each + (k < more))
                self._ours[k].send((folder, options, limits))
        finally:
            for far_end in theirs:
                os.close(far_end)

    def get(self, number: int, url: str, read: Callable[[], None]) -> Reply | None:
        """As `PictureFetcher.get`, by a helper; None while (or if) none is there."""
        if number >= len(self._ours):
            return None
        own = self._ours[number]
        try:
            if not self._ready[number]:
                if not own.poll():
                    return None
                own.recv()
                self._ready[number] = True
            own.send(url)
            while (reply := own.recv()) is None:
                read()
        except (EOFError, OSError):  # the helper has been killed
            self._ready[number] = False
            return None
        return reply  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the helpers."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for each in self._ours:
            each.close()


def _start(files: list[int]) -> "subprocess.Popen[bytes]":
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from pmm.ingest.download.picture_fetch import serve; serve({files!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        pass_fds=files,
        start_new_session=True,  # Ctrl-C is for the parent, which ends its helpers
    )


def serve(files: list[int]) -> None:
    """Run a helper process: a thread for each socket, until the other end is closed.

    Args:
        files: descriptors of the sockets; the first brings folder, options and limits.
    """
    warnings.simplefilter("ignore")  # Pillow warns about odd metadata
    sockets = [Connection(each) for each in files]
    folder, web, limits = sockets[0].recv()
    fetcher = PictureFetcher(folder, web, limits, 1)
    for each in sockets:
        threading.Thread(target=_answer, args=(each, fetcher)).start()


def _answer(own: Connection, fetcher: PictureFetcher) -> None:
    try:
        own.send("ready")
        while True:
            own.send(fetcher.get(own.recv(), lambda: own.send(None)))
    except (EOFError, OSError):
        pass
    except BaseException:  # the parent sees the closed socket
        os._exit(1)
