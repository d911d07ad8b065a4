"""Ranking the whole catalogue, beside a literal version of the published evaluation.

    python -m benchmarks.rank_catalogue [--items 50000] [--users 4096] [--width 768]

The literal evaluation sorts the scores of every user and looks the target up in a one-hot vector of
float64. Ours counts the items that score at least as high. Both run in turns on the same vectors;
their ranks must be equal. The matrix product alone is the physical limit.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import record
from pmm.arrays import Int32s
from pmm.evaluate.ranking import Queries, rank_users
from pmm.shards.sequence_shards import Lists

HISTORY = 10
USERS_AT_ONCE = 1024
LARGE = (200_000, 85_000)
"""Users and items of the paper's largest target."""


def draw_queries(users: int, items: int, seed: int = 0) -> Queries:
    """Users with a history of ten items and a target outside it."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.choice(items, HISTORY + 1, replace=False) + 1 for _ in range(users)])
    return Queries(
        user_U=np.arange(users, dtype=np.int32),
        target_U=drawn[:, -1].astype(np.int32),
        history=Lists(
            offsets=np.arange(0, HISTORY * users + 1, HISTORY),
            values=drawn[:, :-1].flatten().astype(np.int32),
        ),
    )


def rank_literally(user_UD: Tensor, item_ND: Tensor, queries: Queries) -> Int32s:
    """Sort the scores of each user and look for the target."""
    ranks = []
    for user, target in enumerate(queries.target_U.tolist()):
        score_N = (item_ND @ user_UD[user]).numpy()
        score_N[queries.history[user] - 1] = -np.inf
        label_N = np.zeros(len(score_N))
        label_N[target - 1] = 1
        ranked_N = label_N[np.argsort(score_N)[::-1]]
        ranks.append(int(ranked_N.argmax()) + 1)
    return np.array(ranks, dtype=np.int32)


def rank_by_counting(user_UD: Tensor, item_ND: Tensor, queries: Queries) -> Int32s:
    """Ours, users in chunks."""
    found = [
        rank_users(
            user_UD[start : start + USERS_AT_ONCE],
            item_ND,
            queries.rows(start, start + USERS_AT_ONCE),
        )
        for start in range(0, len(queries), USERS_AT_ONCE)
    ]
    return np.concatenate(found)


def multiply(user_UD: Tensor, item_ND: Tensor, queries: Queries) -> Int32s:
    """The products alone."""
    for start in range(0, len(queries), USERS_AT_ONCE):
        for first in range(0, len(item_ND), 2_048):
            torch.mm(user_UD[start : start + USERS_AT_ONCE], item_ND[first : first + 2_048].T)
    return np.zeros(0, np.int32)


def slice_of_large(width: int, users: int) -> float:
    """Seconds a user on a catalogue of the paper's largest size."""
    item_ND, user_UD = torch.randn(LARGE[1], width), torch.randn(users, width)
    queries = draw_queries(users, LARGE[1])
    start = time.perf_counter()
    rank_by_counting(user_UD, item_ND, queries)
    return (time.perf_counter() - start) / users


Rank = Callable[[Tensor, Tensor, Queries], Int32s]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--users", type=int, default=2048)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-record", action="store_true", help="print only")
    given = parser.parse_args()
    torch.manual_seed(0)
    item_ND = torch.randn(given.items, given.width)
    user_UD = torch.randn(given.users, given.width)
    queries = draw_queries(given.users, given.items)
    few = min(128, given.users)
    ways: dict[str, tuple[Rank, int]] = {
        "literal": (rank_literally, few),
        "ours": (rank_by_counting, given.users),
        "product alone": (multiply, given.users),
    }
    literal = rank_literally(user_UD[:few], item_ND, queries.rows(0, few))
    if not (literal == rank_by_counting(user_UD[:few], item_ND, queries.rows(0, few))).all():
        raise SystemExit("the ranks differ")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(given.repeats):
        for name, (rank, users) in ways.items():
            start = time.perf_counter()
            rank(user_UD[:users], item_ND, queries.rows(0, users))
            seconds[name].append((time.perf_counter() - start) / users)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    ms = {name: 1e3 * statistics.median(each) for name, each in seconds.items()}
    large = 0.0 if given.no_record else LARGE[0] * slice_of_large(given.width, given.users)
    rows = [f"| {name} | {ms[name]:.3f} | {ms['literal'] / ms[name]:.1f} |" for name in ways]
    table = "\n".join(
        [
            "| ranking | ms a user | times as fast as literal |",
            "|---|---|---|",
            *rows,
            "",
            f"{given.items:,} items of {given.width} values, {given.users:,} users "
            f"({few} literally), {torch.get_num_threads()} threads, median of {given.repeats} in "
            f"turns. Memory beyond the vectors: {more / 1024:,.0f} MiB, for chunks of "
            f"{USERS_AT_ONCE:,} users however many there are. On {LARGE[1]:,} items the same users "
            f"took {1e3 * large / LARGE[0]:.3f} ms each: {LARGE[0]:,} of them take "
            f"{large / 60:,.1f} minutes.",
        ]
    )
    print(table)
    if not given.no_record:
        record("rank_catalogue", table)


if __name__ == "__main__":
    main()
