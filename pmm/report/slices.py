"""Users in classes, and the metrics of each: from the ranks of every run alone.

Shape legend: U users of a target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pmm.evaluate.metrics import BUCKETS, measure
from pmm.report.systems import System
from pmm.shards.kinds import Split

LENGTHS: tuple[tuple[str, int, int | None], ...] = (
    ("1-4", 1, 4),
    ("5-9", 5, 9),
    ("10-19", 10, 19),
    ("20-49", 20, 49),
    ("50+", 50, None),
)
"""Lengths of histories: name, fewest and most items."""


Classes = Mapping[str, NDArray[np.bool_]]
"""Name of a class of users -> who is in it, bool [U]."""


@dataclass(frozen=True, kw_only=True)
class Sliced:
    """The metrics of a system's runs in each class of users, with one share of popularity."""

    system: System
    share: str
    names: Sequence[str]
    """Of the classes."""
    users: Sequence[int]
    """In each class."""
    summaries: Sequence[Sequence[Mapping[str, Any]]]
    """For each class those of all runs."""


def slice_systems(systems: Sequence[System], classes: Classes) -> list[Sliced]:
    """The metrics of all systems in each class, without and with the chosen share of popularity."""
    found = []
    for system in systems:
        for share in ("none", "chosen"):
            if all(share in each.ranks for _, each in system.runs):
                ranks = [each.ranks[share]["rank"].to_numpy() for _, each in system.runs]
                found.append(
                    Sliced(
                        system=system,
                        share=share,
                        names=list(classes),
                        users=[int(inside_U.sum()) for inside_U in classes.values()],
                        summaries=[
                            [measure(rank_U[inside_U]) for rank_U in ranks]
                            for inside_U in classes.values()
                        ],
                    )
                )
    return found


def by_occurrences(ranks: pa.Table) -> Classes:
    """By how often the target occurs in the training part (schemas.RANKS)."""
    return _classes(ranks["train_count"].to_numpy(), BUCKETS)


def by_length(history_U: NDArray[np.int64]) -> Classes:
    """By the number of items before the target."""
    return _classes(history_U, LENGTHS)


def _classes(value_U: NDArray[Any], bounds: Sequence[tuple[str, int, int | None]]) -> Classes:
    return {
        name: (value_U >= low) & (value_U <= (np.inf if high is None else high))
        for name, low, high in bounds
    }


def history_lengths(sequences: pa.Table, split: Split) -> NDArray[np.int64]:
    """How many items each user had before the target. int64 [U]"""
    train_U = np.diff(_offsets(sequences)).astype(np.int64)
    return train_U + (split == "test")


def repeated_targets(sequences: pa.Table, split: Split) -> NDArray[np.bool_]:
    """Whether each user had the target before. bool [U]

    Args:
        sequences: schemas.SEQUENCES.
        split: which item is the target.
    """
    target_U = sequences[split].to_numpy()
    offsets = _offsets(sequences)
    user_I = np.repeat(np.arange(len(target_U)), np.diff(offsets))
    values = sequences["train"].combine_chunks().flatten().to_numpy()
    found_U = np.zeros(len(target_U), dtype=np.bool_)
    found_U[user_I[values == target_U[user_I]]] = True
    if split == "test":
        found_U |= sequences["valid"].to_numpy() == target_U
    return found_U


def _offsets(sequences: pa.Table) -> NDArray[Any]:
    lengths = pc.list_value_length(sequences["train"]).to_numpy()
    offsets: NDArray[Any] = np.concatenate([[0], np.cumsum(lengths)])
    return offsets
