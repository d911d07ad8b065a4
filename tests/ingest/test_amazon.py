"""Every quirk of Amazon's releases, on tiny files in their formats."""

import ast
import gzip
import io
import json
import os
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pmm.errors import InputError
from pmm.ingest.download.picture_download import DownloadOptions
from pmm.ingest.readers import json_lines
from pmm.ingest.readers.text import LONGEST_TEXT
from pmm.ingest.sources.amazon import metadata as amazon_items
from pmm.ingest.sources.amazon.amazon import AmazonFiles, ingest_amazon
from pmm.ingest.sources.amazon.editions import find_release
from pmm.ingest.sources.amazon.metadata import (
    MOST_CATEGORIES,
    MOST_URLS,
    picture_urls,
    product_of,
    read_products,
)
from pmm.ingest.tables.item_rows import ItemRows
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.home import Home

DAY = 86_400
START = 1_441_324_800
A, B, C = "B00000000A", "B00000000B", "0123456789"
URL = "https://images.example.org/I/"
ROOT = "Clothing, Shoes & Jewelry"


def review(user, item, day=0, **more):
    return {
        "overall": 5.0,
        "verified": True,
        "reviewTime": "09 4, 2015",
        "reviewerID": user,
        "asin": item,
        "style": {"Size:": f" {day}"},
        "reviewText": "Fits.",
        "unixReviewTime": START + day * DAY,
        **more,
    }


def review_2023(user, item, day=0, **more):
    return {
        "rating": 5.0,
        "title": "Good",
        "images": [],
        "asin": "variant" + item,
        "parent_asin": item,
        "user_id": user,
        "timestamp": (START + day * DAY) * 1000 + 259,
        "helpful_vote": 0,
        **more,
    }


def product(item, **more):
    return {
        "category": [ROOT, "Women", "Shoes", "Boots"],
        "description": ["Warm."],
        "title": f"Boot {item}",
        "rank": [],
        "price": ".a-box-inner{background-color:#fff}",
        "asin": item,
        "imageURL": [f"{URL}{item}._SX38_.jpg"],
        "imageURLHighRes": [f"{URL}{item}.jpg"],
        **more,
    }


def three_users(make=review):
    return [make(user, item, day) for day, item in enumerate((C, A, B)) for user in "uvw"]


PRODUCTS = [product(A), product(B), product(C)]


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def write(raw):
    """Writes objects as JSON lines, or text as it is; packed where the name says so."""

    def to_file(name, content):
        path = raw / name
        path.parent.mkdir(exist_ok=True)
        if not isinstance(content, str):
            content = "".join(json.dumps(each) + "\n" for each in content)
        path.write_bytes(
            gzip.compress(content.encode(), mtime=0) if name.endswith(".gz") else content.encode()
        )
        return path

    return to_file


@pytest.fixture
def ingest(home, raw):
    """Ingests the raw folder, text-only and without a core unless told otherwise."""

    def run(*targets, categories=(), images=None, **options):
        chosen = {"user_core": 0, "item_core": 0, "missing_image": "text-only", **options}
        near = DownloadOptions(allow_private_addresses=True)
        files = AmazonFiles(raw=raw, categories=categories, images=images, download=near)
        return ingest_amazon(home, files, targets or ["Amazon"], IngestOptions(**chosen))

    return run


@pytest.fixture
def items(home):
    def read():
        table = pq.read_table(home.tables("Amazon") / "items.parquet")
        return {row["item_id"]: row for row in table.to_pylist()}

    return read


@pytest.fixture
def detected(tables_card):
    return lambda: tables_card("Amazon")["detected"]


@pytest.mark.parametrize("end", ["json", "json.gz"])
def test_a_release_of_2018_becomes_sequences(write, ingest, sequences, adds_up, detected, end):
    write(f"Gift_Cards.{end}", three_users())
    write(f"meta_Gift_Cards.{end}", PRODUCTS)
    card = ingest()[0]
    assert sequences("Amazon") == {user: [C, A, B] for user in "uvw"}
    assert adds_up(card)
    assert detected()["edition"] == "2018"
    assert detected()["interactions"][f"Gift_Cards.{end}"]["kind"] == "all reviews"


