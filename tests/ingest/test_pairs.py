import gzip
from collections import Counter

import pyarrow as pa
import pytest

from pmm.errors import InputError
from pmm.ingest.readers.pairs import detect_pairs, stream_pairs

ITEMS = [f"v{n}" for n in range(1, 21)]


@pytest.fixture
def detect(tmp_path):
    """The layout of the bytes of a file beside an items file with some ids."""

    def run(raw, known=ITEMS):
        path = tmp_path / "D_pair.csv"
        path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
        return path, detect_pairs(path, pa.array(known, pa.string()))

    return run


def lines(*rows):
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("order", "at"), [((0, 1, 2), 0), ((1, 0, 2), 1)])
def test_the_item_column_is_the_one_that_holds_ids_of_the_items_file(detect, packed, order, at):
    rows = [(f"v{n % 20 + 1}", n % 7 + 1, 1_600_000_000 + n) for n in range(50)]
    raw = lines(*([row[k] for k in order] for row in rows)).encode()
    path, layout = detect(gzip.compress(raw, mtime=0) if packed else raw)
    assert layout.columns == {"user": 1 - at, "item": at, "time": 2}
    drop_counts = Counter()
    (batch,) = stream_pairs(path, layout, drop_counts)
    assert batch["item_id"].to_pylist() == [row[0] for row in rows]
    assert drop_counts["read"] == 50


def test_users_whose_first_numbers_are_item_ids_too_are_told_apart_by_the_whole_file(detect):
    items = [str(n) for n in range(1, 201)]
    rows = [(user, user * 7 % 200 + 1, 9) for user in range(1, 3001)]
    _, layout = detect(lines(*rows), items)
    assert layout.columns["item"] == 1
    assert layout.decided_by == (
        "ids of the items file are 6.7 % of field 1 and 100.0 % of field 2 in all rows"
    )


def test_users_who_all_are_item_ids_too_are_told_by_the_items_that_occur(detect):
    items = [str(n) for n in range(1, 101)]
    rows = [(n % 100 + 1, n % 20 + 1, 9) for n in range(500)]
    _, layout = detect(lines(*rows), items)
    assert layout.columns["item"] == 0
    assert "of the listed items occur: 100.0 % in field 1, 20.0 % in field 2" in layout.decided_by


@pytest.mark.parametrize(
    ("rows", "known", "seen"),
    [
        ([(n % 20 + 1, n * 3 % 20 + 1) for n in range(60)], 20, "100.0 % of field 1 and 100.0 %"),
        ([(f"a{n}", f"b{n}") for n in range(60)], 20, "0.0 % of field 1 and 0.0 %"),
    ],
)
def test_two_columns_that_fit_or_none_are_an_error_with_what_was_seen(detect, rows, known, seen):
    with pytest.raises(InputError, match=seen) as error:
        detect(lines(*rows), [str(n) for n in range(1, known + 1)])
    assert "write a first line that names the columns" in str(error.value)


def test_a_header_decides_whatever_the_values(detect):
    _, layout = detect("user,item,timestamp\n1,1,5\n2,1,6\n", ["1", "2"])
    assert (layout.header, layout.columns) == (True, {"user": 0, "item": 1, "time": 2})


def test_names_that_nobody_knows_stand_above_the_rows(detect):
    path, layout = detect("video,member,when\n" + lines(*[(f"v{n}", n, 7) for n in range(1, 9)]))
    assert layout.header
    drop_counts = Counter()
    assert sum(batch.num_rows for batch in stream_pairs(path, layout, drop_counts)) == 8


def test_rows_of_letters_are_no_header(detect):
    _, layout = detect("xa,anna\nxb,bert\nxa,carl\n", ["xa", "xb"])
    assert not layout.header
    assert layout.columns == {"item": 0, "user": 1}


@pytest.mark.parametrize("raw", ["v1,9\nv2,9\n", "v1,9,\nv2,9,\n"])
def test_a_file_without_times_has_none(detect, raw):
    _, layout = detect(raw)
    assert layout.times is None
    assert "time" not in layout.columns
    assert layout.describe()["time"].startswith("none")


@pytest.mark.parametrize(
    ("time", "unit"), [("1600000000", "s"), ("1600000000000", "ms"), ("2020-09-13", "date")]
)
def test_the_unit_of_times_is_detected(detect, time, unit):
    assert detect(f"v1,9,{time}\nv2,9,{time}\n")[1].times.unit == unit


def test_a_third_column_without_times_is_refused(detect):
    with pytest.raises(InputError, match=r"D_pair\.csv, field 3: 'click'"):
        detect("v1,9,click\nv2,9,view\n")
