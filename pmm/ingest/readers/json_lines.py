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

from pmm.errors import InputError
from pmm.ingest.readers import json_block
from pmm.ingest.readers.delimited import MALFORMED
from pmm.ingest.readers.json_block import (
    LONG_LINE,
    JsonField,
    Parsed,
    parse_block,
    read_line,
    split_lines,
    without_long_lines,
)
from pmm.ingest.readers.plain_file import HEAD_BYTES, PACKINGS, damaged, head_of
from pmm.machine import cores
from pmm.progress import progress

logger = logging.getLogger(__name__)

BAD_UTF8 = "lines with invalid UTF-8"
"""The note under which lines are counted whose broken characters were replaced."""

# Memory is about open files times blocks ahead times this, not a function of the dump's size: 2
# million review lines take 0.71 GiB, and 0.04 bytes more for each byte of longer reviews (`make
# bench`).
_BLOCK_BYTES = 8 << 20
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
    if b"\n" not in raw and len(raw) == HEAD_BYTES:  # its first line is longer than that
        whole = LinesFile(path=path, packed=packed, literal=False, head=())
        raw = next(read_blocks(whole, Counter()), b"\n")[: 2 * json_block.LONGEST_LINE]
        if not raw.strip():
            raise InputError(
                f"{path}: its lines are longer than {json_block.LONGEST_LINE >> 20} MiB, so this "
                "is no file of JSON lines (one object a line)"
            )
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


def read_blocks(file: LinesFile, drop_counts: Counter[str]) -> Iterator[bytes]:
    """The file's bytes in blocks of about 8 MiB that hold whole lines, each with its line end.

    Args:
        file: from `sniff_lines`.
        drop_counts: counts the lines that are left out for their length under `LONG_LINE`, of
            which no more than a block is ever held.

    Raises:
        InputError: the file is damaged.
    """
    rest = b""
    inside = False  # a line that is too long
    try:
        # igzip unpacks about three times as fast as the standard library.
        with igzip.open(file.path) if file.packed else file.path.open("rb") as raw:
            if raw.peek(len(_BOM))[: len(_BOM)] == _BOM:
                raw.read(len(_BOM))
            # Cut at line ends, so that blocks can be parsed by themselves, in any order.
            while chunk := raw.read(_BLOCK_BYTES):
                if inside:
                    end = chunk.find(b"\n") + 1
                    inside, chunk = not end, chunk[end:] if end else b""
                cut = chunk.rfind(b"\n") + 1
                if cut:
                    block = b"".join((rest, memoryview(chunk)[:cut]))
                    rest = chunk[cut:]
                    block, long = without_long_lines(block)
                    drop_counts[LONG_LINE] += long
                    if block:
                        yield block
                else:
                    rest += chunk
                if len(rest) > json_block.LONGEST_LINE:
                    drop_counts[LONG_LINE] += 1
                    rest, inside = b"", True
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
        drop_counts: counts malformed lines under `MALFORMED`, those over 1 MiB under `LONG_LINE`,
            all lines under "read".
        notes: counts lines whose broken characters were replaced under `BAD_UTF8`.

    Raises:
        InputError: a file is damaged, or more than half of its lines are malformed or too long.
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
                drop_counts[LONG_LINE] += lane.long
                drop_counts["read"] += lane.long
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


def require_objects(
    path: Path, rows: int, malformed: int, long: int, example: bytes, what: str
) -> None:
    """Refuse a file more than half of whose lines gave nothing; tell of lines that are too long.

    Args:
        path: the file.
        rows, malformed, long: how many lines gave a row, are malformed, are too long.
        example: a malformed line.
        what: a line should hold.

    Raises:
        InputError: they did.
    """
    total = rows + malformed + long
    limit = f"longer than {json_block.LONGEST_LINE >> 20} MiB"
    if (malformed + long) * 2 <= total:
        if long:
            logger.warning(
                "%s: left out %s of %s lines, %s", path, f"{long:,}", f"{total:,}", limit
            )
        return
    why = f"{malformed:,} of {total:,} lines are no JSON objects"
    if malformed:
        why += f", e.g. {example[:120].decode('utf-8', 'replace')!r}"
    if long > malformed:
        why = f"{long:,} of {total:,} lines are {limit}"
    raise InputError(f"{path}: {why}; expected is one {what} a line")


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
        self._left_out: Counter[str] = Counter()
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

    @property
    def long(self) -> int:
        """Lines that were left out for their length; known after the last block."""
        return self._left_out[LONG_LINE]

    def require_json(self) -> None:
        """Refuse a file most of whose lines are no objects, or too long."""
        require_objects(
            self._file.path, self._rows, self._malformed, self.long, self._example, "object"
        )

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _unpack(self) -> None:
        try:
            for block in read_blocks(self._file, self._left_out):
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
