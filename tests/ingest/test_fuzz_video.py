"""Damaged video datasets end in right counts and rows, or in one clear error; never otherwise.

The judge is a slow reading in plain Python, wherever the damaged bytes leave no doubt.
"""

import contextlib
import gzip
import os
import pickle
import random
import re
import time
from collections import Counter

import numpy as np
import pytest

from pmm.errors import PmmError
from pmm.ingest.pictures.pickled_image import PickleRefused, read_pickled_image
from pmm.ingest.readers.times import EARLIEST, LATEST
from pmm.ingest.sources.video.dataset_files import DatasetFiles
from pmm.ingest.sources.video.datasets import (
    DatasetTargets,
    PictureSource,
    VideoFiles,
    dataset_raw,
)
from pmm.ingest.sources.video.hashtags import read_tag_table
from pmm.ingest.sources.video.kwai import read_categories
from pmm.ingest.tables.interactions import ABSURD_TIME, LONG_ID, LONGEST_ID
from pmm.storage.home import Home
from pmm.world.lmdb_image import LMDB_Image

MORE = int(os.environ.get("PMM_FUZZ", "1"))
"""PMM_FUZZ=10 tries ten times as many damaged files: more than the gate has time for."""
SEEDS, MUTATIONS = range(4 * MORE), 100
PATIENCE_S = 5.0

PAIRS = "".join(f"v{n * 3 % 8},{n % 5 + 900},{1_600_000_000 + n}\n" for n in range(40))
HISTORIES = "".join(f"u{n}\t{' '.join(f'v{k}' for k in range(n % 6))}\n" for n in range(25))
LISTED = "".join(f"v{n},菜 {n},Dish number {n}\n" for n in range(8))
LINES = "".join(f"v{n}\tTitle é {n} of many\n" for n in range(8))
LENS = "user,item,timestamp\n" + PAIRS.replace("v", "")
TITLES = "item,title\n" + "".join(f'{n},"Dish, number {n}"\n' for n in range(8))

LAYOUTS = {
    "NineRec": ("D_pair.csv", PAIRS, "D_item.csv", LISTED),
    "PMMRec": ("d_users.tsv", HISTORIES, "d_items_texts.tsv", LINES),
    "MicroLens": ("M_pairs.csv", LENS, "M_titles.csv", TITLES),
}
PIECES = [
    *[b'"', b",", b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b"\t", b"::", b"|", b";", b" ", b"\t\t"],
    *[b"\xef\xbb\xbf", b"\xe2\x80", "　".encode(), b"nan", b"-1", b"0", b"9" * 25, b"1e999", b"v3"],
    *[b"user,item,timestamp\n", b"v1,900,1600000000\n", b"u1\tv1 v2\n", b"\n\n", b"a" * 300],
]


def damage(raw: bytes, rng: random.Random) -> bytes:
    """One mutation: cut, turned, removed, inserted, repeated, of another type, or badly packed."""
    at, length = rng.randrange(len(raw)), rng.randrange(1, 60)
    lines = raw.splitlines(keepends=True)
    line = rng.randrange(len(lines))
    match rng.randrange(12):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
        case 2 | 3 | 4:
            return raw[:at] + rng.choice(PIECES) + raw[at:]
        case 5:
            return raw[:at] + raw[at + length :]
        case 6:
            return raw[: at + length] + raw[at:]
        case 7:
            return b"".join(lines[:line] + lines[line + 1 :])
        case 8:
            return b"".join([*lines, lines[line], *lines[: rng.randrange(3)]])
        case 9:
            field = rng.choice([b",", b"\t", b" ", b"16", b"v"])
            return raw.replace(field, rng.choice(PIECES), rng.choice([1, 3, -1]))
        case 10:
            fields = re.split(rb"([,\t ])", lines[line])
            del fields[rng.randrange(len(fields))]
            return b"".join([*lines[:line], *fields, *lines[line + 1 :]])
        case _:
            packed = bytearray(gzip.compress(raw, mtime=0))
            packed[rng.randrange(len(packed))] ^= rng.choice([0, 1, 255])
            return bytes(packed[: rng.choice([len(packed), rng.randrange(2, len(packed))])])


def damaged(raw: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(1, 4)):
        raw = damage(raw, rng) or b"\n"
    return raw


