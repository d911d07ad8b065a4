"""Items collected from files: each id once, every row counted, held in compact chunks."""

from collections import Counter
from collections.abc import KeysView, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmm.ingest.readers.delimited import BAD_ID, MALFORMED
from pmm.ingest.readers.ids import nfc
from pmm.ingest.readers.json_block import LONG_LINE
from pmm.ingest.tables.interactions import LONG_ID, LONGEST_ID
from pmm.storage.schemas import ITEM_URLS, SOURCE_ITEMS

OTHER_FORM = "item id repeated in another Unicode form"

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

    Of the rows of an id the first wins that has a text and a picture (a path, or where pictures are
    yet to be fetched a URL); where none has both the first with a picture, then the first with a
    text, then the first of all. Ids that are the same in NFC are one, and stay as the first of
    them is written.
    """

    def __init__(self) -> None:
        self.drop_counts: Counter[str] = Counter()
        # Item id -> 4 * number of its row, plus 2 if that row has a picture, plus 1 if it has text.
        self._row: dict[str, int] = {}
        # Item id in NFC -> as it is written, where that is another form.
        self._written: dict[str, str] = {}
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
        """Take a row; an empty, repeated or overlong id is counted and dropped.

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
        if len(item_id) > LONGEST_ID:
            self.drop_counts[LONG_ID] += 1
            return
        has = 2 * (image is not None or bool(urls)) + bool(text)
        key = nfc(item_id)
        earlier = self._row.get(key)
        if earlier is None and key != item_id:
            self._written[key] = item_id
        if earlier is not None:
            same = self._written.get(key, key) == item_id
            self.drop_counts["repeated item id" if same else OTHER_FORM] += 1
            if has <= earlier & 3:
                return
        self._row[key] = 4 * self._rows + has
        self._rows += 1
        self._waiting.append((text, image, tuple(categories), tuple(urls)))
        if len(self._waiting) == _CHUNK_ROWS:
            self._flush()

    def finish(self) -> tuple[pa.Table, dict[str, Any]]:
        """The items in ascending order of their ids, and the counts for the card."""
        names = [name for name in SOURCE_ITEMS.schema.names if name != "item_id"]
        damaged = (MALFORMED, LONG_LINE, BAD_ID, LONG_ID)
        reasons = (*damaged, "empty item id", "repeated item id", OTHER_FORM)
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
        """The ids in NFC, without hold on the rows."""
        return self._row.keys()

    def _table(self, names: Sequence[str], schema: pa.Schema) -> pa.Table:
        """Columns of the items in ascending order of their ids, in pieces of 65,536 rows."""
        self._flush()
        held = pa.Table.from_batches(self._chunks, _HELD).select(names)
        whole = [column.combine_chunks() for column in held.columns]
        written = self._row
        if self._written:
            written = {self._written.get(key, key): row for key, row in self._row.items()}
        ids = sorted(written, key=str.encode)
        pieces = []
        for start in range(0, len(ids), _CHUNK_ROWS):
            part = ids[start : start + _CHUNK_ROWS]
            at = pa.array(np.array([written[each] >> 2 for each in part], np.int64))
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
