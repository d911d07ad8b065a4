"""Sequences in tars: a sample is a block of many users as an Arrow IPC stream.

A header per user would cost more than the user. Columns of a block: `user`, `train` (list of items,
oldest first), `valid`, `test`; the raw user ids stay in the target's table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pmm.arrays import Int32s, Int64s
from pmm.errors import BrokenArtefact
from pmm.shards.kinds import Split
from pmm.shards.tars import TarWriter, map_tar, members
from pmm.storage.artefact import atomic_file
from pmm.storage.schemas import PAD, SEQUENCES

USERS_PER_BLOCK = 4096
BLOCKS_PER_TAR = 64
_COLUMNS = ("user", "train", "valid", "test")
_SCHEMA = pa.schema([SEQUENCES.schema.field(name) for name in _COLUMNS])


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Ragged lists of item numbers; list k is values[offsets[k]:offsets[k + 1]], oldest first."""

    offsets: Int64s
    values: Int32s

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, k: int) -> Int32s:
        return self.values[self.offsets[k] : self.offsets[k + 1]]

    @property
    def lengths(self) -> Int64s:
        """int64 [number of lists]."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Lengths of some lists."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def take(self, rows: npt.NDArray[np.int64]) -> "Lists":
        """Some lists whole, in the order of `rows`.

        >>> lists = Lists(offsets=np.array([0, 3, 4]), values=np.array([5, 6, 7, 8], np.int32))
        >>> lists.take(np.array([1, 0])).values.tolist()
        [8, 5, 6, 7]
        """
        length = self.lengths_of(rows)
        offsets = np.concatenate([[0], np.cumsum(length)])
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], length)
        return Lists(offsets=offsets, values=self.values[index])

    def recent(self, rows: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
        """The last `length` items of some lists, left-padded: int64 [len(rows), length].

        >>> lists = Lists(offsets=np.array([0, 3, 4]), values=np.array([5, 6, 7, 8], np.int32))
        >>> lists.recent(np.array([1, 0]), 2).tolist()
        [[0, 8], [6, 7]]
        """
        return self.before(rows, self.lengths_of(rows), length)

    def before(
        self, rows: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], length: int
    ) -> npt.NDArray[np.int64]:
        """The `length` items before a place in each of some lists, left-padded, as `recent`."""
        index = (self.offsets[rows] + ends)[:, None] - np.arange(length, 0, -1)
        real = index >= self.offsets[rows, None]
        found = np.full(index.shape, PAD, dtype=np.int64)
        found[real] = self.values[index[real]]
        return found


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """Beginnings of ragged lists, which are written out only where `take` asks for them.

    The prefixes of one list at all its positions hold the square of its length.
    """

    lists: Lists
    row: Int32s
    """Of which list, int32 [number of prefixes]."""
    lengths: Int64s
    """How many of its items, int64 [number of prefixes]; never more than the list has."""

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, k: int) -> Int32s:
        first = self.lists.offsets[self.row[k]]
        return self.lists.values[first : first + self.lengths[k]]

    def take(self, rows: npt.NDArray[np.int64]) -> Lists:
        """Some prefixes written out, in the order of `rows`.

        >>> lists = Lists(offsets=np.array([0, 3, 4]), values=np.array([5, 6, 7, 8], np.int32))
        >>> some = Prefixes(lists=lists, row=np.array([0, 0, 1]), lengths=np.array([1, 2, 1]))
        >>> [each.tolist() for each in some.take(np.array([2, 1]))]
        [[8], [5, 6]]
        """
        length = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(length)])
        first = self.lists.offsets[self.row[rows]]
        index = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], length)
        return Lists(offsets=offsets, values=self.lists.values[index])

    def recent(self, rows: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
        """The last `length` items of some prefixes, left-padded: int64 [len(rows), length]."""
        first = self.lists.offsets[self.row[rows], None]
        index = first + self.lengths[rows, None] - np.arange(length, 0, -1)
        real = index >= first
        found = np.full(index.shape, PAD, dtype=np.int64)
        found[real] = self.lists.values[index[real]]
        return found


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """All users of a target, in order; users are 0..U-1."""

    train: Lists
    valid: Int32s
    """int32 [U]: the second last item of each user."""
    test: Int32s
    """int32 [U]: the last."""

    def __len__(self) -> int:
        return len(self.valid)

    def target(self, split: Split) -> Int32s:
        """The item to be found, int32 [U]."""
        return self.valid if split == "valid" else self.test

    def history(self, split: Split) -> Lists:
        """What precedes the target: the training part; for the test also the validation item."""
        if split == "valid":
            return self.train
        return Lists(
            offsets=self.train.offsets + np.arange(len(self) + 1),
            values=np.insert(self.train.values, self.train.offsets[1:], self.valid),
        )


def write_sequence_shards(folder: Path, sequences: pa.Table) -> int:
    """Write all sequence tars; returns how many there are."""
    table = sequences.select(_COLUMNS).combine_chunks()
    users_per_tar = USERS_PER_BLOCK * BLOCKS_PER_TAR
    count = 0
    for start in range(0, table.num_rows, users_per_tar):
        path = folder / f"sequences-{count:05d}.tar"
        with atomic_file(path) as temporary, TarWriter(temporary) as tar:
            part = table.slice(start, users_per_tar)
            for first in range(0, part.num_rows, USERS_PER_BLOCK):
                block = (start + first) // USERS_PER_BLOCK
                tar.add(f"{block:08d}.arrow", _ipc(part.slice(first, USERS_PER_BLOCK)))
        count += 1
    return count


def _ipc(block: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA) as writer:
        for batch in block.cast(_SCHEMA).to_batches():
            writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_sequences(folder: Path, n_shards: int, *, made_by: str) -> Sequences:
    """All sequences of a target.

    Raises:
        BrokenArtefact: a tar is cut off, or a block cannot be read or is not what Arrow says.
    """
    paths = [folder / f"sequences-{shard:05d}.tar" for shard in range(n_shards)]
    tables = [block for path in paths for block in _blocks(path, made_by)]
    table = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
    train = table["train"]
    lengths = pc.list_value_length(train).to_numpy()
    return Sequences(
        train=Lists(
            offsets=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            values=pc.list_flatten(train).to_numpy().astype(np.int32),
        ),
        valid=table["valid"].to_numpy().astype(np.int32),
        test=table["test"].to_numpy().astype(np.int32),
    )


def _blocks(path: Path, made_by: str) -> Iterator[pa.Table]:
    content = map_tar(path, made_by=made_by)
    with content:
        for member in members(path, made_by=made_by):
            data = content[member.offset : member.offset + member.size]
            try:
                block = pa.ipc.open_stream(data).read_all()
                # Arrow trusts offsets and lengths: whoever follows a damaged one reads elsewhere.
                block.validate(full=True)
                if block.schema != _SCHEMA:
                    raise ValueError(f"columns {block.schema.names}")
                yield block
            except (pa.ArrowException, OSError, ValueError) as error:
                raise BrokenArtefact(
                    f"{path}: {member.name} cannot be read ({error}). Run: {made_by}"
                ) from error
