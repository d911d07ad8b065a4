import gzip
from collections import Counter

import pytest

from pmm.errors import InputError
from pmm.ingest.readers.delimited import MALFORMED
from pmm.ingest.readers.histories import NO_ITEMS, sniff_histories, stream_histories
from pmm.ingest.tables.interactions import Cleaner


@pytest.fixture
def read(tmp_path):
    """Rows (user, item, order) of the bytes of a file, and the drop_counts that are not 0."""

    def run(raw):
        path = tmp_path / "d_users.tsv"
        path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
        drop_counts = Counter()
        rows = []
        batches = stream_histories(path, sniff_histories(path), drop_counts)
        for table in Cleaner(place=str(path), unit=None).clean(batches, drop_counts):
            columns = table.to_pydict()
            assert set(columns["timestamp"]) == {None}
            rows += zip(columns["user_id"], columns["item_id"], columns["order"], strict=True)
        return rows, {reason: n for reason, n in drop_counts.items() if n}

    return run


def test_every_item_of_a_line_is_a_row_in_order(read):
    rows, drop_counts = read("u1\tv3 v1 v3\nu2\tv2\n")
    assert rows == [("u1", "v3", 0), ("u1", "v1", 1), ("u1", "v3", 2), ("u2", "v2", 3)]
    assert drop_counts == {"read": 4}


@pytest.mark.parametrize(
    "raw",
    [
        "u1\ta b\r\nu2\tc\r\n",
        "\ufeffu1\ta b\nu2\tc",
        "u1\t a   b \n\n\nu2 \tc\n",
        "\n\nu1\ta b\nu2\tc\n",
        "u1\ta b\nu2\tc\n".encode("utf-16"),
        gzip.compress(b"u1\ta b\nu2\tc\n", mtime=0),
    ],
)
def test_spaces_line_ends_marks_and_packing_do_not_matter(read, raw):
    rows, drop_counts = read(raw)
    assert [row[:2] for row in rows] == [("u1", "a"), ("u1", "b"), ("u2", "c")]
    assert drop_counts == {"read": 3}


def test_a_user_with_two_lines_has_the_items_of_both_in_file_order(read):
    rows, _ = read("u\ta b\nw\tc\nu\td\n")
    assert [item for user, item, _ in rows if user == "u"] == ["a", "b", "d"]


def test_a_line_without_items_is_counted_as_one_row(read):
    rows, drop_counts = read("u\ta\nv\t\nw\t  \nx\tb c\n")
    assert [row[0] for row in rows] == ["u", "x", "x"]
    assert drop_counts == {"read": 5, NO_ITEMS: 2}


def test_lines_with_no_tab_or_several_are_malformed(read):
    rows, drop_counts = read("u\ta\nv\nw\tb\tc\nx\td\ny\te\n")
    assert [row[0] for row in rows] == ["u", "x", "y"]
    assert drop_counts == {"read": 5, MALFORMED: 2}


def test_items_without_a_user_are_counted_each(read):
    rows, drop_counts = read("u\ta\n \tb c\n")
    assert rows == [("u", "a", 0)]
    assert drop_counts == {"read": 3, "empty user id": 2}


def test_quotes_and_commas_are_letters_like_any_other(read):
    rows, _ = read('u"1\ta,b "c\nu2\td|e\n')
    assert [row[:2] for row in rows] == [('u"1', "a,b"), ('u"1', '"c'), ("u2", "d|e")]


def test_a_file_without_tabs_says_what_is_expected(read):
    with pytest.raises(InputError, match="no tab; expected is a line a user, user<TAB>item item"):
        read("u1,a b\nu2,c d\n")


def test_mostly_malformed_lines_are_an_error(read):
    with pytest.raises(InputError, match="do not have 2 fields"):
        read("u\ta\n" * 10 + "v\tb\tc\n" * 30)


def test_an_accent_far_down_in_histories_decides_the_encoding(read):
    rows, drop_counts = read(b"u\ta b\n" * 60_000 + b"caf\xe9\ta\n")
    assert rows[-1] == ("caf\u00e9", "a", 120_000)
    assert drop_counts == {"read": 120_001}


def test_batches_may_begin_anywhere(read, monkeypatch):
    monkeypatch.setattr("pmm.ingest.readers.delimited._BLOCK_BYTES", 64)
    rows, drop_counts = read(
        "".join(f"u{n}\t{' '.join(f'i{k}' for k in range(n % 5))}\n" for n in range(99))
    )
    assert rows == [
        (user, item, order)
        for order, (user, item) in enumerate(
            (f"u{n}", f"i{k}") for n in range(99) for k in range(n % 5)
        )
    ]
    assert drop_counts == {"read": 196 + 20, NO_ITEMS: 20}
