"""Rows of interactions before they are cleaned: where times are, identical rows, low ratings."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.columns import time_columns
from pmm.ingest.readers.delimited import Dialect, stream
from pmm.ingest.readers.duplicate_rows import DUPLICATE, hash_rows, without_duplicates
from pmm.ingest.readers.json_block import LINE
from pmm.ingest.readers.times import TimeForm, detect_times

logger = logging.getLogger(__name__)

NO_RATING = "unreadable rating"
"""The reason under which rows are counted whose rating is no number, where it is asked for."""

_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d([.,]\d+)?)?(\s*[ap]\.?m\.?)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """Which rows of a table count."""

    min_rating: float | None = None
    """Rows with a lower rating are dropped."""
    drop_identical: bool = False
    """Of rows that are equal in every field only the first counts."""


def choose_time(names: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[int, int | None]:
    """Of several columns with times the one to read, and one with the time of day, if it is apart.

    >>> choose_time(["user", "time", "date"], [["u", "02:40", "2017-07-14"]])
    (2, 1)

    Args:
        names: of the file's columns; one at least is a time.
        rows: the first rows below them.
    """
    found = time_columns(names)
    if len(found) == 1:
        return found[0], None
    values = {at: [row[at].strip() for row in rows if len(row) == len(names)] for at in found}
    values = {at: [each for each in column if each] for at, column in values.items()}
    clocks = [at for at in found if values[at] and all(map(_CLOCK.fullmatch, values[at]))]
    forms = {at: form for at in found if at not in clocks and (form := _form(values[at]))}
    if not forms:
        return found[0], None
    # Times since 1970 and dates go before numbers that only grow.
    chosen = min(forms, key=lambda at: (forms[at].numbers, found.index(at)))
    days = forms[chosen].unit == "date" and not any(":" in each for each in values[chosen])
    return chosen, clocks[0] if clocks and days else None


def _form(values: Sequence[str]) -> TimeForm | None:
    try:
        return detect_times(values, "", asked="day-first")
    except InputError:
        return None


def with_clock(batch: pa.RecordBatch) -> pa.Array:
    """The days of "timestamp" with the times of "clock" behind them, dictionary-encoded."""
    parts = (batch[name].dictionary_decode() for name in ("timestamp", "clock"))
    return pc.binary_join_element_wise(*parts, " ").dictionary_encode()


def stream_rows(
    path: Path,
    dialect: Dialect,
    wanted: Mapping[str, int],
    *,
    header: bool,
    keep: RowFilter,
    drop_counts: Counter[str],
    notes: dict[str, Any],
    odd: dict[str, Any],
) -> Iterator[pa.RecordBatch]:
    """The columns `user_id`, `item_id` and, if wanted, `timestamp` of the rows that count.

    Args:
        path: the file.
        dialect: how it is written.
        wanted: column -> position in the file; beside these "rating", and "clock", the time of day
            that belongs to a "timestamp" of days.
        header: whether the first row holds names.
        keep: which rows count.
        drop_counts: counts all rows under "read", and the dropped ones by reason.
        notes: gets "identical_rows", how many rows are equal to an earlier one in every field,
            where they are kept.
        odd: gets what was odd in the file, as the notes of `stream`.

    Raises:
        InputError, UnicodeError: as `pmm.ingest.readers.delimited.stream`.
    """
    others = set(range(dialect.fields)) - set(wanted.values())
    every = {**wanted, **{f"other {at}": at for at in sorted(others)}}
    batches = stream(path, dialect, every, header=header, drop_counts=drop_counts, notes=odd)
    hashed = (_with_line(batch, list(every), list(wanted)) for batch in batches)
    identical = drop_counts if keep.drop_identical else Counter()
    for batch in without_duplicates(hashed, identical, keep=not keep.drop_identical):
        rows = batch
        if keep.min_rating is not None:
            rows = _rated(rows, keep.min_rating, drop_counts)
        columns = [rows[name] for name in ("user_id", "item_id")]
        names = ["user_id", "item_id"]
        if "timestamp" in wanted:
            columns.append(with_clock(rows) if "clock" in wanted else rows["timestamp"])
            names.append("timestamp")
        yield pa.RecordBatch.from_arrays(columns, names)
    if not keep.drop_identical and identical[DUPLICATE]:
        notes["identical_rows"] = identical[DUPLICATE]
        logger.warning(
            f"{path}: {identical[DUPLICATE]:,} of {drop_counts['read']:,} rows are identical to an "
            "earlier one; they are kept, for something may have been bought again; "
            "--drop-identical drops them"
        )


def _with_line(
    batch: pa.RecordBatch, every: Sequence[str], wanted: Sequence[str]
) -> pa.RecordBatch:
    lines = pa.array(hash_rows([batch[name] for name in every]))
    return pa.RecordBatch.from_arrays([*(batch[n] for n in wanted), lines], [*wanted, LINE])


def _rated(batch: pa.RecordBatch, least: float, drop_counts: Counter[str]) -> pa.RecordBatch:
    column = batch["rating"]
    ratings = np.array([_rating(each) for each in column.dictionary.to_pylist()], float)
    rating = ratings[column.indices.to_numpy()] if len(column) else ratings[:0]
    unread, low = np.isnan(rating), rating < least
    drop_counts[NO_RATING] += int(np.count_nonzero(unread))
    drop_counts[f"rating below {least:g}"] += int(np.count_nonzero(low))
    return batch.filter(pa.array(~(unread | low)))


def _rating(text: str) -> float:
    """A rating, also with a comma for the point; not a number where it is none."""
    try:
        return float(text.strip().replace(",", "."))
    except ValueError:
        return float("nan")
