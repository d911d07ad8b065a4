"""The H&M dump: layout, order, planted defects; and something outlives the core."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from pmm.errors import StorageError
from pmm.world import World, generate
from pmm.world.describe import core
from pmm.world.formats.defects import NO_DEFECTS
from pmm.world.formats.hm_writer import ARTICLE_COLUMNS, write_hm
from pmm.world.generate import _items

Row = dict[str, str]
Rows = Callable[[Path], list[Row]]
Hm = tuple[Path, dict[str, int]]
Core = Callable[[list[tuple[str, str]], int], list[tuple[str, str]]]


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_articles_have_the_25_columns_and_ten_digit_ids(hm: Hm, rows: Rows) -> None:
    articles = rows(hm[0] / "articles.csv")
    assert tuple(articles[0]) == ARTICLE_COLUMNS
    assert len(ARTICLE_COLUMNS) == 25
    assert len({row["article_id"] for row in articles}) == len(articles) == hm[1]["items"]
    for row in articles:
        assert len(row["article_id"]) == 10
        assert row["article_id"][0] == "0"
        assert row["product_code"] == row["article_id"][:7]
    texts = "".join(row["detail_desc"] for row in articles)
    assert "," in texts
    assert '"' in texts


def test_transactions_are_sorted_by_date_then_customer(hm: Hm, rows: Rows) -> None:
    actions = rows(hm[0] / "transactions_train.csv")
    assert list(actions[0]) == ["t_dat", "customer_id", "article_id", "price", "sales_channel_id"]
    keys = [(row["t_dat"], row["customer_id"]) for row in actions]
    assert keys == sorted(keys)
    assert "2018-09-20" <= keys[0][0] <= keys[-1][0] <= "2020-09-22"
    assert {len(row["customer_id"]) for row in actions} == {64}
    assert all(0 < float(row["price"]) < 1 for row in actions)


def test_file_order_is_the_order_of_each_customer(tiny: World, rows: Rows, tmp_path: Path) -> None:
    write_hm(tiny, tmp_path, NO_DEFECTS)
    drawn, raw = tiny.sequences("HM"), tiny.item_ids("HM")
    written: dict[str, list[str]] = {}
    for row in rows(tmp_path / "transactions_train.csv"):
        written.setdefault(row["customer_id"], []).append(row["article_id"])
    for user, name in enumerate(tiny.user_ids("HM")):
        actions = drawn.items[drawn.starts[user] : drawn.starts[user + 1]]
        assert written[name] == [raw[item] for item in actions]


def test_pictures_lie_below_the_first_three_digits(hm: Hm, rows: Rows) -> None:
    known = {row["article_id"] for row in rows(hm[0] / "articles.csv")}
    found = list((hm[0] / "images").glob("*/*.jpg"))
    assert len(found) == hm[1]["pictures"] == hm[1]["items"] - hm[1]["missing_pictures"]
    for path in found:
        assert path.stem in known
        assert path.parent.name == path.stem[:3]


def test_hms_planted_pictures_are_what_the_writer_says(hm: Hm) -> None:
    found: Counter[str] = Counter()
    for path in (hm[0] / "images").glob("*/*.jpg"):
        try:
            with Image.open(path) as picture:
                picture.load()
                found[picture.mode] += 1
        except UnidentifiedImageError:
            found["text"] += 1
        except OSError:
            found["truncated"] += 1
    for kind, name in (
        ("text", "text_files_as_pictures"),
        ("truncated", "truncated_pictures"),
        ("L", "grey_pictures"),
        ("CMYK", "cmyk_pictures"),
        ("RGBA", "alpha_pictures"),
    ):
        assert found[kind] == hm[1][name] > 0


def test_planted_texts_and_rows_are_what_the_writer_says(hm: Hm, rows: Rows) -> None:
    texts = [row["detail_desc"] for row in rows(hm[0] / "articles.csv")]
    assert texts.count("") == hm[1]["missing_texts"] > 0
    assert sum("&amp;" in text for text in texts) == hm[1]["markup_texts"] > 0
    actions = rows(hm[0] / "transactions_train.csv")
    assert len(actions) == hm[1]["rows"]
    assert sum(a == b for a, b in itertools.pairwise(actions)) == hm[1]["repeated_rows"] > 0
    ids = [row["article_id"] for row in actions]
    plain = [one for one, two in itertools.pairwise([*actions, None]) if one != two]
    assert sum(len(row["article_id"]) < 10 for row in plain) == hm[1]["stripped_ids"] > 0
    assert {len(name) for name in ids} == {9, 10}


def test_ties_are_those_that_the_writer_says(tiny: World, rows: Rows, tmp_path: Path) -> None:
    said = write_hm(tiny, tmp_path, NO_DEFECTS)
    days: Counter[tuple[str, str]] = Counter(
        (row["t_dat"], row["customer_id"]) for row in rows(tmp_path / "transactions_train.csv")
    )
    assert sum(count - 1 for count in days.values()) == said["tied_rows"] > 0


def test_writing_again_gives_the_same_bytes(hm: Hm, tmp_path: Path) -> None:
    first = write_hm(generate("tiny", 0), tmp_path)
    before = digests(tmp_path)
    assert write_hm(generate("tiny", 0), tmp_path) == first
    assert digests(tmp_path) == before
    assert digests(hm[0]).keys() != before.keys()  # other defects: other pictures are missing


def test_a_picture_that_is_planned_to_be_missing_is_taken_away(tiny: World, tmp_path: Path) -> None:
    whole = write_hm(tiny, tmp_path, NO_DEFECTS)
    assert whole["pictures"] == len(list(tmp_path.glob("images/*/*.jpg"))) == whole["items"]
    less = write_hm(tiny, tmp_path)
    assert less["pictures"] == len(list(tmp_path.glob("images/*/*.jpg"))) < whole["items"]


def test_only_hm_is_drawn_for_hm(tmp_path: Path) -> None:
    _items.cache_clear()
    write_hm(generate("tiny", seed=4), tmp_path)
    assert _items.cache_info().currsize == 1


@pytest.mark.parametrize("groups", [("Garment", "Shoes", "Acc"), ("Garment",), ("Shoes",)])
def test_the_tiny_dump_outlives_the_core(
    tiny: World, rows: Rows, slow_core: Core, tmp_path: Path, groups: tuple[str, ...]
) -> None:
    write_hm(tiny, tmp_path, NO_DEFECTS)
    articles = rows(tmp_path / "articles.csv")
    inside = {r["article_id"] for r in articles if r["product_group_name"].startswith(groups)}
    actions = rows(tmp_path / "transactions_train.csv")
    kept = slow_core([(r["customer_id"], r["article_id"]) for r in actions], 5)
    carved = [(user, item) for user, item in kept if item in inside]
    users = Counter(user for user, _ in carved)
    left = sorted(count for count in users.values() if count >= 5)
    name = {3: "HM", 1: "HM Clothes" if groups == ("Garment",) else "HM Shoes"}[len(groups)]
    assert left == sorted(len(sequence) for sequence in core(tiny, name).sequences)
    assert len(left) > 50


def test_a_folder_for_hms_files_that_cannot_be_made_is_a_storage_error(
    tiny: World, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        write_hm(tiny, tmp_path / "file" / "hm")