@pytest.mark.parametrize("time", ["timestamp", "sort_timestamp", "sortTimestamp"])
def test_a_release_of_2023_is_joined_on_the_parent_and_read_in_milliseconds(
    write, ingest, sequences, home, detected, time
):
    rows = three_users(review_2023)
    renamed = [{time if key == "timestamp" else key: row[key] for key in row} for row in rows]
    write("All_Beauty.jsonl.gz", renamed)
    meta = [{"parent_asin": i, "title": i, "images": [], "categories": []} for i in (A, B, C)]
    write("meta_All_Beauty.jsonl.gz", meta)
    ingest()
    assert sequences("Amazon") == {user: [C, A, B] for user in "uvw"}
    times = pq.read_table(home.tables("Amazon") / "interactions.parquet")["timestamp"]
    assert times[0].as_py() == START
    assert detected()["edition"] == "2023"


def test_reviews_of_one_second_are_in_the_order_of_their_milliseconds(write, ingest, sequences):
    rows = [
        review_2023("u", item, timestamp=START * 1000 + ms) for item, ms in ((C, 3), (B, 2), (A, 1))
    ]
    rows.append(review_2023("u", C, timestamp=START - 1))  # in seconds, and the first of all
    write("All_Beauty.jsonl", rows)
    meta = [{"parent_asin": i, "title": i, "images": [], "categories": []} for i in (A, B, C)]
    write("meta_All_Beauty.jsonl", meta)
    ingest()
    assert sequences("Amazon") == {"u": [C, A, B, C]}


def test_ties_of_one_day_stay_in_the_order_of_the_file(write, ingest, sequences):
    write("X.json", [review("u", item) for item in (B, A, C)])
    write("meta_X.json", PRODUCTS)
    card = ingest()[0]
    assert sequences("Amazon") == {"u": [B, A, C]}
    assert card["tied_timestamps"] == 1.0


def test_identical_lines_count_once_and_reviews_of_another_style_stay(
    write, ingest, tables_card, adds_up
):
    once = review("u", A, 1)
    other = {**once, "style": {"Size:": " 9"}}
    write("X.json", [once, other, once, review("u", B), review("u", C), once])
    write("meta_X.json", PRODUCTS)
    card = ingest()[0]
    assert tables_card("Amazon")["interactions"]["dropped"] == {"identical row": 2}
    assert card["rows"]["kept"] == 4
    assert adds_up(card)
    assert ingest(repeats="first")[0]["rows"]["dropped"]["repeat of an earlier row"] == 1


def test_bad_rows_go_by_reason_and_all_add_up(write, ingest, tables_card, adds_up):
    bad = [
        review("", A),
        review("u", " "),
        review(None, A),
        review("u", A, unixReviewTime="soon"),
        review("u", A, unixReviewTime=None),
        review(["u"], A),
        review("u", "B0UNKNOWN1"),
    ]
    lines = [*three_users(), *bad]
    write("X.json", "".join(json.dumps(row) + "\n" for row in lines) + "{broken\n\n")
    write("meta_X.json", PRODUCTS)
    card = ingest()[0]
    found = tables_card("Amazon")["interactions"]
    assert found["dropped"] == {
        "malformed row": 1,
        "empty user id": 3,
        "empty item id": 1,
        "unreadable time": 2,
    }
    assert found["items_without_metadata"] == 1
    assert card["rows"]["dropped"]["item not in the items file"] == 1
    assert adds_up(card)


def test_items_of_several_categories_come_together(write, ingest, sequences):
    write("X.json", [review("u", A, 2), review("u", B, 0)])
    write("Y.json.gz", [review("u", C, 1)])
    write("meta_X.json", [product(A), product(B)])
    write("sub/meta_Y.json.gz", [product(C), product(A, title="again")])
    ingest()
    assert sequences("Amazon") == {"u": [B, C, A]}


