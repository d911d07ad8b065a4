"""Real Amazon files of 2018 beside an independent computation with json and dicts."""

import gzip
import json
from collections import Counter, defaultdict

import pyarrow.parquet as pq
import pytest

from pmm.ingest.sources.amazon.amazon import AmazonFiles, ingest_amazon
from pmm.ingest.sources.amazon.metadata import picture_urls
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.home import Home

CATEGORIES = ("Gift_Cards", "Magazine_Subscriptions")


def load(path):
    with gzip.open(path) as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def lines(amazon_data):
    """Category -> raw review lines."""
    names = (*CATEGORIES, "AMAZON_FASHION")
    return {
        name: gzip.decompress((amazon_data / f"{name}_5.json.gz").read_bytes()).splitlines()
        for name in names
    }


@pytest.fixture(scope="module")
def metadata(amazon_data):
    return {name: load(amazon_data / f"meta_{name}.json.gz") for name in CATEGORIES}


def rows_of(lines):
    parsed = map(json.loads, dict.fromkeys(lines))  # identical lines count once
    return [(row["unixReviewTime"], row["reviewerID"], row["asin"]) for row in parsed]


def distinct(rows):
    """The earliest of each (user, item); of one day the first in the file."""
    found = {}
    for row in sorted(rows, key=lambda row: row[0]):
        found.setdefault(row[1:], row)
    return list(found.values())


def plain_core(rows, least):
    while True:
        users, items = Counter(row[1] for row in rows), Counter(row[2] for row in rows)
        left = [row for row in rows if users[row[1]] >= least and items[row[2]] >= least]
        if len(left) == len(rows):
            return left
        rows = left


def counts(rows):
    return len(rows), len({row[1] for row in rows}), len({row[2] for row in rows})


def ingest(home, folder, *categories, **options):
    chosen = {"missing_image": "text-only", "repeats": "first", **options}
    files = AmazonFiles(raw=folder, categories=categories)
    return ingest_amazon(home, files, ["Amazon"], IngestOptions(**chosen))[0]


@pytest.mark.parametrize(
    ("category", "read", "identical", "repeated", "every_item", "listed_items"),
    [
        ("Gift_Cards", 2_972, 0, 7, (2_941, 453, 147), (2_941, 453, 147)),
        ("Magazine_Subscriptions", 2_375, 42, 73, (2_027, 294, 132), (1_883, 274, 124)),
    ],
)
def test_amazons_counts_are_those_of_plain_python(
    amazon_data,
    home,
    lines,
    metadata,
    category,
    read,
    identical,
    repeated,
    every_item,
    listed_items,
):
    """The published figures count items without metadata too; those cannot be part of a target."""
    raw, rows = lines[category], rows_of(lines[category])
    assert (len(raw), len(raw) - len(rows)) == (read, identical)
    assert len(raw) - len(distinct(rows)) == repeated
    assert counts(plain_core(distinct(rows), 5)) == every_item
    known = {row["asin"] for row in metadata[category]}
    listed = [row for row in rows if row[2] in known]
    assert counts(plain_core(distinct(listed), 5)) == listed_items
    card = ingest(home, amazon_data, category)
    assert tuple(card["statistics"][each] for each in ("actions", "users", "items")) == listed_items
    dropped = card["rows"]["dropped"]
    assert dropped.get("identical row", 0) == identical
    assert dropped["repeat of an earlier row"] == len(listed) - len(distinct(listed))
    assert dropped.get("item not in the items file", 0) == len(rows) - len(listed)
    assert card["rows"]["read"] == read == card["rows"]["kept"] + sum(dropped.values())


def test_fashion_has_repeats_and_identical_lines_and_no_metadata(
    amazon_data, home, lines, tables_card, tmp_path
):
    raw, rows = lines["AMAZON_FASHION"], rows_of(lines["AMAZON_FASHION"])
    folder = tmp_path / "fashion"
    folder.mkdir()
    (folder / "AMAZON_FASHION_5.json.gz").symlink_to(amazon_data / "AMAZON_FASHION_5.json.gz")
    made = "".join(json.dumps({"asin": i, "title": i}) + "\n" for i in {row[2] for row in rows})
    (folder / "meta_AMAZON_FASHION.json").write_text(made)
    ingest(home, folder)
    found = tables_card("Amazon")["interactions"]
    assert (found["read"], found["dropped"]) == (3_176, {"identical row": len(raw) - len(rows)})
    assert len(raw) - len(rows) == 68
    assert len(raw) - len(distinct(rows)) == 134


def test_sequences_of_two_categories_are_the_rows_in_order(amazon_data, home, lines, metadata):
    ingest(home, amazon_data, *CATEGORIES, repeats="keep")
    known = {row["asin"] for name in CATEGORIES for row in metadata[name]}
    rows = rows_of([line for name in CATEGORIES for line in lines[name]])
    expected = defaultdict(list)
    core = plain_core([row for row in rows if row[2] in known], 5)
    for _, user, item in sorted(core, key=lambda row: row[0]):  # stable: file order in a day
        expected[user].append(item)
    ids = pq.read_table(home.target("Amazon") / "items.parquet")["item_id"].to_pylist()
    found = pq.read_table(home.target("Amazon") / "sequences.parquet").to_pylist()
    read = {r["user_id"]: [ids[n - 1] for n in (*r["train"], r["valid"], r["test"])] for r in found}
    assert read == expected
    assert len(read) > 600


def test_repeated_metadata_and_missing_metadata_are_counted(amazon_data, home, tables_card):
    ingest(home, amazon_data, "Magazine_Subscriptions")
    card = tables_card("Amazon")
    assert card["items"]["read"] == 3_385
    assert card["items"]["kept"] == 2_320
    assert card["items"]["dropped"] == {"repeated item id": 1_065}
    assert card["interactions"]["items_without_metadata"] == 6


def test_texts_hold_no_markup(amazon_data, home):
    ingest(home, amazon_data, *CATEGORIES)
    texts = pq.read_table(home.tables("Amazon") / "items.parquet")["text"].to_pylist()
    marks = ("<span", "</", "<br", "&amp;", "&#", "a-size-medium", "\n")
    assert [text for text in texts if any(mark in text for mark in marks)] == []
    assert sum(text != "" for text in texts) > 3_700


@pytest.mark.parametrize("category", CATEGORIES)
def test_both_generations_of_metadata_name_the_same_pictures(amazon_data, metadata, category):
    old = load(amazon_data / "old_2020_meta" / f"meta_{category}.json.gz")
    pairs = list(zip(old, metadata[category], strict=True))
    assert all(before["asin"] == after["asin"] for before, after in pairs)
    differ = [pair for pair in pairs if picture_urls(pair[0]) != picture_urls(pair[1])]
    assert differ == []
    assert sum(bool(picture_urls(row)) for row in old) > 600


def test_a_second_home_gets_the_same_bytes_of_amazon(amazon_data, tmp_path):
    files = []
    for name in ("a", "b"):
        ingest(Home(tmp_path / name), amazon_data, *CATEGORIES)
        paths = sorted(path for path in (tmp_path / name).rglob("*.*") if path.is_file())
        tops = ("tables", "targets")
        whole = {path.relative_to(tmp_path / name): path.read_bytes() for path in paths}
        files.append({path: raw for path, raw in whole.items() if path.parts[0] in tops})
    assert len(files[0]) >= 9
    assert files[0] == files[1]
