import polars as pl
import pytest

from pmm.ingest.targets.rules import AMAZON_TARGETS, HM_TARGETS, ColumnRule, LevelRule

COLUMNS = ("product_type_name", "product_group_name")
ITEMS = pl.DataFrame({"categories": [["Boots", "Shoes"], ["Shoes", "Bags"], ["Vest"], []]})


@pytest.mark.parametrize(
    ("operator", "expected"),
    [("in", [True, False, False, False]), ("not in", [False, True, True, True])],
)
def test_a_rule_looks_at_its_own_column_only(operator, expected):
    rule = ColumnRule(column="product_group_name", operator=operator, values=("Shoes",))
    assert ITEMS.select(rule.matches(COLUMNS)).to_series().to_list() == expected


def test_clothes_and_shoes_of_hm_have_no_group_in_common():
    clothes, shoes = HM_TARGETS["HM Clothes"], HM_TARGETS["HM Shoes"]
    assert clothes is not None
    assert shoes is not None
    assert not set(clothes.values) & set(shoes.values)


ROOT = "Clothing, Shoes & Jewelry"


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ([ROOT, "Women", "Shoes", "Boots"], True),
        ([ROOT, "Baby", "Baby Girls", "Shoes"], True),
        ([ROOT, "Women", "Clothing", "Dresses"], False),
        ([ROOT, "Shoes"], False),
        ([ROOT, "Women", "Shoes & Bags"], False),
        ([ROOT, "Women"], False),
        ([], False),
    ],
)
def test_a_level_rule_compares_whole_entries_below_the_department(path, inside):
    rule = AMAZON_TARGETS["Amazon Shoes"]
    items = pl.DataFrame({"categories": [path]}, {"categories": pl.List(pl.String)})
    assert items.select(rule.matches(())).to_series().to_list() == [inside]


def test_a_level_rule_can_ask_for_the_beginning_of_an_entry():
    rule = LevelRule(least_level=0, values=("food", "cook"), match="begins")
    items = pl.DataFrame({"categories": [["#x", "foodie"], ["seafood"], ["cooking"]]})
    assert items.select(rule.matches(())).to_series().to_list() == [True, False, True]
    assert str(rule) == "a category or tag begins with food or cook"