@pytest.mark.parametrize(
    "asked", ["Gift_Cards_5.json.gz", "gift_cards", "Gift Cards", "GIFT_CARDS"]
)
def test_categories_can_be_chosen_in_any_case(write, ingest, sequences, asked):
    write("Gift_Cards.json", three_users())
    write("meta_Gift_Cards.json", PRODUCTS)
    write("AMAZON_FASHION.json", [review("other", A)])
    ingest(categories=(asked,))
    assert set(sequences("Amazon")) == set("uvw")


def test_an_unknown_category_is_told_with_the_nearest(write, ingest):
    write("Gift_Cards.json", three_users())
    with pytest.raises(InputError, match=r'"Gift_Crads".*did you mean "Gift_Cards"'):
        ingest(categories=("Gift_Crads",))


def test_reviews_without_metadata_name_the_missing_file(write, ingest):
    write("Gift_Cards.json", three_users())
    write("meta_Gift_Cards.json", PRODUCTS)
    write("AMAZON_FASHION_5.json.gz", three_users())
    with pytest.raises(InputError, match=r"meta_AMAZON_FASHION\.json\.gz(.|\n)*--category"):
        ingest()


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["meta_X.json"]])
def test_a_folder_without_reviews_is_refused(write, ingest, names):
    for name in names:
        write(name, PRODUCTS)
    with pytest.raises(InputError, match="raw files of amazon are not in"):
        ingest()


def test_a_folder_that_is_not_there_or_a_file_is_refused(home, tmp_path, write):
    for folder, message in ((tmp_path / "no", "not in"), (write("X.json", []), "is a file")):
        with pytest.raises(InputError, match=message):
            ingest_amazon(home, AmazonFiles(raw=folder), [], IngestOptions())


def test_the_fullest_kind_of_interactions_is_read_and_the_rest_left_aside(write, ingest, detected):
    write("X_5.json", [review("five", item) for item in (A, B, C)])
    write("meta_X.json", PRODUCTS)
    write("X.csv", f"{A},csv,5.0,{START}\n{A},csv,5.0,{START}\n{A},csv,5.0,{START}\n")
    ingest()
    assert detected()["interactions"]["X_5.json"]["kind"] == "5-core reviews"
    assert detected()["left_aside"] == ["X.csv: X_5.json is read instead"]
    write("X.json", three_users())
    assert ingest()[0]["rows"]["read"] == 9
    assert len(detected()["left_aside"]) == 2


def test_files_that_are_no_part_of_a_release_are_left_aside(write, ingest, detected):
    write("X.json", three_users())
    write("meta_X.json", PRODUCTS)
    write("config.json", [{"a": 1}])
    write("notes.csv", "a,b\n1,2\n")
    write("meta_odd.json", [{"b": 1}])
    write("images/ignored.json", "x")
    ingest()
    assert [each.partition(":")[0] for each in detected()["left_aside"]] == [
        "config.json",
        "meta_odd.json",
        "notes.csv",
    ]


def test_two_editions_in_one_folder_are_refused(write, ingest):
    write("X.json", three_users())
    write("meta_X.json", PRODUCTS)
    write("Y.jsonl", three_users(review_2023))
    with pytest.raises(InputError, match="two editions"):
        ingest()
    assert ingest(categories=("X",))


@pytest.mark.parametrize(
    ("order", "found"),
    [((A, "u"), "item, user, rating, timestamp: 3 of the first 3"), (("u", A), "user, item")],
)
def test_the_item_column_of_ratings_is_the_one_that_holds_items(
    write, ingest, sequences, detected, order, found
):
    place = order.index(A)
    rows = [(item, "u") if place == 0 else ("u", item) for item in (B, A, C)]
    write("X.csv.gz", "".join(f"{a},{b},5.0,{START + n}\n" for n, (a, b) in enumerate(rows)))
    write("meta_X.json.gz", PRODUCTS)
    ingest()
    assert sequences("Amazon") == {"u": [B, A, C]}
    assert detected()["X.csv.gz"]["columns"].startswith(found)


