"""Real H&M rows beside an independent computation with the csv module and dicts."""

import csv
from collections import Counter, defaultdict

import pyarrow.parquet as pq
import pytest

from pmm.errors import InputError
from pmm.ingest.sources.hm import ingest_hm
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.home import Home


@pytest.fixture(scope="module")
def rows(hm_data):
    with (hm_data / "transactions_train.csv").open(newline="") as file:
        return [(r["t_dat"], r["customer_id"], r["article_id"]) for r in csv.DictReader(file)]


@pytest.fixture(scope="module")
def pictured(hm_data):
    return {path.stem for path in (hm_data / "images").rglob("*.jpg")}


def plain_core(rows, user_core, item_core):
    while True:
        users = Counter(user for _, user, _ in rows)
        items = Counter(item for _, _, item in rows)
        left = [r for r in rows if users[r[1]] >= user_core and items[r[2]] >= item_core]
        if len(left) == len(rows):
            return left
        rows = left


def distinct(rows):
    return list({(user, item): (day, user, item) for day, user, item in rows}.values())


def counts(rows):
    return len(rows), len({user for _, user, _ in rows}), len({item for _, _, item in rows})


def ours(card):
    return tuple(card["statistics"][name] for name in ("actions", "users", "items"))


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"user_core": 5, "item_core": 0}, (16_689, 712, 4_965)),
        ({"user_core": 5, "item_core": 0, "missing_image": "text-only"}, (30_636, 923, None)),
        ({"user_core": 5, "item_core": 0, "repeats": "first"}, (26_353, 887, 16_581)),
        ({"user_core": 4, "item_core": 4, "repeats": "first"}, (4_021, 412, 750)),
        ({"user_core": 3, "item_core": 3, "repeats": "first"}, (8_381, 713, 1_994)),
    ],
)
def test_hms_counts_are_those_of_plain_python(hm_data, home, rows, pictured, options, published):
    first = options.get("repeats") == "first"
    if first:
        options["missing_image"] = "text-only"
        rows = distinct(rows)
    elif "missing_image" not in options:
        rows = [row for row in rows if row[2] in pictured]
        assert len(rows) == 17_338
    expected = counts(plain_core(rows, options["user_core"], options["item_core"]))
    card = ingest_hm(home, hm_data, ["HM"], IngestOptions(**options))[0]
    assert ours(card) == expected
    assert all(want is None or want == got for want, got in zip(published, expected, strict=True))
    assert card["rows"]["read"] == 31_662 == ours(card)[0] + sum(card["rows"]["dropped"].values())


def test_the_iterated_five_core_of_distinct_pairs_is_empty_and_says_what_is_not(
    hm_data, home, rows
):
    options = IngestOptions(repeats="first", missing_image="text-only")
    with pytest.raises(InputError) as error:
        ingest_hm(home, hm_data, [], options)
    message = str(error.value)
    assert "it began with 27,443 interactions" in message
    for user_core, item_core in ((5, 4), (3, 5)):
        left = len(plain_core(distinct(rows), user_core, item_core))
        line = f"--user-core {user_core} --item-core {item_core}  leaves {left:,} interactions"
        assert line in message
    assert not plain_core(distinct(rows), 4, 5)


def test_sequences_are_the_rows_in_order_of_day_and_file(hm_data, home: Home, rows, pictured):
    ingest_hm(home, hm_data, ["HM", "HM Shoes"], IngestOptions(user_core=5, item_core=0))
    with (hm_data / "articles.csv").open(newline="") as file:
        shoes = {
            r["article_id"] for r in csv.DictReader(file) if r["product_group_name"] == "Shoes"
        }
    core = plain_core([row for row in rows if row[2] in pictured], 5, 0)
    for target, inside in (("HM", pictured), ("HM Shoes", shoes)):
        expected = defaultdict(list)
        for _, user, item in sorted(core, key=lambda row: row[0]):  # stable: file order in a day
            if item in inside:
                expected[user].append(item)
        long = {user: items for user, items in sorted(expected.items()) if len(items) >= 5}
        ids = pq.read_table(home.target(target) / "items.parquet")["item_id"].to_pylist()
        assert ids == sorted({item for items in long.values() for item in items})
        found = pq.read_table(home.target(target) / "sequences.parquet").to_pylist()
        read = {r["user_id"]: [*r["train"], r["valid"], r["test"]] for r in found}
        assert {user: [ids[n - 1] for n in items] for user, items in read.items()} == long
        assert [row["user"] for row in found] == list(range(len(long)))


def test_a_second_home_gets_the_same_bytes_of_hm(hm_data, tmp_path):
    options = IngestOptions(user_core=5, item_core=0, users=300)
    files = []
    for name in ("a", "b"):
        root = tmp_path / name
        ingest_hm(Home(root), hm_data, [], options)
        paths = [path for top in ("tables", "targets") for path in (root / top).rglob("*.*")]
        whole = {p.relative_to(root): p.read_bytes() for p in sorted(paths) if p.is_file()}
        files.append(whole)
    assert len(files[0]) >= 4 * 4
    assert files[0] == files[1]
