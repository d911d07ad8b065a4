"""JSON-lines files (plain or gzip) as a stream of record batches: a few columns, bounded memory.

Threads unpack several files side by side while others parse blocks of lines
(`pmm.ingest.readers.json_block`). Files take turns, a block each, so the order of the rows depends
on the files' bytes and names alone.
"""

import gzip
import logging
import queue
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from isal import igzip, isal_zlib

from pmm.cpu_cores import cores
from pmm.errors import InputError
from pmm.ingest.readers.delimited import MALFORMED
from pmm.ingest.readers.json_block import JsonField, Parsed, parse_block, read_line, split_lines
from pmm.ingest.readers.plain_file import PACKINGS, damaged, head_of
from pmm.progress import progress

logger = logging.getLogger(__name__)

BAD_UTF8 = "lines with invalid UTF-8"
"""The note under which lines are counted whose broken characters were replaced."""

# Memory is about open files times blocks ahead times this, not a function of the dump's size: 2
# million review lines take 0.71 GiB, and 0.04 bytes more for each byte of longer reviews (`make
# bench`).
_BLOCK_BYTES = 8 << 20
_LONGEST_LINE = 64 << 20
# gzip can only be unpacked from front to back, so the files are what can run in parallel. A
# constant, not the number of cores: the order of the rows follows from it, and must be the same
# everywhere.
_SIDE_BY_SIDE = 4
_AHEAD = 3
_POLL_S = 0.1
_BOM = b"\xef\xbb\xbf"
_UNPACKING = cast("type[Exception]", isal_zlib.error)  # its stub says that it is no class
_DAMAGE = (EOFError, zlib.error, _UNPACKING, gzip.BadGzipFile, OSError)


@dataclass(frozen=True, kw_only=True)
class LinesFile:
    """A file of JSON lines, as far as its first 256 KiB tell."""

    path: Path
    packed: bool
    literal: bool
    """Its lines are Python literals (the 2014 edition of the Amazon release)."""
    head: tuple[dict[str, Any], ...]
    """The objects of its first lines."""

    def describe(self) -> dict[str, str]:
        """How the file is written, for the card."""
        return {
            "compression": "gzip" if self.packed else "none",
            "lines": "Python literals" if self.literal else "JSON",
        }


def sniff_lines(path: Path) -> LinesFile:
    """What a file of JSON lines is, and its first objects.

    Raises:
        InputError: the file is missing, empty, binary, damaged, or none of its first lines is a
            JSON object.
    """
    raw, packed = head_of(path)
    for start, what in PACKINGS.items():
        if raw.startswith(start):
            raise InputError(f"{path} is no text file but {what}")
    lines = split_lines(raw.removeprefix(_BOM))
    if not lines:
        raise InputError(f"{path} is empty; expected is a JSON object a line")
    for literal in (False, True):
        found = [read_line(line, literal=literal)[0] for line in lines]
        head = tuple(each for each in found if each is not None)
        if head:
            return LinesFile(path=path, packed=packed, literal=literal, head=head)
    if b"\x00" in raw[:4096]:
        raise InputError(f"{path} is no text file: it holds NUL bytes near its beginning")
    shown = lines[0][:80].decode("utf-8", "replace")
    raise InputError(f"{path}: no line near its beginning is a JSON object; the first is {shown!r}")


def read_blocks(file: LinesFile) -> Iterator[bytes]:
    """The file's bytes in blocks of about 8 MiB that hold whole lines, each with its line end.

    Raises:
        InputError: the file is damaged, or a line is longer than 64 MiB.
    """
    rest = b""
    try:
        # igzip unpacks about three times as fast as the standard library.
        with igzip.open(file.path) if file.packed else file.path.open("rb") as raw:
            if raw.peek(len(_BOM))[: len(_BOM)] == _BOM:
                raw.read(len(_BOM))
            # Cut at line ends, so that blocks can be parsed by themselves, in any order.
            while chunk := raw.read(_BLOCK_BYTES):
                cut = chunk.rfind(b"\n") + 1
                if cut:
                    yield b"".join((rest, memoryview(chunk)[:cut]))
                    rest = chunk[cut:]
                else:
                    rest += chunk
                if len(rest) > _LONGEST_LINE:
                    raise InputError(
                        f"{file.path}: a line is longer than {_LONGEST_LINE >> 20} MiB, so this is "
                        "no file of JSON lines (one object a line)"
                    )
    except _DAMAGE as error:
        raise damaged(file.path, error) from error
    if rest:
        yield rest + b"\n"


