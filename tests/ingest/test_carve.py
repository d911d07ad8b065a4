import polars as pl
import pytest

from pmm.ingest.carve import HM_TARGETS, Rule

COLUMNS = ("product_type_name", "product_group_name")
ITEMS = pl.DataFrame({"categories": [["Boots", "Shoes"], ["Shoes", "Bags"], ["Vest"], []]})


@pytest.mark.parametrize(
    ("operator", "expected"),
    [("in", [True, False, False, False]), ("not in", [False, True, True, True])],
)
def test_a_rule_looks_at_its_own_column_only(operator, expected):
    rule = Rule(column="product_group_name", operator=operator, values=("Shoes",))
    assert ITEMS.select(rule.matches(COLUMNS)).to_series().to_list() == expected


def test_clothes_and_shoes_of_hm_have_no_group_in_common():
    clothes, shoes = HM_TARGETS["HM Clothes"], HM_TARGETS["HM Shoes"]
    assert clothes is not None
    assert shoes is not None
    assert not set(clothes.values) & set(shoes.values)
