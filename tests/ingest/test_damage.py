"""Files damaged at random end in counts that a slow reading confirms, or in one clear error.

2,000 mutations of delimited files in twelve layouts and 2,000 of H&M's; the oracle reads the
decoded lines letter by letter. It takes only the file's dialect and columns from the reader, and
finds every row's fate by itself.
"""

import gzip
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

import pytest

from pmm.errors import PmmError
from pmm.ingest.readers import delimited
from pmm.ingest.readers.date_forms import read_date
from pmm.ingest.readers.delimited import BAD_ID, Dialect, sniff
from pmm.ingest.readers.encodings import REPLACEMENT
from pmm.ingest.readers.text import clean_text, join_text
from pmm.ingest.readers.times import EARLIEST, LATEST, TimeForm
from pmm.ingest.sources import csv as generic
from pmm.ingest.sources import hm
from pmm.ingest.sources.csv import CsvFiles
from pmm.ingest.sources.csv_presets import PRESETS
from pmm.ingest.tables.interactions import ABSURD_TIME, NO_TIME
from pmm.ingest.tables.source_tables import RawSource, Reading
from pmm.storage.home import Home

MORE = int(os.environ.get("PMM_FUZZ", "1"))
"""PMM_FUZZ=10 tries ten times as many damaged files: more than the gate has time for."""
PATIENCE_S = 5.0
ROWS = [(f"u{n % 5}", f"i{n * 3 % 8}", 1_600_000_000 + n) for n in range(60)]
INSERTED = [
    *(b'"', b'""', b",", b"\t", b"::", b":", b"|", b";", b"\n", b"\r", b"\r\n", b"\n\n", b" "),
    *(b"\x00", b"\x1c", b"\x1f", b"\x0b", b"\xff", b"\xc3\xa9", b"\xc2\x85", b"\xe2\x80\xa8"),
    *(b"\xef\xbb\xbf", b"0x", b"_", b"-", b"e5", b"nan", b"<b>", b"&amp;"),
]


