"""Mutations of delimited files whose rows are known: no row changes that was not touched.

Encodings, quotes, delimiters, cut characters: every line of a damaged file is read as it was, or
read otherwise because it was hit, or counted. `python tests/ingest/test_records.py 2000` runs more.
"""

import itertools
import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from pmm.ingest.readers import delimited
from pmm.ingest.readers.delimited import BAD_ID, MALFORMED, sniff, stream
from pmm.ingest.readers.records import RowSplitter

TITLES = {
    "utf-8": ["红色运动鞋", "Ñandú rojo", "Shoe", "Кроссовки", "赤い靴 新作", "Zoë’s boots"],
    "gb18030": ["红色运动鞋", "蓝色长裤", "短袖衬衫 2020", "美食视频，好吃", "厨房收纳架"],
    "big5": ["紅色運動鞋", "藍色長褲", "短袖襯衫 2020", "美食影片，好吃", "廚房收納架"],
    "cp932": ["赤いスニーカー", "青いズボン", "半袖シャツ", "メンズ ジャケット", "料理動画"],
    "cp949": ["빨간 운동화", "파란 바지", "반팔 셔츠", "맛있는 음식 영상", "주방 수납 선반"],
    "cp1251": ["Красные кроссовки", "Синие брюки", "Вкусное видео", "Чехол для телефона"],
    "latin-1": ["Größe L", "Crème brûlée", "Zapatillas niño", "Pantalón azul", "Café au lait"],
    "utf-16": ["红色运动鞋", "Ñandú rojo", "Shoe", "Кроссовки"],
}
FORMS = list(itertools.product(TITLES, [",", "\t", "|", "::", ";"], ["none", "some", "all"]))
INSERTED = [b'"', b'""', b'"x"', b",", b"\t", b"|", b"::", b"\xff", b"\xe9", b"\xc3", b"\x81", b"'"]


def table(encoding: str, delimiter: str, quotes: str, rng: random.Random) -> list[list[str]]:
    rows = []
    for n in range(40):
        title = f"{rng.choice(TITLES[encoding])} {n}"
        if quotes == "some" and n % 3 == 0:
            title += f'{delimiter} in "black"'
        rows.append([f"i{n}", title, str(1_600_000_000 + n)])
    return rows


def line_of(row: list[str], delimiter: str, quotes: str) -> str:
    fields = [
        '"' + field.replace('"', '""') + '"'
        if quotes == "all" or (quotes == "some" and ('"' in field or delimiter in field))
        else field
        for field in row
    ]
    return delimiter.join(fields)


def spoil(line: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(line) + 1)
    match rng.randrange(5):
        case 0:
            return line[:at] + bytes([rng.randrange(0x80, 0x100)]) + line[at + 1 :]
        case 1:
            return line[:at] + line[at + 1 :]
        case 2:
            return line[:at]
        case 3:
            field = rng.choice([0, *(found.end() for found in re.finditer(rb"[,\t|;:]", line))])
            return line[:field] + b'"' + line[field:]
        case _:
            return line[:at] + rng.choice(INSERTED) + line[at:]


