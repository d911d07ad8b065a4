"""Files that are whole or absent: written under a temporary name, then renamed.

A temporary name says which process writes it (`.tmp-<machine>-<process>-<random>-<name>`), so that
two processes never write the same one, and what a killed process left behind is removed by the next
that writes into the folder.
"""

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp-"
"""How the names of files begin that are being written."""

_OWNED = re.compile(r"\.tmp-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}-")
_FORGOTTEN = 24 * 3600
"""Seconds without a change after which a file of another machine counts as left behind."""


@contextmanager
def atomic_file(path: Path, *, before: Callable[[], None] | None = None) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and vanishes when it fails.

    Args:
        path: of the file.
        before: called when all is written, just before the file is replaced; where it raises, the
            file stays as it was.
    """
    _clean(path.parent)
    temporary = temporary_name(path)
    try:
        yield temporary
        sync(temporary)
        if before is not None:
            before()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_files(*, before: Callable[[], None] | None = None) -> Iterator[Callable[[Path], Path]]:
    """Several files that belong together: all are written, and only then all are replaced.

    Yields a function that gives the temporary path of a file. The last one that was asked for is
    what readers look for: it is taken away first and put in its place last, so that none of its
    kind ever stands beside files of another state.

    Args:
        before: called when all are written, before the first is replaced; where it raises, all
            stay as they were.
    """
    written: dict[Path, Path] = {}

    def temporary_of(path: Path) -> Path:
        _clean(path.parent)
        written[path] = temporary_name(path)
        return written[path]

    try:
        yield temporary_of
        for temporary in written.values():
            sync(temporary)
        if before is not None:
            before()
        with signals_held():
            list(written)[-1].unlink(missing_ok=True)
            for path, temporary in written.items():
                temporary.replace(path)
    except BaseException:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)
        raise


def temporary_name(path: Path) -> Path:
    """A name beside a file that no other process uses, and that says whose it is."""
    own = f"{TEMPORARY}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}-"
    return path.with_name(own + path.name)


def is_left_behind(path: Path) -> bool:
    """Whether a temporary file's writer is dead; of one on another machine, by its age."""
    owned = _OWNED.match(path.name)
    if owned and owned[1] == _machine():
        return not _is_alive(int(owned[2]))
    try:
        return time.time() - path.stat().st_mtime > _FORGOTTEN
    except OSError:
        return False


@contextmanager
def signals_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until a few renames that belong together are done."""
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def reserve(file: IO[bytes], size: int) -> None:
    """Have the disk set a file's room aside, where the file system can: a full one fails now.

    Raises:
        OSError: the disk is full.
    """
    file.flush()
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except AttributeError:  # not on macOS and Windows
        return
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def sync(path: Path) -> None:
    """Have the system write a file, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_cleaned: set[tuple[int, Path]] = set()
_cleaning = threading.Lock()


def _clean(folder: Path) -> None:
    """Remove what dead processes left in a folder; once a process, as a folder may be large."""
    with _cleaning:
        if (os.getpid(), folder) in _cleaned:
            return
        _cleaned.add((os.getpid(), folder))
    with contextlib.suppress(OSError):
        for path in folder.glob(TEMPORARY + "*"):
            if path.is_file() and is_left_behind(path):
                path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":
        return True  # os.kill would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@cache
def _machine() -> str:
    """What tells the processes of this machine, or of this container, from those of others."""
    try:
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        space = 0
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]
