"""A model from its options, and the frozen vectors that it reads."""

from collections.abc import Sequence

import torch

from pmm.arrays import Int64s
from pmm.model import registry
from pmm.model.features.item_features import ItemFeatures
from pmm.model.model_entry import BuildInputs
from pmm.model.protocol import ModelOptions, Recommender
from pmm.shards.read import Shards


def build_model(
    options: ModelOptions,
    n_items: int,
    features: ItemFeatures | None = None,
    *,
    fresh: bool = True,
    train_count: Int64s | None = None,
) -> Recommender:
    """A model with fresh weights, from torch's generator.

    Args:
        options: which, and of what.
        n_items: of the catalogue; a model on ids has a row for each.
        features: of the catalogue, where the model reads any (`features_of`).
        fresh: whether it is trained from here; False spares what a checkpoint will replace.
        train_count: int64 [n_items], how often each item occurs in the training parts; None: nobody
            says, and no item counts as rare.
    """
    inputs = BuildInputs(n_items=n_items, features=features, fresh=fresh, train_count=train_count)
    return registry.entry(options.name).build(options, inputs)


def features_of(
    options: ModelOptions, parts: Sequence[Shards], device: torch.device | str = "cpu"
) -> ItemFeatures | None:
    """The frozen vectors that a model reads, computed and stored on first use; None: it reads none.

    Errors are those of `pmm.model.features.item_features.read_features`.
    """
    return registry.entry(options.name).read_vectors(options, parts, device)