@pytest.mark.parametrize(
    ("metadata", "first"), [(PRODUCTS, "item"), ([{"asin": A, "imUrl": ""}], "user")]
)
def test_ratings_without_known_items_are_read_as_the_edition_has_them(
    write, ingest, home, detected, metadata, first
):
    write("X.csv", f"left,right,5.0,{START}\n" * 3)
    write("meta_X.json", metadata)
    with pytest.raises(InputError, match="no interaction is left"):
        ingest()
    table = pq.read_table(home.tables("Amazon") / "interactions.parquet").to_pylist()
    assert table[0][f"{first}_id"] == "left"
    assert len(table) == 3  # equal rows of ratings may be different reviews
    assert "neither" in detected()["X.csv"]["columns"]


def test_ratings_of_2023_with_a_history_are_read_without_it(write, ingest, sequences):
    rows = "".join(f"u,{i},5.0,{(START + n) * 1000},{A} {B}\n" for n, i in enumerate((B, A, C)))
    write("X.csv", "user_id,parent_asin,rating,timestamp,history\n" + rows)
    write("meta_X.jsonl", [{"parent_asin": i, "title": i, "images": []} for i in (A, B, C)])
    ingest()
    assert sequences("Amazon") == {"u": [B, A, C]}


def test_ratings_of_2023_have_a_header(write, ingest, sequences, detected):
    rows = "".join(f"u,{item},5.0,{(START + n) * 1000}\n" for n, item in enumerate((B, A, C)))
    write("X.csv", "user_id,parent_asin,rating,timestamp\n" + rows)
    write("meta_X.jsonl", [{"parent_asin": i, "title": i, "images": []} for i in (A, B, C)])
    ingest()
    assert sequences("Amazon") == {"u": [B, A, C]}
    assert detected()["edition"] == "2023"
    assert detected()["X.csv"] | {"columns": "by the header", "time": "ms"} == detected()["X.csv"]


def test_reviews_and_ratings_of_different_units_are_refused(write, ingest):
    write("X.csv", f"{A},u,5.0,{START * 1000}\n" * 3)
    write("Y.json", three_users())
    for name in "XY":
        write(f"meta_{name}.json", PRODUCTS)
    with pytest.raises(InputError, match="differ in unit"):
        ingest()


def test_the_edition_of_2014_is_written_in_python(write, ingest, sequences, items, detected, home):
    write("reviews_X.json.gz", three_users())
    paths = [[ROOT, "Men", "Shoes"], ["Sports"]]
    rows = [
        {"asin": i, "title": "It's", "imUrl": f"{URL}{i}._SY300_.jpg", "categories": paths}
        for i in (A, B, C)
    ]
    assert ast.literal_eval(repr(rows[0])) == rows[0]
    write("meta_X.json.gz", "".join(f"{row!r}\n" for row in rows))
    ingest()
    assert sequences("Amazon")["u"] == [C, A, B]
    assert items()[A]["categories"] == paths[0]
    assert items()[A]["text"] == f"It's. {ROOT}, Men, Shoes"
    assert detected()["edition"] == "2014"
    urls = pq.read_table(home.tables("Amazon") / "urls.parquet").to_pylist()
    assert urls[1] == {"item_id": A, "urls": [f"{URL}{A}.jpg"]}


def test_of_repeated_metadata_the_first_with_a_picture_wins(write, ingest, items, tables_card):
    write("X.json", three_users())
    bare = {"imageURL": [], "imageURLHighRes": []}
    rows = [
        product(A, title="first", **bare),
        product(A, title="pictured"),
        product(A, title="later"),
        product(B, title="only", **bare),
        product(B, title="second", **bare),
        product(C),
        {"title": "no asin"},
    ]
    write("meta_X.json", rows)
    ingest()
    assert items()[A]["text"].startswith("pictured")
    assert items()[B]["text"].startswith("only")
    counts = tables_card("Amazon")["items"]
    assert counts["dropped"] == {"empty item id": 1, "repeated item id": 3}
    assert counts["read"] == counts["kept"] + sum(counts["dropped"].values()) == 7
    assert counts["with_picture_urls"] == 2


