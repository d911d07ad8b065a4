"""Two rankings of the same users: the difference of their metrics, with a bootstrap interval.

Users are drawn again with replacement, both rankings of a user together (Efron and Tibshirani 1993,
chapter 13). A user counts only through his pair of ranks, so the draws are multinomial over the
distinct pairs: exact, and as fast for a million users as for a thousand.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pmm.errors import InputError, MissingArtefact
from pmm.evaluate.metrics import CUTOFFS
from pmm.schemas import RANKS, read_table
from pmm.text_table import text_table

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two rankings, as fractions; `low` and `high` bound the difference."""

    name: str
    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


def compare_runs(
    first: Path, second: Path, *, file: str = "ranks.parquet", seed: int = 0, draws: int = DRAWS
) -> list[Difference]:
    """Compare the ranks that `pmm evaluate` wrote into two runs' folders.

    Raises:
        MissingArtefact: one has not been evaluated. InputError: they ranked different splits.
    """
    tables = []
    for run in (first, second):
        if not (run / file).is_file():
            raise MissingArtefact(f"{run / file} is not there. Run: pmm evaluate {run}")
        tables.append(read_table(run / file, RANKS))
    _require_same_questions(first, second, *tables)
    return compare_ranks(
        tables[0]["rank"].to_numpy(), tables[1]["rank"].to_numpy(), seed=seed, draws=draws
    )


def compare_ranks(
    first_U: NDArray[Any], second_U: NDArray[Any], *, seed: int = 0, draws: int = DRAWS
) -> list[Difference]:
    """The differences of all metrics of two rankings of the same U users.

    >>> one, two = np.array([1, 11, 30, 2]), np.array([1, 5, 60, 2])
    >>> hr = compare_ranks(one, two)[0]
    >>> hr.name, hr.first, hr.second, hr.low <= hr.difference <= hr.high
    ('hr@10', 0.5, 0.75, True)
    """
    beyond = max(CUTOFFS) + 1
    pairs = np.stack([np.minimum(first_U, beyond), np.minimum(second_U, beyond)], 1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(pairs), counts / len(pairs), size=draws) / len(pairs)
    tail = 100 * (1 - LEVEL) / 2
    found = []
    for name, gain in _gains(beyond).items():
        each = gain[kinds[:, 1]] - gain[kinds[:, 0]]
        low, high = np.percentile(drawn @ each, [tail, 100 - tail])
        first, second = (float(gain[pairs[:, k]].mean()) for k in (0, 1))
        found.append(
            Difference(name=name, first=first, second=second, low=float(low), high=float(high))
        )
    return found


def comparison_table(first: str, second: str, differences: list[Difference]) -> str:
    """The comparison times 100, with a mark where the interval excludes no difference."""
    rows = [
        [
            each.name.upper(),
            100 * each.first,
            100 * each.second,
            100 * each.difference,
            f"{100 * each.low:+.2f} .. {100 * each.high:+.2f}",
            "" if each.low <= 0 <= each.high else "*",
        ]
        for each in differences
    ]
    return text_table(["", first, second, "difference", f"{LEVEL:.0%} interval", ""], rows)


def _gains(beyond: int) -> dict[str, NDArray[np.float64]]:
    """Metric -> what a rank of 0 .. beyond adds to it."""
    rank = np.arange(beyond + 1)
    gains = {f"hr@{k}": ((rank >= 1) & (rank <= k)).astype(np.float64) for k in CUTOFFS}
    discount = 1 / np.log2(np.maximum(rank, 1) + 1.0)
    return gains | {f"ndcg@{k}": gains[f"hr@{k}"] * discount for k in CUTOFFS}


def _require_same_questions(first: Path, second: Path, one: pa.Table, other: pa.Table) -> None:
    if one.num_rows != other.num_rows:
        raise InputError(
            f"{first} ranked {one.num_rows:,} users and {second} {other.num_rows:,}: they were "
            "evaluated on different splits, and cannot be compared"
        )
    for name in ("user", "target", "candidates"):
        if not one[name].equals(other[name]):
            raise InputError(
                f"{first} and {second} differ in the column {name} of their ranks: they were "
                "evaluated on different splits or with different options, and cannot be compared"
            )
