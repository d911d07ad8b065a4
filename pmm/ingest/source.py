"""A source's tables: written as a stream from raw files, loaded as integer codes.

`tables/<source>/interactions.parquet` holds every readable row in the order of the file;
`items.parquet` every item once; `card.json` the fate of every raw row.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pmm.artefact import Built, atomic_file, build, write_json
from pmm.errors import BrokenArtefact
from pmm.home import Home
from pmm.ingest.coding import Coder
from pmm.schemas import INTERACTIONS, ROW_GROUP, SOURCE_ITEMS, read_table, write_table

FORMAT = 1
"""Raised when the tables change for the same raw files, so that old ones are written again."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One pass over a source's raw files."""

    items: pa.Table
    """As `pmm.schemas.SOURCE_ITEMS`; every item id once."""
    item_fates: dict[str, Any]
    interactions: Iterator[pa.Table]
    """As `pmm.schemas.INTERACTIONS`, dictionary-coded, in file order; fills `row_fates`."""
    row_fates: Counter[str]
    """"read", "zero times", and a count for each reason to drop a row."""
    notes: dict[str, Any]
    """Further entries of the card: what was detected."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Raw files that can be read into a source's tables."""

    name: str
    config: Mapping[str, Any]
    """What the tables depend on besides the files' content."""
    inputs: Mapping[str, str]
    """File -> sha256."""
    pictures: Path | None
    read: Callable[[bool], Reading]
    """Starts a pass; with True the interactions are taken as Latin-1."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source in memory: R interactions in file order, U users, I items that occur or are listed.

    Codes ascend with the ids, so nothing depends on the order in which ids were met.
    """

    name: str
    card: dict[str, Any]
    user_ids: pa.StringArray
    item_ids: pa.StringArray
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64] | None
    """UTC seconds, or None where the source has no times."""
    items: pa.Table
    """The listed items in ascending order of `item_id`."""
    listed_at: NDArray[np.int32]
    """[I] row of the item in `items`, -1 where the items file lacks it."""


def write_tables(home: Home, raw: Raw) -> Built:
    """Read the raw files into tables/<source>/, unless nothing has changed since."""

    def write(draft: Path) -> dict[str, int]:
        try:
            return _write(draft, raw, raw.read(False))
        except UnicodeError:  # a byte far down in the file is not UTF-8
            return _write(draft, raw, raw.read(True))

    return build(
        home.tables(raw.name),
        kind="tables",
        config={"source": raw.name, "format": FORMAT, **raw.config},
        inputs=dict(raw.inputs),
        write=write,
    )


def _write(draft: Path, raw: Raw, reading: Reading) -> dict[str, int]:
    with atomic_file(draft / "items.parquet") as path:
        items = write_table(path, reading.items, SOURCE_ITEMS)
    with atomic_file(draft / "interactions.parquet") as path:
        rows = write_table(path, reading.interactions, INTERACTIONS)
    with atomic_file(draft / "card.json") as path:
        write_json(path, _card(raw, reading, rows))
    return {"interactions": rows, "items": items}


def _card(raw: Raw, reading: Reading, kept: int) -> dict[str, Any]:
    fates = dict(reading.row_fates)
    read, zero = fates.pop("read", 0), fates.pop("zero times", 0)
    items = reading.items
    return {
        "source": raw.name,
        "interactions": {
            "read": read,
            "kept": kept,
            "dropped": {reason: n for reason, n in fates.items() if n},
            "zero_times": zero,
        },
        "items": {
            **reading.item_fates,
            "without_image": items["image"].null_count,
            "without_text": pc.sum(pc.equal(items["text"], "")).as_py() or 0,
        },
        "pictures": str(raw.pictures) if raw.pictures else None,
        **reading.notes,
    }


def load_source(name: str, place: Path, card: dict[str, Any]) -> Source:
    """Load tables with their ids coded as integers; memory is about 16 bytes a row plus the ids.

    Raises:
        BrokenArtefact: a table cannot be read.
    """
    items = read_table(place / "items.parquet", SOURCE_ITEMS).sort_by("item_id").combine_chunks()
    users, sold = Coder(), Coder()
    sold.add(items["item_id"].combine_chunks().dictionary_encode())
    times: list[NDArray[np.int64]] = []
    timed = True
    for batch in _batches(place / "interactions.parquet"):
        users.add(batch["user_id"])
        sold.add(batch["item_id"])
        timed = timed and not batch["timestamp"].null_count
        if timed:
            times.append(batch["timestamp"].to_numpy())
    user_ids, user = users.finish()
    item_ids, item = sold.finish()
    listed_at = np.full(len(item_ids), -1, np.int32)
    listed_at[item[: len(items)]] = np.arange(len(items), dtype=np.int32)
    return Source(
        name=name,
        card=card,
        user_ids=user_ids,
        item_ids=item_ids,
        user=user,
        item=item[len(items) :],
        timestamp=np.concatenate(times) if timed and times else None,
        items=items,
        listed_at=listed_at,
    )


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    columns = ["user_id", "item_id", "timestamp"]
    try:
        with pq.ParquetFile(path, read_dictionary=columns[:2]) as file:
            yield from file.iter_batches(batch_size=ROW_GROUP, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise BrokenArtefact(f"{path} cannot be read ({error})") from error
