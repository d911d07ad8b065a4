"""How hard an index has to search: measured against looking at every item, on users of a target.

Shape suffixes: N items, D width, Q users, K best items, C lists.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pmm.arrays import Float32s, Int64s
from pmm.recommend.catalogue_state import CatalogueState
from pmm.recommend.inverted_lists import InvertedLists
from pmm.recommend.top_k import rounding_slack

DEPTHS = (10, 100, 1_000)
"""How deep answers go that lists are searched for; each depth has its own number of items to look
at. Items that are hidden from a user count too, since the others stand below them."""
_ATTEMPTS = ((0.995, 2), (0.999, 4), (1.0, 8))
_SCORES_AT_ONCE = 2**24
"""That are held together (64 MB)."""


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How much a search looks at."""

    items_of: Mapping[int, int]
    """Depth -> allowed items, at least."""
    spare: int
    """Items that are scored anew for each that is wanted."""


def stronger(strengths_of: Iterable[Strength]) -> Strength:
    """What looks at as much as each of some."""
    each = list(strengths_of)
    deeper = {depth: max(one.items_of[depth] for one in each) for depth in each[0].items_of}
    return Strength(items_of=deeper, spare=max(one.spare for one in each))


NOTHING = Strength(items_of={}, spare=0)
"""No depth is searched."""


def strengths(
    lists: InvertedLists,
    state: CatalogueState,
    users_QD: Float32s,
    *,
    factor: float = 0.0,
    added_N: Float32s | None = None,
    scanned: Int64s | None = None,
) -> Iterator[Strength]:
    """What to search with, the quickest first.

    The first looks at so many items that 99.5 % of the best of these users lie in the lists that
    are asked, the last at so many that all do.

    Args:
        lists: made of the items of the state.
        state: the catalogue.
        users_QD: users' vectors.
        factor: of the log share of popularity.
        added_N: what is added to the scores.
        scanned: rows that are looked at beside the lists.
    """
    depths = [each for each in DEPTHS if each <= len(state)] or [len(state)]
    needed_QK = np.zeros((len(users_QD), depths[-1]), np.int64)
    for q, (row_K, _) in enumerate(best_of_all(state, users_QD, depths[-1], added_N)):
        order_C = lists.in_order(users_QD[q], factor)
        looked_C = np.zeros(len(order_C), np.int64)
        looked_C[order_C] = np.cumsum(lists.size_C[order_C])
        needed_QK[q] = looked_C[lists.list_N[row_K]]
        if scanned is not None:
            needed_QK[q, np.isin(row_K, scanned)] = 0
    for share, spare in _ATTEMPTS:
        found = [np.ceil(np.quantile(needed_QK[:, :k], share)) for k in depths]
        deeper = np.maximum.accumulate(found).astype(int).tolist()
        yield Strength(items_of=dict(zip(depths, deeper, strict=True)), spare=spare)


def best_of_all(
    state: CatalogueState, users_QD: Float32s, k: int, added_N: Float32s | None
) -> Iterator[tuple[Int64s, Float32s]]:
    """Rows of each user's k best items that are offered, best first, and their scores in fp32."""
    together = max(1, _SCORES_AT_ONCE // max(1, len(state)))
    for start in range(0, len(users_QD), together):
        for score_N in users_QD[start : start + together] @ state.score_ND.T:
            if added_N is not None:
                score_N += added_N
            score_N[~state.offered_N] = -np.inf
            row_K = np.argpartition(-score_N, k - 1)[:k]
            row_K = row_K[np.argsort(-score_N[row_K], kind="stable")]
            yield row_K, score_N[row_K]


def share_found(found: Sequence[Float32s], true: Sequence[Float32s], slack: float) -> float:
    """Recall: of the best scores, how many were found. An item as good as another stands for it.

    Args:
        found: scores of each user's answer.
        true: scores of each user's best items, best first.
        slack: what two computations of a score may differ by.

    >>> share_found([np.float32([3, 1])], [np.float32([3, 2])], 0.0)
    0.5
    """
    hits = sum(
        min(len(best), int((score >= best[-1] - slack).sum()))
        for score, best in zip(found, true, strict=True)
    )
    return hits / sum(len(best) for best in true)


def slack_of(state: CatalogueState, users_QD: Float32s, added_N: Float32s | None) -> float:
    """What fp32 products of these users may be off by."""
    size: float = float(np.linalg.norm(users_QD, axis=1).max(initial=0)) * state.longest
    if added_N is not None:
        size += float(np.abs(added_N).max(initial=0))
    return float(rounding_slack(size, users_QD.shape[1]))
