"""A source's tables: written as a stream from raw files, loaded with integers for ids.

`tables/<source>/interactions.parquet` holds every readable row in the order of the file;
`items.parquet` every item once; `urls.parquet`, where the raw files name any, the addresses of the
items' pictures; `card.json` what became of every raw row.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pmm.advice import command
from pmm.errors import ArtefactError, BrokenArtefact
from pmm.ingest.readers.ids import nfc_all
from pmm.ingest.tables.id_codes import IdCodes
from pmm.ingest.tables.interactions import ORDER_BITS, OTHER_FORM
from pmm.storage.artefact import (
    Built,
    atomic_file,
    build,
    fingerprint,
    open_artefact,
    write_json,
)
from pmm.storage.home import Home, require_same_name
from pmm.storage.json_files import read_json
from pmm.storage.schemas import (
    INTERACTIONS,
    ITEM_URLS,
    ROW_GROUP,
    SOURCE_ITEMS,
    read_table,
    write_table,
)

FORMAT = 1
"""Raised when the tables change for the same raw files, so that old ones are written again."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One pass over a source's raw files."""

    items: pa.Table
    """As `pmm.storage.schemas.SOURCE_ITEMS`; every item id once."""
    item_counts: dict[str, Any]
    interactions: Iterator[pa.Table]
    """As `pmm.storage.schemas.INTERACTIONS`, dictionary-encoded, in file order; fills
    `row_counts`."""
    row_counts: Counter[str]
    """"read", "zero times", and a count for each reason to drop a row."""
    notes: dict[str, Any]
    """Further entries of the card: what was detected."""
    row_notes: dict[str, Any] = field(default_factory=dict)
    """Further entries of the card's "interactions", known once all of them have been read."""
    picture_notes: Mapping[str, Any] = field(default_factory=dict)
    """`pmm.ingest.pictures.picture_folder.PictureFolder.notes`."""
    urls: pa.Table | None = None
    """As `pmm.storage.schemas.ITEM_URLS`; None where the raw files name no addresses of pictures.
    """


@dataclass(frozen=True, kw_only=True)
class RawSource:
    """Raw files that can be read into a source's tables."""

    name: str
    config: Mapping[str, Any]
    """What the tables depend on besides the files' content."""
    inputs: Mapping[str, str]
    """File -> sha256."""
    pictures: Path | None
    read: Callable[[], Reading]
    """Starts a pass."""
    items_only: frozenset[str] = frozenset()
    """Names in `config` and `inputs` on which the interactions do not depend: where nothing but
    these has changed, the interactions are taken over from the tables in place."""


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
    nanoseconds: NDArray[np.int32] | None = None
    """Above `timestamp`, or None where all times are whole seconds."""
    items: pa.Table
    """The listed items in ascending order of `item_id`."""
    listed_at: NDArray[np.int32]
    """[I] row of the item in `items`, -1 where the items file lacks it."""


def write_tables(home: Home, raw: RawSource) -> Built:
    """Read the raw files into tables/<source>/, unless nothing has changed since.

    Where only the items are affected by what has changed (`RawSource.items_only`), the interactions
    and their part of the card are taken over, with the same bytes as if they had been read again.
    """
    place = home.tables(raw.name)
    config = {"source": raw.name, "format": FORMAT, **raw.config}
    piece = fingerprint(
        {name: value for name, value in config.items() if name not in raw.items_only},
        {name: digest for name, digest in raw.inputs.items() if name not in raw.items_only},
    )

    def write(draft: Path) -> dict[str, int]:
        require_same_name(place, "dataset", raw.name)
        done = _interactions_in_place(place, piece) if raw.items_only else None
        if done is not None:
            return _write(draft, raw, raw.read(), done, place)
        return _write(draft, raw, raw.read())

    return build(
        place,
        kind="tables",
        config={**config, **({"interactions": piece} if raw.items_only else {})},
        inputs=dict(raw.inputs),
        write=write,
    )


def _interactions_in_place(place: Path, piece: str) -> dict[str, Any] | None:
    """What the card in place says of the interactions, if they are whole and made from the same."""
    try:
        manifest = open_artefact(place, kind="tables", made_by=command("ingest"), verify=True)
    except ArtefactError:
        return None
    if manifest.config.get("interactions") != piece:
        return None
    again = "Ingest the source again"
    card = read_json(place / "card.json", again=again, needs=["interactions"])
    found: dict[str, Any] = card["interactions"]
    return found


