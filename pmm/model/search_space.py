"""What `pmm tune` may search of a model: intervals of numbers, and choices of values.

A model's entry names its own space; what several have in common stands here.

Learning rates: the published code on ids searches 5e-5 to 1e-3; VQ-Rec's goes to 3e-3, and the
defaults should not stand at the edge. With encoders: 1e-4 for both in PMMRec's code, 5e-5 for the
encoders in MoRec's. Widths: that code searches 512 to 4096 on far more items; 64 to 768 here, 768
being PMMRec's. Dropout: 0.1 in that code, 0.2 and 0.5 in SASRec's, 0 and 0.3 in those of GRU4Rec,
0.3 to 0.5 in CARCA's. Weight decay: 0.1 in that code, 0.01 in MoRec's, none in the original ones.
Cosine: tau is 0.07 in UniSRec's and VQ-Rec's, 0.05 in later work (docs/paper.md R16); without it
tau is 1 and only scales the vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Numbers from low to high, drawn by their logarithm and kept with three digits."""

    low: float
    high: float
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Other values with which it counts; with others it is not searched, and stays as it was."""
    instead_of_zero: str = ""
    """Where 0 stands for a value that follows from others: the property of the model's options that
    has it."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """As of `Interval`."""


Space: TypeAlias = dict[str, Interval | Choice]
"""Recipe value (train.lr) -> what is searched."""

DECAY = Choice(values=(0.0, 0.01, 0.1))
DROPOUT = Choice(values=(0.0, 0.1, 0.2, 0.3, 0.5))
LOGQ = ("on", "off", "corrected")
TAU = Interval(low=0.03, high=0.3)

_COMPARED = ("in_batch", "full")
"""Losses that ask for the similarity of users and items."""

RATES: Space = {"train.lr": Interval(low=5e-5, high=5e-3), "train.weight_decay": DECAY}
"""Of every model without encoders."""
WIDTH: Space = {"model.width": Choice(values=(64, 128, 256, 512, 768))}
SIZES: Space = {**RATES, **WIDTH, "model.dropout": DROPOUT}
TEMPERATURE: Space = {
    "model.tau": replace(TAU, only={"model.similarity": ("cosine",), "model.loss": _COMPARED})
}
CORRECTION: Space = {"model.logq": Choice(values=LOGQ, only={"model.loss": ("in_batch",)})}
IN_BATCH: Space = {
    "model.loss": Choice(values=_COMPARED),
    "model.similarity": Choice(values=("dot", "cosine"), only={"model.loss": _COMPARED}),
    **TEMPERATURE,
    **CORRECTION,
}
"""The softmax over the batch's items or the whole catalogue: how it compares and corrects."""

CONVOLUTION: Space = {"model.user_convolution": Choice(values=(0, 3))}
_POSITIONS = Choice(values=("absolute", "rope"))
POSITIONS: Space = {"model.user_positions": _POSITIONS}
"""Of models whose user encoder has positions whatever is chosen."""
USER_ENCODER: Space = {
    "model.user_encoder": Choice(values=("transformer", "gru", "nextitnet", "hstu")),
    "model.user_positions": replace(
        _POSITIONS, only={"model.user_encoder": ("transformer", "hstu")}
    ),
    **CONVOLUTION,
    "model.user_norm": Choice(
        values=("post", "pre"), only={"model.user_encoder": ("transformer",)}
    ),
}
"""What reads a user's items, the same for every model that lets choose."""