def plain_text(raw: bytes) -> str | None:
    """The text of a file, where nothing about it is in doubt."""
    if raw[:2] in (b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff"):
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if re.search(r'["<&\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\ufeff]', text) else text


def split_lines(text: str) -> list[str]:
    return [line for line in re.split(r"\r\n|\n|\r", text) if line]


def fields_of(line: str, delimiter: str, width: int) -> list[str]:
    """An empty field too many is a delimiter at the end of the line."""
    fields = line.split(delimiter)
    return fields[:-1] if len(fields) == width + 1 and not fields[-1] else fields


def histories(text: str) -> tuple[list[tuple], Counter[str]]:
    rows, drop_counts = [], Counter()
    for line in split_lines(text):
        fields = fields_of(line, "\t", 2)
        items = [item for item in fields[-1].split(" ") if item] if len(fields) == 2 else []
        drop_counts["read"] += max(1, len(items))
        if len(fields) != 2:
            drop_counts["malformed row"] += 1
        elif not items:
            drop_counts["user without items"] += 1
        for item in items:
            if max(len(fields[0].strip()), len(item.strip())) > LONGEST_ID:
                drop_counts[LONG_ID] += 1
            elif not fields[0].strip():
                drop_counts["empty user id"] += 1
            elif not item.strip():
                drop_counts["empty item id"] += 1
            else:
                rows.append((fields[0].strip(), item.strip(), None))
    return rows, drop_counts


def pairs(text: str, detected: dict) -> tuple[list[tuple], Counter[str]] | None:
    if detected["delimiter"] != "comma" or detected["time"] != "s":
        return None
    rows, drop_counts = [], Counter()
    at = {role: int(name.split()[1]) - 1 for role, name in detected["columns"].items()}
    lines = split_lines(text)
    width = len(lines[0].split(","))
    split = [fields_of(line, ",", width) for line in lines]
    fitting = [row for row in split[detected["header"] :] if len(row) == width]
    whens = [row[at["time"]].strip() for row in fitting]
    # Where none is a time they are numbers that grow.
    times = any(re.fullmatch(r"[0-9]{9,10}", w) and EARLIEST <= int(w) < LATEST for w in whens)
    for fields in split[detected["header"] :]:
        drop_counts["read"] += 1
        if len(fields) != width:
            drop_counts["malformed row"] += 1
            continue
        user, item, when = (fields[at[role]].strip() for role in ("user", "item", "time"))
        if when and not re.fullmatch(r"\d{1,10}", when, re.ASCII):
            return None
        fault = LONG_ID * (max(len(user), len(item)) > LONGEST_ID)
        fault = fault or "empty user id" * (not user) or "empty item id" * (not item)
        fault = fault or "unreadable time" * (not when)
        absurd = when and int(when) and times and not EARLIEST <= int(when) < LATEST
        fault = fault or ABSURD_TIME * bool(absurd)
        if fault:
            drop_counts[fault] += 1
        else:
            rows.append((user, item, int(when)))
    return rows, drop_counts


def titles(text: str, name: str, detected: dict) -> tuple[dict[str, str], Counter[str]] | None:
    delimiter = "\t" if name.endswith(".tsv") else ","
    if delimiter == "," and detected.get("delimiter") != "comma":
        return None
    found, drop_counts = {}, Counter()
    lines = [line for line in split_lines(text) if delimiter == "," or line.strip()]
    width = len(lines[0].split(","))
    for line in lines[int(detected.get("header", False)) :]:
        drop_counts["read"] += 1
        fields = line.split("\t", 1) if delimiter == "\t" else fields_of(line, ",", width)
        if len(fields) != (2 if delimiter == "\t" else width):
            drop_counts["malformed row"] += 1
        elif not fields[0].strip():
            drop_counts["empty item id"] += 1
        elif len(fields[0].strip()) > LONGEST_ID:
            drop_counts[LONG_ID] += 1
        elif fields[0].strip() in found:
            drop_counts["repeated item id"] += 1
        else:
            found[fields[0].strip()] = " ".join(fields[1].split())
    return found, drop_counts


def read(home: Home, dataset: DatasetFiles):
    """The reading, its interactions as tuples, and the rows' drop_counts."""
    plan = DatasetTargets(name="D", rules={"D": None})
    pictures = PictureSource(home, "D", dataset)
    reading = dataset_raw(home, plan, dataset, pictures, VideoFiles()).read()
    tables = [table.to_pydict() for table in reading.interactions]
    rows = [
        row
        for table in tables
        for row in zip(table["user_id"], table["item_id"], table["timestamp"], strict=True)
    ]
    return reading, rows


def judged(dataset: DatasetFiles, reading, rows) -> bool:
    """Whether the judge had an opinion; it must be the reading's."""
    drop_counts = Counter({reason: n for reason, n in reading.row_counts.items() if n})
    drop_counts.pop("zero times", None)
    read_rows = drop_counts.pop("read", 0)
    assert read_rows == len(rows) + drop_counts.total()
    items = reading.item_counts
    assert items["read"] == items["kept"] + sum(items["dropped"].values())
    detected = reading.notes["detected"]
    text = plain_text(dataset.titles[0].read_bytes())
    listed = None if text is None else titles(text, dataset.titles[0].name, detected["items"])
    if listed is not None:
        table = reading.items.to_pydict()
        assert dict(zip(table["item_id"], table["text"], strict=True)) == listed[0]
        assert Counter({"read": items["read"], **items["dropped"]}) == listed[1]
    text = plain_text(dataset.interactions.read_bytes())
    if text is None:
        return False
    form = detected["interactions"]["form"]
    truth = histories(text) if form == "histories" else pairs(text, detected["interactions"])
    if truth is None:
        return False
    assert rows == truth[0]
    assert Counter({"read": read_rows, **drop_counts}) == truth[1]
    return True


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_dataset_has_right_counts_or_is_refused(tmp_path, layout, seed):
    rng = random.Random(f"{layout} {seed}")
    name, content, listed_name, listed = LAYOUTS[layout]
    dataset = DatasetFiles(
        name="D",
        layout=layout,
        interactions=tmp_path / name,
        titles=(tmp_path / listed_name,),
        pictures=None,
    )
    opinions = 0
    for _ in range(MUTATIONS):
        spoil_rows = rng.random() < 0.65
        raw, items = content.encode(), listed.encode()
        (tmp_path / name).write_bytes(damaged(raw, rng) if spoil_rows else raw)
        (tmp_path / listed_name).write_bytes(items if spoil_rows else damaged(items, rng))
        began = time.monotonic()
        with contextlib.suppress(PmmError):  # any other exception fails the test
            opinions += judged(dataset, *read(Home(tmp_path / "home"), dataset))
        assert time.monotonic() - began < PATIENCE_S
    assert opinions >= MUTATIONS // 4


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_table_of_categories_adds_up_or_is_refused(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "c.csv"
    raw = "item,category\n" + "".join(f"{n},{'food' if n % 2 else '美食'}\n" for n in range(9))
    for _ in range(MUTATIONS):
        path.write_bytes(damaged(raw.encode(), rng))
        try:
            categories, notes = read_categories(path)
        except PmmError:
            continue
        assert notes["read"] == notes["kept"] + sum(notes["dropped"].values())
        assert notes["kept"] == sum(map(len, categories.values()))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_file_of_hashtags_gives_targets_or_is_refused(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "t.toml"
    raw = 'match = "equal"\n[targets]\n"Kwai Food" = ["food", "美食"]\n"Kwai Pets" = ["pets"]\n'
    for _ in range(MUTATIONS):
        path.write_bytes(damaged(raw.encode(), rng))
        try:
            rules = read_tag_table(path).rules()
        except PmmError:
            continue
        assert all(name.startswith("Kwai ") and all(r.values) for name, r in rules.items())


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_pickle_is_the_picture_or_refused(seed):
    rng = random.Random(seed)
    image = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    whole = pickle.dumps(LMDB_Image(image, 12), rng.choice([3, 4, 5]))
    read_as_picture = 0
    for _ in range(MUTATIONS):
        began = time.monotonic()
        try:
            found = read_pickled_image(damaged(whole, rng))
        except PickleRefused:
            found = None
        assert time.monotonic() - began < PATIENCE_S
        if found is not None:
            assert len(found.pixels) == found.height * found.width * found.channels
            read_as_picture += 1
    assert 0 < read_as_picture < MUTATIONS
