"""The Amazon files, read back with gzip and json alone: keys, times, paths, planted defects."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pmm.world import World
from pmm.world.formats.amazon_writer import NO_TITLES, write_amazon
from pmm.world.formats.defects import NO_DEFECTS, Defects
from pmm.world.formats.raw_files import subject_of

EDITIONS = ("2018", "2018-old", "2023")
CATEGORY = "Clothing_Shoes_and_Jewelry"
DEFECTS = Defects(
    missing_pictures=0.05,
    missing_texts=0.05,
    markup=0.06,
    repeated_rows=0.02,
    relisted_items=0.06,
    unlisted_items=0.03,
    foreign_items=0.05,
)
Records = list[dict[str, Any]]
Shop = tuple[Path, dict[str, int], Records, Records]


def records(folder: Path, prefix: str = "") -> Records:
    (path,) = folder.glob(f"{prefix}{CATEGORY}.json*.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def shop_of(tiny: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Shop]:
    """Folder, counts, reviews and metadata of an edition with many defects."""
    made: dict[str, Shop] = {}

    def shop(edition: str) -> Shop:
        if edition not in made:
            to = tmp_path_factory.mktemp(edition)
            said = write_amazon(tiny, to, DEFECTS, edition=edition)
            made[edition] = (to, said, records(to), records(to, "meta_"))
        return made[edition]

    return shop


@pytest.mark.parametrize("edition", ["2018", "2018-old"])
def test_reviews_of_2018_have_the_keys_and_types_of_the_real_ones(
    shop_of: Callable[[str], Shop], edition: str
) -> None:
    reviews = shop_of(edition)[2]
    always = {"overall", "verified", "reviewTime", "reviewerID", "asin", "unixReviewTime"}
    seen = Counter(key for review in reviews for key in review)
    assert {key for key, n in seen.items() if n == len(reviews)} == {*always, "summary"}
    assert set(seen) - always == {
        "style", "reviewerName", "reviewText", "summary", "vote", "image"
    }  # fmt: skip
    assert any("," in review.get("vote", "") for review in reviews)
    for review in reviews:
        when = datetime.fromtimestamp(review["unixReviewTime"], UTC)
        assert review["reviewTime"] == f"{when:%m} {when.day}, {when.year}"
        assert review["unixReviewTime"] % 86_400 == 0
        assert all(
            key[-1] == ":" and value[0] == " " for key, value in review.get("style", {}).items()
        )


def test_reviews_of_2023_have_variants_and_milliseconds(shop_of: Callable[[str], Shop]) -> None:
    reviews = shop_of("2023")[2]
    assert {tuple(review) for review in reviews} == {
        ("rating", "title", "text", "images", "asin", "parent_asin", "user_id", "timestamp",
         "helpful_vote", "verified_purchase")
    }  # fmt: skip
    assert 0.2 < sum(r["asin"] != r["parent_asin"] for r in reviews) / len(reviews) < 0.5
    assert all(1.4e12 < review["timestamp"] < 1.6e12 for review in reviews)
    assert {type(review["helpful_vote"]) for review in reviews} == {int}


@pytest.mark.parametrize("edition", EDITIONS)
def test_reviews_in_order_of_their_times_are_each_users_walk(
    tiny: World, tmp_path: Path, edition: str
) -> None:
    write_amazon(tiny, tmp_path, NO_DEFECTS, edition=edition)
    new = edition == "2023"
    user, item, time = (
        ("user_id", "parent_asin", "timestamp") if new else ("reviewerID", "asin", "unixReviewTime")
    )
    walks: dict[str, list[str]] = {}
    for review in sorted(records(tmp_path), key=lambda review: review[time]):
        walks.setdefault(review[user], []).append(review[item])
    drawn, raw = tiny.sequences("Amazon"), tiny.item_ids("Amazon")
    for number, name in enumerate(tiny.user_ids("Amazon")):
        actions = drawn.items[drawn.starts[number] : drawn.starts[number + 1]]
        assert walks[name] == [raw[each] for each in actions]


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_type_stands_at_level_2_or_deeper_as_a_whole_entry(
    tiny: World, shop_of: Callable[[str], Shop], edition: str
) -> None:
    number = {name: n for n, name in enumerate(tiny.item_ids("Amazon"))}
    names = {"clothes": "Clothing", "shoes": "Shoes", "accessories": "Accessories"}
    levels = set()
    for product in shop_of(edition)[3]:
        path = product.get("category", product.get("categories"))
        item = product.get("asin", product.get("parent_asin"))
        if item not in number:
            continue
        subject = subject_of(tiny, "Amazon", number[item])
        assert path or subject == "accessories"
        found = {entry for entry in path[2:] if entry in names.values()}
        assert found == ({names[subject]} if path else set())
        levels |= {path.index(entry) for entry in found}
        if path:
            assert path[0].replace("&amp;", "&") == "Clothing, Shoes & Jewelry"
    assert levels == {2, 3}


@pytest.mark.parametrize("edition", EDITIONS)
def test_planted_metadata_is_what_the_writer_says(
    tiny: World, shop_of: Callable[[str], Shop], edition: str
) -> None:
    _, said, reviews, products = shop_of(edition)
    item = "parent_asin" if edition == "2023" else "asin"
    listed = Counter(product[item] for product in products)
    known = set(tiny.item_ids("Amazon"))
    assert sum(n == 2 for n in listed.values()) == said["relisted_items"] > 0
    assert len(known - set(listed)) == said["unlisted_items"] > 0
    assert known - set(listed) <= {review[item] for review in reviews}
    assert len(set(listed) - known) == said["foreign_items"] > 0
    assert not (set(listed) - known) & {review[item] for review in reviews}
    own = [product for product in products if product[item] in known]
    titles = [product["title"] for product in own]
    missing = [title for title in titles if title in NO_TITLES[edition]]
    assert len(missing) == said["missing_texts"] > 0
    assert set(missing) == set(NO_TITLES[edition])
    markup = [title for title in titles if "&amp;" in title]
    assert len(markup) == said["markup_texts"] > 0
    assert {"<em" in title for title in markup} == {True, False}


@pytest.mark.parametrize("edition", EDITIONS)
def test_an_address_names_the_file_of_its_item_and_a_missing_picture_has_neither(
    tiny: World, shop_of: Callable[[str], Shop], edition: str
) -> None:
    to, said, _, products = shop_of(edition)
    files = {path.name for path in (to / "images").iterdir()}
    links = {
        product.get("asin", product.get("parent_asin")): best_links(product) for product in products
    }
    without = {item for item, urls in links.items() if not urls}  # of two rows the later counts
    assert len(without) == said["missing_pictures"] > 0
    assert not files & {f"{item}.jpg" for item in without}
    dead = 0
    for item in set(tiny.item_ids("Amazon")) & set(links) - without:
        names = [url.removeprefix("https://images.example.com/I/") for url in links[item]]
        assert next(name for name in names if name in files) == f"{item}.jpg"
        dead += names[0] not in files
    assert dead == said["dead_links"] > 0


def best_links(product: dict[str, Any]) -> list[str]:
    """Addresses of a product's pictures, the best first, as the raw format's page has it."""
    if "imageURLHighRes" in product:
        assert len(product["imageURL"]) == len(product["imageURLHighRes"])
        return product["imageURLHighRes"]
    if "image" in product:
        return [url.split("._")[0] + ".jpg" for url in product["image"]]
    views = sorted(product["images"], key=lambda view: view["variant"] != "MAIN")
    return [view["hi_res"] or view["large"] for view in views]


def test_repeated_reviews_are_whole_or_of_another_style(shop_of: Callable[[str], Shop]) -> None:
    for edition in EDITIONS:
        _, said, reviews, _ = shop_of(edition)
        assert len(reviews) == said["rows"]
        identical = len(reviews) - len({json.dumps(review) for review in reviews})
        for review in reviews:
            review.pop("style", None)
        repeats = len(reviews) - len({json.dumps(review) for review in reviews})
        assert repeats == said["repeated_rows"] > 1
        assert (
            identical == said["identical_rows"] == (repeats if edition == "2023" else repeats // 2)
        )


def test_a_picture_base_stands_in_every_address(tiny: World, tmp_path: Path) -> None:
    write_amazon(tiny, tmp_path, picture_base="http://127.0.0.1:8000/")
    text = json.dumps([records(tmp_path), records(tmp_path, "meta_")])
    assert text.count("://") == text.count("http://127.0.0.1:8000/") > 100


def test_compressed_files_hold_neither_a_time_nor_a_name(shop_of: Callable[[str], Shop]) -> None:
    (path,) = shop_of("2018")[0].glob("meta_*.gz")
    assert path.read_bytes()[3:8] == bytes(5)
