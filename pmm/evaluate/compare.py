"""Two rankings of the same questions: the difference of their metrics, with a bootstrap interval.

Users are drawn again with replacement (`pmm.statistics.paired`), both rankings of all of a user's
questions together: of cold cuts a user may have several, which are not independent.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pmm.advice import command
from pmm.errors import InputError, MissingArtefact, PmmError
from pmm.evaluate.evaluate_options import CompareRequest, RankedPart
from pmm.evaluate.evaluation import ranks_file
from pmm.evaluate.metrics import CUTOFFS
from pmm.runs.loading import targets_of
from pmm.statistics.paired import DRAWS, LEVEL, drawn_means, tails, two_sided
from pmm.statistics.values import gains, hits
from pmm.storage.home import resolve_home
from pmm.storage.schemas import RANKS, read_table
from pmm.storage.seal import require_sealed
from pmm.text_table import text_table


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two rankings, as fractions; `low` and `high` bound the difference."""

    name: str
    first: float
    second: float
    low: float
    high: float
    p: float | None = None
    """How often chance alone would differ so much; None where no draws said it."""

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


def compare_as_asked(request: CompareRequest) -> list[Difference]:
    """The differences of two runs that a request names; raises as `compare_runs`."""
    home = resolve_home(request.home)
    one, other = (home.find_run(each) for each in (request.first, request.second))
    target = home.find_target(request.target) if request.target else None
    return compare_runs(one, other, asked=request.split, target=target, seed=request.seed)


def compare_runs(
    first: Path,
    second: Path,
    *,
    asked: RankedPart = "test",
    target: str | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[Difference]:
    """Compare the ranks that `pmm evaluate` wrote into two runs' folders.

    Args:
        first: a run's folder.
        second: another one's.
        asked: which of their evaluations.
        target: which dataset they ranked; None = each its own.
        seed: of the draws.
        draws: of as many users as there are.

    Raises:
        MissingArtefact: one has not been evaluated. InputError: they ranked different splits.
    """
    tables = [read_ranks(run, asked, target) for run in (first, second)]
    require_same_questions(first, second, *tables)
    ranks = [table["rank"].to_numpy() for table in tables]
    return compare_ranks(*ranks, user_Q=tables[0]["user"].to_numpy(), seed=seed, draws=draws)


def read_ranks(run: Path, asked: RankedPart, target: str | None) -> pa.Table:
    """The ranks that `pmm evaluate` wrote into a run's folder (schemas.RANKS); arguments as of
    `compare_runs`.

    Raises:
        MissingArtefact: it has not been evaluated. BrokenArtefact: the file is damaged.
        InputError: it was trained on several sources, and none is named.
    """
    path = run / ranks_file(run, asked, target)
    if not path.is_file():
        require_one_target(run, target)
        split, cold = "valid" if asked == "valid" else None, asked not in ("test", "valid")
        again = command("evaluate", run.absolute(), split=split, cold=cold, target=target)
        raise MissingArtefact(f"{path} is not there. Run: {again}")
    require_sealed(path, again=f"Run: {command('evaluate', run.absolute())}")
    return read_table(path, RANKS)


def require_one_target(run: Path, target: str | None) -> None:
    """Refuse a run on several sources whose evaluation is asked for without naming one of them.

    Raises:
        InputError: names the sources.
    """
    try:
        names = targets_of(run) if target is None else []
    except PmmError:  # the caller's message says what is missing
        return
    if len(names) > 1:
        raise InputError(f"{run} was trained on {', '.join(names)}: say which one with --target")


def compare_ranks(
    first_Q: NDArray[Any],
    second_Q: NDArray[Any],
    *,
    user_Q: NDArray[Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[Difference]:
    """The differences of all metrics of two rankings of the same Q questions.

    Args:
        first_Q: ranks, 1 is best.
        second_Q: the other ranks of the same questions.
        user_Q: who is asked; None: each question is another user's.
        seed: of the draws.
        draws: of as many users as there are.

    >>> one, two = np.array([1, 11, 30, 2]), np.array([1, 5, 60, 2])
    >>> hr = compare_ranks(one, two)[0]
    >>> hr.name, hr.first, hr.second, hr.low <= hr.difference <= hr.high
    ('hr@10', 0.5, 0.75, True)
    """
    beyond = max(CUTOFFS) + 1
    gain_of = _gains(beyond)
    first_MQ, second_MQ = (
        np.stack([gain[np.minimum(rank_Q, beyond)] for gain in gain_of.values()])
        for rank_Q in (first_Q, second_Q)
    )
    _, index_Q = np.unique(
        np.arange(len(first_Q)) if user_Q is None else user_Q, return_inverse=True
    )
    sums = [np.bincount(index_Q, weights=each_Q) for each_Q in second_MQ - first_MQ]
    drawn = drawn_means(np.stack([np.bincount(index_Q), *sums], 1), seed, draws)
    low, high = np.percentile(drawn, tails(LEVEL), axis=0)
    first_M, second_M = first_MQ.mean(1).tolist(), second_MQ.mean(1).tolist()
    return [
        Difference(
            name=name,
            first=first_M[m],
            second=second_M[m],
            low=float(low[m]),
            high=float(high[m]),
            p=two_sided(drawn[:, m]),
        )
        for m, name in enumerate(gain_of)
    ]


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
    found = {f"hr@{k}": hits(rank, k) for k in CUTOFFS}
    return found | {f"ndcg@{k}": gains(rank, k) for k in CUTOFFS}


def require_same_questions(first: Path, second: Path, one: pa.Table, other: pa.Table) -> None:
    """Refuse the ranks of two runs that are not of the same users, items and options.

    Raises:
        InputError: names both runs.
    """
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
