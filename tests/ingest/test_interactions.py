"""Rows as clean interactions, where ids are out of all measure."""

from collections import Counter

import pyarrow as pa

from pmm.ingest.tables.interactions import LONG_ID, NO_ITEM, NO_USER, Cleaner


def batch(users, items):
    columns = [pa.array(each, pa.string()).dictionary_encode() for each in (users, items)]
    return pa.RecordBatch.from_arrays(columns, ["user_id", "item_id"])


def test_rows_with_overlong_ids_are_counted_and_not_held():
    long, fits = "x" * 1001, " " * 500 + "x" * 1000 + " " * 500
    users = ["u", long, "", "u", fits, long + "y", "u"]
    items = ["i", "i", long, long, "i", "", ""]
    counts: Counter[str] = Counter()
    (table,) = Cleaner(place="here", unit=None).clean([batch(users, items)], counts)
    assert table["user_id"].to_pylist() == ["u", "x" * 1000]
    assert table["order"].to_pylist() == [0, 4]
    assert {reason: counts[reason] for reason in (LONG_ID, NO_USER, NO_ITEM)} == {
        LONG_ID: 4,
        NO_USER: 0,
        NO_ITEM: 1,
    }
    held = max(map(len, table["user_id"].combine_chunks().dictionary.to_pylist()))
    assert held == 1000
