"""Whether files still hold what they were written with.

Small files are read whenever they are asked for. Large ones are read once a machine and change:
that a file had the right content is remembered beside the artefact, by its size, times and number
on the disk (`.NAME.verified`). Forgetting it only costs the time to read the files again.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pmm.errors import BrokenArtefact
from pmm.progress import progress

logger = logging.getLogger(__name__)

SMALL = 4 << 20
"""Bytes of a file that is read each time: 3 ms."""
SETTLED = 2_000_000_000
"""Nanoseconds. What changed later than that may change again within its time stamp's resolution."""
_SHOWN = 2 << 30
"""Bytes to read from which on there is a progress bar: a second or two."""

Files = Mapping[str, Mapping[str, Any]]
"""File below a folder -> {"sha256": hex, "bytes": size}, as a manifest has it."""
_Stamp = list[int]


def faults(
    place: Path, files: Files, names: Iterable[str] | None = None, *, remember: bool = True
) -> dict[str, str]:
    """What is wrong with an artefact's files: name -> why. Empty where all is well.

    Args:
        place: the artefact's folder.
        files: what they were written with.
        names: which to look at; None = all. One that `files` does not have is a fault.
        remember: take the word of an earlier reading for large files that did not change since.
    """
    chosen = sorted(files) if names is None else sorted(set(names))
    found = faults_by_size(place, files, chosen)
    memory = _Memory(place) if remember else None
    todo = [
        name
        for name in chosen
        if name not in found
        and not (
            memory
            and files[name]["bytes"] > SMALL
            and memory.knows(name, _stamp(place / name), files[name]["sha256"])
        )
    ]
    found |= _by_content(place, files, todo, memory)
    if memory:
        memory.keep()
    return found


def faults_by_size(place: Path, files: Files, names: Iterable[str]) -> dict[str, str]:
    """The faults that show without reading a file: name -> why."""
    return {name: why for name in names if (why := _by_size(place, files, name))}


def require_whole(
    place: Path, files: Files, names: Iterable[str] | None = None, *, made_by: str
) -> None:
    """Refuse files with other content than they were written with.

    Args:
        place: the artefact's folder.
        files: what they were written with.
        names: which to look at; None = all.
        made_by: the command that makes the artefact, for the error.

    Raises:
        BrokenArtefact: some are damaged; the message has the first few.
    """
    found = faults(place, files, names)
    if found:
        raise BrokenArtefact(f"{place} is damaged: {in_words(found)}. Run: {made_by}")


def in_words(found: Mapping[str, str], most: int = 5) -> str:
    """The first faults of `faults`, in one line.

    >>> in_words({"a": "is missing", "b": "is missing"}, most=1)
    'a is missing (and 1 more)'
    """
    told = "; ".join(f"{name} {why}" for name, why in list(found.items())[:most])
    return told + (f" (and {len(found) - most:,} more)" if len(found) > most else "")


def sha256_of(path: Path) -> str:
    """sha256 of a file's content, in hex. OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_size(place: Path, files: Files, name: str) -> str:
    path = place / name
    if name not in files:
        return "is not in the manifest"
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    return "" if size == files[name]["bytes"] else _other_size(size, files[name]["bytes"])


def _other_size(size: int, expected: int) -> str:
    return f"has {size} bytes, expected {expected}"


def _by_content(
    place: Path, files: Files, todo: list[str], memory: "_Memory | None"
) -> dict[str, str]:
    def look(name: str) -> str:
        path = place / name
        try:
            before = _stamp(path)
            if sha256_of(path) != files[name]["sha256"]:
                return "has other content than it was written with"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        if memory and before == _stamp(path):
            memory.learn(name, before, files[name]["sha256"])
        return ""

    total = sum(files[name]["bytes"] for name in todo)
    with contextlib.ExitStack() as stack:
        bar = None
        if total >= _SHOWN:
            bar = stack.enter_context(progress(total >> 20, f"Verifying {place.name}", "MiB"))
        pool = stack.enter_context(ThreadPoolExecutor(min(8, os.cpu_count() or 1)))
        found = {}
        for name, why in zip(todo, pool.map(look, todo), strict=True):
            if why:
                found[name] = why
            if bar:
                bar.advance(files[name]["bytes"] >> 20)
    return found


def _stamp(path: Path) -> _Stamp:
    """Size, times of change of content and of the entry, and number: what a change changes."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


class _Memory:
    """Which large files of an artefact were read, and what they held."""

    def __init__(self, place: Path) -> None:
        self._path = place.with_name(f".{place.name}.verified")
        self._fresh = False
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # forgotten: costs time only
            found = {}
        self._held: dict[str, Any] = found if isinstance(found, dict) else {}

    def knows(self, name: str, stamp: _Stamp, digest: str) -> bool:
        """Whether the file was read in this state, and held this."""
        return self._held.get(name) == [*stamp, digest]

    def learn(self, name: str, stamp: _Stamp, digest: str) -> None:
        """Keep that it was read, unless it may change again unseen."""
        if stamp[0] > SMALL and time.time_ns() - max(stamp[1:3]) > SETTLED:
            self._held[name] = [*stamp, digest]
            self._fresh = True

    def keep(self) -> None:
        """Write what was learned; where nothing can be written it is forgotten."""
        if not self._fresh:
            return
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps(self._held), encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            logger.debug("%s is not remembered (%s)", self._path, error)
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
