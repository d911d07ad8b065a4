"""Which items make a target: one rule a target, over the `categories` that describe an item.

What `categories` holds is the source's: named columns in a fixed order (H&M:
`pmm.ingest.sources.hm.CATEGORY_COLUMNS`), a path from the root to a leaf (Amazon), or a set of tags
(Kwai). To carve a further target, add a rule here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Literal

import polars as pl

Operator = Literal["in", "not in"]


@dataclass(frozen=True, kw_only=True)
class ColumnRule:
    """Items whose category column holds one of some values (or none of them)."""

    column: str
    operator: Operator
    values: tuple[str, ...]
    advice: str = ""
    """What to do where no item fits, as a sentence."""

    def describe(self) -> dict[str, Any]:
        """The rule as JSON, for cards and fingerprints."""
        return {"column": self.column, "operator": self.operator, "values": list(self.values)}

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {', '.join(self.values)}"

    def matches(self, columns: Sequence[str]) -> pl.Expr:
        """A Polars expression over `categories`, whose entries have the given names in order."""
        value = pl.col("categories").list.get(columns.index(self.column), null_on_oob=True)
        inside = value.is_in(self.values).fill_null(False)
        match self.operator:
            case "in":
                return inside
            case "not in":
                return ~inside


@dataclass(frozen=True, kw_only=True)
class LevelRule:
    """Items of which an entry of `categories`, at some level or deeper, is one of some values.

    Whole entries are compared, never a part of the joined path: the root of Amazon's tree is
    "Clothing, Shoes & Jewelry" and holds both words.
    """

    least_level: int
    """The first entry that counts; 0 is the root."""
    values: tuple[str, ...]
    match: Literal["equal", "begins"] = "equal"
    advice: str = ""
    """What to do where no item fits, as a sentence."""

    def describe(self) -> dict[str, Any]:
        """The rule as JSON, for cards and fingerprints."""
        return {"level": f">= {self.least_level}", "match": self.match, "values": list(self.values)}

    def __str__(self) -> str:
        verb = "is" if self.match == "equal" else "begins with"
        at = f" of level {self.least_level} or deeper" if self.least_level else " or tag"
        return f"a category{at} {verb} {' or '.join(self.values)}"

    def matches(self, columns: Sequence[str]) -> pl.Expr:
        """A Polars expression over `categories`."""
        del columns
        entry = pl.element()
        match self.match:
            case "equal":
                inside = entry.is_in(self.values)
            case "begins":
                inside = reduce(or_, (entry.str.starts_with(value) for value in self.values))
        counted = pl.col("categories").list.slice(self.least_level)
        return counted.list.eval(inside).list.any().fill_null(False)


Rule = ColumnRule | LevelRule


def rule_of(description: dict[str, Any] | None) -> Rule | None:
    """The rule that `describe` described, without its advice. KeyError, ValueError: it is none.

    >>> rule_of({"level": ">= 2", "match": "equal", "values": ["Shoes"]})
    LevelRule(least_level=2, values=('Shoes',), match='equal', advice='')
    """
    if description is None:
        return None
    values = tuple(description["values"])
    if "level" in description:
        level = int(str(description["level"]).removeprefix(">= "))
        return LevelRule(least_level=level, values=values, match=description["match"])
    return ColumnRule(column=description["column"], operator=description["operator"], values=values)


GARMENTS = ("Garment Upper body", "Garment Lower body", "Garment Full body")

HM_TARGETS: dict[str, Rule | None] = {
    "HM": None,
    "HM Clothes": ColumnRule(column="product_group_name", operator="in", values=GARMENTS),
    # Not garment_group_name == "Shoes": that is another set (5,145 articles, 5,090 in both).
    "HM Shoes": ColumnRule(column="product_group_name", operator="in", values=("Shoes",)),
}
"""H&M's targets. Wider clothes: add "Underwear", "Nightwear", "Swimwear", "Socks & Tights"."""

_AMAZON_ADVICE = "They are parts of Clothing_Shoes_and_Jewelry: were its files read?"

AMAZON_TARGETS: dict[str, Rule | None] = {
    "Amazon": None,
    "Amazon Clothes": LevelRule(least_level=2, values=("Clothing",), advice=_AMAZON_ADVICE),
    "Amazon Shoes": LevelRule(least_level=2, values=("Shoes",), advice=_AMAZON_ADVICE),
}
"""Amazon's targets. The path begins with the root, then the department ("Women", "Baby"); the type
stands at level 2, or one or two deeper: ["Clothing, Shoes & Jewelry", "Baby", "Baby Girls",
"Shoes"]."""
