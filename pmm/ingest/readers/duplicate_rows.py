"""Rows that are identical to an earlier one, found by the hash of their raw lines."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pmm.ingest.readers.json_block import LINE

DUPLICATE = "identical row"
"""The reason under which rows are counted whose whole line stood before."""

_GROUP_ROWS = 1 << 19
_SHARDS = 64
_ODD = np.uint64(0x9E3779B97F4A7C15)


class SeenHashes:
    """Which 64-bit hashes have been seen: 8 bytes each, no work in Python for a single one.

    Hashes of different lines are equal by chance: with 233 million lines (all of Amazon 2018) one
    such pair is to be expected in 0.15% of all readings, n * n / 2^65.

    >>> seen = SeenHashes()
    >>> seen.add(np.array([5, 7, 5], np.uint64)).tolist()
    [True, True, False]
    >>> seen.add(np.array([9, 7], np.uint64)).tolist()
    [True, False]
    """

    def __init__(self) -> None:
        # Sorted runs by the hashes' leading bits: merging one shard needs little memory beside it.
        self._shards: list[list[NDArray[np.uint64]]] = [[] for _ in range(_SHARDS)]

    def add(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[R] True at the first occurrence of each hash, over all calls so far."""
        order = np.argsort(hashes, kind="stable")
        ascending = hashes[order]
        fresh = np.ones(len(hashes), bool)
        fresh[1:] = ascending[1:] != ascending[:-1]
        bounds = np.arange(1, _SHARDS, dtype=np.uint64) * np.uint64(2**64 // _SHARDS)
        cuts = [0, *np.searchsorted(ascending, bounds).tolist(), len(ascending)]
        for runs, start, stop in zip(self._shards, cuts[:-1], cuts[1:], strict=True):
            part = ascending[start:stop]
            for run in runs:
                at = np.searchsorted(run, part)
                at[at == len(run)] = 0
                fresh[start:stop] &= run[at] != part
            _append(runs, part[fresh[start:stop]])
        first = np.empty(len(hashes), bool)
        first[order] = fresh
        return first


def _append(runs: list[NDArray[np.uint64]], run: NDArray[np.uint64]) -> None:
    """Add a sorted run; runs at least double in size from the last to the first."""
    while runs and len(runs[-1]) < 2 * len(run):
        run = np.concatenate([runs.pop(), run])
        run.sort(kind="stable")  # merges the two sorted halves
    if len(run):
        runs.append(run)


def hash_rows(columns: Sequence[pa.DictionaryArray]) -> NDArray[np.uint64]:
    """[R] a hash of each row over its columns, dictionary-encoded strings.

    Hashes are compared within one pass and never stored, so a new version of them may differ.
    """
    total = np.zeros(len(columns[0]), np.uint64)
    for place, column in enumerate(columns):
        each = pl.Series("value", column.dictionary, dtype=pl.String).hash(seed=place).to_numpy()
        total *= _ODD
        if len(each):
            total += each[column.indices.to_numpy()]
    return total


def without_duplicates(
    batches: Iterable[pa.RecordBatch], drop_counts: Counter[str], *, keep: bool = False
) -> Iterator[pa.RecordBatch]:
    """Batches without the column `LINE` and without the rows whose line stood before.

    Args:
        batches: from `pmm.ingest.readers.json_lines.stream_lines`, say.
        drop_counts: counts the rows whose line stood before under `DUPLICATE`.
        keep: count them only.
    """
    seen = SeenHashes()
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= _GROUP_ROWS:
            yield from _first_rows(waiting, seen, drop_counts, keep)
            waiting = []
    yield from _first_rows(waiting, seen, drop_counts, keep)


def _first_rows(
    batches: list[pa.RecordBatch], seen: SeenHashes, drop_counts: Counter[str], keep: bool
) -> Iterator[pa.RecordBatch]:
    if not batches:
        return
    first = seen.add(np.concatenate([batch[LINE].to_numpy() for batch in batches]))
    drop_counts[DUPLICATE] += len(first) - int(np.count_nonzero(first))
    start = 0
    for batch in batches:
        stays = first[start : start + batch.num_rows]
        start += batch.num_rows
        rest = batch.drop_columns([LINE])
        if not keep and not stays.all():
            rest = rest.filter(pa.array(stays))
        if rest.num_rows:
            yield rest
