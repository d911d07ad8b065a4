"""Categories of items: where they come from, and which rows and groups they make of a training."""

import itertools
import shutil
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pmm.data.batch import Batch
from pmm.data.categories import WITHOUT, Categories, Groups, numbered, split_lists
from pmm.data.category_tables import read_categories
from pmm.data.loader import train_batches
from pmm.data.training_set import TrainingSet
from pmm.errors import BrokenArtefact, InputError, MissingArtefact, StaleArtefact
from pmm.ingest.sources.main_categories import main_categories
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists
from pmm.storage.home import Home

N = 12
SORTS = [["Shoes", "red"], ["Bags"], [], [" Shoes "], ["", "nothing"], ["Bags"]]
CATEGORIES = [SORTS[k % 6] for k in range(20)]


def lists_of(rows: list[list[int]]) -> Lists:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Lists(offsets=offsets, values=np.array(list(itertools.chain(*rows)), np.int32))


def literal_split(rows: list[list[int]], category: list[int]) -> list[list[int]]:
    """Row after row, category after category, item after item."""
    found = []
    for row in rows:
        for wanted in sorted(set(category)):
            part = [item for item in row if category[item - 1] == wanted]
            if part:
                found.append(part)
    return found


@given(
    st.lists(st.lists(st.integers(1, N), max_size=9), max_size=6),
    st.lists(st.integers(0, 3), min_size=N, max_size=N),
)
def test_sequences_are_split_as_by_hand(rows: list[list[int]], category: list[int]) -> None:
    found = split_lists(lists_of(rows), np.array(category))
    assert [found[k].tolist() for k in range(len(found))] == literal_split(rows, category)
    assert found.offsets.dtype == np.int64


@given(st.lists(st.one_of(st.none(), st.text(max_size=2)), min_size=1, max_size=12))
def test_names_are_numbered_in_order_and_none_is_zero(names: list[str | None]) -> None:
    found = numbered(pl.Series(names, dtype=pl.String))
    assert [None if k == 0 else found.names[k] for k in found.of_N.tolist()] == names
    assert list(found.names[1:]) == sorted({name for name in names if name is not None})


@given(
    st.lists(st.integers(0, 2), min_size=N, max_size=N),
    st.lists(st.integers(0, 9), min_size=N, max_size=N).filter(any),
    st.integers(2, 40),
)
def test_the_mean_number_of_negatives_is_that_of_counting(
    group: list[int], count: list[int], batch_users: int
) -> None:
    """Of all places in rows, draw a target and another place: how often are both of a group?"""
    rows, total = 5, sum(count)
    pairs = itertools.product(range(N), range(N))
    same = sum(count[a] * count[b] for a, b in pairs if group[a] == group[b]) / total**2
    groups = Groups(names=("a", "b", "c"), of_N=np.array(group))
    others = (batch_users - 1) * total / rows
    said = groups.told(np.array(count, float), rows, batch_users)
    assert f"on average {same * others:.0f} of the {others:.0f} places" in said
    assert ("That is few" in said) == (same * others < 10)
    met = {g for g, n in zip(group, count, strict=True) if n}
    assert f"own group of {len(met)} (" in said


ROOT = "Clothing, Shoes & Jewelry"


