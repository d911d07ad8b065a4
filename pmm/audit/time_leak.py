"""What leave-one-out knows of the time after a test item, and what it is worth.

Shape legend: U users, N items, R rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pmm.arrays import Int32s, Int64s
from pmm.audit.split_questions import SplitQuestions, asked_of, floor_ranks
from pmm.audit.timed_rows import TimedRows
from pmm.errors import InputError
from pmm.evaluate.compare import compare_ranks
from pmm.evaluate.metrics import measure
from pmm.ingest.targets.split import TEST, TRAIN, temporal

DRAWS = 2_000
"""Of the bootstrap; an interval's ends are then sure to a twentieth of its width."""


@dataclass(frozen=True, kw_only=True)
class TimeLeak:
    """What lies in training later than the test items. Shares and metrics are fractions."""

    later_targets: float
    """Share of test items that somebody's training holds at a later time than that of the test."""
    later_rows: float
    """Of an average test item, the share of all training rows that lie later."""
    popularity_of_all_time: dict[str, Any]
    popularity_before: dict[str, Any]
    """Where an item counts as often as training had it before the test item's own time."""
    gain: tuple[float, float]
    """95 % interval, over users, of what the former has more than the latter in HR@10."""
    temporal: dict[str, dict[str, Any]]
    """The floors under a temporal split of the same rows; empty where that leaves nobody."""


def time_leak(rows: TimedRows, asked: SplitQuestions, popular_U: Int32s, *, seed: int) -> TimeLeak:
    """Measure it; memory is about 40 bytes a row beside that of the floors.

    Args:
        rows: with their moments.
        asked: the test questions of these rows.
        popular_U: the test items' ranks by popularity.
        seed: of the bootstrap.
    """
    assert rows.moment is not None
    train, test_U = rows.parts == TRAIN, rows.moment[rows.parts == TEST]
    latest_N = np.full(asked.n_items + 1, -1, np.int64)
    np.maximum.at(latest_N, rows.item[train], rows.moment[train])
    ordered = np.sort(rows.moment[train])
    later_U = 1 - np.searchsorted(ordered, test_U, side="right") / max(1, len(ordered))
    past_U = rank_by_past_popularity(rows, asked)
    gain = compare_ranks(past_U, popular_U, seed=seed, draws=DRAWS)[0]
    return TimeLeak(
        later_targets=float((latest_N[asked.queries.target_U] > test_U).mean()),
        later_rows=float(later_U.mean()),
        popularity_of_all_time=measure(popular_U),
        popularity_before=measure(past_U),
        gain=(gain.low, gain.high),
        temporal=_temporal_floors(rows, asked.n_items),
    )


def rank_by_past_popularity(rows: TimedRows, asked: SplitQuestions) -> Int32s:
    """Ranks by how often training had an item before the moment of the test item. [U]

    As in all rankings ties count against the target, and the history is masked. One pass through
    time, which holds of each count how many items have at least that.
    """
    assert rows.moment is not None
    train, test = rows.parts == TRAIN, rows.parts == TEST
    by_time = np.argsort(rows.moment[train], kind="stable")
    item_R, moment_R = rows.item[train][by_time].tolist(), rows.moment[train][by_time]
    test_U = rows.moment[test]
    seen_U = np.searchsorted(moment_R, test_U, side="left").tolist()
    count_N = np.zeros(asked.n_items + 1, np.int64)
    with_at_least = [asked.n_items, *[0] * (int(asked.count_N.max(initial=0)) + 1)]
    row_P, item_P = asked.queries.masked_pairs()
    starts_U = np.searchsorted(row_P, np.arange(len(asked.queries) + 1))
    rank_U, done = np.zeros(len(asked.queries), np.int32), 0
    for user in np.argsort(test_U, kind="stable").tolist():
        for item in item_R[done : seen_U[user]]:
            count_N[item] += 1
            with_at_least[count_N[item]] += 1
        done = max(done, seen_U[user])
        least = count_N[asked.queries.target_U[user]]
        masked = item_P[starts_U[user] : starts_U[user + 1]]
        rank_U[user] = with_at_least[least] - np.count_nonzero(count_N[masked] >= least)
    return rank_U


def _temporal_floors(rows: TimedRows, n_items: int) -> dict[str, dict[str, Any]]:
    """The metrics of the floors where all users are cut at the same two points in time."""
    held: Int64s | None = rows.moment
    try:
        parts = temporal(rows.user, held)
    except InputError:  # nobody did something in all three spans
        return {}
    asked = asked_of(rows.user, rows.item, parts, n_items)
    return {name: measure(rank_U) for name, rank_U in floor_ranks(asked).items()}
