import bz2
import gzip
import lzma
from collections import Counter

import pytest

from pmm.errors import InputError
from pmm.ingest.readers import delimited, records
from pmm.ingest.readers.delimited import BAD_ID, MALFORMED, sniff, stream


def read(path, encoding=None):
    """The rows below the header as lists, and the drop_counts."""
    dialect, head = sniff(path, encoding=encoding)
    names = {name: at for at, name in enumerate(head[0])}
    drop_counts = Counter()
    batches = list(stream(path, dialect, names, header=True, drop_counts=drop_counts))
    columns = [[v for b in batches for v in b[name].to_pylist()] for name in names]
    return [list(row) for row in zip(*columns, strict=True)], drop_counts


@pytest.mark.parametrize(
    ("raw", "rows"),
    [
        (b"a,b\n1,2\n3,4\n", [["1", "2"], ["3", "4"]]),
        (b"a,b\n1,2\n3,4", [["1", "2"], ["3", "4"]]),
        (b"a,b\r\n1,2\r\n\r\n3,4\r\n", [["1", "2"], ["3", "4"]]),
        (b"\n\na,b\n1,2\n", [["1", "2"]]),
        (b"\r\n\r\n\r\na,b\r\n1,2\r\n", [["1", "2"]]),
        (b"\n\na::b\n1::2\n", [["1", "2"]]),
        (b"\xef\xbb\xbfa,b\n1,2\n", [["1", "2"]]),
        ("a,b\n1,é\n".encode("utf-16"), [["1", "é"]]),
        ("a,b\n1,漢字\n".encode(), [["1", "漢字"]]),
        ("a::b\n1::漢字:\n".encode("utf-16"), [["1", "漢字:"]]),
        ("a,b\n1,Caf\xe9\n".encode("latin-1"), [["1", "Café"]]),
        (b'a,b\n1,"x, ""y""\tz\nw"\n2,5" nail\n', [["1", 'x, "y"\tz\nw'], ["2", '5" nail']]),
        (b'a\tb\n1\tthe "big" one\n2\tx\n', [["1", 'the "big" one'], ["2", "x"]]),
        (b"a::b\n1::Star Wars: Episode IV\n2::x\n", [["1", "Star Wars: Episode IV"], ["2", "x"]]),
        (b"a|b\n1|2,3\n", [["1", "2,3"]]),
        (b"a;b\n1;2\n", [["1", "2"]]),
        (b"a,b\n001,\n", [["001", ""]]),
    ],
)
def test_a_file_reads_as_its_rows(tmp_path, raw, rows):
    for packed in (False, True):
        path = tmp_path / "file.data"
        path.write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
        found, drop_counts = read(path)
        assert found == rows
        assert drop_counts["read"] == len(rows)


@pytest.mark.parametrize("block", [40, 64, 101])
def test_blocks_may_cut_rows_anywhere(tmp_path, monkeypatch, block):
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", block)
    rows = [[str(n), "x" * (n % 7) + ":"[: n % 2] + "y"] for n in range(300)]
    for delimiter in (",", "::"):
        path = tmp_path / "f"
        path.write_text("".join(f"{a}{delimiter}{b}\n" for a, b in [["a", "b"], *rows]))
        assert read(path)[0] == rows


