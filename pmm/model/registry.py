"""The models that can be trained and evaluated, each by its options.

Training and evaluation ask all of them for the same: `encode_items`, `user_vectors`,
`item_vectors`, `scores_of_users` (None: a score is a dot product), a call with a batch that gives
the losses, `begin_epoch`, `settling`, `settle_gradients`, `max_length`, `options.modality`, and the
encoders `text` and `vision`, None where they have none.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch

from pmm.model.baselines.baseline import GRID, Baseline, BaselineOptions
from pmm.model.features.item_features import ItemFeatures, read_features
from pmm.model.pmmrec.pmmrec import Pmmrec, PmmrecOptions
from pmm.shards.read import Shards

ModelOptions: TypeAlias = PmmrecOptions | BaselineOptions
"""Told apart by their `name`; where it is not said they are PMMRec's."""

Recommender: TypeAlias = Pmmrec | Baseline


def build_model(
    options: ModelOptions,
    n_items: int,
    features: ItemFeatures | None = None,
    *,
    fresh: bool = True,
) -> Recommender:
    """A model with fresh weights, from torch's generator.

    Args:
        options: which, and of what.
        n_items: of the catalogue; a model on ids has a row for each.
        features: of the catalogue, where the model reads any (`features_of`).
        fresh: whether it is trained from here; False spares what a checkpoint will replace.
    """
    match options:
        case PmmrecOptions():
            return Pmmrec(options)
        case BaselineOptions():
            return Baseline(options, n_items, features, fresh=fresh)


def features_of(
    options: ModelOptions, parts: Sequence[Shards], device: torch.device | str = "cpu"
) -> ItemFeatures | None:
    """The frozen vectors that a model reads, computed and stored on first use; None: it reads none.

    Errors are those of `pmm.model.features.item_features.read_features`.
    """
    if isinstance(options, PmmrecOptions) or options.features == "none":
        return None
    return read_features(
        parts,
        features=options.features,
        text=options.text,
        vision=options.vision,
        scaling=options.scaling,
        device=device,
    )


def knows_ids(options: ModelOptions) -> bool:
    """Whether a model knows items by their numbers, so that it is good for one target only."""
    return isinstance(options, BaselineOptions) and GRID[options.name].knows_ids


def knows_items(options: ModelOptions) -> bool:
    """Whether a trained model holds something of each item: its vector, or its codes."""
    if not isinstance(options, BaselineOptions):
        return False
    return knows_ids(options) or options.transductive or GRID[options.name].items == "codes"