def test_the_newer_generation_of_metadata_is_read(write, ingest, detected):
    write("X.json", three_users())
    write("meta_X.json", [{"asin": i, "title": i, "image": []} for i in (A, B, C)])
    write("newer/meta_X.json", PRODUCTS)
    ingest()
    assert list(detected()["metadata"]) == ["newer/meta_X.json"]
    assert detected()["left_aside"] == ["meta_X.json: newer/meta_X.json is read instead"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"title": "Tom &amp; Jerry&#39;s"}, "Tom & Jerry's"),
        ({"title": '<span class="a-size-medium a-color-secondary"'}, ""),
        ({"title": "var aPageStart = (new Date()).getTime();"}, ""),
        ({"title": "T", "description": ["<b>One</b>", "", "two."]}, "T. One two."),
        ({"title": "T", "description": "plain"}, "T. plain"),
        ({"title": "T", "description": None, "category": []}, "T"),
        ({"title": None, "category": ["A &amp; B", "", "C", "C"]}, "A & B, C"),
        ({"title": "T", "category": "Solo"}, "T. Solo"),
        ({"title": 7, "category": [1, None, "x"]}, "7. 1, x"),
        ({"title": "T\ud83d", "category": {"a": 1}}, "T?"),
        ({"title": "T", "categories": ["a", "b"]}, "T. a, b"),
        ({"title": "T", "categories": [["a", "b"], ["c"]]}, "T. a, b"),
        ({"title": "Tab\tand\nline"}, "Tab and line"),
        ({}, ""),
    ],
)
def test_text_is_title_description_and_tags(row, text):
    assert product_of(row, "2018").text == text


ODD = [
    {"rank": "3,011 in Books (", "price": "$1,250.00", "details": {"Age Range:": "3"}},
    {"rank": [">#1 in Toys"], "price": "", "details": None, "main_cat": "Toys &amp; Games"},
    {"rank": None, "details": "none", "main_cat": '<img src="https://x.org/m.png" />', "date": 7},
    {"tech1": "", "similar_item": ' class="a-bordered"', "also_buy": [A], "fit": "x{y:z}"},
]


@pytest.mark.parametrize("odd", ODD)
def test_fields_of_many_types_that_are_not_read_do_no_harm(write, ingest, sequences, items, odd):
    others = {"vote": "1,234", "reviewerName": None, "style": {"Color:": " Red"}, "summary": "Ü"}
    write("X.json.gz", three_users(lambda u, i, d: review(u, i, d, **(others if d else {}))))
    write("meta_X.json.gz", [product(A, **odd), product(B), product(C)])
    ingest()
    assert sequences("Amazon") == {user: [C, A, B] for user in "uvw"}
    assert items()[A]["text"] == f"Boot {A}. Warm. {ROOT}, Women, Shoes, Boots"


def test_categories_keep_their_places_and_repeats():
    found = product_of({"asin": A, "category": ["Gift Cards", "", "Gift Cards"]}, "2018")
    assert found.categories == ("Gift Cards", "Gift Cards")


HIGH, LARGE = f"{URL}hi.jpg", f"{URL}la.jpg"


