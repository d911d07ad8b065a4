"""One shard of items: a WebDataset tar and the Parquet of what became of each item.

Members of an item, in this order: `<item>.json` (raw id, text, whether there is a picture),
`<item>.jpg` (absent where there is none), `<item>.tokens.npy` (int32). Raw ids stand only inside
the JSON, so none of them ever becomes a path.
"""

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pmm.shards.jpeg import Picture, PictureFormat, Reason, shrink_file
from pmm.shards.tars import TarWriter, members
from pmm.shards.tokens import TokenEncoder, Tokens
from pmm.storage.artefact import atomic_file
from pmm.storage.schemas import SHARD_ITEMS, Table, write_table

OFFSETS = Table(
    name="offsets",
    schema=pa.schema(
        [
            pa.field("item", pa.int32(), nullable=False),
            pa.field("shard", pa.int32(), nullable=False),
            *(
                pa.field(f"{part}_{what}", kind, nullable=False)
                for part in ("json", "jpg", "tokens")
                for what, kind in (("offset", pa.int64()), ("size", pa.int32()))
            ),
        ]
    ),
    least={"item": 1, "shard": 0, "json_size": 1, "jpg_size": 0, "tokens_size": 1},
)
"""Where each item's members lie in its tar; size 0: it has no such member."""

OFFSETS_OF_RECORDS = dataclasses.replace(OFFSETS, least={**OFFSETS.least, "tokens_size": 0})
"""The same of shards without content: an item has its record alone."""

NO_CONTENT: Reason = "no-content"
"""Status of an item of which neither text nor picture was read."""


@dataclass(frozen=True, slots=True)
class Item:
    """A row of the target's items."""

    number: int
    item_id: str
    text: str
    image: str | None


def tar_name(shard: int) -> str:
    """The tar of a shard of items.

    >>> tar_name(3)
    'items-00003.tar'
    """
    return f"items-{shard:05d}.tar"


def table_name(shard: int) -> str:
    """The table of statuses of a shard of items."""
    return f"items-{shard:05d}.parquet"


def is_written(folder: Path, shard: int) -> bool:
    """Whether a shard is finished: its table is written after its tar."""
    return (folder / table_name(shard)).exists() and (folder / tar_name(shard)).exists()


def write_item_shard(
    folder: Path,
    shard: int,
    items: Sequence[Item],
    *,
    pictures: Path | None,
    picture_format: PictureFormat,
    encoder: TokenEncoder | None,
) -> None:
    """Write one shard. A picture that cannot be read leaves a text-only item with its reason.

    Without an encoder there is neither tokens nor a picture of any item, but its record.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the processes are the parallelism
    try:
        texts = [item.text for item in items]
        tokens = encoder.encode(texts) if encoder else [None] * len(items)
        outcomes = []
        with (
            atomic_file(folder / tar_name(shard)) as temporary,
            TarWriter(temporary) as tar,
        ):
            for item, ids in zip(items, tokens, strict=True):
                outcomes.append(_picture(item, pictures, picture_format) if encoder else _UNREAD)
                _add(tar, item, outcomes[-1], ids)
    finally:
        torch.set_num_threads(threads)
    with atomic_file(folder / table_name(shard)) as temporary:
        write_table(temporary, _statuses(items, outcomes), SHARD_ITEMS)


_UNREAD = Picture(jpeg=None, reason=NO_CONTENT, width=None, height=None, sha256=None)


def _picture(item: Item, pictures: Path | None, picture_format: PictureFormat) -> Picture:
    if item.image is None or pictures is None:
        return Picture(jpeg=None, reason="no-image", width=None, height=None, sha256=None)
    return shrink_file(pictures, item.image, picture_format)


def _add(tar: TarWriter, item: Item, picture: Picture, tokens: Tokens | None) -> None:
    record: dict[str, object] = {
        "item": item.number,
        "item_id": item.item_id,
        "picture": picture.jpeg is not None,
        "text": item.text,
    }
    if picture.reason is not None:
        record["reason"] = picture.reason
    tar.add(f"{item.number}.json", json.dumps(record, ensure_ascii=False).encode())
    if picture.jpeg is not None:
        tar.add(f"{item.number}.jpg", picture.jpeg)
    if tokens is not None:
        array = io.BytesIO()
        np.lib.format.write_array(array, tokens, version=(1, 0))
        tar.add(f"{item.number}.tokens.npy", array.getvalue())


def _statuses(items: Sequence[Item], outcomes: Sequence[Picture]) -> pa.Table:
    columns = {
        "item": [item.number for item in items],
        "status": [_status(each) for each in outcomes],
        "reason": [each.reason for each in outcomes],
        "width": [each.width or None for each in outcomes],
        "height": [each.height or None for each in outcomes],
        "sha256": [each.sha256 for each in outcomes],
    }
    return pa.table(columns, schema=SHARD_ITEMS.schema)


def _status(outcome: Picture) -> str:
    if outcome.jpeg is not None:
        return "ok"
    return NO_CONTENT if outcome is _UNREAD else "text-only"


def offsets(folder: Path, n_shards: int, *, made_by: str) -> Iterator[pa.RecordBatch]:
    """Where each item's members lie, a batch a shard, read back from the tars themselves.

    Raises:
        BrokenArtefact: a tar is cut off or holds something else.
    """
    for shard in range(n_shards):
        rows: dict[int, dict[str, int]] = {}
        for member in members(folder / tar_name(shard), made_by=made_by):
            number, part = member.name.split(".")[:2]
            row = rows.setdefault(int(number), {"item": int(number), "shard": shard})
            row[f"{part}_offset"], row[f"{part}_size"] = member.offset, member.size
        none = {f"{part}_{what}": 0 for part in ("jpg", "tokens") for what in ("offset", "size")}
        yield pa.RecordBatch.from_pylist(
            [none | row for row in rows.values()], schema=OFFSETS.schema
        )