@pytest.mark.parametrize(
    ("tables", "categories", "expected"),
    [
        ({"source": "HM"}, ["Bra", "Underwear", "Solid", "Black", "Ladies"], "Underwear"),
        ({"source": "HM"}, ["Skirt", "Garment Lower body"], "HM Clothes"),
        ({"source": "HM"}, ["Boots", "Shoes"], "HM Shoes"),
        ({"source": "HM"}, ["Wood", "Unknown"], None),
        ({"source": "HM"}, ["Wood"], None),
        ({"source": "Amazon"}, [ROOT, "Women", "Clothing", "Dresses"], "Amazon Clothes"),
        ({"source": "Amazon"}, [ROOT, "Baby", "Baby Girls", "Shoes"], "Amazon Shoes"),
        ({"source": "Amazon"}, [ROOT, "Baby", "Baby Boys", "Accessories"], f"{ROOT}: Accessories"),
        ({"source": "Amazon"}, [ROOT, "Men", "Watches", "Wrist"], f"{ROOT}: Watches"),
        ({"source": "Amazon"}, [ROOT, "Luggage & Travel Gear"], f"{ROOT}: Luggage & Travel Gear"),
        ({"source": "Amazon"}, [ROOT], ROOT),
        ({"source": "Amazon"}, ["Gift Cards", "Gift Cards", "No fees."], "Gift Cards: Gift Cards"),
        ({"source": "Amazon"}, [], None),
        ({"source": "Kwai", "categories": "hashtags"}, ["food", "vlog"], None),
        ({"source": "Kwai", "categories": "item categories"}, ["food"], "food"),
        ({"source": "Bili Food", "categories": "none"}, [], None),
        ({"source": "my shop"}, ["Drama", "Comedy"], "Drama"),
        ({"source": "my shop"}, ["  "], None),
    ],
)
def test_the_main_category_of_each_kind_of_source(
    tables: dict[str, str], categories: list[str], expected: str | None
) -> None:
    other = ["Boots", "Shoes"]  # beside it, so that a column is no literal
    found = main_categories(tables, pl.Series([categories, other], dtype=pl.List(pl.String)))
    assert found.to_list()[0] == expected
    alone = main_categories(tables, pl.Series([categories], dtype=pl.List(pl.String)))
    assert alone.to_list() == [expected]


@pytest.fixture(scope="module")
def shop(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """HM without tables, a shop with categories, and one whose tables have none."""
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("shop"), n_items=20, n_users=16)
    shop.add_target("Fashion", n_items=20, n_users=14, categories=CATEGORIES)
    shop.add_target("Films", n_items=12, n_users=10, categories=[[]] * 12)
    return shop


def opened(shop: Any, *names: str) -> list[Shards]:
    return [Shards.of(shop.home, name) for name in names]


def expected_categories(categories: list[list[str]]) -> list[str]:
    return [(each[0].strip() if each else "") or WITHOUT for each in categories]


def test_the_categories_of_shards_are_those_of_their_tables(shop: Any) -> None:
    found = read_categories(*opened(shop, "Fashion"))
    assert [found.names[k] for k in found.of_N.tolist()] == expected_categories(CATEGORIES)
    assert found.some
    films = read_categories(*opened(shop, "Films"))
    assert (films.names, films.of_N.tolist(), films.some) == ((WITHOUT,), [0] * 12, False)


def test_rows_hold_items_of_one_category_in_their_order(shop: Any) -> None:
    parts = opened(shop, "Fashion", "Films")
    data = TrainingSet(parts, sequences="by category", max_length=6)
    named = expected_categories(CATEGORIES)
    number = [sorted(set(named), key=lambda x: (x != WITHOUT, x)).index(each) for each in named]
    trains = [part.sequences().train for part in parts]
    fashion = [trains[0][k].tolist() for k in range(len(trains[0]))]
    films = [[item + 20 for item in trains[1][k].tolist()] for k in range(len(trains[1]))]
    rows = [*literal_split(fashion, number), *films]
    kept = [row[-7:] for row in rows if len(row) > 1]
    rows_now = data.rows(np.arange(len(data)), seed=0, epoch=0, length=7)
    assert sorted([i for i in row if i] for row in rows_now.tolist()) == sorted(kept)
    alone = sum(len(row) == 1 for row in rows)
    assert f"{alone} of a single item are left out" in data.told(8)[1]
    met = Counter(itertools.chain(*kept))
    counts = np.concatenate(data.occurrences(7)).tolist()
    assert counts == [met[item] for item in range(1, 33)]


@pytest.mark.parametrize("negatives", ["batch", "source", "category"])
@pytest.mark.parametrize("mixing", ["proportional", "equal"])
def test_batches_say_which_group_each_item_is_of(shop: Any, negatives: Any, mixing: Any) -> None:
    data = TrainingSet(
        opened(shop, "Fashion", "Films"), negatives=negatives, mixing=mixing, max_length=6
    )
    named = [("Fashion", each) for each in expected_categories(CATEGORIES)]
    if negatives == "source":
        named = [("Fashion", "")] * 20
    named += [("Films", "")] * 12
    for batch in train_batches(data, seed=1, epoch=0, batch_users=8, max_length=6):
        assert (batch.group_I is None) == (negatives == "batch")
        for each in [batch, *batch.split(3), batch.to("cpu")]:
            if each.group_I is None:
                assert negatives == "batch"
                continue
            items = each.items.item_I.tolist()
            pairs = set(zip(each.group_I.tolist(), (named[k - 1] for k in items), strict=True))
            assert len(pairs) == len({g for g, _ in pairs}) == len({name for _, name in pairs})
            assert each.group_I.dtype == torch.int64


