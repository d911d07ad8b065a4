"""Items collected from a file: each id once, every row counted."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pmm.ingest.delimited import MALFORMED
from pmm.schemas import SOURCE_ITEMS


class ItemRows:
    """Builds the table of a source's items. The first row of an id wins."""

    def __init__(self) -> None:
        self.fates: Counter[str] = Counter()
        self._rows: dict[str, tuple[str, str | None, list[str]]] = {}

    def add(self, item_id: str, text: str, image: str | None, categories: Sequence[str]) -> None:
        """Take a row; an empty or repeated id is counted and dropped."""
        if not item_id:
            self.fates["empty item id"] += 1
        elif item_id in self._rows:
            self.fates["repeated item id"] += 1
        else:
            self._rows[item_id] = (text, image, list(categories))

    def finish(self) -> tuple[pa.Table, dict[str, Any]]:
        """The items in ascending order of their ids, and the counts for the card."""
        ids = sorted(self._rows, key=str.encode)
        rows = [self._rows[item_id] for item_id in ids]
        columns = [ids, [row[0] for row in rows], [row[1] for row in rows], [r[2] for r in rows]]
        table = pa.table(
            {
                field.name: pa.array(values, field.type)
                for field, values in zip(SOURCE_ITEMS.schema, columns, strict=True)
            }
        )
        reasons = (MALFORMED, "empty item id", "repeated item id")
        dropped = {reason: self.fates[reason] for reason in reasons if self.fates[reason]}
        return table, {"read": self.fates["read"], "kept": len(ids), "dropped": dropped}