def when(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def layout(
    delimiter: str,
    header: list[str] | None,
    order: tuple[int, ...],
    *,
    time_as: Callable[[int], str] = str,
    quote: str = "",
    end: str = "\n",
    encoding: str = "utf-8",
) -> bytes:
    """`ROWS` as a file; the order names 0 user, 1 item, 2 time, 3 rating."""
    lines = [delimiter.join(header)] if header else []
    for user, item, moment in ROWS:
        fields = [user, item, time_as(moment), "5"]
        lines.append(delimiter.join(quote + fields[at] + quote for at in order))
    return (
        (end.join(lines) + end)
        .replace("u1", "Zoë" if encoding == "latin-1" else "u1")
        .encode(encoding)
    )


USER_FIRST, FOUR = ["user_id", "item_id", "timestamp"], (0, 1, 3, 2)
ATOMIC = [f"{name}:{kind}" for name, kind in (("user_id", "token"), ("item_id", "token"))]
ATOMIC += ["rating:float", "timestamp:float"]
NAMED = "user,item,rating,timestamp"
INTERACTIONS: dict[str, tuple[bytes, str | None]] = {
    "comma": (layout(",", [*USER_FIRST[:2], "rating", "timestamp"], FOUR), None),
    "quoted, CRLF": (layout(",", USER_FIRST, (0, 1, 2), quote='"', end="\r\n"), None),
    "ml-1m": (layout("::", None, FOUR, encoding="latin-1"), NAMED),
    "ml-100k": (layout("\t", None, FOUR), NAMED),
    "RecBole": (layout("\t", ATOMIC, FOUR, time_as="{}.0".format), None),
    "utf-16": (layout(";", ["user", "item", "ts"], (0, 1, 2), encoding="utf-16"), None),
    "latin-1": (layout(",", USER_FIRST, (0, 1, 2), encoding="latin-1"), None),
    "PixelRec": (layout(",", ["item_id", "user_id", "timestamp"], (1, 0, 2)), None),
    "bars, dates": (
        layout("|", ["item", "user", "time"], (1, 0, 2), time_as=lambda t: str(when(t))),
        None,
    ),
    "milliseconds": (layout(",", USER_FIRST, (0, 1, 2), time_as="{}007".format), None),
    "no times": (layout(",", ["user", "item"], (0, 1)), None),
    "gz": (gzip.compress(layout(",", USER_FIRST, (0, 1, 2)), mtime=0), None),
}
U_ITEM = "".join(
    f"{n}|Café {n} (1995)|01-Jan-1995||http://x/?{n}|0|{'|'.join('01'[n % 2] * 18)}\n"
    for n in range(9)
)
ITEMS: list[tuple[bytes, str | None]] = [
    (b"item_id,title\n" + b"".join(b"i%d,Title %d\n" % (n, n) for n in range(8)), None),
    (b'item_id,title,description\r\n' + b'"i1","A ""b"", c","d\ne"\r\n' * 2 + b"i2,x,y\r\n", None),
    (U_ITEM.encode("latin-1"), PRESETS["movielens"][2].item_columns),
    (b"item_id:token\ttitle:token_seq\tclass:token_seq\n" + b"i1\ta b\tx y\n" * 5, None),
]  # fmt: skip
ARTICLES = [f"0{100_000_001 + n}" for n in range(8)]
TAGS = dict.fromkeys(hm.CATEGORY_COLUMNS, "Shoes")


def transactions(index: bool) -> bytes:
    """As Kaggle has it, or as pandas wrote it: an index, ids as floats, CRLF."""
    lines = ["," * index + "t_dat,customer_id,article_id,price,sales_channel_id"]
    for n in range(60):
        article = ARTICLES[n * 3 % 8]
        article = f"{int(article)}.0" if index else article
        lines.append(f"{n}," * index + f"2020-01-{n % 28 + 1:02d},c{n % 5},{article},0.05,2")
    return "".join(line + ("\r\n" if index else "\n") for line in lines).encode()


def articles() -> bytes:
    lines = [",".join(["article_id", "product_code", "prod_name", *TAGS, "detail_desc"])]
    for n, each in enumerate(ARTICLES):
        described = f'"Soft, ""new"" tee &amp; top {n}"' if n != 3 else ""
        lines.append(",".join([each, each[:7], f"Tee {n}", *TAGS.values(), described]))
    return "".join(line + "\n" for line in lines).encode()


def cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def flip(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]


def insert(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + rng.choice(INSERTED) + raw[at:]


def remove(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + raw[at + rng.randrange(1, 40) :]


def repeat(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[: at + rng.randrange(1, 40)] + raw[at:]


def quote_over_lines(raw: bytes, rng: random.Random) -> bytes:
    """A quote that opens at the beginning of a field and closes some lines below."""
    starts = [0, *(found.end() for found in re.finditer(rb"[,\t;|\n]", raw))]
    at = rng.choice(starts)
    to = min(len(raw), at + rng.randrange(1, 90))
    return raw[:at] + b'"' + raw[at:to] + b'"' + raw[to:]


def change_delimiter(raw: bytes, rng: random.Random) -> bytes:
    old, new = rng.choice([b",", b"\t", b"::", b"|"]), rng.choice([b";", b"\t", b"::", b" ", b","])
    return raw.replace(old, new, rng.choice([1, -1]))


def change_numbers(raw: bytes, rng: random.Random) -> bytes:
    new = rng.choice([b"", b"nan", b"1e999", b"9" * 25, b"0x1", b"1_6", b" 16", b"-16", b"0000"])
    return raw.replace(rng.choice([b"16", b"2020"]), new, rng.choice([1, 3, -1]))


def change_rows(raw: bytes, rng: random.Random) -> bytes:
    lines = raw.splitlines(keepends=True)
    if rng.random() < 0.3:
        rng.shuffle(lines)
    else:
        del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def change_field(raw: bytes, rng: random.Random) -> bytes:
    lines = raw.splitlines(keepends=True)
    row = rng.randrange(len(lines))
    fields = re.split(rb"(,|\t|::|\||;)", lines[row])
    fields[rng.randrange(len(fields))] = rng.choice([*INSERTED, b""])
    return b"".join([*lines[:row], *fields, *lines[row + 1 :]])


def pack(raw: bytes, rng: random.Random) -> bytes:
    packed = gzip.compress(raw, mtime=0)
    whole = [packed, packed + packed, packed + b"junk"]
    return rng.choice([*whole, cut(packed, rng), flip(packed, rng)])


MUTATIONS = [cut, flip, insert, insert, remove, repeat, change_delimiter, change_numbers]
MUTATIONS += [change_rows, change_field, change_field, pack, quote_over_lines]


def damage(raw: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(1, 4)):
        raw = rng.choice(MUTATIONS)(raw, rng) or b"\n"
    return raw


@dataclass(frozen=True)
class Table:
    """The rows of a file below its header, as the oracle sees them."""

    names: list[str]
    rows: list[list[str]]
    bad: list[bool]
    """Whether some bytes of a row's lines are not of the encoding."""
    malformed: int


class Doubt(Exception):
    """The oracle has no opinion: a quote is open over lines each of which is a row by itself."""


def slow_read(path: Path, dialect: Dialect, header: bool) -> Table:
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if dialect.packed else raw
    lines = list(slow_lines(raw, dialect.encoding.name))[dialect.before :]
    found = list(slow_rows([text for text, _ in lines], dialect))
    names = [""] * dialect.row_names + [name.strip() for name in found[0][0]]
    fitting, bad, malformed = [], [], 0
    for row, at, span in found[header:]:
        if len(row) == dialect.fields + 1 and not row[-1]:
            row = row[:-1]
        if len(row) != dialect.fields:
            malformed += 1
            continue
        fitting.append(row)
        bad.append(any(broken for _, broken in lines[at : at + span]))
    return Table(names, fitting, bad, malformed)


def slow_lines(raw: bytes, encoding: str) -> Iterator[tuple[str, bool]]:
    """Lines as text, with U+FFFD for what does not decode, and whether there is any."""
    if encoding.startswith("utf-16"):
        for line in re.split("\r\n|\n|\r", raw.decode(encoding, "replace")):
            yield line, REPLACEMENT in line
        return
    for line in re.split(rb"\r\n|\n|\r", raw.removeprefix(b"\xef\xbb\xbf")):
        text = line.decode(encoding, "replace")
        try:
            line.decode(encoding)
        except UnicodeDecodeError:
            yield text, True
        else:
            yield text, False


def slow_rows(lines: list[str], dialect: Dialect) -> Iterator[tuple[list[str], int, int]]:
    """Rows, the line at which each begins, and how many lines it is."""
    at = 0
    while at < len(lines):
        if not lines[at]:
            at += 1
            continue
        row, span = slow_fields(lines[at], dialect)[0], 1
        if dialect.quoted:
            row, span = slow_row(lines, at, dialect)
        if row:
            yield row, at, span
        at += span


def slow_row(lines: list[str], at: int, dialect: Dialect) -> tuple[list[str], int]:
    """The row that begins at a line, over more lines only where it cannot be a line."""
    own, closed = slow_fields(lines[at], dialect)
    for to in range(at + 1, len(lines)) if not closed else ():
        row, closed = slow_fields("\n".join(lines[at : to + 1]), dialect, strict=True)
        if closed is False:
            continue
        if row is None or len(row) - (len(row) > dialect.fields and not row[-1]) != dialect.fields:
            break
        alone = [slow_fields(line, dialect)[0] for line in lines[at : to + 1]]
        if all(
            len(each) - (len(each) == dialect.fields + 1 and not each[-1]) == dialect.fields
            for each in alone
        ):
            raise Doubt
        return row, to + 1 - at
    return own, 1


def slow_fields(line: str, dialect: Dialect, strict: bool = False):
    """The fields of a line letter by letter, and whether no quote is open at its end.

    A quote counts that opens a field and is closed at the end of one; with `strict` there are None
    where another one opens a field.
    """
    if dialect.delimiter == " ":
        if '"' in line:
            raise Doubt
        line = " ".join(re.split(r"[ \t]+", line.strip(" \t")))
    if dialect.delimiter == "::":
        line = line.replace("\x1f", "\x1a")
    if dialect.trailing:
        line = line.removesuffix(dialect.delimiter)
    if not dialect.quoted or (dialect.delimiter == " " and not line):
        return (line.split(dialect.delimiter) if line else []), True
    fields, at, closed = [], 0, True
    while True:
        text, to, ends = slow_quoted(line, at, dialect.delimiter)
        closed = closed and ends
        if text is None:
            if strict and line[at : at + 1] == '"':
                return None, closed
            to = line.find(dialect.delimiter, at)
            to = len(line) if to < 0 else to
            text = line[at:to]
        fields.append(text)
        if to >= len(line):
            return fields, closed
        at = to + 1


def slow_quoted(line: str, at: int, delimiter: str) -> tuple[str | None, int, bool]:
    """A quoted text or None, where it ends, and whether a quote that opens here is closed."""
    text, to = "", at + 1
    if line[at : at + 1] != '"':
        return None, at, True
    while to < len(line) and (line[to] != '"' or line[to + 1 : to + 2] == '"'):
        text += line[to]
        to += 1 + (line[to] == '"')
    if to >= len(line):
        return None, at, False
    whole = line[to + 1 : to + 2] in ("", delimiter)
    return (text if whole else None), to + 1, True


def slow_time(text: str, form: TimeForm) -> int | str:
    """UTC seconds, or why a value is no time.

    Dates by the reader of dates, which `test_times` holds against datetime.
    """
    text = text.strip()
    try:
        value = Decimal("x" if "_" in text or not text.isprintable() else text)
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_nan() and value.is_finite():
        if value == 0:
            return 0
        if value.adjusted() > 30:
            return ABSURD_TIME
        for per in (1,) if form.numbers else (1, 10**3, 10**6, 10**9):
            low, high = (0, 2**63) if form.numbers else (EARLIEST, LATEST)
            if low <= value / per < high:
                return math.floor(value / per)
        moment = read_date(text) if text.isdecimal() and not form.numbers else None
        plausible = moment is not None and EARLIEST <= moment // 10**9 < LATEST
        return moment // 10**9 if plausible else ABSURD_TIME
    moment = None if form.numbers else read_date(text, form.day_first)
    if moment is None:
        return NO_TIME
    return moment // 10**9 if EARLIEST <= moment // 10**9 < LATEST else ABSURD_TIME


Kept = list[tuple[str, str, int | None]]


def slow_fates(
    table: Table, at: dict[str, int], form: TimeForm | None
) -> tuple[Kept, Counter[str]]:
    """The interactions that must be kept, in order, and the counts of all rows."""
    kept: Kept = []
    drop_counts = Counter(
        {"read": len(table.rows) + table.malformed, "malformed row": table.malformed}
    )
    for row, bad in zip(table.rows, table.bad, strict=True):
        user, item = row[at["user"]].strip(), row[at["item"]].strip()
        moment = slow_time(row[at["time"]], form) if form else None
        if bad and REPLACEMENT in user + item:
            drop_counts[BAD_ID] += 1
        elif not user:
            drop_counts["empty user id"] += 1
        elif not item:
            drop_counts["empty item id"] += 1
        elif isinstance(moment, str):
            drop_counts[moment] += 1
        else:
            kept.append((user, item, moment))
    return kept, +drop_counts


def read_whole(raw: RawSource) -> tuple[Reading, Kept]:
    """What the reader makes of the files."""
    return consume(raw.read())


def consume(reading: Reading) -> tuple[Reading, Kept]:
    rows = [row for table in reading.interactions for row in table.to_pylist()]
    return reading, [(row["user_id"], row["item_id"], row["timestamp"]) for row in rows]


def require_conservation(reading: Reading, kept: Kept) -> Counter[str]:
    drop_counts = Counter(reading.row_counts)
    drop_counts.pop("zero times", None)
    assert drop_counts["read"] == len(kept) + drop_counts.total() - drop_counts["read"]
    items = reading.item_counts
    assert items["read"] == items["kept"] + sum(items["dropped"].values())
    assert items["kept"] == reading.items.num_rows
    return +drop_counts


def texts_of(reading: Reading) -> dict[str, str]:
    return {row["item_id"]: row["text"] for row in reading.items.to_pylist()}


def slow_articles(path: Path) -> dict[str, str]:
    """Article id -> text by the first row that has one."""
    table = slow_read(path, sniff(path)[0], header=True)
    names = table.names[::-1]  # where a name is there twice, the first column counts
    rows = [
        row
        for row, bad in zip(table.rows, table.bad, strict=True)
        if not (bad and REPLACEMENT in row[table.names.index("article_id")])
    ]
    texts: dict[str, str] = {}
    for item, text in (article_text(dict(zip(names, row[::-1], strict=True))) for row in rows):
        texts[item] = texts.get(item) or text
    return {item: text for item, text in texts.items() if item}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[random.Random], None]:
    def choose(rng: random.Random) -> None:
        monkeypatch.setattr(delimited, "_BLOCK_BYTES", rng.choice([8 << 20, 8 << 20, 150, 300]))

    return choose


def ends_in_time(start: float) -> bool:
    return time.monotonic() - start < PATIENCE_S


@pytest.mark.parametrize("seed", range(3 * MORE))
def test_damaged_interactions_read_as_a_slow_reading_says(tmp_path, small_blocks, seed):
    rng, confirmed = random.Random(seed), 0
    files = CsvFiles(interactions=tmp_path / "inter.csv", items=tmp_path / "items.csv")
    files.items.write_bytes(ITEMS[0][0])
    for _ in range(100):
        start = time.monotonic()
        raw, columns = INTERACTIONS[rng.choice(list(INTERACTIONS))]
        files.interactions.write_bytes(damage(raw, rng))
        small_blocks(rng)
        try:
            named = replace(files, columns=columns)
            reading, kept = read_whole(generic._raw(Home(tmp_path), "Shop", named))
        except PmmError:
            continue  # one of our own errors; any other exception fails the test
        finally:
            assert ends_in_time(start)
        known = frozenset(reading.items["item_id"].to_pylist())
        found = generic._detect(named, known)
        assert "form" not in reading.notes["detected"]["interactions"]  # no histories
        try:
            table = slow_read(files.interactions, found.dialect, found.header)
        except Doubt:
            require_conservation(reading, kept)
            continue
        assert (kept, require_conservation(reading, kept)) == slow_fates(
            table, found.roles, found.times
        )
        confirmed += 1
    assert confirmed > 30


@pytest.mark.parametrize("seed", range(2 * MORE))
def test_damaged_items_read_as_a_slow_reading_says(tmp_path, small_blocks, seed):
    rng, confirmed = random.Random(1000 + seed), 0
    path = tmp_path / "items.csv"
    for _ in range(100):
        raw, columns = rng.choice(ITEMS)
        path.write_bytes(damage(raw, rng))
        small_blocks(rng)
        try:
            items, drop_counts, notes = generic.read_items(path, columns, None)
        except PmmError:
            continue
        fields = len(columns.split(",")) if columns else None
        head = sniff(path, fields=fields)[1]
        at = generic._item_layout(path, head, columns, False).roles
        assert drop_counts["read"] == drop_counts["kept"] + sum(drop_counts["dropped"].values())
        try:
            table = slow_read(path, sniff(path, fields=fields)[0], notes["header"])
        except Doubt:
            continue
        wanted = {}
        for row, bad in zip(table.rows, table.bad, strict=True):
            if bad and REPLACEMENT in row[at["item"]]:
                continue
            texts = [clean_text(row[at[role]]) for role in ("title", "description") if role in at]
            item, text = row[at["item"]].strip(), join_text(texts[0], texts[1:]) if texts else ""
            wanted[item] = wanted.get(item) or text
        wanted.pop("", None)
        assert {row["item_id"]: row["text"] for row in items.to_pylist()} == wanted
        confirmed += 1
    assert confirmed > 30


def repaired(item: str) -> str:
    number = re.fullmatch(r"(\d{1,10})(\.0*)?", item)
    return number[1].zfill(10) if number else item


def article_text(row: dict[str, str]) -> tuple[str, str]:
    described = clean_text(row["detail_desc"]) or clean_text(row["prod_name"])
    tags = [clean_text(row[name]) for name in hm.CATEGORY_COLUMNS]
    return repaired(row["article_id"].strip()), join_text(described, tags)


@pytest.mark.parametrize("seed", range(3 * MORE))
def test_damaged_files_of_hm_read_as_a_slow_reading_says(tmp_path, small_blocks, seed):
    rng, confirmed = random.Random(2000 + seed), 0
    sales, listed = tmp_path / hm.TRANSACTIONS, tmp_path / hm.ARTICLES
    for _ in range(100):
        start, spoil_sales = time.monotonic(), rng.random() < 0.6
        raw, list_raw = transactions(index=rng.random() < 0.5), articles()
        sales.write_bytes(damage(raw, rng) if spoil_sales else raw)
        listed.write_bytes(list_raw if spoil_sales else damage(list_raw, rng))
        small_blocks(rng)
        try:
            reading, kept = read_whole(hm._raw(Home(tmp_path), tmp_path))
        except PmmError:
            continue
        finally:
            assert ends_in_time(start)
        try:
            table = slow_read(sales, sniff(sales)[0], header=True)
            listed_texts = slow_articles(listed)
        except Doubt:
            require_conservation(reading, kept)
            continue
        roles = {"user": "customer_id", "item": "article_id", "time": "t_dat"}
        at = {role: table.names.index(name) for role, name in roles.items()}
        wanted, drop_counts = slow_fates(table, at, TimeForm(unit="date"))
        assert kept == [(user, repaired(item), moment) for user, item, moment in wanted]
        assert require_conservation(reading, kept) == drop_counts
        assert texts_of(reading) == listed_texts
        confirmed += 1
    assert confirmed > 30


@pytest.mark.parametrize("seed", range(2 * MORE))
def test_a_whole_ingest_of_a_damaged_file_adds_up_or_is_refused(ingest_text, adds_up, seed):
    rng = random.Random(seed)
    try:
        card = ingest_text(damage(INTERACTIONS["comma"][0], rng))
    except PmmError:
        return
    assert adds_up(card)