def test_rows_with_another_number_of_fields_are_counted(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("a,b\n1,2\n3\n4,5,6\n7,8\n9,10\n11,12\n")
    rows, drop_counts = read(path)
    assert [row[0] for row in rows] == ["1", "7", "9", "11"]
    assert drop_counts == {"read": 6, MALFORMED: 2}


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_quote_that_is_never_closed_swallows_no_row(tmp_path, end):
    path = tmp_path / "f.csv"
    good = "".join(f"{n},{n}{end}" for n in range(50_000))  # beyond the head
    path.write_bytes(f'a,b{end}{good}"20,20{end}{end}21,21{end}22'.encode())
    rows, drop_counts = read(path)
    assert rows[50_000:] == [['"20', "20"], ["21", "21"]]
    assert drop_counts == {"read": 50_003, MALFORMED: 1}


def test_the_byte_that_stands_for_two_colons_is_no_delimiter(tmp_path):
    path = tmp_path / "f.dat"
    path.write_text("a::b\n1\x1f::2\n1\x1f2::3\n4\x1f5\n6::7\n")
    rows, drop_counts = read(path)
    assert rows == [["1\x1a", "2"], ["1\x1a2", "3"], ["6", "7"]]
    assert drop_counts == {"read": 4, MALFORMED: 1}


def test_a_known_number_of_fields_chooses_the_delimiter(tmp_path):
    path = tmp_path / "movies.dat"
    path.write_text("1::Toy Story::A|B|C|D\n")
    assert sniff(path)[0].delimiter == "|"
    assert sniff(path, fields=3)[0].delimiter == "::"
    assert sniff(path, fields=7)[0].delimiter == "|"


def test_several_files_may_share_their_counts(tmp_path):
    drop_counts = Counter()
    for name, bad in (("one", 2), ("two", 3)):
        path = tmp_path / name
        path.write_text("a,b\n" + "1,2\n" * 9 + "1\n" * bad)
        list(stream(path, sniff(path)[0], {"a": 0}, header=True, drop_counts=drop_counts))
    assert drop_counts == {"read": 23, MALFORMED: 5}


def test_mostly_malformed_rows_are_an_error_with_an_example(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("a,b\n1,2\n" * 1001 + "1,2,3\n" * 5000)
    with pytest.raises(InputError, match=r"5,000 of 7,001 rows .* '1,2,3' has 3 fields"):
        read(path)


def test_an_endless_quote_is_text_in_its_own_row(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 4096)
    monkeypatch.setattr(records, "_LONGEST", 1 << 14)
    path = tmp_path / "f.csv"
    path.write_text('a,b\n1,"2, 3"\n' + "1,2\n" * 2000 + '1,"2\n' + "1,2\n" * 20_000)
    rows, drop_counts = read(path)
    assert [row for row in rows if row != ["1", "2"]] == [["1", "2, 3"], ["1", '"2']]
    assert drop_counts == {"read": len(rows)} == {"read": 22_002}


@pytest.mark.parametrize("cut", [5, 40, 3000, -9, -1])
def test_a_truncated_gz_is_refused(tmp_path, cut):
    whole = gzip.compress(
        b"a,b\n" + b"".join(b"%d,%d\n" % (n * 7919, n) for n in range(200_000)), mtime=0
    )
    path = tmp_path / "f.csv.gz"
    path.write_bytes(whole[:cut])
    with pytest.raises(InputError, match=r"f\.csv\.gz is damaged or was cut off"):
        read(path)


def test_an_accent_far_down_decides_the_encoding(tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 70_000 + b"1,Caf\xe9\n")
    assert read(path)[0][-1] == ["1", "Café"]
    assert sniff(path)[0].encoding.name == "latin-1"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\x00\x01\x02,\x03\n", "is no text file"),
        (b"PK\x03\x04\x14\x00\x00,\n", "a zip archive: unpack it"),
        (bz2.compress(b"a,b\n1,2\n"), "packed with bzip2: unpack it"),
        (lzma.compress(b"a,b\n1,2\n"), "packed with xz: unpack it"),
        (b"PAR1\x15\x04\x00,\n", "a Parquet file: write it out as CSV"),
        (b"one two\nthree four five\n", "'one two' has one field only"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, raw, message):
    path = tmp_path / "f.csv"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=message):
        sniff(path)


def test_an_example_of_a_malformed_row_shows_its_own_delimiter(tmp_path):
    path = tmp_path / "f.dat"
    path.write_text("a::b\n1::2\n" * 501 + "1::2::3\n" * 5000)
    with pytest.raises(InputError, match=r"e\.g\. '1::2::3' has 3 fields"):
        read(path)


def test_utf_16_that_breaks_off_is_told_and_half_a_character_costs_its_row(ingest_text):
    raw = ("user,item\n" + "u,i1\n" * 9).encode("utf-16")
    with pytest.raises(InputError, match=r"inter\.csv is damaged .*'utf-16"):
        ingest_text(raw[:-1])
    card = ingest_text(raw + b"u\x00,\x00\x00\xdc")
    assert card["rows"]["dropped"] == {BAD_ID: 1}
