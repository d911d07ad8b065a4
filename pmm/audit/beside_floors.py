"""What needs no training, on new test items alone and beside a run.

Shape legend: U users.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pmm.advice import command
from pmm.arrays import Int32s
from pmm.audit.split_questions import SplitQuestions, floor_ranks
from pmm.errors import InputError, MissingArtefact
from pmm.evaluate.compare import Difference, compare_ranks
from pmm.evaluate.evaluation import ranks_file
from pmm.evaluate.metrics import measure
from pmm.evaluate.ranking import count_candidates
from pmm.storage.schemas import RANKS, read_table
from pmm.storage.seal import require_sealed


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Test items that the user has had before. Fractions."""

    users: int
    share: float
    new: dict[str, dict[str, Any]]
    """Floor -> its metrics of the other users."""


@dataclass(frozen=True, kw_only=True)
class BesideFloor:
    """A run beside what needs no training: the run's metric, the floor's, and the difference."""

    floor: str
    differences: list[Difference]
    """Of the floor (first) and the run (second), for each metric."""


def repeats_of(asked: SplitQuestions, ranks: dict[str, Int32s]) -> Repeats:
    """Whose test item stands in the history, and the floors' metrics of the others."""
    repeated_U = asked.queries.repeated()
    return Repeats(
        users=int(repeated_U.sum()),
        share=float(repeated_U.mean()),
        new={floor: measure(rank_U[~repeated_U]) for floor, rank_U in ranks.items()},
    )


def beside_run(run: Path, target: str, asked: SplitQuestions, seed: int) -> list[BesideFloor]:
    """A run's ranks of the target's test items beside those of the floors.

    Args:
        run: the run's folder.
        target: that it ranked.
        asked: its test questions.
        seed: of the bootstrap.

    Raises:
        MissingArtefact: it has not been evaluated. InputError: it ranked other test items.
    """
    path = run / ranks_file(run, "test", target)
    again = command("evaluate", run.absolute(), target=target)
    if not path.is_file():
        raise MissingArtefact(f"{path} is not there. Run: {again}")
    require_sealed(path, again=f"Run: {again}")
    table = read_table(path, RANKS)
    if not np.array_equal(table["target"].to_numpy(), asked.queries.target_U):
        raise InputError(
            f"{run} ranked other test items than {target} has now. Train and evaluate it again, or "
            "name the target that it ranked"
        )
    keep = bool((table["candidates"].to_numpy() == asked.n_items).all()) and bool(
        (count_candidates(asked.queries, asked.n_items) < asked.n_items).any()
    )
    rank_U = table["rank"].to_numpy()
    return [
        BesideFloor(floor=floor, differences=compare_ranks(floor_U, rank_U, seed=seed))
        for floor, floor_U in floor_ranks(asked, keep_history=keep).items()
    ]
