"""Raw files damaged at random: an error of our own, or exactly the rows of a plain reader.

At least 2,000 damaged files a reader, each with one to three mutations: reviews of 2018, of 2023,
ratings, metadata; and 1,000 more of the edition of 2014.
"""

import ast
import gzip
import json
import os
import random
import re
import time
import zlib
from collections import Counter
from decimal import Decimal, InvalidOperation

import pytest

from pmm.errors import PmmError
from pmm.ingest.readers.date_forms import read_date
from pmm.ingest.readers.delimited import MALFORMED
from pmm.ingest.readers.duplicate_rows import DUPLICATE
from pmm.ingest.readers.times import EARLIEST, LATEST
from pmm.ingest.sources.amazon.amazon import _no_images, _raw
from pmm.ingest.sources.amazon.editions import find_release
from pmm.ingest.sources.amazon.metadata import picture_urls
from pmm.ingest.tables.interactions import ABSURD_TIME, NO_TIME
from pmm.storage.home import Home

MUTATIONS = 50
"""Damaged files a seed."""
MORE = int(os.environ.get("PMM_FUZZ", "1"))
"""PMM_FUZZ=10 tries ten times as many damaged files: more than the gate has time for."""
SEEDS = {"2018": 8, "2018 as it is": 8, "2023": 14, "2014": 8, "ratings": 14}
META_SEEDS = {"2018": 6, "2023": 6, "2014": 4}
PATIENCE_S = 5.0
ITEMS = ["B00000000A", "B00000000B", "0123456789", "B0é"]
START = 1_441_324_800


def review_2018(n):
    return {
        "overall": 5.0,
        "reviewerID": f"A{n % 4}",
        "asin": ITEMS[n % 3],
        "style": {"Size:": " 9", "asin": "inner"},
        "reviewText": 'A "quoted" word, é, { and } \u2028',
        "unixReviewTime": START + n // 2,
    }


def review_2023(n):
    return {
        "rating": 4.0,
        "images": [{"hi_res": None}],
        "asin": "variant",
        "parent_asin": ITEMS[n % 3],
        "timestamp": (START + n) * 1000,
        "user_id": f"U{n % 4}",
    }


def meta_2018(n):
    return {
        "category": ["R", "R"],
        "title": f"T {n}",
        "asin": ITEMS[n % 4],
        "imageURL": [f"http://x/{n}.jpg"],
    }


def meta_2023(n):
    images = [{"large": f"http://x/{n}.jpg", "variant": "MAIN", "hi_res": None}]
    return {"title": f"T {n}", "parent_asin": ITEMS[n % 4], "categories": [], "images": images}


def lines(rows, write=json.dumps):
    return "".join(write(row) + "\n" for row in rows).encode()


def ratings(header=""):
    rows = (f"{ITEMS[n % 3]},A{n % 4},5.0,{START + n}" for n in range(12))
    return (header + "\n".join(rows) + "\n").encode()


LAYOUTS = {
    "2018": (
        "X.json",
        lines(map(review_2018, range(12))),
        "meta_X.json",
        lines(map(meta_2018, range(6))),
    ),
    "2018 as it is": (
        *(
            "X_5.json",
            lines(map(review_2018, range(12)), lambda r: json.dumps(r, ensure_ascii=False)),
        ),
        *("meta_X.json", lines(map(meta_2018, range(6)))),
    ),
    "2023": (
        "X.jsonl",
        lines(map(review_2023, range(12))),
        "meta_X.jsonl",
        lines(map(meta_2023, range(6))),
    ),
    "2014": (
        "reviews_X.json",
        lines(map(review_2018, range(12))),
        "meta_X.json",
        lines(map(meta_2018, range(6)), repr),
    ),
    "ratings": ("X.csv", ratings(), "meta_X.json", lines(map(meta_2018, range(6)))),
}
PIECES = [
    *(
        b"{",
        b"}",
        b'"',
        b"\\",
        b",",
        b":",
        b"\n",
        b"\r\n",
        b"\n\n",
        b" ",
        b"[",
        b"]",
        b"\x00",
        b"\xff",
    ),
    *(
        b"null",
        b"true",
        b"1e3",
        b"-0",
        b"12345678901234567890",
        b"\\ud800",
        b"\\u0041",
        b"\xc3\xa9",
    ),
    *(
        b'"asin": "B00000000A", ',
        b'"asin": 7, ',
        b'{"asin": null}\n',
        b"\xef\xbb\xbf",
        b"'",
        b"NaN",
    ),
]


