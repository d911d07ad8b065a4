"""Items from frozen vectors: a small network over what whole encoders make of texts and pictures.

Nothing of an encoder runs while training, so an epoch takes seconds where fine-tuned encoders take
minutes. Unlike the baselines on frozen vectors, both modalities may be read, one may be missing,
and the statistics of the vectors are weights: they go with a transfer, and new items are read by
those of the training.

Shape suffixes: I items, N items of the catalogue, F width of the frozen vectors, M width inside, D
width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.model.features.frozen_vectors import standardise
from pmm.model.features.item_features import ItemFeatures

INNER = 256
"""M."""


class VectorInput(nn.Module):
    """One modality: frozen vectors of the catalogue, standardised, through a linear layer."""

    vector_NF: Tensor
    has_N: Tensor

    def __init__(self, vector_NF: Tensor, trained_N: Tensor) -> None:
        """Take a modality's vectors.

        Args:
            vector_NF: zeros for items that lack it. They are no part of a checkpoint.
            trained_N: bool, items whose statistics count.
        """
        super().__init__()
        has_N = (vector_NF != 0).any(1)
        self.register_buffer("vector_NF", vector_NF, persistent=False)
        self.register_buffer("has_N", has_N, persistent=False)
        mean_F, scale_F = standardise(vector_NF, has_N & trained_N)
        self.mean_F = nn.Parameter(mean_F, requires_grad=False)
        self.scale_F = nn.Parameter(scale_F, requires_grad=False)
        self.linear = nn.Linear(vector_NF.shape[1], INNER)

    def forward(self, item_I: Tensor) -> Tensor:
        """Items by number -> [I, M], zeros for those that lack the modality."""
        return self.of_vectors(self.vector_NF[item_I - 1], self.has(item_I))

    def has(self, item_I: Tensor) -> Tensor:
        """bool [I]: which items have the modality."""
        return self.has_N[item_I - 1]

    def of_vectors(self, x_IF: Tensor, has_I: Tensor) -> Tensor:
        """The same of vectors that are given, as of an item that the catalogue does not have."""
        inner_IM: Tensor = self.linear((x_IF - self.mean_F) / self.scale_F)
        return inner_IM.masked_fill(~has_I[:, None], 0.0)


class VectorHead(nn.Module):
    """The sum over the modalities -> GELU, dropout, linear layer, LayerNorm: the item's vector."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(INNER, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, *inner_IM: Tensor) -> Tensor:
        """[I, D]; finite for an item that lacks all of its modalities."""
        summed_IM = torch.stack(inner_IM).sum(0)
        vector_ID: Tensor = self.norm(self.out(self.dropout(functional.gelu(summed_IM))))
        return vector_ID


def vector_inputs(features: ItemFeatures | None) -> list[VectorInput]:
    """One for each modality that the features have, text first.

    Raises:
        ValueError: there are no features.
    """
    if features is None:
        raise ValueError('items = "vectors" needs frozen vectors: build it with `features_of`')
    return [VectorInput(field_NF, features.trained_N) for field_NF in features.fields]
