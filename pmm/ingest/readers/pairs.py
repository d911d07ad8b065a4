"""Files of pairs: `item,user,timestamp` or `user,item,timestamp`, the order found out by looking.

NineRec's page gives one order and its code another, so the item column is the one whose values are
ids of the items file. Where the file's first line names its columns, the names decide.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.columns import Role, find_roles
from pmm.ingest.readers.delimited import Dialect, sniff, stream
from pmm.ingest.readers.ids import nfc_all
from pmm.ingest.readers.times import TimeForm, detect_times

_SURE, _FOREIGN = 0.9, 0.1
"""Shares of known ids in the file's head at which the whole file is not looked at."""
_FITS = 0.5
"""Least share of known ids in the item column, and largest of the user column relative to it."""
_COVERS = 0.9
"""Share of the listed items that the item column holds where both columns fit."""


@dataclass(frozen=True, kw_only=True)
class PairLayout:
    """How a file of pairs is read."""

    dialect: Dialect
    header: bool
    columns: dict[Role, int]
    """Position of "user", "item" and, where there are times, "time"."""
    decided_by: str
    times: TimeForm | None
    """None where there are none."""

    def describe(self) -> dict[str, Any]:
        """The layout in words, for the card."""
        return {
            **self.dialect.describe(),
            "header": self.header,
            "columns": {role: f"field {at + 1}" for role, at in self.columns.items()},
            "order of columns decided by": self.decided_by,
            "time": self.times.describe() if self.times else "none: the order of the rows counts",
        }

    def wanted(self) -> dict[str, int]:
        """Name of the column in a stream of interactions -> its position in the file."""
        names: dict[Role, str] = {"user": "user_id", "item": "item_id", "time": "timestamp"}
        return {names[role]: at for role, at in self.columns.items()}


def detect_pairs(path: Path, known: pa.Array, *, encoding: str | None = None) -> PairLayout:
    """Find out how a file of pairs is written.

    Args:
        path: the file: two columns of ids and, where there are times, a third.
        known: the ids of the items file.
        encoding: of the file, where the user named it.

    Raises:
        InputError: the file is missing, damaged or no table, both of its first two columns or none
            hold ids of the items file, or its third column holds no times.
    """
    known = nfc_all(known)
    dialect, head = sniff(path, encoding=encoding)
    first = [field.strip() for field in head[0]]
    roles = find_roles(first, ["user", "item", "time"])
    if {"user", "item"} <= roles.keys():
        columns, header, decided_by = roles, True, "the names in its first line"
    else:
        header = _names_stand_above(head, known)
        at, decided_by = _item_column(path, dialect, head[header:], header, known)
        columns = {"user": 1 - at, "item": at}
        if dialect.fields > 2:
            columns["time"] = 2
    times = _times(path, dialect, head[header:], columns, header)
    if times is None:
        columns.pop("time", None)
    return PairLayout(
        dialect=dialect, header=header, columns=columns, decided_by=decided_by, times=times
    )


def _names_stand_above(head: Sequence[Sequence[str]], known: pa.Array) -> bool:
    """Whether the first row holds names: no digit and no known id in it, digits in those below."""
    first, below = head[0][:3], [row for row in head[1:] if len(row) == len(head[0])]
    if any(re.search(r"\d", field) for field in first):
        return False
    names = nfc_all(pa.array([field.strip() for field in first]))
    if pc.any(pc.is_in(names, value_set=known)).as_py():
        return False
    numbered = sum(all(re.search(r"\d", field) for field in row[:2]) for row in below)
    return bool(below) and numbered * 2 >= len(below)


def _times(
    path: Path,
    dialect: Dialect,
    rows: Sequence[Sequence[str]],
    columns: dict[Role, int],
    header: bool,
) -> TimeForm | None:
    if "time" not in columns:
        return None
    at = columns["time"]

    def whole() -> Iterator[pa.Array]:
        for batch in stream(path, dialect, {"time": at}, header=header, drop_counts=Counter()):
            yield batch["time"].dictionary

    samples = [row[at] for row in rows if len(row) == dialect.fields]
    return detect_times(samples, f"{path}, field {at + 1}", whole=whole)


def _item_column(
    path: Path, dialect: Dialect, rows: Sequence[Sequence[str]], header: bool, known: pa.Array
) -> tuple[int, str]:
    """Which of the first two columns holds the items, and what decided it.

    The head decides where it is clear. Else the whole file is read: user numbers near the
    beginning may be small enough to be items too, those of the whole file seldom are.
    """
    whole = [row for row in rows if len(row) == dialect.fields]
    shares = [_share(pa.array([row[at] for row in whole], pa.string()), known) for at in (0, 1)]
    for at in (0, 1):
        if shares[at] >= _SURE and shares[1 - at] <= _FOREIGN:
            return at, _shown(shares, f"the first {len(whole):,} rows")
    seen = [_Overlap(known), _Overlap(known)]
    for batch in stream(path, dialect, {"0": 0, "1": 1}, header=header, drop_counts=Counter()):
        for overlap, column in zip(seen, batch.columns, strict=True):
            overlap.add(column)
    shares, covers = [each.share() for each in seen], [each.covers() for each in seen]
    for at in (0, 1):
        if shares[at] >= _FITS and shares[1 - at] <= _FITS * shares[at]:
            return at, _shown(shares, "all rows")
    for at in (0, 1):
        fits = min(shares) >= _FITS and covers[at] >= _COVERS
        if fits and covers[1 - at] <= _FITS * covers[at]:
            return at, _shown(covers, "all rows: of the listed items occur")
    raise InputError(
        f"{path}: which column holds the items? {_shown(shares, 'all rows')}; expected is about "
        "100 % in one column and few in the other. If this is the file of another dataset, put "
        "the items file that belongs to it beside it; else write a first line that names the "
        "columns, e.g. user,item,timestamp"
    )


def _shown(shares: Sequence[float], where: str) -> str:
    first, second = (f"{100 * share:.1f} %" for share in shares)
    if where.endswith("occur"):
        return f"{where}: {first} in field 1, {second} in field 2"
    return f"ids of the items file are {first} of field 1 and {second} of field 2 in {where}"


def _share(values: pa.Array, known: pa.Array) -> float:
    if not len(values):
        return 0.0
    inside = pc.is_in(nfc_all(pc.utf8_trim_whitespace(values)), value_set=known)
    return float(pc.mean(inside).as_py())


class _Overlap:
    """How much of a column are known ids, and how many of those it holds."""

    def __init__(self, known: pa.Array) -> None:
        self._known = known
        self._rows = self._inside = 0
        self._met = np.zeros(len(known), bool)

    def add(self, column: pa.DictionaryArray) -> None:
        ids = nfc_all(pc.utf8_trim_whitespace(column.dictionary))
        at = pc.index_in(ids, value_set=self._known)
        self._rows += len(column)
        self._inside += pc.sum(at.is_valid().take(column.indices)).as_py() or 0
        self._met[at.drop_null().to_numpy()] = True

    def share(self) -> float:
        return self._inside / self._rows if self._rows else 0.0

    def covers(self) -> float:
        return float(self._met.mean()) if len(self._met) else 0.0


def stream_pairs(
    path: Path,
    layout: PairLayout,
    drop_counts: Counter[str],
    notes: dict[str, Any] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The columns `user_id`, `item_id` and, where there are times, `timestamp`.

    Raises:
        InputError: as `pmm.ingest.readers.delimited.stream`.
    """
    return stream(
        path,
        layout.dialect,
        layout.wanted(),
        header=layout.header,
        drop_counts=drop_counts,
        notes=notes,
    )