def mutate(raw, rng):
    at, length = rng.randrange(len(raw) + 1), rng.randrange(1, 60)
    row = rng.choice(raw.split(b"\n"))
    return rng.choice(
        [
            lambda: raw[:at],
            lambda: raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :],
            lambda: raw[:at] + rng.choice(PIECES) + raw[at:],
            lambda: raw[:at] + raw[at + length :],
            lambda: raw[: at + length] + raw[at:],
            lambda: raw.replace(row, row + b"\n" + row, 1),
            lambda: raw.replace(
                b'"asin": ', rng.choice([b'"ASIN": ', b'"asin" :', b'"asin": []+']), 3
            ),
            lambda: raw.replace(str(START)[:5].encode(), rng.choice([b'"', b"1.5e", b"", b"-"]), 2),
            lambda: raw.replace(b'"A1"', rng.choice([b"1", b"null", b"true", b'{"a": 1}', b'""'])),
            lambda: remove_field(raw, rng),
            lambda: change_type(raw, rng),
            lambda: raw.replace(
                b"\n", rng.choice([b"\r\n", b"\n\n", b" \n\t", b""]), rng.randrange(4)
            ),
        ]
    )()


def remove_field(raw, rng):
    """Without one key and its value, in one row or some."""
    fields = re.findall(rb"""["']\w+["']: (?:["'][^"']*["']|[\d.]+|\[[^\[\]]*\]), """, raw)
    return raw.replace(rng.choice(fields), b"", rng.randrange(1, 4)) if fields else raw


def change_type(raw, rng):
    """One value, or some equal ones, as a value of another type."""
    values = re.findall(rb""": (["'][^"']*["']|[\d.]+|\[[^\[\]]*\])[,}]""", raw)
    kinds = [b"null", b"true", b"[]", b"{}", b'[{"a": null}]', b'"17"', b"17", b"1e400", b'["x"]']
    changed = b": " + rng.choice(kinds)
    return raw.replace(b": " + rng.choice(values), changed, rng.choice([1, -1])) if values else raw


def as_object(line, literal):
    text = line.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text) if literal else None
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = None
    return value if isinstance(value, dict) else None


