"""Items collected from files: each id once, every row counted, held in compact chunks."""

from collections import Counter
from collections.abc import KeysView, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmm.ingest.readers.delimited import BAD_ID, MALFORMED
from pmm.storage.schemas import ITEM_URLS, SOURCE_ITEMS

_CHUNK_ROWS = 1 << 16
_HELD = pa.schema(
    [
        ("text", pa.large_string()),
        ("image", pa.large_string()),
        ("categories", pa.large_list(pa.large_string())),
        ("urls", pa.large_list(pa.large_string())),
    ]
)
"""Rows as they wait: offsets of 64 bits, for the text of millions of items passes 2 GiB."""


class ItemRows:
    """Builds the table of a source's items; about 150 bytes an item beside its text.

    The first row of an id wins; with `prefer_picture` the first that has a picture (a path, or
    where pictures are yet to be fetched a URL), and the first of all where none has.
    """

    def __init__(self, *, prefer_picture: bool = False) -> None:
        self.drop_counts: Counter[str] = Counter()
        self._prefer_picture = prefer_picture
        # Item id -> 2 * number of its row, plus 1 if that row has a picture.
        self._row: dict[str, int] = {}
        self._rows = 0
        self._waiting: list[tuple[str, str | None, Sequence[str], Sequence[str]]] = []
        self._chunks: list[pa.RecordBatch] = []

    def add(
        self,
        item_id: str,
        text: str,
        image: str | None,
        categories: Sequence[str],
        urls: Sequence[str] = (),
    ) -> None:
        """Take a row; an empty or repeated id is counted and dropped.

        Args:
            item_id: trimmed.
            text: clean.
            image: path of its picture, None without one.
            categories: entries in their order.
            urls: where its picture can be fetched, best first.
        """
        if not item_id:
            self.drop_counts["empty item id"] += 1
            return
        pictured = image is not None or bool(urls)
        earlier = self._row.get(item_id)
        if earlier is not None:
            self.drop_counts["repeated item id"] += 1
            if not (self._prefer_picture and pictured and not earlier & 1):
                return
        self._row[item_id] = 2 * self._rows + pictured
        self._rows += 1
        self._waiting.append((text, image, tuple(categories), tuple(urls)))
        if len(self._waiting) == _CHUNK_ROWS:
            self._flush()

    def finish(self) -> tuple[pa.Table, dict[str, Any]]:
        """The items in ascending order of their ids, and the counts for the card."""
        names = [name for name in SOURCE_ITEMS.schema.names if name != "item_id"]
        reasons = (MALFORMED, BAD_ID, "empty item id", "repeated item id")
        dropped = {
            reason: self.drop_counts[reason] for reason in reasons if self.drop_counts[reason]
        }
        counts = {"read": self.drop_counts["read"], "kept": len(self._row), "dropped": dropped}
        return self._table(names, SOURCE_ITEMS.schema), counts

    def urls(self) -> pa.Table:
        """The items that have URLs, ascending, as `pmm.storage.schemas.ITEM_URLS`."""
        table = self._table(["urls"], ITEM_URLS.schema)
        return table.filter(pc.greater(pc.list_value_length(table["urls"]), 0))

    def ids(self) -> KeysView[str]:
        """The ids, without hold on the rows."""
        return self._row.keys()

    def _table(self, names: Sequence[str], schema: pa.Schema) -> pa.Table:
        """Columns of the items in ascending order of their ids, in pieces of 65,536 rows."""
        self._flush()
        held = pa.Table.from_batches(self._chunks, _HELD).select(names)
        whole = [column.combine_chunks() for column in held.columns]
        ids = sorted(self._row, key=str.encode)
        pieces = []
        for start in range(0, len(ids), _CHUNK_ROWS):
            part = ids[start : start + _CHUNK_ROWS]
            at = pa.array(np.array([self._row[each] >> 1 for each in part], np.int64))
            columns = [pa.array(part, pa.string()), *(column.take(at) for column in whole)]
            cast = [column.cast(f.type) for column, f in zip(columns, schema, strict=True)]
            pieces.append(pa.RecordBatch.from_arrays(cast, schema=schema))
        return pa.Table.from_batches(pieces, schema)

    def _flush(self) -> None:
        if self._waiting:
            columns = zip(*self._waiting, strict=True)
            arrays = [
                pa.array(list(values), field.type)
                for values, field in zip(columns, _HELD, strict=True)
            ]
            self._chunks.append(pa.RecordBatch.from_arrays(arrays, schema=_HELD))
            self._waiting = []
