"""Rows of a raw file as clean interactions: ids trimmed, times exact, every drop counted."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.ids import nfc_all
from pmm.ingest.readers.times import (
    ACCEPTED,
    IMPLAUSIBLE,
    UNITS,
    UNREADABLE,
    ZERO,
    TimeForm,
    Unit,
    parse_times,
)
from pmm.storage.schemas import INTERACTIONS, ROW_GROUP

logger = logging.getLogger(__name__)

NO_USER = "empty user id"
NO_ITEM = "empty item id"
NO_TIME = "unreadable time"
OTHER_FORM = "ids in another Unicode form"
"""Counts the rows whose user or item was not written in NFC; they are kept."""
ABSURD_TIME = "implausible time (before 1990 or after 2037)"

ORDER_BITS = 33
"""`order` is the number of the row in its lowest bits and the nanoseconds of its time above them.

So (timestamp, order) orders by the exact time and then by the file, and a file of whole seconds has
the numbers of its rows there.
"""
LONGEST_ID = 1_000
"""Characters of an id; longer ones are damage, or an attack on the memory."""
LONG_ID = "id longer than 1,000 characters"
"""The reason under which rows with longer ones are counted."""

Repair = Callable[[pa.Array], pa.Array]
"""Distinct item ids -> the ids they stand for."""

_CODED = pa.dictionary(pa.int32(), pa.string())


@dataclass(kw_only=True)
class _TimesSeen:
    """What the times of a file are, as its rows go by."""

    place: str
    numbers: bool
    units: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    absurd: list[str] = field(default_factory=list)

    def tell(self, drop_counts: Counter[str], notes: dict[str, Any]) -> None:
        """Say and note what is unusual."""
        dropped = drop_counts[ABSURD_TIME]
        if dropped:
            logger.warning(
                f"{self.place}: {dropped:,} times are before 1990 or after 2037, "
                f"e.g. {_shown(self.absurd)}; their rows are dropped"
            )
        if drop_counts["zero times"] and not self.numbers:
            logger.warning(
                f"{self.place}: {drop_counts['zero times']:,} times are 0, which often stands for "
                "an unknown time; their rows are kept and go before all others"
            )
        if len(+self.units) > 1:
            notes["time_units"] = {unit: self.units[unit] for unit in UNITS if self.units[unit]}
            counts = ", ".join(f"{n:,} in {unit}" for unit, n in notes["time_units"].items())
            logger.warning(f"{self.place}: units differ: {counts}; each time is read by its size")


@dataclass(frozen=True, kw_only=True)
class Cleaner:
    """How the columns `user_id`, `item_id` and (unless `unit` is None) `timestamp` are read."""

    place: str
    """The file and column, for errors."""
    unit: TimeForm | Unit | None
    """How times are read, or in which unit most of them are."""
    repair: Repair | None = None
    advice: str = ""
    """What to do where most times cannot be read, for errors."""

    def clean(
        self,
        batches: Iterable[pa.RecordBatch],
        drop_counts: Counter[str],
        notes: dict[str, Any] | None = None,
    ) -> Iterator[pa.Table]:
        """Clean interactions in tables of about a million rows, in the order of the file.

        `order` counts the rows of the file that have the right number of fields, and holds the
        fractions of seconds above (`ORDER_BITS`). Rows without a user, an item or a plausible time,
        or with an id of more than `LONGEST_ID` characters, are dropped and counted; times of 0, a
        known filler for an unknown time, are kept and counted under "zero times". Ids come in NFC.

        Args:
            batches: in the order of the file.
            drop_counts: counts the dropped rows by reason.
            notes: gets "time_units", how many times are in which unit, where units differ.

        Raises:
            InputError: more than half of the times cannot be read (with three of them).
        """
        order = 0
        waiting: list[pa.RecordBatch] = []
        rows = 0
        form = self._form()
        seen = _TimesSeen(place=self.place, numbers=form is not None and form.numbers)
        for batch in batches:
            piece = self._clean_batch(batch, order, drop_counts, seen)
            order += batch.num_rows
            if rows + piece.num_rows > ROW_GROUP and rows:
                yield pa.Table.from_batches(waiting).unify_dictionaries()
                waiting, rows = [], 0
            waiting.append(piece)
            rows += piece.num_rows
        if rows:
            yield pa.Table.from_batches(waiting).unify_dictionaries()
        lost = drop_counts[NO_TIME] + drop_counts[ABSURD_TIME]
        if lost * 2 > order:
            why = "cannot be read"
            if drop_counts[ABSURD_TIME]:
                why += " or are before 1990 or after 2037"
            shown = _shown([*seen.absurd, *seen.unread])
            raise InputError(
                f"{self.place}: {lost:,} of {order:,} times {why}, e.g. "
                f"{shown}; accepted: {ACCEPTED}{self.advice}"
            )
        seen.tell(drop_counts, {} if notes is None else notes)

    def _form(self) -> TimeForm | None:
        return TimeForm(unit=self.unit) if isinstance(self.unit, str) else self.unit

    def _clean_batch(
        self, batch: pa.RecordBatch, order: int, drop_counts: Counter[str], seen: _TimesSeen
    ) -> pa.RecordBatch:
        user, long_user = _trimmed(batch["user_id"], None, drop_counts)
        item, long_item = _trimmed(batch["item_id"], self.repair, drop_counts)
        positions = np.arange(order, order + len(user))
        reasons = [
            (LONG_ID, pc.or_(long_user, long_item)),
            (NO_USER, _is_empty(user)),
            (NO_ITEM, _is_empty(item)),
        ]
        time = pa.nulls(len(user), pa.int64())
        code = np.zeros(len(user), np.int8)
        form = self._form()
        if form is not None:
            raw = batch["timestamp"]
            read = parse_times(raw.dictionary, form).at(raw.indices.to_numpy())
            code = read.code
            time = pa.array(read.seconds)
            positions += read.nanoseconds << ORDER_BITS
            for reason, which, examples in (
                (NO_TIME, UNREADABLE, seen.unread),
                (ABSURD_TIME, IMPLAUSIBLE, seen.absurd),
            ):
                mask = code == which
                reasons.append((reason, pa.array(mask)))
                if mask.any() and len(examples) < 3:
                    examples += raw.filter(pa.array(mask)).slice(0, 3).to_pylist()
        rest = np.ones(len(user), bool)
        for reason, mask in reasons:
            bad = mask.to_numpy(zero_copy_only=False)
            drop_counts[reason] += int(np.count_nonzero(bad & rest))
            rest &= ~bad
        clean = pa.RecordBatch.from_arrays(
            [user, item, time, pa.array(positions)], names=INTERACTIONS.schema.names
        )
        if not rest.all():
            clean, code = clean.filter(pa.array(rest)), code[rest]
        if form is not None:
            drop_counts["zero times"] += int(np.count_nonzero(code == ZERO))
            for at, n in enumerate(np.bincount(code, minlength=len(UNITS))[: len(UNITS)]):
                seen.units[UNITS[at]] += int(n)
        return clean


def _shown(examples: list[str]) -> str:
    return ", ".join(repr(text[:60]) for text in examples[:3])


def _trimmed(
    column: pa.DictionaryArray, repair: Repair | None, counts: Counter[str]
) -> tuple[pa.DictionaryArray, pa.Array]:
    """The ids, and which are too long: these are "", or the tables would hold them."""
    written = pc.utf8_trim_whitespace(column.dictionary)
    too_long = pc.greater(pc.utf8_length(written), LONGEST_ID)
    written = pc.if_else(too_long, "", written)
    long = too_long.take(column.indices)
    if repair is not None:
        written = repair(written)
    ids = nfc_all(written)
    if ids is not written:
        changed = pc.not_equal(ids, written).take(column.indices)
        counts[OTHER_FORM] += pc.sum(changed).as_py() or 0
    if ids.equals(column.dictionary):
        return column, long
    # Two raw ids may have become one, and a dictionary must not hold a value twice.
    coded = ids.dictionary_encode()
    indices = coded.indices.take(column.indices)
    return pa.DictionaryArray.from_arrays(indices, coded.dictionary), long


def _is_empty(column: pa.DictionaryArray) -> pa.Array:
    return pc.equal(column.dictionary, "").take(column.indices)
