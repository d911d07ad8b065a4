"""HR and NDCG from ranks alone: one relevant item a user, so the ideal DCG is 1."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pmm.statistics.values import gains, hits

CUTOFFS = (10, 20, 50)

BUCKETS: tuple[tuple[str, int, int | None], ...] = (
    ("0", 0, 0),
    ("1-4", 1, 4),
    ("5-9", 5, 9),
    ("10-49", 10, 49),
    ("50+", 50, None),
)
"""Popularity buckets: name, fewest and most occurrences of the target in the training part."""

COLD_BELOW = 10
"""An item with fewer occurrences in the training part than this is cold (paper IV-A; docs/paper.md,
"What is counted")."""


def hit_rate(rank_U: NDArray[Any], k: int) -> float:
    """Share of users whose true next item ranks among the first k, as a fraction.

    >>> hit_rate(np.array([1, 3, 11, 40]), 10)
    0.5
    """
    return float(hits(rank_U, k).mean()) if len(rank_U) else 0.0


def ndcg(rank_U: NDArray[Any], k: int) -> float:
    """Mean of 1 / log2(rank + 1) where rank <= k, else 0, as a fraction.

    Rank 1 counts 1, rank 2 0.6309, rank 3 0.5, rank 10 0.2891.

    >>> round(ndcg(np.array([1, 3, 11]), 10), 4)
    0.5
    """
    return float(gains(rank_U, k).mean()) if len(rank_U) else 0.0


def summarise(ranks: pa.Table, repeated_U: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """All metrics of a ranks table (schemas.RANKS): whole, by popularity bucket, for cold items.

    Values are fractions. An empty bucket is listed with 0 users and no metrics.

    Args:
        ranks: one row a user.
        repeated_U: whether the user has had the target before. Such a target is easy: the rest of
            the history is masked, so of the items that look like the history it alone competes.
            Where given, "new" measures the other users.
    """
    rank_U = ranks["rank"].to_numpy()
    count_U = ranks["train_count"].to_numpy()
    buckets = []
    for name, low, high in BUCKETS:
        inside = (count_U >= low) & (count_U <= (np.inf if high is None else high))
        buckets.append({"train_count": name, **measure(rank_U[inside])})
    new = {} if repeated_U is None else {"new": measure(rank_U[~repeated_U])}
    cold = measure(rank_U[count_U < COLD_BELOW])
    return {**measure(rank_U), **new, "cold": cold, "buckets": buckets}


def summarise_mix(ranks: pa.Table) -> dict[str, Any]:
    """Metrics of all users, and of those whose target is warm and cold beside each other."""
    rank_U, cold_U = ranks["rank"].to_numpy(), ranks["train_count"].to_numpy() < COLD_BELOW
    return {**measure(rank_U), "warm": measure(rank_U[~cold_U]), "cold": measure(rank_U[cold_U])}


def mean_summary(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of one target as it is; of several the plain mean of theirs.

    The mean counts each target alike, however many users it has, and has "sources": target -> its
    own metrics; "users" is their sum. Cold items are those of the targets that have some.

    >>> both = mean_summary({"a": {"users": 1, "hr@10": 0.2, "cold": {"users": 0}},
    ...                      "b": {"users": 3, "hr@10": 0.4, "cold": {"users": 2, "hr@10": 0.1}}})
    >>> both["users"], round(both["hr@10"], 6), both["cold"]
    (4, 0.3, {'users': 2, 'hr@10': 0.1})
    """
    if len(parts) == 1:
        return dict(next(iter(parts.values())))
    summaries = list(parts.values())
    plain = [_only_measures(each) for each in summaries]
    return {
        **_mean(plain),
        "cold": _mean([each["cold"] for each in summaries]),
        "sources": dict(zip(parts, plain, strict=True)),
    }


def _only_measures(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if isinstance(value, int | float)}


def _mean(summaries: list[Mapping[str, Any]] | list[dict[str, Any]]) -> dict[str, Any]:
    users = sum(each["users"] for each in summaries)
    some = [each for each in summaries if each["users"]]
    names = [name for name in some[0] if name != "users"] if some else []
    return {"users": users, **{n: float(np.mean([each[n] for each in some])) for n in names}}


def headline(summary: Mapping[str, Any]) -> str:
    """One line for logs and tables, times 100 as in the paper.

    >>> headline({"hr@10": 0.1234, "ndcg@10": 0.06})
    'HR@10 12.34, NDCG@10 6.00'
    """
    return f"HR@10 {100 * summary['hr@10']:.2f}, NDCG@10 {100 * summary['ndcg@10']:.2f}"


def measure(rank_U: NDArray[Any]) -> dict[str, Any]:
    """HR and NDCG at every cut-off, and the number of users; of nobody only that."""
    if not len(rank_U):
        return {"users": 0}
    values = {f"hr@{k}": hit_rate(rank_U, k) for k in CUTOFFS}
    return {"users": len(rank_U), **values, **{f"ndcg@{k}": ndcg(rank_U, k) for k in CUTOFFS}}