def stream_lines(
    files: Sequence[LinesFile],
    fields: Sequence[JsonField],
    *,
    drop_counts: Counter[str],
    notes: Counter[str],
) -> Iterator[pa.RecordBatch]:
    """The wanted columns of several files, dictionary-encoded strings, and the column `LINE`.

    Numbers become their text; missing and null values, lists, objects and truth values become "".
    Blank lines are no rows. Order: up to four files are open at once, in the given order, and give
    8 MiB of lines in turns; a file that ends makes room for the next.

    Args:
        files: from `sniff_lines`.
        fields: the wanted columns.
        drop_counts: counts malformed lines under `MALFORMED`, all lines under "read".
        notes: counts lines whose broken characters were replaced under `BAD_UTF8`.

    Raises:
        InputError: a file is damaged, or more than half of its lines are malformed.
    """
    names = ", ".join(file.path.name for file in files[:3]) + (", …" if len(files) > 3 else "")
    with ExitStack() as stack:
        bar = stack.enter_context(progress(None, f"reading {names}", "rows"))
        pool = stack.enter_context(ThreadPoolExecutor(cores(), thread_name_prefix="pmm-json"))
        waiting, replaced = deque(files), 0
        lanes: deque[_Lane] = deque()
        while waiting or lanes:
            while waiting and len(lanes) < _SIDE_BY_SIDE:
                lane = _Lane(waiting.popleft(), fields, pool)
                stack.callback(lane.close)
                lanes.append(lane)
            # In turns, and waiting for the one whose turn it is: taking whichever is ready would
            # give the rows in another order each time.
            lane = lanes.popleft()
            parsed = lane.next()
            if parsed is None:
                lane.require_json()
                continue
            lanes.append(lane)
            drop_counts["read"] += parsed.rows.num_rows + parsed.malformed
            drop_counts[MALFORMED] += parsed.malformed
            replaced += parsed.replaced
            bar.advance(parsed.rows.num_rows)
            if parsed.rows.num_rows:
                yield parsed.rows
    if replaced:
        notes[BAD_UTF8] += replaced
        tell_replaced(names, replaced)


def tell_replaced(names: str, lines: int) -> None:
    """Say on the terminal in how many lines of a file characters were replaced."""
    logger.warning("%s: %s: %s, U+FFFD in their place", names, BAD_UTF8, f"{lines:,}")


class _Lane:
    """One file, unpacked by a thread of its own that runs a few blocks ahead of the reader."""

    def __init__(
        self, file: LinesFile, fields: Sequence[JsonField], pool: ThreadPoolExecutor
    ) -> None:
        self._file, self._fields, self._pool = file, fields, pool
        # Bounded, so that a fast disk does not unpack a whole dump into memory.
        self._ahead: queue.Queue[Future[Parsed] | BaseException | None] = queue.Queue(_AHEAD)
        self._closed = threading.Event()
        self._rows = self._malformed = 0
        self._example = b""
        self._thread = threading.Thread(target=self._unpack, name="pmm-unpack", daemon=True)
        self._thread.start()

    def next(self) -> Parsed | None:
        """The next block, or None after the last."""
        found = self._ahead.get()
        if found is None:
            return None
        if isinstance(found, BaseException):
            raise found
        parsed = found.result()
        self._rows += parsed.rows.num_rows
        self._malformed += parsed.malformed
        self._example = self._example or parsed.example
        return parsed

    def require_json(self) -> None:
        """Refuse a file most of whose lines are no objects."""
        total = self._rows + self._malformed
        if self._malformed * 2 > total:
            shown = self._example[:120].decode("utf-8", "replace")
            raise InputError(
                f"{self._file.path}: {self._malformed:,} of {total:,} lines are no JSON objects, "
                f"e.g. {shown!r}; expected is one object a line"
            )

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _unpack(self) -> None:
        try:
            for block in read_blocks(self._file):
                parsing = self._pool.submit(
                    parse_block, block, self._fields, literal=self._file.literal
                )
                if not self._put(parsing):
                    return
            self._put(None)
        except BaseException as error:  # raised by the reader, when its turn comes
            self._put(error)

    def _put(self, what: Future[Parsed] | BaseException | None) -> bool:
        # Not a plain put: a reader that stops early leaves the queue full, and the thread in it for
        # ever.
        while not self._closed.is_set():
            try:
                self._ahead.put(what, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False
