"""Frozen vectors of a catalogue as a part of a model: looked up by an item's number.

Shape suffixes: I items, N items of the catalogue, F width of the vectors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pmm.model.features.item_features import ItemFeatures, Scaler


class VectorTable(nn.Module):
    """The vectors of items 1..N, all fields of an item behind one another.

    They never train and are no part of a checkpoint: the store gives them again, and the digest of
    their encoders, which a checkpoint has, refuses others.
    """

    feature_NF: Tensor

    def __init__(self, features: ItemFeatures | None) -> None:
        """Keep them.

        Raises:
            ValueError: there are none.
        """
        super().__init__()
        read = require_vectors(features)
        self.made_by = dict(read.made_by)
        self.widths = [each_NF.shape[1] for each_NF in read.fields]
        self._sides = tuple(read.made_by)
        self._scalers = read.scalers or tuple(Scaler() for _ in read.fields)
        self.register_buffer("feature_NF", read.joined(), persistent=False)

    @property
    def width(self) -> int:
        """F."""
        return sum(self.widths)

    def of_new(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """The rows [R, F] of items that the table does not have, from the encoders' own vectors
        ("text", "vision" -> [R, F], zeros where an item lacks it)."""
        like = self.feature_NF
        fields = [
            scaler(vectors[side], (vectors[side] != 0).any(1))
            for side, scaler in zip(self._sides, self._scalers, strict=True)
        ]
        return torch.cat(fields, dim=1).to(like)

    def forward(self, item_I: Tensor) -> Tensor:
        """The vectors [I, F] of items by number."""
        return self.feature_NF[item_I - 1]


def require_vectors(features: ItemFeatures | None) -> ItemFeatures:
    """The vectors, without which a model that reads them cannot be built.

    Raises:
        ValueError: they are not there.
    """
    if features is None:
        raise ValueError("the model reads frozen vectors of items: build it with `features_of`")
    return features
