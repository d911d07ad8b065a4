"""FDSA: one Transformer over ids, one over frozen vectors (Zhang et al. 2019).

Shape suffixes: I items, D width, B users, L positions, F width of the frozen vectors.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pmm.model.baselines.next_item_baseline import Loss, NextItemBaseline
from pmm.model.baselines.sequence_baseline import SAMPLES, TRAINING, check_options
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.features.item_features import ItemFeatures, Scaling, vectors_of
from pmm.model.item_parts.item_table import ItemTable
from pmm.model.item_parts.vector_table import VectorTable
from pmm.model.losses.next_item import LogQ, Reject, Similarity
from pmm.model.losses.of_baselines import SameTarget
from pmm.model.model_entry import DEFAULT, ModelEntry, Settings
from pmm.model.protocol import ModelOptions
from pmm.model.search_space import CONVOLUTION, IN_BATCH, POSITIONS, SIZES
from pmm.model.user_encoders.fdsa_encoder import FdsaEncoder
from pmm.model.user_encoders.transformer import UserPositions
from pmm.shards.kinds import Modality


@dataclass(frozen=True, kw_only=True)
class FdsaOptions(ModelOptions):
    """What FDSA is made of; docs/paper.md, Baselines, has the sources of all values."""

    name: Literal["fdsa"] = "fdsa"
    width: int = 128
    """D, of items and users."""
    max_length: int = 20
    """L, the most recent items that are read (R32)."""
    dropout: float = 0.1
    table_std: float = 0.02
    """As of SASRec."""
    user_blocks: int = 2
    """Of each of the two Transformers."""
    user_heads: int = 2
    inner: int = 256
    """Width of the feed-forward layers."""
    user_positions: UserPositions = "absolute"
    """Of both streams, as of SASRec; the same of the next."""
    user_convolution: int = 0
    """Items that a causal convolution in front of each reads at once; 0: there is none."""
    loss: Loss = "in_batch"
    logq: LogQ = "off"
    reject: Reject = "same_ids"
    similarity: Similarity = "dot"
    tau: float = 1.0
    text: TextSpec = field(default_factory=TextSpec)
    vision: VisionSpec = field(default_factory=VisionSpec)
    features: Modality = "text"
    """Whose frozen vectors are read."""
    scaling: Scaling = "standardise"
    """Of the frozen vectors, before anything reads them."""
    same_target: SameTarget = "masked"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def content(self) -> Modality:
        """As frozen vectors."""
        return self.features

    @property
    def knows_items(self) -> bool:
        """Each by its row of the table."""
        return True


class Fdsa(NextItemBaseline):
    """A row of a table beside what a layer makes of the frozen vectors; a stream for each."""

    options: FdsaOptions
    user_encoder: FdsaEncoder

    def __init__(self, options: FdsaOptions, n_items: int, features: ItemFeatures | None) -> None:
        super().__init__(options, n_items)
        self.items = ItemTable(n_items, self.width, std=options.table_std)
        self.vectors = VectorTable(features)
        self.frozen_by = self.vectors.made_by
        self.user_encoder = FdsaEncoder(
            self.width,
            fields=self.vectors.widths,
            max_length=options.max_length,
            blocks=options.user_blocks,
            heads=options.user_heads,
            inner=options.inner,
            dropout=options.dropout,
            positions=options.user_positions,
            convolution=options.user_convolution,
        )

    def of_numbers(self, item_I: Tensor) -> Tensor:
        """The id's vector, then the features', [I, 2 D]: each item is embedded once a batch."""
        fields_IF = torch.split(self.vectors(item_I), self.vectors.widths, dim=1)
        embedded_ID = self.user_encoder.embed_features(fields_IF)
        return torch.cat([self.items.table(item_I), embedded_ID], dim=1)

    def encode_users(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D] of left-padded windows of items; zeros at padding."""
        e_BLD, feature_BLD = e_BLW.chunk(2, dim=2)
        return self.user_encoder.join_streams(e_BLD, feature_BLD, valid_BL)


ENTRY = ModelEntry(
    knows_by="ids and frozen vectors",
    settings={
        DEFAULT: Settings(options=FdsaOptions(), training=TRAINING),
        "original": Settings(
            options=FdsaOptions(width=64, max_length=50, dropout=0.5, loss="full", scaling="none"),
            training={**TRAINING, "batch_users": SAMPLES, "weight_decay": 0.0},
        ),
    },
    space={**SIZES, **IN_BATCH, **POSITIONS, **CONVOLUTION},
    build=lambda options, inputs: Fdsa(options, inputs.n_items, inputs.features),
    read_vectors=vectors_of,
)
