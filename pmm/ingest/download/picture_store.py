"""Pictures that were downloaded, and what became of each address: a folder that grows.

::

    pictures/ab/<sha256>.jpg   each different picture once, under the suffix of its true format
    journal.jsonl              one line an address, once its outcome is known; only appended to
    outcomes.parquet           one row an item, made from the journal when a download ends

The journal decides: after a kill it says which addresses need not be asked again.
"""

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pmm.ingest.download.polite_http import Trouble
from pmm.storage.artefact import atomic_file
from pmm.storage.schemas import Table, read_table, write_table

Outcome = (
    Literal[
        "ok",
        "no url",  # the item names no address
        "zero bytes",
        "not a picture",  # or one of a format that the later stages do not take
        "truncated",  # all announced bytes came, but the picture in them is not whole
        "broken",  # begins as a picture, cannot be decoded
        "placeholder",  # of a single pixel: what shops send where they have no picture
    ]
    | Trouble
)

PICTURE_OUTCOMES = Table(
    name="picture outcomes",
    schema=pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("outcome", pa.string(), nullable=False),  # of the address in `url`
            pa.field("url", pa.string(), nullable=True),
            pa.field("status", pa.int32(), nullable=True),  # of the last answer
            pa.field("bytes", pa.int64(), nullable=True),
            pa.field("width", pa.int32(), nullable=True),  # pixels
            pa.field("height", pa.int32(), nullable=True),
            pa.field("path", pa.string(), nullable=True),  # relative to the store's folder
            pa.field("tries", pa.int32(), nullable=False),  # requests for this address
        ]
    ),
    least={"bytes": 0, "width": 1, "height": 1, "tries": 0},
)

_NOTHING_YET = hashlib.sha256(b"no pictures yet").hexdigest()
# Merging copies all that is known, so it is done once for many entries; a dict of 65,536 is small.
_MERGE_AT = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one address."""

    url: str
    outcome: Outcome
    status: int | None = None
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    path: str | None = None
    tries: int = 0


class PictureStore:
    """A folder of downloaded pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def table(self) -> Path:
        """One row an item."""
        return self.folder / "outcomes.parquet"

    @property
    def journal(self) -> Path:
        """One line an address."""
        return self.folder / "journal.jsonl"

    def digest(self) -> str:
        """sha256 over items, outcomes and paths, in the order of the ids; a constant if empty."""
        if not self.table.exists():
            return _NOTHING_YET
        names = ["item_id", "outcome", "path"]
        # Sorted, and without tries and addresses: two downloads that end in the same pictures are
        # the same input for the tables, in any order of arrival.
        rows = read_table(self.table, PICTURE_OUTCOMES, names).sort_by("item_id")
        whole = hashlib.sha256()
        for batch in rows.to_batches(1 << 16):
            columns = [pc.fill_null(batch[name], "") for name in names]
            lines = pc.binary_join_element_wise(*columns, "", "\n")
            whole.update("".join(lines.to_pylist()).encode())
        return whole.hexdigest()

    def paths(self) -> dict[str, str]:
        """Item id -> path relative to the folder, for the items that have a picture."""
        if not self.table.exists():
            return {}
        rows = read_table(self.table, PICTURE_OUTCOMES, ["item_id", "outcome", "path"])
        rows = rows.filter(pc.equal(rows["outcome"], "ok"))
        return dict(zip(rows["item_id"].to_pylist(), rows["path"].to_pylist(), strict=True))

    def counts(self) -> dict[str, int]:
        """Outcome -> items."""
        if not self.table.exists():
            return {}
        counted = read_table(self.table, PICTURE_OUTCOMES, ["outcome"])["outcome"].value_counts()
        found = {row["values"]: row["counts"] for row in counted.to_pylist()}
        return dict(sorted(found.items()))

    def holds(self, result: Result) -> bool:
        """Whether it is a picture, and still there with all its bytes."""
        if result.outcome != "ok" or result.path is None:
            return False
        try:
            # Asked for each address in a later run, hence by size and not by hash, and without a
            # Path object. Files are only ever put in place whole, so a wrong size means that
            # somebody cut or replaced one.
            return os.stat(f"{self.folder}/{result.path}").st_size == result.bytes  # noqa: PTH116
        except OSError:
            return False

    def clear_drafts(self) -> None:
        """Drop what a killed process has left half written."""
        incoming = self.folder / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        for draft in incoming.iterdir():
            draft.unlink()

    def write_outcomes(self, rows: Iterator[list[dict[str, Any]]]) -> Counter[str]:
        """Replace the table by these rows, and after them what it had of other items.

        Args:
            rows: in chunks; of an id that occurs again the first counts.

        Returns:
            Outcome -> items, of these rows.
        """
        counted: Counter[str] = Counter()
        seen = _Seen()

        def batches() -> Iterator[pa.RecordBatch]:
            for chunk in rows:
                fresh = [row for row in chunk if seen.add(row["item_id"])]
                counted.update(row["outcome"] for row in fresh)
                yield pa.RecordBatch.from_pylist(fresh, PICTURE_OUTCOMES.schema)
            if self.table.exists():
                for batch in read_table(self.table, PICTURE_OUTCOMES).to_batches(1 << 16):
                    other = [seen.add(each) for each in batch["item_id"].to_pylist()]
                    yield batch.filter(pa.array(other, pa.bool_()))

        with atomic_file(self.table) as temporary:
            write_table(temporary, batches(), PICTURE_OUTCOMES)
        return counted


