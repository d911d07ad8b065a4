"""Which category an item of a training set is in, and what training does with that.

Rows may hold items of one category each, and an item's negatives may be those of its own category
alone: items of other ones are told apart by what a whole category has in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from pmm.arrays import Float64s, Int64s
from pmm.shards.sequence_shards import Lists

Negatives = Literal["batch", "source", "category"]
"""Of the other users' items in a batch: all, those of the item's own source, or of its category."""
SequenceRule = Literal["whole", "by category"]
"""A user's training items as one sequence, or one for each category that they are in."""

WITHOUT = "without a category"
_FEW = 10
"""Negatives below which a loss has little to tell an item from."""
_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Categories:
    """The categories of one part's items."""

    names: tuple[str, ...]
    """In alphabetical order; `WITHOUT` first."""
    of_N: Int64s
    """[items] number of each item's category; 0: it has none."""

    @property
    def some(self) -> bool:
        """Whether any item has one."""
        return len(self.names) > 1


def numbered(main: pl.Series) -> Categories:
    """Names of categories as numbers in alphabetical order; null is 0.

    >>> found = numbered(pl.Series(["Shoes", None, "Bags", "Shoes"]))
    >>> found.names, found.of_N.tolist()
    (('without a category', 'Bags', 'Shoes'), [2, 0, 1, 2])
    """
    names = main.drop_nulls().unique().sort()
    of_N = names.search_sorted(main.fill_null(""), side="left").to_numpy().astype(np.int64) + 1
    of_N[main.is_null().to_numpy()] = 0
    return Categories(names=(WITHOUT, *names.to_list()), of_N=of_N)


def without_categories(n_items: int) -> Categories:
    """Of a part whose items have none."""
    return Categories(names=(WITHOUT,), of_N=np.zeros(n_items, dtype=np.int64))


def split_lists(lists: Lists, of_N: Int64s) -> Lists:
    """One list for each category that a list has items of, its items in their order.

    Lists of one list stand together, in the order of the categories' numbers.

    Args:
        lists: of item numbers from 1.
        of_N: category of item k at k - 1.

    >>> whole = Lists(offsets=np.array([0, 4, 5]), values=np.array([1, 2, 3, 4, 2], np.int32))
    >>> parts = split_lists(whole, np.array([7, 3, 7, 3]))
    >>> [parts[k].tolist() for k in range(len(parts))]
    [[2, 4], [1, 3], [2]]
    """
    list_V = np.repeat(np.arange(len(lists)), lists.lengths)
    category_V = of_N[lists.values - 1]
    order_V = np.lexsort((category_V, list_V))  # stable, so the order inside a category stays
    list_V, category_V = list_V[order_V], category_V[order_V]
    new_V = (np.diff(list_V, prepend=-1) != 0) | (np.diff(category_V, prepend=-1) != 0)
    starts = np.flatnonzero(new_V)
    return Lists(
        offsets=np.concatenate([starts, [len(order_V)]]).astype(np.int64),
        values=lists.values[order_V],
    )


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups that a training set's items fall into; negatives are of the own group."""

    names: tuple[str, ...]
    of_N: Int64s
    """[items of all parts] number of each item's group."""

    @classmethod
    def of(cls, targets: Sequence[str], parts: Sequence[Categories]) -> "Groups":
        """A group for each category of each part: those of two parts are never one."""
        names = [
            target if not each.some else f"{target}: {name}"
            for target, each in zip(targets, parts, strict=True)
            for name in each.names
        ]
        firsts = np.cumsum([0, *(len(each.names) for each in parts)])[:-1]
        of_N = np.concatenate(
            [first + each.of_N for first, each in zip(firsts, parts, strict=True)]
        )
        return cls(names=tuple(names), of_N=of_N)

    def told(self, count_N: Float64s, rows: int, batch_users: int) -> str:
        """How many groups there are, and how many negatives they leave, as a sentence.

        Args:
            count_N: how often an epoch's rows hold each item.
            rows: of an epoch.
            batch_users: rows of a batch.

        >>> groups = Groups(names=("HM: Bags", "HM: Shoes"), of_N=np.array([0, 0, 1, 1]))
        >>> groups.told(np.array([5.0, 5.0, 15.0, 15.0]), 20, 11)
        'negatives are of the own group of 2 (HM: Shoes 75%, HM: Bags 25%): on average 12 of the \
20 places of other rows in a batch'
        """
        share_G = np.bincount(self.of_N, count_N, minlength=len(self.names)) / count_N.sum()
        others = (batch_users - 1) * count_N.sum() / rows
        left = float(others * (share_G**2).sum())
        met = [int(g) for g in np.argsort(-share_G, kind="stable") if share_G[g] > 0]
        shown = ", ".join(f"{self.names[g]} {100 * share_G[g]:.2g}%" for g in met[:_SHOWN])
        more = f" and {len(met) - _SHOWN} smaller ones" if len(met) > _SHOWN else ""
        said = (
            f"negatives are of the own group of {len(met)} ({shown}{more}): on average {left:.0f} "
            f"of the {others:.0f} places of other rows in a batch"
        )
        if left < _FEW:
            said += (
                ". That is few: a larger --batch-users gives more, or --set model.negatives=source"
            )
        return said
