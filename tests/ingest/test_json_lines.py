import gzip
import json
import random
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmm.errors import InputError
from pmm.ingest.readers import json_block, json_lines
from pmm.ingest.readers.delimited import MALFORMED
from pmm.ingest.readers.duplicate_rows import DUPLICATE, SeenHashes, without_duplicates
from pmm.ingest.readers.json_block import (
    LONG_LINE,
    JsonField,
    _parse_fast,
    _parse_slowly,
    parse_block,
    text_of,
)
from pmm.ingest.readers.json_lines import (
    BAD_UTF8,
    LinesFile,
    read_blocks,
    sniff_lines,
    stream_lines,
)

FIELDS = (
    JsonField(name="user", keys=("u", "user")),
    JsonField(name="time", keys=("t", "time"), number=True),
)


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="a.json"):
        raw = content if isinstance(content, bytes) else content.encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
        return path

    return to_file


@pytest.fixture
def _small_blocks(monkeypatch):
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", 64)


small_blocks = pytest.mark.usefixtures("_small_blocks")


def rows_of(batch):
    return [(row["user"], row["time"]) for row in batch.to_pylist()]


def read(*paths):
    """Rows, drop_counts and notes of some files."""
    drop_counts, notes = Counter(), Counter()
    batches = stream_lines(
        [sniff_lines(p) for p in paths], FIELDS, drop_counts=drop_counts, notes=notes
    )
    rows = [row for batch in batches for row in rows_of(batch)]
    assert drop_counts["read"] == len(rows) + drop_counts[MALFORMED] + drop_counts[LONG_LINE]
    return rows, drop_counts, notes


def numbered(count, user="u"):
    return "".join(f'{{"u": "{user}{n}", "t": {n}}}\n' for n in range(count))


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
@small_blocks
def test_plain_and_packed_files_give_the_same_rows(write, name):
    rows, drop_counts, _ = read(write(numbered(50), name))
    assert rows == [(f"u{n}", str(n)) for n in range(50)]
    assert drop_counts[MALFORMED] == 0


def test_a_packed_file_is_known_by_its_content(write):
    assert read(write(gzip.compress(numbered(3).encode(), mtime=0), "a.json"))[0] == [
        (f"u{n}", str(n)) for n in range(3)
    ]


def test_a_file_of_several_gzip_members_is_read_to_its_end(write):
    members = [gzip.compress(line.encode() + b"\n", mtime=0) for line in numbered(9).splitlines()]
    assert len(read(write(b"".join(members)))[0]) == 9


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ('{"u": "a", "t": 1441324800}', ("a", "1441324800")),
        ('{"u": "a", "t": 1441324800.0}', ("a", "1441324800.0")),
        ('{"u": "a", "t": "1441324800"}', ("a", "1441324800")),
        ('{"u": 12345678901234567890123, "t": -0}', ("12345678901234567890123", "0")),
        ('{"u": null, "t": null}', ("", "")),
        ("{}", ("", "")),
        ('{"u": true, "t": false}', ("", "")),
        ('{"u": ["a"], "t": {"t": 1}}', ("", "")),
        ('{"user": "b", "time": 7}', ("b", "7")),
        ('{"u": "", "user": "b", "t": null, "time": 7}', ("b", "7")),
        ('{"u": "a", "u": "last", "t": 1}', ("last", "1")),
        ('{"x": {"u": "inner"}, "u": "\\u00e9\\ud83d\\ude00\\n\\"", "t": 1}', ('é😀\n"', "1")),
        ('{"u": "漢字", "t": 1}', ("漢字", "1")),
        ('{"u": "half \\ud83d", "t": 1}', ("half ?", "1")),
        ('{"u": "a", "t": NaN}', ("a", "nan")),
    ],
)
def test_values_become_text(write, line, row):
    rows, drop_counts, _ = read(write(numbered(2) + line + "\n" + numbered(2)))
    assert rows[2] == row
    assert len(rows) == 5
    assert not drop_counts[MALFORMED]


@pytest.mark.parametrize(
    "line",
    [
        '{"u": "a"',
        '{"u": "a"} x',
        '{"u": "a"}{"u": "b"}',
        '["u"]',
        "null",
        '"u"',
        "{'u': 'a'}",
        '{"u": "a",}',
        '{"u": "tab\there"}',
        '{"u": 01}',
        '{"u": Truth}',
        "\x00",
        "{",
        '{"u": ' + "[" * 100_000,
        '{"t": ' + "9" * 10_000 + "}",
    ],
)
def test_lines_that_hold_no_object_are_counted(write, line):
    rows, drop_counts, _ = read(write(numbered(2) + line + "\n" + numbered(1)))
    assert len(rows) == 3
    assert drop_counts[MALFORMED] == 1


