"""The one category of an item by which pre-training splits sequences and chooses negatives.

A source's `categories` are columns, a path or tags. Of these the main category is the target that a
rule makes of the item, where the source has such rules: a target's items belong together. Else it
is what the platform itself divides its catalogue by. An item may have none.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from pmm.ingest.sources.hm import CATEGORY_COLUMNS
from pmm.ingest.targets.rules import AMAZON_TARGETS, HM_TARGETS, Rule

_HM_NONE = ("Unknown", "Items")
"""Product groups of H&M that hold whatever has no group."""
_AMAZON_MIXED_ROOT = "Clothing, Shoes & Jewelry"
"""Below it the first level is for whom a thing is ("Women"), the second what it is. Elsewhere the
first level divides the shop, and the second may be a feature ("No expiration, no fees.")."""


def main_categories(tables: Mapping[str, Any], categories: pl.Series) -> pl.Series:
    """The main category of each item, null where it has none.

    Args:
        tables: the config of the manifest of the source's tables, which says whose they are.
        categories: lists of text, as `pmm.storage.schemas.SOURCE_ITEMS` has them.

    >>> hm = pl.Series([["Boots", "Shoes"], ["Vest", "Garment Upper body"], ["Bra", "Underwear"]])
    >>> main_categories({"source": "HM"}, hm).to_list()
    ['HM Shoes', 'HM Clothes', 'Underwear']
    >>> root = "Clothing, Shoes & Jewelry"
    >>> paths = pl.Series([[root, "Baby", "Baby Girls", "Shoes"], [root, "Men", "Watches"], []])
    >>> main_categories({"source": "Amazon"}, paths).to_list()
    ['Amazon Shoes', 'Clothing, Shoes & Jewelry: Watches', None]
    """
    table = pl.DataFrame({"categories": categories}, schema={"categories": pl.List(pl.String)})
    match tables.get("source"), tables.get("categories"):
        case "HM", _:
            found = _of_hm()
        case "Amazon", _:
            found = _of_amazon()
        case _, "hashtags":  # what a title is tagged with divides no catalogue
            found = pl.lit(None, dtype=pl.String)
        case _:
            found = _entry(0)
    # `with_columns` repeats a literal for every row.
    named = table.with_columns(found.str.strip_chars().alias("main"))["main"]
    return named.set(named == "", None)


def _entry(level: int) -> pl.Expr:
    return pl.col("categories").list.get(level, null_on_oob=True)


def _of_hm() -> pl.Expr:
    group = _entry(CATEGORY_COLUMNS.index("product_group_name"))
    own = pl.when(group.is_in(_HM_NONE)).then(None).otherwise(group)
    return _of_target(HM_TARGETS, own)


def _of_amazon() -> pl.Expr:
    """The target, or root and what divides the shop below it; of a shorter path its last entry."""
    root, first, second, third = map(_entry, range(4))
    # "Baby", "Baby Girls", "Accessories": the type stands one level deeper.
    deeper = pl.when(second.str.starts_with("Baby ")).then(third)
    what = pl.coalesce(deeper, second, first)
    below = pl.when(root == _AMAZON_MIXED_ROOT).then(what).otherwise(first)
    own = pl.when(below.is_null()).then(root).otherwise(root + ": " + below)
    return _of_target(AMAZON_TARGETS, own)


def _of_target(rules: Mapping[str, Rule | None], own: pl.Expr) -> pl.Expr:
    """The first target whose rule an item meets, else its own category."""
    found = own
    for name, rule in reversed(list(rules.items())):
        if rule is not None:
            found = pl.when(rule.matches(CATEGORY_COLUMNS)).then(pl.lit(name)).otherwise(found)
    return found
