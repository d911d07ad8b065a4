"""Files of histories: a line a user, `user<TAB>item item …` in the order of time, no times.

So are the users' files of the paper's published code, MicroLens' `_pairs.tsv` and NineRec's
`_behaviour.tsv` written. A row is one item of a line; a line that holds none is one row too.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.delimited import BAD_ID, MALFORMED, Dialect, sniff, stream

NO_ITEMS = "user without items"
"""The reason under which lines with a user and no item are counted."""


def sniff_histories(path: Path, *, encoding: str | None = None) -> Dialect:
    """The dialect of a file of histories.

    Raises:
        InputError: it is missing, empty, binary or damaged, or none of its first lines has a tab.
    """
    dialect, head = sniff(path, encoding=encoding)
    if dialect.delimiter != "\t" and not any("\t" in field for row in head for field in row):
        raise InputError(
            f"{path}: its first lines have no tab; expected is a line a user, "
            "user<TAB>item item …, with spaces between the items"
        )
    return dataclasses.replace(
        dialect, delimiter="\t", quoted=False, fields=2, trailing=False, row_names=False
    )


def stream_histories(
    path: Path,
    dialect: Dialect,
    drop_counts: Counter[str],
    notes: dict[str, Any] | None = None,
) -> Iterator[pa.RecordBatch]:
    """One row an item: `user_id` and `item_id`, dictionary-encoded, in the order of the file.

    Runs of spaces count as one. A user with two lines has the items of both, in file order.

    Args:
        path: the file. dialect: from `sniff_histories`. drop_counts: counts under "read" the items,
        the lines without an item (also under `NO_ITEMS`)
            and the lines with no tab or several (also under `MALFORMED`). notes: as `stream` has
            them.

    Raises:
        InputError: the file is damaged, or more than half of its lines are malformed.
    """
    lines: Counter[str] = Counter()
    wanted = {"user_id": 0, "items": 1}
    try:
        for batch in stream(
            path, dialect, wanted, header=False, drop_counts=lines, ids=wanted, notes=notes
        ):
            rows, without = _rows(batch)
            drop_counts[NO_ITEMS] += without
            drop_counts["read"] += without + rows.num_rows
            yield rows
    finally:
        for reason in (MALFORMED, BAD_ID):
            if lines[reason]:
                drop_counts[reason] += lines[reason]
                drop_counts["read"] += lines[reason]


def _rows(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
    """The items of a batch of lines with their users, and how many lines hold none."""
    lists = pc.ascii_split_whitespace(batch["items"].dictionary_decode())
    line, item = pc.list_parent_indices(lists), pc.list_flatten(lists)
    present = pc.not_equal(item, "")  # spaces at either end leave an empty piece
    if not pc.all(present).as_py():
        line, item = line.filter(present), item.filter(present)
    user = batch["user_id"].take(line)
    rows = pa.RecordBatch.from_arrays([user, item.dictionary_encode()], ["user_id", "item_id"])
    return rows, batch.num_rows - pc.count_distinct(line).as_py()