@pytest.mark.parametrize(
    "content",
    [
        '{"u": "a", "t": 1}\n{"u": "b", "t": 2}',
        '{"u": "a", "t": 1}\r\n{"u": "b", "t": 2}\r\n',
        '\n\n{"u": "a", "t": 1}\n   \n\t\n{"u": "b", "t": 2}\n\n',
        '\ufeff{"u": "a", "t": 1}\n{"u": "b", "t": 2}\n',
        '  {"u": "a", "t": 1} \n {"u": "b", "t": 2}\n',
    ],
)
def test_line_ends_blank_lines_and_a_byte_order_mark_do_not_matter(write, content):
    rows, drop_counts, _ = read(write(content))
    assert rows == [("a", "1"), ("b", "2")]
    assert not drop_counts[MALFORMED]


def test_broken_characters_are_replaced_and_counted(write):
    line = b'{"u": "a", "note": "caf\xe9", "t": 1}\n{"u": "b\xff", "t": 2}\n'
    rows, drop_counts, notes = read(write(numbered(1).encode() + line))
    assert rows[1:] == [("a", "1"), ("b\ufffd", "2")]
    assert notes[BAD_UTF8] == 2
    assert not drop_counts[MALFORMED]


@small_blocks
def test_files_take_turns_a_block_each_whatever_the_number_of_cores(write, monkeypatch):
    paths = [write(numbered(9, user), f"{user}.json.gz") for user in "abcdef"]
    found = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(json_lines, "cores", lambda cores=cores: cores)
        found.append(read(*paths)[0])
    assert found[0] == found[1] == found[2]
    assert [user for user, _ in found[0][:10]] == [
        *("a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2", "d0")
    ]
    assert sorted(found[0]) == sorted((f"{u}{n}", str(n)) for u in "abcdef" for n in range(9))


@pytest.mark.parametrize("cut", [-1, -9, 40, 15])
def test_a_cut_off_gzip_file_is_refused(write, cut):
    raw = gzip.compress(numbered(500).encode(), mtime=0)
    with pytest.raises(InputError, match="damaged or was cut off"):
        read(write(raw[:cut]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"u,i\n1,2\n", "no line near its beginning is a JSON object; the first is 'u,i'"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
        ('{"u": "a"}'.encode("utf-16"), "NUL bytes"),
        ('{"u": "a"}\n' + "x\n" * 3, "3 of 4 lines are no JSON objects, e.g. 'x'"),
    ],
)
def test_files_of_another_kind_are_refused(write, content, message):
    with pytest.raises(InputError, match=message):
        read(write(content))


@pytest.mark.parametrize("block", [700, 5000, 1 << 20])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_lines_that_are_too_long_are_counted_and_never_held(write, name, block, monkeypatch):
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    monkeypatch.setattr(json_block, "LONGEST_LINE", 1000)
    head = '{"u": "a", "t": '
    fits, long = (head + "1" * 5 + " " * (n - len(head) - 6) + "}" for n in (1000, 1001))
    longer = head.ljust(20_000) + "1}"
    few, more = numbered(1), numbered(9, "v")
    lines = [few.strip(), long, fits, longer, longer, few.strip(), long, more.strip(), longer]
    content = "\n".join(lines)
    rows, drop_counts, _ = read(write(content, name))
    assert [user for user, _ in rows] == ["u0", "a", "u0", *(f"v{n}" for n in range(9))]
    assert (drop_counts["read"], drop_counts[LONG_LINE], drop_counts[MALFORMED]) == (17, 5, 0)
    file = LinesFile(path=write(content, name), packed=name.endswith("gz"), literal=False, head=())
    counts: Counter[str] = Counter()
    assert max(map(len, read_blocks(file, counts))) < 1000 + block
    assert counts[LONG_LINE] == 5


def test_a_few_long_lines_are_told_and_a_file_of_them_is_refused(write, monkeypatch, caplog):
    monkeypatch.setattr(json_block, "LONGEST_LINE", 1000)
    long = '{"u": "' + "x" * 2000 + '"}\n'
    read(write(numbered(3) + long))
    assert "left out 1 of 4 lines, longer than" in caplog.text
    with pytest.raises(InputError, match="4 of 7 lines are longer than"):
        read(write(numbered(3) + 4 * long))


def test_a_file_without_line_ends_is_told_before_it_fills_the_memory(write):
    path = write('[{"u": "' + "x" * 3_000_000 + '"}]', "a.json.gz")
    with pytest.raises(InputError, match="no file of JSON lines"):
        read(path)


def test_a_first_line_longer_than_the_head_is_read(write):
    rows, _, _ = read(write('{"u": "a", "x": "' + "x" * 600_000 + '", "t": 7}\n' + numbered(1)))
    assert rows == [("a", "7"), ("u0", "0")]
    rows, drop_counts, _ = read(write("x" * 2_000_000 + "\n" + numbered(2)))
    assert rows == [("u0", "0"), ("u1", "1")]
    assert drop_counts[LONG_LINE] == 1