def test_a_view_with_other_parts_has_the_same_rows_and_groups(shop: Any) -> None:
    parts = opened(shop, "Fashion", "Films")
    data = TrainingSet(parts, sequences="by category", negatives="category", max_length=6)
    view = data.with_parts(opened(shop, "Fashion", "Films"))
    at = np.arange(len(data))
    rows = [each.rows(at, seed=0, epoch=0, length=7) for each in (data, view)]
    assert np.array_equal(*rows)
    one, other = (each.collate(rows[0]).group_I for each in (data, view))
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)


@pytest.mark.parametrize("field", ["group_I", "log_p_I"])
def test_a_batch_refuses_a_field_of_another_length(shop: Any, field: str) -> None:
    data = TrainingSet(opened(shop, "Fashion"), negatives="category", max_length=6)
    batch = data.collate(data.rows(np.arange(4), seed=0, epoch=0, length=7))
    values = {"items": batch.items, "slot_BS": batch.slot_BS, "log_p_I": batch.log_p_I}
    values |= {"group_I": batch.group_I}
    with pytest.raises(ValueError, match=f"{field} has shape"):
        Batch(**{**values, field: getattr(batch, field)[1:]})


def test_no_category_anywhere_is_refused_and_says_what_to_do(shop: Any) -> None:
    for how in ({"negatives": "category"}, {"sequences": "by category"}):
        with pytest.raises(InputError, match="no item of Films is in a category") as error:
            TrainingSet(opened(shop, "Films"), **how)
        assert "--set model.negatives=source --set train.sequences=whole" in str(error.value)


def test_shards_without_tables_say_what_makes_them(shop: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="tables/hm is not there") as error:
        read_categories(*opened(shop, "HM"))
    assert f"Run: pmm ingest hm --home {shop.home.root}" in str(error.value)
    moved = shutil.copytree(shop.home.shards("Fashion"), tmp_path / "fashion")
    with pytest.raises(MissingArtefact, match="lies in no home folder"):
        read_categories(Shards(moved))
    home = Home(tmp_path / "home")
    shutil.copytree(shop.home.shards("Fashion"), home.shards("Fashion"))
    with pytest.raises(MissingArtefact, match="targets/fashion is not there"):
        read_categories(Shards.of(home, "Fashion"))


def test_tables_made_anew_or_damaged_are_refused(
    shop_maker: Any, shop: Any, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(shop.home.root, home.root)
    shards = Shards.of(home, "Fashion")
    path = home.tables("Fashion") / "items.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenArtefact, match="is damaged"):
        read_categories(shards)
    shop_maker.make_tables(home, "Fashion", [["Other"]] * 20)
    with pytest.raises(StaleArtefact, match="tables"):
        read_categories(shards)


def test_too_few_rows_of_one_category_are_refused(shop: Any) -> None:
    shop.add_target("Single", n_items=30, n_users=2, categories=[[str(k)] for k in range(30)])
    with pytest.raises(InputError, match="found 0 sequences of one category"):
        TrainingSet(opened(shop, "Single"), sequences="by category")


def test_groups_of_equal_names_in_two_parts_are_two() -> None:
    one = Categories(names=(WITHOUT, "Shoes"), of_N=np.array([1, 0]))
    none = Categories(names=(WITHOUT,), of_N=np.array([0]))
    found = Groups.of(["HM", "Kwai", "Amazon"], [one, none, one])
    assert found.of_N.tolist() == [1, 0, 2, 4, 3]
    assert [found.names[k] for k in found.of_N.tolist()] == [
        *("HM: Shoes", f"HM: {WITHOUT}", "Kwai", "Amazon: Shoes", f"Amazon: {WITHOUT}")
    ]


def test_nothing_is_said_of_what_was_not_asked(shop: Any) -> None:
    assert len(TrainingSet(opened(shop, "Fashion")).told(8)) == 1