@pytest.mark.parametrize(
    ("row", "urls"),
    [
        ({"imageURL": [f"{URL}a._SS40_.jpg"], "imageURLHighRes": [HIGH]}, [HIGH, f"{URL}a.jpg"]),
        (
            {"imageURL": [f"{URL}hi._SX38_SY50_CR,0,0,38,50_.jpg"], "imageURLHighRes": [HIGH]},
            [HIGH],
        ),
        (
            {"image": [f"{URL}41fby%2BUjOJL._SX38_SY50_CR,0,0,38,50_.jpg"]},
            [f"{URL}41fby%2BUjOJL.jpg"],
        ),
        ({"imageURL": [], "imageURLHighRes": []}, []),
        ({"imUrl": f"{URL}x.png"}, [f"{URL}x.png"]),
        ({"images": [{"hi_res": None, "large": LARGE, "variant": "MAIN"}]}, [LARGE]),
        (
            {
                "images": [
                    {"hi_res": f"{URL}pt.jpg", "large": None, "variant": "PT01"},
                    {"hi_res": HIGH, "large": LARGE, "variant": "MAIN"},
                ]
            },
            [HIGH, LARGE, f"{URL}pt.jpg"],
        ),
        (
            {"images": {"hi_res": [None, HIGH], "large": [LARGE, None], "variant": ["PT", "MAIN"]}},
            [HIGH, LARGE],
        ),
        ({"images": {"hi_res": [], "large": []}}, []),
        ({"images": None, "image": None, "imageURL": "no address"}, []),
        ({"image": ["ftp://x/y.jpg", "javascript:x", "https://", 5, None, [HIGH]]}, []),
        ({"image": [f" {HIGH}\n", HIGH]}, [HIGH]),
    ],
)
def test_addresses_of_pictures_come_best_first(row, urls):
    assert list(picture_urls(row)) == urls


def test_no_more_than_a_few_addresses_are_kept():
    many = [f"{URL}{n}.jpg" for n in range(50)]
    assert list(picture_urls({"imageURLHighRes": many})) == many[:MOST_URLS]


def test_pictures_of_a_hostile_row_take_no_time():
    """Each took the square or the cube of its length: hours, for a row of 1 MiB."""
    good = "http://x.org/a.jpg"
    columns = {f"k{n}": [] for n in range(50_000)} | {"large": [good] * 100_000}
    assert picture_urls({"images": columns}) == (good,)
    dots = ["http://x.org/" + "._" * 400_000, *("http://x.org/" + "._" * 950 for _ in range(500))]
    assert len(picture_urls({"imageURL": dots})) == 1


def test_of_a_hostile_row_little_is_kept():
    row = {
        "asin": "B1",
        "title": "T",
        "description": ["word"] * 100_000,
        "category": ["c"] * 90_000,
    }
    product = product_of(row, "2018")
    assert len(product.text) <= LONGEST_TEXT + 10
    assert product.text.startswith("T. word word")
    assert product.categories == ("c",) * MOST_CATEGORIES


def test_customers_photos_in_reviews_are_not_the_product_s(write, ingest, home):
    write("X.json", [{**row, "image": [HIGH]} for row in three_users()])
    write("meta_X.json", [product(i, imageURL=[], imageURLHighRes=[]) for i in (A, B, C)])
    ingest()
    assert pq.read_table(home.tables("Amazon") / "urls.parquet").num_rows == 0


def test_targets_are_carved_by_level(write, ingest, sequences):
    kinds = {A: "Shoes", B: "Clothing", C: "Shoes"}
    write("X.json", [review("u", i, d) for d, i in enumerate((A, B, C, A))])
    write("meta_X.json", [product(i, category=[ROOT, "Women", k]) for i, k in kinds.items()])
    cards = ingest("Amazon", "Amazon Shoes")
    assert [card["target"] for card in cards] == ["Amazon", "Amazon Shoes"]
    assert sequences("Amazon Shoes") == {"u": [A, C, A]}


def test_a_target_of_which_no_item_is_there_says_which_category_has_them(write, ingest):
    write("Gift_Cards.json", three_users())
    write("meta_Gift_Cards.json", [product(i, category=["Gift Cards"]) for i in (A, B, C)])
    with pytest.raises(InputError, match=r"no item of Amazon is inside it .*Clothing_Shoes_and_J"):
        ingest("Amazon Shoes")


def test_an_unknown_target_is_told_before_anything_is_read(home, tmp_path):
    with pytest.raises(InputError, match='did you mean "Amazon Shoes"'):
        ingest_amazon(home, AmazonFiles(raw=tmp_path), ["Amazon Shoe"], IngestOptions())


