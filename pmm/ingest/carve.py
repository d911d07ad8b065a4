"""Which items make a target: one rule a target, over the columns that describe an item.

A source keeps an item's category columns in `categories`, in an order that it names
(`pmm.ingest.hm.CATEGORY_COLUMNS`). To carve a further target, add a rule here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

Operator = Literal["in", "not in"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Items whose category column holds one of some values (or none of them)."""

    column: str
    operator: Operator
    values: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """The rule as JSON, for cards and fingerprints."""
        return {"column": self.column, "operator": self.operator, "values": list(self.values)}

    def matches(self, columns: Sequence[str]) -> pl.Expr:
        """A Polars expression over `categories`, whose entries have the given names in order."""
        value = pl.col("categories").list.get(columns.index(self.column), null_on_oob=True)
        inside = value.is_in(self.values).fill_null(False)
        match self.operator:
            case "in":
                return inside
            case "not in":
                return ~inside


GARMENTS = ("Garment Upper body", "Garment Lower body", "Garment Full body")

HM_TARGETS: dict[str, Rule | None] = {
    "HM": None,
    "HM Clothes": Rule(column="product_group_name", operator="in", values=GARMENTS),
    # Not garment_group_name == "Shoes": that is another set (5,145 articles, 5,090 in both).
    "HM Shoes": Rule(column="product_group_name", operator="in", values=("Shoes",)),
}
"""H&M's targets. Wider clothes: add "Underwear", "Nightwear", "Swimwear", "Socks & Tights"."""
