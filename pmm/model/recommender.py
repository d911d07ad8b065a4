"""The models that can be trained and evaluated, each by its options.

Training and evaluation ask all of them for the same: `encode_items`, `user_vectors`,
`item_vectors`, a call with a batch that gives the losses, `max_length`, `options.modality`, and the
encoders `text` and `vision`, None where they have none.
"""

from typing import TypeAlias

from pmm.model.baseline import Baseline, BaselineOptions
from pmm.model.pmmrec import Pmmrec, PmmrecOptions

ModelOptions: TypeAlias = PmmrecOptions | BaselineOptions
"""Told apart by their `name`; where it is not said they are PMMRec's."""

Recommender: TypeAlias = Pmmrec | Baseline


def build_model(options: ModelOptions, n_items: int) -> Recommender:
    """A model with fresh weights, from torch's generator.

    Args:
        options: which, and of what.
        n_items: of the catalogue; a model on ids has a row for each.
    """
    match options:
        case PmmrecOptions():
            return Pmmrec(options)
        case BaselineOptions():
            return Baseline(options, n_items)


def knows_ids(options: ModelOptions) -> bool:
    """Whether a model knows items by their numbers, so that it is good for one target only."""
    return options.modality == "none"