def test_without_pictures_the_ways_to_have_some_are_refused(write, ingest):
    write("X.json", three_users())
    write("meta_X.json", PRODUCTS)
    with pytest.raises(InputError, match=r"--images download.*--images DIR.*--missing-image"):
        ingest(missing_image="drop")


def test_pictures_of_a_folder_are_found_by_asin(write, ingest, items, raw, tables_card):
    write("X.json", three_users())
    write("meta_X.json", PRODUCTS)
    for name in (A, B, C):
        write(f"images/{name}.jpg", "picture")
    card = ingest(images=raw / "images", missing_image="drop")[0]
    assert items()[A]["image"] == f"{A}.jpg"
    assert card["items_without_image"] == 0
    assert tables_card("Amazon")["pictures"] == str(raw / "images")


def test_metadata_cleaned_by_processes_are_those_cleaned_by_one(write, monkeypatch):
    rows = [product(f"B{n % 70:09}", title=f"&lt;b&gt;{n}") for n in range(90)]
    write("X.json", three_users())
    path = write("meta_X.json.gz", "".join(json.dumps(row) + "\n" for row in rows) + "bad\n")
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", 500)
    release = find_release(path.parent)
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(amazon_items, "cores", lambda cores=cores: cores)
        items = ItemRows()
        read_products(release.metadata, release.edition, items, Counter())
        found.append((items.finish(), items.urls()))
    assert found[0] == found[1]
    assert found[0][0][1]["dropped"] == {"malformed row": 1, "repeated item id": 20}


def all_bytes(home: Home) -> dict[Path, bytes]:
    place = home.tables("Amazon")
    return {path.relative_to(place): path.read_bytes() for path in sorted(place.iterdir())}


def test_other_pictures_do_not_make_the_reviews_be_read_again(write, ingest, home, raw, tmp_path):
    write("X.json", [*three_users(), review("", A), review("", A)])
    write("meta_X.json", PRODUCTS)
    write("images/p.jpg", "picture")
    ingest(images=raw / "images")
    before = (home.tables("Amazon") / "interactions.parquet").stat().st_ino
    (raw / "images" / "p.jpg").rename(raw / "images" / f"{A}.jpg")
    ingest(images=raw / "images")
    assert (home.tables("Amazon") / "interactions.parquet").stat().st_ino == before
    taken_over = all_bytes(home)
    fresh = Home(tmp_path / "fresh")
    options = IngestOptions(user_core=0, item_core=0)
    files = AmazonFiles(raw=raw, images=raw / "images")
    with pytest.raises(InputError, match="no user has 3 interactions"):
        ingest_amazon(fresh, files, ["Amazon"], options)
    assert all_bytes(fresh) == taken_over
    write("X.json", three_users())
    ingest(images=raw / "images")
    assert (home.tables("Amazon") / "interactions.parquet").stat().st_ino != before


def test_interactions_that_were_damaged_are_read_again(write, ingest, home, raw):
    write("X.json", three_users())
    write("meta_X.json", PRODUCTS)
    ingest()
    path = home.tables("Amazon") / "interactions.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-9] + bytes(9))
    write(f"images/{A}.jpg", "picture")
    ingest(images=raw / "images")
    assert path.read_bytes() == good


def test_ratings_that_turn_out_latin_are_taken_over_as_well(write, ingest, home, raw, tmp_path):
    lines = "".join(f"{(A, B, C)[n % 3]},u{n // 3},5.0,{START}\n" for n in range(12_000))
    path = write("X.csv", lines)
    path.write_bytes(path.read_bytes() + f"{A},caf\xe9,5.0,{START}\n".encode("latin-1"))
    write("meta_X.json", PRODUCTS)
    ingest()
    write(f"images/{A}.jpg", "picture")
    ingest(images=raw / "images")
    assert '"encoding": "latin-1"' in (home.tables("Amazon") / "card.json").read_text()
    fresh = Home(tmp_path / "fresh")
    options = IngestOptions(user_core=0, item_core=0, missing_image="text-only")
    ingest_amazon(fresh, AmazonFiles(raw=raw, images=raw / "images"), [], options)
    assert all_bytes(fresh) == all_bytes(home)


