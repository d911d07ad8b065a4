"""Rows of a raw file as clean interactions: ids trimmed, times in seconds, every drop counted."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.times import ACCEPTED, Unit, parse_times
from pmm.storage.schemas import INTERACTIONS, ROW_GROUP

NO_USER = "empty user id"
NO_ITEM = "empty item id"
NO_TIME = "unreadable time"
LONGEST_ID = 1_000
"""Characters of an id; longer ones are damage, or an attack on the memory."""
LONG_ID = "id longer than 1,000 characters"
"""The reason under which rows with longer ones are counted."""

Repair = Callable[[pa.Array], pa.Array]
"""Distinct item ids -> the ids they stand for."""

_CODED = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, kw_only=True)
class Cleaner:
    """How the columns `user_id`, `item_id` and (unless `unit` is None) `timestamp` are read."""

    place: str
    """The file and column, for errors."""
    unit: Unit | None
    repair: Repair | None = None

    def clean(
        self, batches: Iterable[pa.RecordBatch], drop_counts: Counter[str]
    ) -> Iterator[pa.Table]:
        """Clean interactions in tables of about a million rows, in the order of the file.

        `order` counts the rows of the file that have the right number of fields. Rows without
        a user, an item or a readable time, or with an id of more than `LONGEST_ID` characters, are
        dropped and counted; times of 0, a known filler for an unknown time, are kept and counted
        under "zero times".

        Raises:
            InputError: more than half of the times cannot be read (with three of them).
        """
        order = 0
        waiting: list[pa.RecordBatch] = []
        rows = 0
        unread: list[str] = []
        for batch in batches:
            piece = self._clean_batch(batch, order, drop_counts, unread)
            order += batch.num_rows
            if rows + piece.num_rows > ROW_GROUP and rows:
                yield pa.Table.from_batches(waiting).unify_dictionaries()
                waiting, rows = [], 0
            waiting.append(piece)
            rows += piece.num_rows
        if rows:
            yield pa.Table.from_batches(waiting).unify_dictionaries()
        if drop_counts[NO_TIME] * 2 > order:
            shown = ", ".join(repr(text) for text in unread[:3])
            raise InputError(
                f"{self.place}: {drop_counts[NO_TIME]:,} of {order:,} times cannot be read, e.g. "
                f"{shown}; accepted: {ACCEPTED}"
            )

    def _clean_batch(
        self, batch: pa.RecordBatch, order: int, drop_counts: Counter[str], unread: list[str]
    ) -> pa.RecordBatch:
        user, long_user = _trimmed(batch["user_id"], None)
        item, long_item = _trimmed(batch["item_id"], self.repair)
        positions = pa.array(np.arange(order, order + len(user)))
        no_user, no_item = _is_empty(user), _is_empty(item)
        time = pa.nulls(len(user), pa.int64())
        no_time = pa.array(np.zeros(len(user), bool))
        if self.unit is not None:
            raw = batch["timestamp"]
            time = parse_times(raw.dictionary, self.unit).take(raw.indices)
            no_time = pc.is_null(time)
            if len(unread) < 3:
                unread += [each[:80] for each in raw.filter(no_time).slice(0, 3).to_pylist()]
        rest = None
        reasons = (
            (LONG_ID, pc.or_(long_user, long_item)),
            (NO_USER, no_user),
            (NO_ITEM, no_item),
            (NO_TIME, no_time),
        )
        for reason, mask in reasons:
            fresh = mask if rest is None else pc.and_(mask, rest)
            drop_counts[reason] += pc.sum(fresh).as_py() or 0
            rest = pc.invert(mask) if rest is None else pc.and_not(rest, mask)
        clean = pa.RecordBatch.from_arrays(
            [user, item, time, positions], names=INTERACTIONS.schema.names
        )
        if not pc.all(rest).as_py():
            clean = clean.filter(rest)
        drop_counts["zero times"] += pc.sum(pc.equal(clean["timestamp"], 0)).as_py() or 0
        return clean


def _trimmed(
    column: pa.DictionaryArray, repair: Repair | None
) -> tuple[pa.DictionaryArray, pa.Array]:
    """The ids, and which are too long: these are "", or the tables would hold them."""
    ids = pc.utf8_trim_whitespace(column.dictionary)
    too_long = pc.greater(pc.utf8_length(ids), LONGEST_ID)
    ids = pc.if_else(too_long, "", ids)
    long = too_long.take(column.indices)
    if repair is not None:
        ids = repair(ids)
    if ids.equals(column.dictionary):
        return column, long
    # Two raw ids may have become one, and a dictionary must not hold a value twice.
    coded = ids.dictionary_encode()
    indices = coded.indices.take(column.indices)
    return pa.DictionaryArray.from_arrays(indices, coded.dictionary), long


def _is_empty(column: pa.DictionaryArray) -> pa.Array:
    return pc.equal(column.dictionary, "").take(column.indices)