@pytest.mark.parametrize(
    "bomb",
    [
        *("[" + "1," * 400_000 + "]", "1" + "+1" * 400_000, "[" + "''," * 300_000 + "]"),
        "f'" + "{1}" * 60_000 + "'",  # no literal, but parsed in the square of its length
    ],
)
def test_a_literal_whose_syntax_tree_would_be_huge_is_malformed(bomb, monkeypatch):
    def parse(_):
        raise AssertionError("parsed")

    monkeypatch.setattr(json_block.ast, "literal_eval", parse)
    line = f"{{'u': 'a', 'x': {bomb}}}".encode()
    assert len(line) <= json_block.LONGEST_LINE
    assert json_block.read_line(line, literal=True) == (None, True)


def test_lines_of_markup_within_the_limit_are_literals():
    text = '<p class="a-b">Soft, warm &amp; light.</p>\n' * 12_000
    line = repr({"u": "it's", "x": text}).encode()
    assert json_block.read_line(line, literal=True) == ({"u": "it's", "x": text}, True)


def test_python_literals_are_read_where_a_file_is_written_so(write):
    lines = "{'u': 'it\\'s', 't': 1, 'x': True, 'n': None}\n{'u': \"b\\d\", 't': 2.5}\n{'u': }\n"
    path = write(lines)
    assert sniff_lines(path).describe()["lines"] == "Python literals"
    rows, drop_counts, _ = read(path)
    assert rows == [("it's", "1"), ("b\\d", "2.5")]
    assert drop_counts[MALFORMED] == 1


@small_blocks
def test_a_reader_that_stops_early_leaves_no_thread(write):
    before = set(threading.enumerate())
    path = write(numbered(2000), "a.json.gz")
    batches = stream_lines([sniff_lines(path)], FIELDS, drop_counts=Counter(), notes=Counter())
    next(batches)
    batches.close()
    assert set(threading.enumerate()) == before


@given(st.data())
def test_fast_and_slow_reading_agree(data):
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2), max_leaves=3)
    keys = st.sampled_from(["u", "user", "t", "time", "x", "é"])
    usual = st.fixed_dictionaries({"u": st.text(), "t": st.integers(-(2**63), 2**63 - 1)})
    objects = data.draw(st.lists(usual | st.dictionaries(keys, values), min_size=1, max_size=6))
    ascii_only = data.draw(st.booleans())
    lines = [
        json.dumps(each, ensure_ascii=ascii_only).encode("utf-8", "replace") for each in objects
    ]
    slow = _parse_slowly(lines, FIELDS, False)
    assert slow.rows.num_rows == len(lines)
    fast = _parse_fast(b"\n".join(lines) + b"\n", FIELDS)
    if fast is not None:
        assert fast.to_pylist() == slow.rows.to_pylist()


def test_most_lines_are_read_fast_around_a_bad_one():
    lines = numbered(3000).splitlines()
    lines[1234] = "{bad"
    lines[2000] = '{"u": 5, "t": "x"}'
    parsed = parse_block(("\n".join(lines) + "\n").encode(), FIELDS)
    expected = [(f"u{n}", str(n)) for n in range(3000)]
    expected[2000] = ("5", "x")
    assert rows_of(parsed.rows) == expected[:1234] + expected[1235:]
    assert parsed.malformed == 1
    usual = _parse_fast(("\n".join(numbered(300).splitlines()) + "\n").encode(), FIELDS)
    assert usual is not None


@small_blocks
def test_blocks_hold_whole_lines_and_all_bytes(write):
    content = numbered(40) + '{"u": "' + "long" * 60 + '"}\n{"u": "end"}'
    blocks = list(read_blocks(sniff_lines(write(content)), Counter()))
    assert b"".join(blocks) == content.encode() + b"\n"
    assert all(block.endswith(b"\n") for block in blocks)
    assert len(blocks) > 10


@small_blocks
def test_identical_lines_count_once_over_all_files(write):
    first = write(numbered(30) + numbered(5), "a.json")
    second = write(numbered(10) + '{"u": "u1",  "t": 1}\r\n{"u": "u1", "t": 1}', "b.json.gz")
    drop_counts = Counter()
    files = [sniff_lines(first), sniff_lines(second)]
    batches = stream_lines(files, FIELDS, drop_counts=drop_counts, notes=Counter())
    rows = [row for batch in without_duplicates(batches, drop_counts) for row in rows_of(batch)]
    assert sorted(rows) == sorted([*((f"u{n}", str(n)) for n in range(30)), ("u1", "1")])
    assert drop_counts[DUPLICATE] == 16


@pytest.mark.parametrize("seed", range(5))
def test_seen_hashes_are_those_of_a_set(seed):
    rng = random.Random(seed)
    edges = [0, 1, 2**58 - 1, 2**58, 2**63, 2**64 - 1]
    seen, known = SeenHashes(), set()
    for _ in range(60):
        size = rng.choice([0, 1, 3, 200])
        hashes = [rng.choice([rng.choice(edges), rng.getrandbits(64)]) for _ in range(size)]
        hashes += rng.sample(sorted(known), min(len(known), 5))
        expected = []
        for each in hashes:
            expected.append(each not in known)
            known.add(each)
        assert seen.add(np.array(hashes, np.uint64)).tolist() == expected


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()))
def test_text_of_a_value_can_be_written(value):
    assert text_of(value).encode().decode() == text_of(value)
