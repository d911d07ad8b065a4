"""Amazon's reviews and ratings as interactions.

Reviews come first, as `pmm.ingest.readers.json_lines.stream_lines` orders them, then files of
ratings one by one. Of fully identical review lines the first counts; rows of ratings all count,
since different reviews may give equal rows.
"""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from pmm.errors import InputError
from pmm.ingest.readers.columns import find_roles
from pmm.ingest.readers.delimited import Dialect, sniff, stream
from pmm.ingest.readers.duplicate_rows import without_duplicates
from pmm.ingest.readers.json_block import JsonField, text_of
from pmm.ingest.readers.json_lines import LinesFile, stream_lines
from pmm.ingest.readers.times import TimeForm, Unit, detect_times
from pmm.ingest.sources.amazon.editions import AmazonFile, Edition, Release
from pmm.ingest.tables.interactions import Cleaner

_OF_2018 = (
    JsonField(name="user_id", keys=("reviewerID",)),
    JsonField(name="item_id", keys=("asin",)),
    JsonField(name="timestamp", keys=("unixReviewTime",), number=True),
)
FIELDS: dict[Edition, tuple[JsonField, ...]] = {
    "2014": _OF_2018,
    "2018": _OF_2018,
    "2023": (
        JsonField(name="user_id", keys=("user_id",)),
        JsonField(name="item_id", keys=("parent_asin",)),
        JsonField(
            name="timestamp", keys=("timestamp", "sort_timestamp", "sortTimestamp"), number=True
        ),
    ),
}
"""Under which keys reviews hold what is read; the pages of 2023 name the time in three ways."""

_FIELDS = 4


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """A file of ratings and how it is read."""

    file: AmazonFile
    dialect: Dialect
    header: bool
    columns: dict[str, int]
    how: str
    """How the order of its columns was found, for the card."""
    unit: Unit


def plan_ratings(
    file: AmazonFile, edition: Edition, known: Container[str], *, encoding: str | None
) -> Ratings:
    """How a file of ratings is read.

    Without a header the item is the column that holds more item ids of the metadata; where none
    does, the order is the edition's: item first in 2018, user first in 2014.

    Args:
        file: with kind "ratings".
        edition: of the release.
        known: item ids of the metadata.
        encoding: of the file, where the user named it.

    Raises:
        InputError: the file is damaged or has other columns.
    """
    dialect, head = sniff(file.path, encoding=encoding, fields=_FIELDS)
    roles = find_roles(head[0], ["user", "item", "time"])
    if {"user", "item", "time"} <= roles.keys():
        columns = {"user_id": roles["user"], "item_id": roles["item"], "timestamp": roles["time"]}
        return _ratings(file, dialect, head[1:], columns, "by the header")
    if dialect.fields != _FIELDS:
        raise InputError(
            f"{file.path}: its rows have {dialect.fields} fields; expected are the ratings of "
            "Amazon: item, user, rating and timestamp, or a header with user_id and parent_asin"
        )
    hits = [sum(row[at].strip() in known for row in head if len(row) > at) for at in (0, 1)]
    user_first = hits[1] > hits[0] or (hits[0] == hits[1] and edition == "2014")
    order: Literal["user, item", "item, user"] = "user, item" if user_first else "item, user"
    how = (
        f"as {edition} has it: neither of the first columns holds more items of the metadata"
        if hits[0] == hits[1]
        else f"{max(hits):,} of the first {len(head):,} rows hold an item of the metadata there"
    )
    columns = {"user_id": int(not user_first), "item_id": int(user_first), "timestamp": 3}
    return _ratings(file, dialect, head, columns, f"{order}, rating, timestamp: {how}")


def _ratings(
    file: AmazonFile, dialect: Dialect, rows: list[list[str]], columns: dict[str, int], how: str
) -> Ratings:
    times = [row[columns["timestamp"]] for row in rows if len(row) > columns["timestamp"]]
    place = f"{file.path}, column {columns['timestamp'] + 1}"
    return Ratings(
        file=file,
        dialect=dialect,
        header=how == "by the header",
        columns=columns,
        how=how,
        unit=_unit_of(times, place),
    )


def _unit_of(samples: Sequence[str], place: str) -> Unit:
    """The unit of a release's times, which are since 1970 in every edition."""
    form = detect_times(samples, place)
    if form is None:
        raise InputError(f"{place}: the times near the beginning are empty")
    return form.unit


def read_interactions(
    release: Release,
    ratings: Sequence[Ratings],
    drop_counts: Counter[str],
    notes: dict[str, Any],
    row_notes: dict[str, Any],
) -> Iterator[pa.Table]:
    """All interactions of a release, clean.

    Args:
        release: from `find_release`.
        ratings: how its files of ratings are read.
        drop_counts: counts every row.
        notes: takes, at the end, what was odd in the files, repaired lines among it.
        row_notes: see `Cleaner.clean`.

    Raises:
        InputError: a file is damaged, or its times differ in unit from another's.
    """
    reviews = [each.lines for each in release.interactions if each.lines is not None]
    unit = _unit(release, reviews, ratings)
    batches = _batches(release.edition, reviews, ratings, drop_counts, notes)
    cleaner = Cleaner(place=f"{release.folder}, times of reviews", unit=TimeForm(unit=unit))
    return cleaner.clean(batches, drop_counts, row_notes)


def _batches(
    edition: Edition,
    reviews: Sequence[LinesFile],
    ratings: Sequence[Ratings],
    drop_counts: Counter[str],
    notes: dict[str, Any],
) -> Iterator[pa.RecordBatch]:
    if reviews:
        repaired: Counter[str] = Counter()
        lines = stream_lines(reviews, FIELDS[edition], drop_counts=drop_counts, notes=repaired)
        yield from without_duplicates(lines, drop_counts)
        notes.update(repaired)
    for each in ratings:
        own, odd = Counter[str](), dict[str, Any]()
        yield from stream(
            each.file.path,
            each.dialect,
            each.columns,
            header=each.header,
            drop_counts=own,
            notes=odd,
        )
        drop_counts.update(own)
        if odd:
            notes[each.file.name] = odd


def _unit(release: Release, reviews: Sequence[LinesFile], ratings: Sequence[Ratings]) -> Unit:
    """The unit of all times.

    Raises:
        InputError: files differ in it.
    """
    keys = next(field.keys for field in FIELDS[release.edition] if field.number)
    units: dict[Unit, str] = {each.unit: each.file.name for each in ratings}
    for file in reviews:
        times = [text for row in file.head for key in keys if (text := text_of(row.get(key)))]
        units.setdefault(_unit_of(times, f"{file.path}, {keys[0]}"), file.path.name)
    if len(units) > 1:
        shown = ", ".join(f"{name} in {unit}" for unit, name in sorted(units.items()))
        raise InputError(
            f"{release.folder}: the times of its files differ in unit: {shown}. Keep files of one "
            "kind together, or choose categories with --category"
        )
    return next(iter(units))


def describe_ratings(ratings: Sequence[Ratings]) -> dict[str, Any]:
    """How files of ratings are read, for the card."""
    return {
        each.file.name: {**each.dialect.describe(), "columns": each.how, "time": each.unit}
        for each in ratings
    }