def test_what_is_no_plain_file_is_not_waited_for(write, ingest, raw):
    write("X.json", three_users())
    write("meta_X.json", PRODUCTS)
    os.mkfifo(raw / "Y.json")
    (raw / "Z.json").symlink_to(raw / "nowhere")
    assert ingest()[0]["rows"]["kept"] == 9


def test_a_second_ingest_changes_nothing(write, ingest, home):
    write("X.json", three_users())
    write("meta_X.json", PRODUCTS)
    assert ingest()[0]["fresh"]
    before = (home.tables("Amazon") / "card.json").stat().st_mtime_ns
    assert not ingest()[0]["fresh"]
    assert (home.tables("Amazon") / "card.json").stat().st_mtime_ns == before


@pytest.fixture
def shop():
    """Serves pictures on this machine: `good…` is one, `dead…` is not there; counts requests."""
    asked = Counter()
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "JPEG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked[self.path] += 1
            good = self.path.startswith("/good")
            body = picture.getvalue() if good else b"gone"
            self.send_response(200 if good else 404)
            self.send_header("Content-Type", "image/jpeg" if good else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()
        thread.join()


def pictured(item, *urls):
    return product(item, imageURL=[], imageURLHighRes=list(urls))


def test_pictures_of_the_core_are_downloaded_once(write, ingest, items, shop, home, tables_card):
    base, asked = shop
    write("X.json", [*three_users(), review("u", "B0RARE", 9), review("v", "B0BARE", 9)])
    rows = [
        pictured(A, f"{base}good-a.jpg"),
        pictured(B, f"{base}dead-b.jpg", f"{base}good-b.jpg"),
        pictured(C, f"{base}dead-c.jpg"),
        pictured("B0RARE", f"{base}good-rare.jpg"),
        pictured("B0BARE"),
    ]
    write("meta_X.json", rows)
    options = {"missing_image": "drop", "item_core": 2, "user_core": 2, "split": "leave-one-out"}
    with pytest.raises(InputError, match="no user has 3 interactions"):
        ingest(images="download", **options)
    assert set(asked) == {"/good-a.jpg", "/dead-b.jpg", "/good-b.jpg", "/dead-c.jpg"}
    found = {item: row["image"] for item, row in items().items()}
    assert found[A] is not None
    assert found[B] is not None
    assert [found[C], found["B0RARE"], found["B0BARE"]] == [None] * 3
    card = tables_card("Amazon")
    assert card["pictures"] == str(home.downloads("amazon"))
    assert card["picture_outcomes"]["ok"] == 2
    assert (home.downloads("amazon") / found[A]).is_file()


def test_a_second_download_asks_for_nothing_and_writes_nothing(write, ingest, shop, home):
    base, asked = shop
    write("X.json", three_users())
    write("meta_X.json", [pictured(item, f"{base}good-{item}.jpg") for item in (A, B, C)])
    first = ingest(images="download", missing_image="drop")[0]
    assert first["items_without_image"] == 0
    before, place = sum(asked.values()), home.tables("Amazon")
    stamp = (place / "card.json").stat().st_mtime_ns
    second = ingest(images="download", missing_image="drop")[0]
    assert not second["fresh"]
    assert sum(asked.values()) == before == 3
    assert (place / "card.json").stat().st_mtime_ns == stamp


def test_a_download_reads_the_reviews_once(write, ingest, shop, home):
    base, _ = shop
    write("X.json", [*three_users(), review("", A)])
    write("meta_X.json", [pictured(item, f"{base}good-{item}.jpg") for item in (A, B, C)])
    ingest()
    before = (home.tables("Amazon") / "interactions.parquet").stat().st_ino
    ingest(images="download")
    assert (home.tables("Amazon") / "interactions.parquet").stat().st_ino == before
