"""CARCA++: ids and frozen vectors, candidates scored by attention (Rashed et al. 2022).

Shape suffixes: I items, D width, B users, S = L + 1 slots, L inputs, R prediction rows.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from pmm.data.batch import Batch
from pmm.model.baselines.sequence_baseline import (
    TRAINING,
    Encoded,
    SequenceBaseline,
    check_options,
    given,
)
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.features.item_features import ItemFeatures, Scaling, vectors_of
from pmm.model.item_parts.item_table import ItemTable
from pmm.model.item_parts.vector_table import VectorTable
from pmm.model.losses.next_item import LogQ, Reject, predicted, softmax_over_slots
from pmm.model.model_entry import DEFAULT, ModelEntry, Settings
from pmm.model.protocol import ModelOptions, UserScores
from pmm.model.search_space import CONVOLUTION, CORRECTION, SIZES
from pmm.model.user_encoders.carca_attention import CarcaEncoder, CarcaHead, ItemMix
from pmm.shards.kinds import Modality


@dataclass(frozen=True, kw_only=True)
class CarcaOptions(ModelOptions):
    """What CARCA++ is made of; docs/paper.md, Baselines, has the sources of all values."""

    name: Literal["carca"] = "carca"
    width: int = 128
    """D, of items and users."""
    max_length: int = 20
    """L, the most recent items that are read (R32)."""
    dropout: float = 0.3
    table_std: float = 0.0
    """Of the table of ids at the start; 0: Xavier-normal, as in the published code."""
    mix_std: float = 0.0
    """Of the matrices that mix an item of id and vectors, and of the one that gives scores, at the
    start; 0: Xavier-uniform, as all others. 0.01 as published."""
    user_blocks: int = 2
    user_heads: int = 4
    user_convolution: int = 0
    """Items that a causal convolution in front of it reads at once; 0: there is none."""
    loss: Literal["in_batch", "bce"] = "in_batch"
    """"in_batch": PMMRec's softmax over the batch's slots. "bce": one drawn negative at each input,
    as published."""
    logq: LogQ = "off"
    reject: Reject = "same_ids"
    tau: float = 1.0
    """Of "in_batch": scores are divided by it."""
    text: TextSpec = field(default_factory=TextSpec)
    vision: VisionSpec = field(default_factory=VisionSpec)
    features: Modality = "both"
    """Whose frozen vectors are read."""
    scaling: Scaling = "standardise"
    """Of the frozen vectors, before anything reads them."""
    causal: bool = True
    """No position sees later items; False as published."""
    residual: bool = True
    """The score's multiplicative residual."""

    def __post_init__(self) -> None:
        blind = self.loss == "in_batch" and not self.causal
        fault = "carca: in_batch needs causal, as each position's target lies ahead"
        check_options(self, {"mix_std": 0}, faults=[fault] if blind else [])

    @property
    def content(self) -> Modality:
        """As frozen vectors."""
        return self.features

    @property
    def knows_items(self) -> bool:
        """Each by its row of the table."""
        return True


class Carca(SequenceBaseline):
    """Ids mixed with frozen vectors; a candidate is scored by its attention to the profile."""

    options: CarcaOptions

    def __init__(self, options: CarcaOptions, n_items: int, features: ItemFeatures | None) -> None:
        super().__init__(options, n_items)
        heads, dropout = options.user_heads, options.dropout
        self.items = ItemTable(n_items, self.width, std=options.table_std)
        self.vectors = VectorTable(features)
        self.frozen_by = self.vectors.made_by
        self.mix = ItemMix(self.width, self.vectors.width, std=options.mix_std)
        self.head = CarcaHead(
            self.width,
            heads=heads,
            dropout=dropout,
            residual=options.residual,
            causal=options.causal,
            std=options.mix_std,
        )
        self.user_encoder = CarcaEncoder(
            self.width,
            blocks=options.user_blocks,
            heads=heads,
            dropout=dropout,
            causal=options.causal,
            convolution=options.user_convolution,
        )

    def of_numbers(self, item_I: Tensor) -> Tensor:
        """The item as it stands in a profile, then as a candidate, [I, 2 D]."""
        return torch.cat(self.mix(self.items.table(item_I), self.vectors(item_I)), dim=1)

    def encode_users(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """The user's profile [B, L, D]; zeros at padding."""
        profile_BLD: Tensor = self.user_encoder(e_BLW[:, :, : self.width], valid_BL)
        return profile_BLD

    def item_vectors(self, e_IW: Tensor) -> Tensor:
        """What the head reads of candidates, [I, D]."""
        return e_IW[:, self.width :]

    @property
    def scores_of_users(self) -> UserScores:
        """The head's scores at the last position: no vector of the user alone would do."""

        def scores(e_BLW: Tensor, valid_BL: Tensor, item_ID: Tensor) -> Tensor:
            return self.head.last_scores(self.encode_users(e_BLW, valid_BL), valid_BL, item_ID)

        return scores

    @property
    def temperature(self) -> float:
        """Of the loss that divides by one."""
        return 1.0 if self.options.loss == "bce" else self.options.tau

    def loss(self, batch: Batch, generator: Generator | None = None) -> Tensor:
        """The loss of the next item at each input, a float32 scalar.

        Args:
            batch: sequences over distinct items.
            generator: of drawn negatives ("bce"), on the batch's device.
        """
        found = self.encode_batch(batch)
        if self.options.loss == "bce":
            return self._pairs(found, batch, given(generator))
        valid_BL = batch.slot_BS[:, :-1] > 0
        z_BLI = self.head.scores(found.user_BLD, valid_BL, self.item_vectors(found.item_IW))
        z_RI = z_BLI[predicted(batch.slot_BS)] / self.options.tau
        return softmax_over_slots(
            z_RI,
            batch.slot_BS,
            batch.log_p_I,
            logq=self.options.logq,
            reject=self.options.reject,
        )

    def _pairs(self, found: Encoded, batch: Batch, generator: Generator) -> Tensor:
        """The published loss: the next item and a drawn one at each input."""
        known_IW, negative_BL = self.with_negatives(found.item_IW, batch, generator)
        slot_BS, known_ID = batch.slot_BS, self.item_vectors(known_IW)
        valid_BL, row_BL = slot_BS[:, :-1] > 0, predicted(slot_BS)
        next_BLD, drawn_BLD = (
            functional.pad(known_ID, (0, 0, 1, 0))[each] for each in (slot_BS[:, 1:], negative_BL)
        )
        z_R = self.head.pair_scores(found.user_BLD, valid_BL, next_BLD)[row_BL]
        other_R = self.head.pair_scores(found.user_BLD, valid_BL, drawn_BLD)[row_BL]
        total = functional.softplus(-z_R) + functional.softplus(other_R)
        return total.sum() / max(1, len(z_R))


ENTRY = ModelEntry(
    knows_by="ids and frozen vectors",
    settings={
        DEFAULT: Settings(options=CarcaOptions(), training=TRAINING),
        "original": Settings(
            options=CarcaOptions(
                width=390,
                max_length=35,
                mix_std=0.01,
                user_blocks=3,
                user_heads=3,
                loss="bce",
                scaling="none",
                causal=False,
                residual=False,
            ),
            training={
                **TRAINING,
                "batch_users": 128,
                "lr": 1e-4,
                "weight_decay": 1e-4,
                "beta2": 0.98,
            },
        ),
    },
    space={**SIZES, **CORRECTION, **CONVOLUTION},
    build=lambda options, inputs: Carca(options, inputs.n_items, inputs.features),
    read_vectors=vectors_of,
)