def _write(
    draft: Path,
    raw: RawSource,
    reading: Reading,
    rows_card: dict[str, Any] | None = None,
    in_place: Path | None = None,
) -> dict[str, int]:
    """Write the tables and the card, the interactions as they are `in_place` where that is given.

    `rows_card` is then the card's "interactions".
    """
    with atomic_file(draft / "items.parquet") as path:
        items = write_table(path, reading.items, SOURCE_ITEMS)
    if reading.urls is not None:
        with atomic_file(draft / "urls.parquet") as path:
            write_table(path, reading.urls, ITEM_URLS)
    with atomic_file(draft / "interactions.parquet") as path:
        if in_place is not None:
            _take_over(in_place / "interactions.parquet", path)
        else:
            kept = write_table(path, reading.interactions, INTERACTIONS)
            rows_card = _row_account(reading, kept)
    card = _card(raw, reading, rows_card or {})
    with atomic_file(draft / "card.json") as path:
        write_json(path, card)
    return {"interactions": card["interactions"]["kept"], "items": items}


def _take_over(source: Path, path: Path) -> None:
    """The same file under a second name; artefacts' files are replaced, never changed."""
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, path)


def _row_account(reading: Reading, kept: int) -> dict[str, Any]:
    drop_counts = dict(reading.row_counts)
    read, zero = drop_counts.pop("read", 0), drop_counts.pop("zero times", 0)
    other_form = drop_counts.pop(OTHER_FORM, 0)
    return {
        "read": read,
        "kept": kept,
        "dropped": {reason: n for reason, n in drop_counts.items() if n},
        "zero_times": zero,
        **({"ids_in_another_unicode_form": other_form} if other_form else {}),
        **reading.row_notes,
    }


def _card(raw: RawSource, reading: Reading, rows: dict[str, Any]) -> dict[str, Any]:
    items = reading.items
    return {
        "source": raw.name,
        "interactions": rows,
        "items": {
            **reading.item_counts,
            "without_image": items["image"].null_count,
            "without_text": pc.sum(pc.equal(items["text"], "")).as_py() or 0,
        },
        "pictures": str(raw.pictures) if raw.pictures else None,
        **({"picture_files": dict(reading.picture_notes)} if reading.picture_notes else {}),
        **reading.notes,
    }


def load_source(name: str, place: Path, card: dict[str, Any]) -> Source:
    """Load tables with integers in place of ids; memory is about 20 bytes a row plus the ids.

    Raises:
        BrokenArtefact: a table cannot be read.
    """
    items = _listed(read_table(place / "items.parquet", SOURCE_ITEMS))
    written = _other_forms(items["item_id"].combine_chunks())
    users, sold = IdCodes(), IdCodes()
    sold.add(items["item_id"].combine_chunks().dictionary_encode())
    times: list[NDArray[np.int64]] = []
    fractions: list[NDArray[np.int32]] = []
    timed = True
    for batch in _batches(place / "interactions.parquet"):
        users.add(batch["user_id"])
        sold.add(_as_listed(batch["item_id"], written) if written else batch["item_id"])
        timed = timed and not batch["timestamp"].null_count
        if timed:
            times.append(batch["timestamp"].to_numpy())
            fractions.append((batch["order"].to_numpy() >> ORDER_BITS).astype(np.int32))
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
        nanoseconds=np.concatenate(fractions) if timed and any(map(np.any, fractions)) else None,
        items=items,
        listed_at=listed_at,
    )


def _listed(items: pa.Table) -> pa.Table:
    """The items in ascending order, with offsets of 64 bits: their text may pass 2 GiB."""
    for name, kind in (
        ("text", pa.large_string()),
        ("categories", pa.large_list(pa.large_string())),
    ):
        items = items.set_column(items.schema.get_field_index(name), name, items[name].cast(kind))
    ids = items["item_id"]
    if not pc.all(pc.less(ids[:-1], ids[1:])).as_py():
        items = items.sort_by("item_id")
    return items.combine_chunks()


def _other_forms(ids: pa.Array) -> dict[str, str]:
    """Item id in NFC, as interactions have it -> as the items file writes it, if these differ."""
    composed = nfc_all(ids)
    if composed is ids:
        return {}
    other = pc.not_equal(composed, ids)
    return dict(zip(composed.filter(other).to_pylist(), ids.filter(other).to_pylist(), strict=True))


def _as_listed(column: pa.DictionaryArray, written: Mapping[str, str]) -> pa.DictionaryArray:
    ids = [written.get(each, each) for each in column.dictionary.to_pylist()]
    coded = pa.array(ids, column.dictionary.type).dictionary_encode()
    return pa.DictionaryArray.from_arrays(coded.indices.take(column.indices), coded.dictionary)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    columns = ["user_id", "item_id", "timestamp", "order"]
    try:
        with pq.ParquetFile(path, read_dictionary=columns[:2]) as file:
            for batch in file.iter_batches(batch_size=ROW_GROUP, columns=columns):
                batch.validate(full=True)
                yield batch
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BrokenArtefact(f"{path} cannot be read ({error}). Ingest the source again") from error