def plain(value):
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def seconds(text):
    """The time as whole seconds, or why it is none; the definition that all sources share."""
    text = text.strip()
    try:
        number = Decimal(text if text.isprintable() and "_" not in text else "nan")
    except InvalidOperation:
        number = Decimal("nan")
    if number.is_nan() or number.is_infinite():
        moment = read_date(text)
        return NO_TIME if moment is None else within(moment // 10**9)
    if number == 0 or number.adjusted() > 30:
        return ABSURD_TIME if number else 0
    for per in (1, 10**3, 10**6, 10**9):
        if EARLIEST <= number / per < LATEST:
            return int(number // per)
    moment = read_date(text) if text.isdecimal() else None
    return ABSURD_TIME if moment is None else within(moment // 10**9)


def within(moment):
    return moment if EARLIEST <= moment < LATEST else ABSURD_TIME


def expected_reviews(raw, keys, literal):
    """Rows and drop_counts as the slowest reader finds them."""
    drop_counts, rows, seen = Counter(), [], set()
    for line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = line.strip()
        if not line:
            continue
        drop_counts["read"] += 1
        value = as_object(line, literal)
        if value is None:
            drop_counts[MALFORMED] += 1
        elif line in seen:
            drop_counts[DUPLICATE] += 1
        else:
            seen.add(line)
            take(drop_counts, rows, *(plain(value.get(key)) for key in keys))
    return rows, +drop_counts


def expected_ratings(raw):
    """The same for ratings, or None where a damaged row makes it a matter of opinion."""
    try:
        text = raw.decode("ascii")
    except UnicodeError:
        return None
    rows = [line.split(",") for line in text.replace("\r\n", "\n").split("\n") if line]
    if any(mark in text.replace("\r\n", "") for mark in '"\r\x00\t|;\\') or "::" in text:
        return None
    if any(len(row) != 4 for row in rows):
        return None
    hits = [sum(row[at].strip() in ITEMS for row in rows) for at in (0, 1)]
    user, item = (0, 1) if hits[1] > hits[0] else (1, 0)
    drop_counts, kept = Counter(read=len(rows)), []
    for row in rows:
        take(drop_counts, kept, row[user], row[item], row[3])
    return kept, +drop_counts


def take(drop_counts, rows, user, item, time):
    user, item, time = user.strip(), item.strip(), seconds(time)
    reasons = {
        "empty user id": user == "",
        "empty item id": item == "",
        NO_TIME: time == NO_TIME,
        ABSURD_TIME: time == ABSURD_TIME,
    }
    reason = next((name for name, fails in reasons.items() if fails), None)
    if reason is None:
        rows.append((user, item, time))
        drop_counts["zero times"] += time == 0
    else:
        drop_counts[reason] += 1


def ours(folder):
    """What a pass over the folder gives: rows, drop_counts, items, the release."""
    release = find_release(folder)
    raw = _raw(Home(folder.parent / "home"), release, _no_images(), None)
    reading = raw.read()
    tables = list(reading.interactions)
    rows = [
        (row["user_id"], row["item_id"], row["timestamp"]) for t in tables for row in t.to_pylist()
    ]
    return rows, +reading.row_counts, reading, release


def read_or_error(folder):
    """What `ours` gives, None where it ends in an error of our own; the counts add up."""
    began = time.monotonic()
    try:
        rows, drop_counts, reading, release = ours(folder)
    except PmmError:
        return None
    finally:
        assert time.monotonic() - began < PATIENCE_S
    dropped = sum(n for reason, n in drop_counts.items() if reason not in ("read", "zero times"))
    assert drop_counts["read"] == len(rows) + dropped
    items = reading.item_counts
    assert items["read"] == items["kept"] + sum(items["dropped"].values())
    return rows, drop_counts, reading, release


def require_interactions(found, raw):
    """The rows are those of a plain reader."""
    rows, drop_counts, _, release = found
    file = release.interactions[0]
    if file.lines is None:
        wanted = expected_ratings(raw)
    else:
        keys = ("reviewerID", "asin", "unixReviewTime")
        if release.edition == "2023":
            keys = ("user_id", "parent_asin", "timestamp")
        literal = file.lines.literal
        wanted = expected_reviews(raw, keys, literal)
    assert wanted is None or (rows, drop_counts) == wanted


def expected_items(raw, key, literal):
    """Item id -> title, and the drop_counts of the lines."""
    found, drop_counts = {}, Counter()
    for line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if not line.strip():
            continue
        drop_counts["read"] += 1
        value = as_object(line.strip(), literal)
        if value is None:
            drop_counts[MALFORMED] += 1
            continue
        item, pictured = plain(value.get(key)).strip(), bool(picture_urls(value))
        drop_counts["empty item id"] += not item
        drop_counts["repeated item id"] += item in found
        if item and (item not in found or (pictured and not found[item][1])):
            found[item] = (plain(value.get("title")), pictured)
    return {item: title for item, (title, _) in found.items()}, +drop_counts


def require_items(found, raw):
    """The items are those of a plain reader, each with the row that should win."""
    _, _, reading, release = found
    file = release.metadata[0]
    key = "parent_asin" if release.edition == "2023" else "asin"
    wanted, lines = expected_items(raw, key, file.lines.literal)
    rows = {row["item_id"]: row["text"] for row in reading.items.to_pylist()}
    assert rows.keys() == wanted.keys()
    for item, title in wanted.items():
        assert not re.fullmatch(r"T \d", title) or rows[item].startswith(title)
    drop_counts = reading.item_counts
    assert Counter({"read": drop_counts["read"], **drop_counts["dropped"]}) == lines


def damage(raw, rng):
    for _ in range(rng.randrange(1, 4)):
        raw = mutate(raw, rng)
    return raw


def each_seed(seeds):
    return [
        (layout, seed)
        for layout, count in seeds.items()
        for seed in range(max(1, count // 2) * MORE)
    ]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "raw"
    place.mkdir()
    return place


@pytest.mark.parametrize(("layout", "seed"), each_seed(SEEDS))
def test_damaged_interactions_give_the_rows_of_a_plain_reader_or_an_error(folder, layout, seed):
    name, raw, meta_name, meta = LAYOUTS[layout]
    rng = random.Random(f"{layout} {seed}")
    (folder / meta_name).write_bytes(meta)
    good = 0
    for _ in range(MUTATIONS):
        damaged = damage(raw, rng)
        (folder / name).write_bytes(damaged)
        if found := read_or_error(folder):
            require_interactions(found, damaged)
            good += 1
    assert good > MUTATIONS // 4


@pytest.mark.parametrize(("layout", "seed"), each_seed(META_SEEDS))
def test_damaged_metadata_give_the_items_of_a_plain_reader_or_an_error(folder, layout, seed):
    name, raw, meta_name, meta = LAYOUTS[layout]
    rng = random.Random(f"meta {layout} {seed}")
    (folder / name).write_bytes(raw)
    good = 0
    for _ in range(MUTATIONS):
        damaged = damage(meta, rng)
        (folder / meta_name).write_bytes(damaged)
        if found := read_or_error(folder):
            require_items(found, damaged)
            good += 1
    assert good > MUTATIONS // 4


@pytest.mark.parametrize("layout", ["2018", "2023", "ratings"])
@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_gzip_file_gives_what_the_gzip_module_unpacks_or_an_error(folder, layout, seed):
    name, raw, meta_name, meta = LAYOUTS[layout]
    rng = random.Random(f"gzip {layout} {seed}")
    (folder / meta_name).write_bytes(meta)
    packed = gzip.compress(raw, mtime=0)
    for _ in range(MUTATIONS):
        damaged = mutate(packed, rng)
        (folder / f"{name}.gz").write_bytes(damaged)
        try:
            unpacked = gzip.decompress(damaged) if damaged[:2] == b"\x1f\x8b" else damaged
        except (OSError, EOFError, zlib.error):
            assert read_or_error(folder) is None
            continue
        if found := read_or_error(folder):
            require_interactions(found, unpacked)
