"""How far the order of rows of the same time can move a metric: it is drawn anew, several times.

Shape legend: U users, R rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmm.arrays import Float64s, Int32s, Int64s
from pmm.audit.split_questions import asked_of, floor_ranks
from pmm.audit.timed_rows import TimedRows
from pmm.evaluate.metrics import measure
from pmm.ingest.targets.split import TEST


@dataclass(frozen=True, kw_only=True)
class TieSpread:
    """A metric over the orders that were drawn, and beside them. Fractions."""

    in_file_order: float
    mean: float
    low: float
    high: float
    by_item_id: float
    """Where rows of the same time are ordered by the item, as a sort by all columns does."""


@dataclass(frozen=True, kw_only=True)
class TieOrder:
    """What ties decide. Shares are fractions."""

    tied_rows: float
    """Share of rows that have another row of their user at their time."""
    decided_users: float
    """Share of users of whose rows at the time of the test item one is of another item: the order
    alone says which of them is asked for."""
    draws: int
    spread: dict[str, dict[str, TieSpread]]
    """Floor -> metric -> its spread."""


def tie_order(
    rows: TimedRows, n_items: int, floors: dict[str, dict[str, Any]], *, draws: int, seed: int
) -> TieOrder:
    """Draw the order of tied rows anew and measure the floors each time.

    Time is `draws` + 1 times that of the floors; memory does not grow with the draws.

    Args:
        rows: with their moments.
        n_items: of the catalogue.
        floors: the metrics in the order of the file.
        draws: how often.
        seed: of the draws.
    """
    assert rows.moment is not None
    rng = np.random.default_rng(seed)
    drawn = [_measured(rows, n_items, rng.random(len(rows.user))) for _ in range(draws)]
    by_id = _measured(rows, n_items, rows.item.astype(np.float64))
    spread = {
        floor: {
            name: _spread(value, [each[floor][name] for each in drawn], by_id[floor][name])
            for name, value in found.items()
            if name != "users"
        }
        for floor, found in floors.items()
    }
    tie = _tie_of(rows)
    tied = np.bincount(tie)[tie] > 1
    decided = _has_another_item(tie, rows.item)[rows.parts == TEST]
    return TieOrder(
        tied_rows=float(tied.mean()),
        decided_users=float(decided.mean()),
        draws=draws,
        spread=spread,
    )


def _measured(rows: TimedRows, n_items: int, key_R: Float64s) -> dict[str, dict[str, Any]]:
    """The floors where rows of the same time are ordered by a key.

    Which places are trained on, validated and tested stays: it follows from users and times alone.
    """
    assert rows.moment is not None
    order = np.lexsort((key_R, rows.moment, rows.user))
    asked = asked_of(rows.user, rows.item[order], rows.parts, n_items)
    return {name: measure(rank_U) for name, rank_U in floor_ranks(asked).items()}


def _spread(value: float, drawn: list[float], by_id: float) -> TieSpread:
    return TieSpread(
        in_file_order=value,
        mean=float(np.mean(drawn)),
        low=min(drawn),
        high=max(drawn),
        by_item_id=by_id,
    )


def _tie_of(rows: TimedRows) -> Int64s:
    """Of each row a number that it shares with the rows of its user at its time. [R]"""
    assert rows.moment is not None
    new = (np.diff(rows.user, prepend=-1) != 0) | (np.diff(rows.moment, prepend=-1) != 0)
    return np.cumsum(new)


def _has_another_item(tie_R: Int64s, item_R: Int32s) -> NDArray[np.bool_]:
    """Whether a row's tie holds an item beside the row's own. [R]"""
    low, high = np.full(int(tie_R.max()) + 1, item_R.max()), np.zeros(int(tie_R.max()) + 1, int)
    np.minimum.at(low, tie_R, item_R)
    np.maximum.at(high, tie_R, item_R)
    found: NDArray[np.bool_] = low[tie_R] != high[tie_R]
    return found
