"""Items that are nearly the same under several ids, and the test items that are won by look-up.

Shape legend: N items, G groups, P pairs, U users. Items are 1..N; those of a group are the same.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Int64s
from pmm.evaluate.ranking import Queries


@dataclass(frozen=True, kw_only=True)
class NearItems:
    """Items in groups of the same, and which groups are near each other."""

    group_N: Int64s
    """[N + 1] from 0; -1 for padding and for items without content."""
    pairs_P2: Int64s
    """[P, 2] groups that are near each other, each pair once."""

    @property
    def n_groups(self) -> int:
        """G."""
        return int(self.group_N.max(initial=-1)) + 1


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Near-duplicates across ids. Shares are fractions."""

    looked_at: int
    """Items with a text, or a picture."""
    items: int
    """Of these, how many have a near-duplicate under another id."""
    pairs: int
    """Pairs of items."""
    largest: int
    """Items of the largest group of the same."""
    lookups: int
    """Test items of which the user's history holds a near-duplicate, and not the item itself."""
    lookup_share: float
    examples: list[tuple[str, str]]
    """A few pairs, by their ids."""


def duplicates(near: NearItems, queries: Queries, item_ids: list[str], *, shown: int) -> Duplicates:
    """Count them.

    Args:
        near: of the target's items.
        queries: its test questions.
        item_ids: raw id of item k at k - 1.
        shown: how many examples at most.
    """
    size_G = np.bincount(near.group_N[near.group_N >= 0], minlength=near.n_groups)
    crowded_G = size_G > 1
    crowded_G[near.pairs_P2] = True
    across = (size_G[near.pairs_P2[:, 0]] * size_G[near.pairs_P2[:, 1]]).sum()
    found_U = looked_up(near, queries) & ~queries.repeated()
    return Duplicates(
        looked_at=int(size_G.sum()),
        items=int(size_G[crowded_G].sum()),
        pairs=int((size_G * (size_G - 1) // 2).sum() + across),
        largest=int(size_G.max(initial=0)),
        lookups=int(found_U.sum()),
        lookup_share=float(found_U.mean()) if len(found_U) else 0.0,
        examples=[(item_ids[a - 1], item_ids[b - 1]) for a, b in _examples(near, size_G, shown)],
    )


def looked_up(near: NearItems, queries: Queries) -> NDArray[np.bool_]:
    """Whether the user's history holds another item that is nearly the test item. [U]

    >>> from pmm.shards.sequence_shards import Lists
    >>> asked = Queries(user_U=np.arange(2), target_U=np.array([3, 3], np.int32),
    ...     history=Lists(offsets=np.array([0, 2, 4]), values=np.array([1, 2, 2, 3], np.int32)))
    >>> near = NearItems(group_N=np.array([-1, 0, 1, 0]), pairs_P2=np.zeros((0, 2), np.int64))
    >>> looked_up(near, asked).tolist()
    [True, False]
    """
    groups = near.n_groups
    both = np.concatenate([near.pairs_P2, near.pairs_P2[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    many_G = np.bincount(both[:, 0], minlength=groups)
    first_G = np.cumsum(many_G) - many_G
    found = [np.zeros(0, np.bool_)]
    for part in queries.pieces():
        row, item = part.masked_pairs()  # without the target itself
        has = np.unique((row * groups + near.group_N[item])[near.group_N[item] >= 0])
        group_U = near.group_N[part.target_U]
        rows = np.flatnonzero(group_U >= 0)
        many = many_G[group_U[rows]]
        step = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
        others = both[np.repeat(first_G[group_U[rows]], many) + step, 1]
        asked_row = np.concatenate([rows, np.repeat(rows, many)])
        asked = asked_row * groups + np.concatenate([group_U[rows], others])
        hits = asked_row[np.isin(asked, has)]
        found.append(np.bincount(hits, minlength=len(part)) > 0)
    return np.concatenate(found)


def _examples(near: NearItems, size_G: Int64s, shown: int) -> list[tuple[int, int]]:
    """Pairs of items: first of near groups, then of one group."""
    order = np.argsort(near.group_N, kind="stable")
    order = order[near.group_N[order] >= 0]
    first_G = np.cumsum(size_G) - size_G
    across = [(order[first_G[a]], order[first_G[b]]) for a, b in near.pairs_P2[:shown].tolist()]
    same = np.flatnonzero(size_G > 1)[: max(0, shown - len(across) // 2)].tolist()
    inside = [(order[first_G[g]], order[first_G[g] + 1]) for g in same]
    keep = max(shown // 2, shown - len(inside))
    return [(int(a), int(b)) for a, b in (across[:keep] + inside)[:shown]]