def check(folder: Path, rng: random.Random) -> None:
    """One damaged file against the rows that it was made of."""
    encoding, delimiter, quotes = rng.choice(FORMS)
    if delimiter == "::" and quotes != "none":
        quotes = "none"
    rows = table(encoding, delimiter, quotes, rng)
    header = ["item_id", "title", "timestamp"]
    lines = [line_of(row, delimiter, quotes) for row in [header, *rows]]
    end = rng.choice(["\n", "\r\n"])
    wide = encoding == "utf-16"
    raw = [line.encode("utf-16-le" if wide else encoding) for line in lines]
    hit = set()
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(1, len(raw))
        hit.add(at)
        if wide:  # whole units: a byte too few is a file that breaks off
            raw[at] = "".join(rng.sample(lines[at], len(lines[at]) // 2)).encode("utf-16-le")
        else:
            raw[at] = spoil(raw[at], rng)
    path = folder / "items.csv"
    mark = b"\xff\xfe" if wide else b""
    path.write_bytes(
        mark + b"".join(line + end.encode("utf-16-le" if wide else "ascii") for line in raw)
    )
    dialect, _ = sniff(path)
    found, drop_counts = [], Counter()
    wanted = {"item": 0, "title": 1, "time": 2}
    for batch in stream(path, dialect, wanted, header=True, drop_counts=drop_counts):
        found += zip(*(column.to_pylist() for column in batch.columns), strict=True)
    told = f"{encoding} {delimiter!r} quotes {quotes}, hit {sorted(hit)}: {[raw[at] for at in hit]}"
    whole = [row for at, row in enumerate(rows, 1) if at not in hit]
    kept = [list(row) for row in found]
    others = [row for row in kept if row not in whole]
    assert [row for row in kept if row in whole] == whole, told
    assert len(others) <= len(hit), told
    below = sum(bool(line.strip(b"\0")) for line in raw[1:])
    assert (
        drop_counts["read"] == below == len(kept) + drop_counts[MALFORMED] + drop_counts[BAD_ID]
    ), told


@pytest.mark.parametrize("seed", range(6))
def test_no_row_changes_that_was_not_touched(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    for _ in range(40):
        monkeypatch.setattr(delimited, "_BLOCK_BYTES", rng.choice([8 << 20, 400, 90]))
        check(tmp_path, rng)


QUOTED = RowSplitter(b",", 2, quoted=True)


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        ([b'i1,"a, b"', b"i2,c"], [[b"i1", b"a, b"], [b"i2", b"c"]]),
        ([b'i1,"a', b'b"', b"i2,c"], [[b"i1", b"a\nb"], [b"i2", b"c"]]),
        ([b'i1,"a, b', b"", b'c, d"', b"i2,c"], [[b"i1", b"a, b\n\nc, d"], [b"i2", b"c"]]),
        # Each line would be a row, but "soft and warm" is none of the ids.
        (
            [b"i0,c", b'i1,"a', b'soft and warm, nice"', b"i2,c"],
            [[b"i0", b"c"], [b"i1", b"a\nsoft and warm, nice"], [b"i2", b"c"]],
        ),
        # Two quotes that belong to two rows hold no rows together.
        (
            [b"i0,c", b'i1,"a', b"i2,b", b'i3,c"', b"i4,d"],
            [[b"i0", b"c"], [b"i1", b'"a'], [b"i2", b"b"], [b"i3", b'c"'], [b"i4", b"d"]],
        ),
        ([b'i1,"a" b', b"i2,c"], [[b"i1", b'"a" b'], [b"i2", b"c"]]),
        ([b'i1,5" nail', b"i2,c"], [[b"i1", b'5" nail'], [b"i2", b"c"]]),
        ([b'i1,"a', b"i2,c"], [[b"i1", b'"a'], [b"i2", b"c"]]),
        ([b'i1,""', b'i2,"""a"""'], [[b"i1", b""], [b"i2", b'"a"']]),
    ],
)
def test_which_quotes_hold_a_row_together(lines, rows):
    assert [row.fields for row in QUOTED.rows(lines, ended=True)] == rows


def test_a_row_that_may_go_on_below_waits():
    assert list(QUOTED.rows([b'i1,"a', b"b"], ended=False)) == []


def test_many_open_quotes_take_time_in_proportion(monkeypatch):
    looked = Counter()
    split = RowSplitter.split

    def counted(self, line):
        looked["bytes"] += len(line)
        return split(self, line)

    monkeypatch.setattr(RowSplitter, "split", counted)
    for line in (b'i1,"a""b', b'i1,"a', b'","', b'a,"""', b'"'):
        looked.clear()
        lines = [line] * 5_000
        list(QUOTED.rows(lines, ended=True))
        assert looked["bytes"] < 20 * sum(map(len, lines))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(int(sys.argv[1])):
            delimited._BLOCK_BYTES = random.Random(seed).choice([8 << 20, 400, 90])
            check(Path(folder), random.Random(seed))
    print(f"{sys.argv[1]} mutations: no row changed that was not touched")