class Journal:
    """The lines of a store's journal, by address; opened by one process at a time.

    In memory: 16 bytes an address, its hash and where its line begins; the rest is read again when
    it is asked for. Not thread-safe; the caller holds a lock.
    """

    def __init__(self, path: Path) -> None:
        self._index = _Index()
        # Without Python's buffer: a line is with the system when `add` returns, so a kill of the
        # process loses nothing. Only a loss of power can, and then the address is asked again.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._end = self._load(path)
        os.ftruncate(self._file, self._end)
        self.start = self._end
        """Where this process began to write."""

    def _load(self, path: Path) -> int:
        """Read what is there; returns where the last whole line ends (a kill tears the last)."""
        end = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                result = _result_of(line)
                if result is not None:  # else the line is damaged: the address is asked again
                    self._index.put(key_of(result.url), end)
                end += len(line)
        return end

    def add(self, result: Result) -> None:
        """Append a line; it survives a kill from here on."""
        line = _line_of(result)
        at, rest = self._end, line
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:  # a full disk: no line begins behind half of another
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)
        # Of several lines of an address the last counts: it is what the next run goes by.
        self._index.put(key_of(result.url), at)

    def find(self, url: str) -> tuple[Result, bool] | None:
        """What became of an address, and whether this process has asked; None if nothing did."""
        at = self._index.get(key_of(url))
        if at is None:
            return None
        line = b""
        while not line.endswith(b"\n"):
            piece = os.pread(self._file, 1024, at + len(line))
            if not piece:
                return None
            line += piece[: piece.find(b"\n") + 1 or None]
        # The address is compared, not the hash alone, so that two of one hash cost a request at
        # most.
        found = _result_of(line)
        return (found, at >= self.start) if found is not None and found.url == url else None

    def close(self) -> None:
        """Bring what was written to the disk."""
        os.fsync(self._file)
        os.close(self._file)


def _line_of(result: Result) -> bytes:
    """JSON, a space and the CRC-32 of the JSON: no damage passes for something else."""
    filled = {name: value for name, value in vars(result).items() if value is not None}
    text = json.dumps(filled, separators=(",", ":")).encode()
    return b"%s %08x\n" % (text, zlib.crc32(text))


def _result_of(line: bytes) -> Result | None:
    text, _, check = line.rstrip(b"\n").rpartition(b" ")
    try:
        return Result(**json.loads(text)) if int(check, 16) == zlib.crc32(text) else None
    except (ValueError, TypeError):
        return None


def damaged_lines(journal: Path) -> int:
    """How many lines of a journal are damaged; an unfinished last one is not counted."""
    if not journal.is_file():
        return 0
    with journal.open("rb") as file:
        return sum(line.endswith(b"\n") and _result_of(line) is None for line in file)


def key_of(text: str) -> int:
    """64 bits of a text's hash. Two of ten million texts share one in 3 of a million cases."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class _Index:
    """Key -> number: what was added last in a dict, all else in sorted arrays.

    Sorted arrays take 16 bytes a key; a dict of Python's integers some 100.
    """

    def __init__(self) -> None:
        self._keys: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._values: NDArray[np.int64] = np.empty(0, np.int64)
        self._fresh: dict[int, int] = {}

    def get(self, key: int) -> int | None:
        found = self._fresh.get(key)
        if found is None and len(self._keys):
            at = int(np.searchsorted(self._keys, np.uint64(key)))
            if at < len(self._keys) and int(self._keys[at]) == key:
                return int(self._values[at])
        return found

    def put(self, key: int, value: int) -> None:
        self._fresh[key] = value
        if len(self._fresh) >= _MERGE_AT:
            self._merge()

    def _merge(self) -> None:
        count = len(self._fresh)
        keys = np.fromiter(self._fresh.keys(), np.uint64, count)
        values = np.fromiter(self._fresh.values(), np.int64, count)
        # The first of equal keys stays, and the fresh ones stand first.
        self._keys, first = np.unique(np.concatenate([keys, self._keys]), return_index=True)
        self._values = np.concatenate([values, self._values])[first]
        self._fresh = {}


class _Seen:
    """The ids that occurred so far."""

    def __init__(self) -> None:
        self._index = _Index()

    def add(self, text: str) -> bool:
        """Whether the text is new."""
        key = key_of(text)
        if self._index.get(key) is not None:
            return False
        self._index.put(key, 0)
        return True
