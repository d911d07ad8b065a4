import itertools
import tracemalloc

import pyarrow as pa
import pytest

from pmm.ingest.tables import item_rows as items_module
from pmm.ingest.tables.interactions import LONG_ID
from pmm.ingest.tables.item_rows import ItemRows
from pmm.storage.schemas import ITEM_URLS, SOURCE_ITEMS


def listed(rows):
    return rows.finish()[0].to_pylist()


def test_items_come_out_in_ascending_order_with_all_they_hold():
    rows = ItemRows()
    rows.add("b", "Text b", "b.jpg", ["Root", "Root", "Leaf"])
    rows.add("a", "", None, [])
    assert listed(rows) == [
        {"item_id": "a", "text": "", "image": None, "categories": []},
        {
            "item_id": "b",
            "text": "Text b",
            "image": "b.jpg",
            "categories": ["Root", "Root", "Leaf"],
        },
    ]
    assert rows.finish()[0].schema.equals(SOURCE_ITEMS.schema)


def test_order_is_that_of_the_bytes():
    rows = ItemRows()
    for item_id in ("é", "z", "a", "\U0001f600", "\uffff", "B"):
        rows.add(item_id, "", None, [])
    assert [row["item_id"] for row in listed(rows)] == ["B", "a", "z", "é", "\uffff", "\U0001f600"]


def test_of_repeated_rows_the_first_with_a_picture_wins():
    rows = ItemRows()
    rows.drop_counts["read"] = 5
    rows.add("a", "first", None, [])
    rows.add("a", "second", None, [])
    rows.add("a", "pictured", None, [], ["http://x/1.jpg"])
    rows.add("a", "pictured too", "a.jpg", [], [])
    rows.add("", "no id", None, [])
    table, counts = rows.finish()
    assert table["text"].to_pylist() == ["pictured"]
    assert counts["dropped"] == {"empty item id": 1, "repeated item id": 3}
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values())


ROWS = {"both": ("T", "p.jpg"), "picture": ("", "p.jpg"), "text": ("T", None), "none": ("", None)}


@pytest.mark.parametrize("order", list(itertools.permutations(ROWS)))
def test_of_repeated_rows_the_one_with_text_and_picture_wins(order):
    for length in range(1, len(order) + 1):
        rows = ItemRows()
        for n, kind in enumerate([*order[:length], *order[:length]]):
            text, image = ROWS[kind]
            rows.add("a", text, image, [str(n)])
        best = min(order[:length], key=list(ROWS).index)
        (row,) = listed(rows)
        assert (row["text"], row["image"]) == ROWS[best]
        assert row["categories"] == [str(order.index(best))]  # the first of its kind
        assert rows.drop_counts["repeated item id"] == 2 * length - 1


def test_urls_are_those_of_the_row_that_won():
    rows = ItemRows()
    rows.add("b", "", None, [], ["http://x/2.jpg", "http://x/1.jpg"])
    rows.add("b", "", None, [], ["http://x/3.jpg"])
    rows.add("a", "", None, [])
    assert rows.urls().to_pylist() == [
        {"item_id": "b", "urls": ["http://x/2.jpg", "http://x/1.jpg"]}
    ]
    assert rows.urls().schema.equals(ITEM_URLS.schema)


def test_chunks_do_not_show(monkeypatch):
    monkeypatch.setattr(items_module, "_CHUNK_ROWS", 7)
    rows = ItemRows()
    for n in range(100):
        rows.add(f"{n * 37 % 50:02}", f"text {n}", None, [str(n)], ["http://x/y"] * (n >= 50))
    expected = {f"{n * 37 % 50:02}": f"text {n}" for n in range(50, 100)}
    assert {row["item_id"]: row["text"] for row in listed(rows)} == expected
    assert [row["item_id"] for row in listed(rows)] == sorted(expected)
    assert rows.drop_counts["repeated item id"] == 50


def test_no_rows_give_an_empty_table():
    assert ItemRows().finish()[0].num_rows == 0
    assert ItemRows().urls().num_rows == 0


def test_an_item_takes_less_than_200_bytes_beside_its_text():
    count, text, before = 50_000, "x" * 100, pa.total_allocated_bytes()
    tracemalloc.start()
    rows = ItemRows()
    for n in range(count):
        rows.add(f"B{n:09}", text, None, [])
    python = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    held = python + pa.total_allocated_bytes() - before
    assert held / count < 100 + 200


def test_ids_of_any_length_are_counted_and_not_held():
    rows = ItemRows()
    for length in (1000, 1001, 10**6):
        rows.add("i" * length, "text", None, [])
    table, counts = rows.finish()
    assert table["item_id"].to_pylist() == ["i" * 1000]
    assert counts["dropped"] == {LONG_ID: 2}
