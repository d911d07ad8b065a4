"""UniSRec: frozen vectors of texts through a mixture of experts (Hou et al. 2022).

Shape suffixes: I items, D width, B users, S = L + 1 slots, L inputs, W what is read of an item.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from pmm.data.batch import Batch
from pmm.model.baselines.next_item_baseline import Loss, NextItemBaseline
from pmm.model.baselines.sequence_baseline import SAMPLES, TRAINING, Encoded, check_options
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.features.item_features import ItemFeatures, Scaling, vectors_of
from pmm.model.item_parts.adaptor import MixtureAdaptor
from pmm.model.item_parts.item_table import ItemTable
from pmm.model.item_parts.vector_table import VectorTable
from pmm.model.losses.next_item import LogQ, Reject, Similarity
from pmm.model.losses.of_baselines import SameTarget, sequence_softmax
from pmm.model.model_entry import DEFAULT, Asked, ModelEntry, Settings
from pmm.model.protocol import ModelOptions
from pmm.model.search_space import SIZES, TEMPERATURE, USER_ENCODER
from pmm.model.user_encoders.choice import (
    AnyUserEncoder,
    UserEncoderOptions,
    freeze_but_input_norm,
    make_user_encoder,
)
from pmm.shards.kinds import Modality

SEQUENCE_WEIGHT = 1e-3
"""Of the contrast of sequences in pre-training, as published."""


@dataclass(frozen=True, kw_only=True)
class UnisrecOptions(UserEncoderOptions, ModelOptions):
    """What UniSRec is made of; docs/paper.md, Baselines, has the sources of all values."""

    name: Literal["unisrec"] = "unisrec"
    width: int = 128
    """D, of items and users."""
    max_length: int = 20
    """L, the most recent items that are read (R32)."""
    dropout: float = 0.2
    table_std: float = 0.02
    """Of the vectors of its own that `transductive` gives each item, at the start."""
    user_blocks: int = 2
    user_heads: int = 2
    inner: int = 256
    """Width of the feed-forward layers."""
    loss: Loss = "full"
    logq: LogQ = "off"
    reject: Reject = "same_ids"
    similarity: Similarity = "cosine"
    tau: float = 0.07
    text: TextSpec = field(default_factory=TextSpec)
    vision: VisionSpec = field(default_factory=VisionSpec)
    features: Modality = "text"
    """Whose frozen vectors are read."""
    scaling: Scaling = "none"
    """Of the frozen vectors, before anything reads them."""
    transductive: bool = False
    """A vector of its own for each item is added to the adaptor's."""
    same_target: SameTarget = "masked"
    sequence_weight: float = 0.0
    """Of "cosine": weight of the contrast of a sequence with one that lost items."""
    freeze_users: bool = False
    """The user encoder's positions and blocks do not train."""

    def __post_init__(self) -> None:
        check_options(self, {"sequence_weight": 0})

    @property
    def content(self) -> Modality:
        """As frozen vectors."""
        return self.features

    @property
    def knows_items(self) -> bool:
        """Where each has a vector of its own."""
        return self.transductive


class Unisrec(NextItemBaseline):
    """What a mixture of whitening experts makes of frozen vectors, read by a Transformer."""

    options: UnisrecOptions
    user_encoder: AnyUserEncoder

    def __init__(
        self, options: UnisrecOptions, n_items: int, features: ItemFeatures | None
    ) -> None:
        super().__init__(options, n_items)
        self.items: ItemTable | None = None
        if options.transductive:
            self.items = ItemTable(n_items, self.width, std=options.table_std)
        self.vectors = VectorTable(features)
        self.frozen_by = self.vectors.made_by
        self.adaptor = MixtureAdaptor(self.vectors.width, self.width)
        self.user_encoder = make_user_encoder(
            options,
            self.width,
            max_length=options.max_length,
            blocks=options.user_blocks,
            heads=options.user_heads,
            inner=options.inner,
            dropout=options.dropout,
        )
        if options.freeze_users:
            freeze_but_input_norm(self.user_encoder)

    def encode_vectors(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Items that the catalogue does not have, [R, D]; arguments as of `Recommender`."""
        made_RD: Tensor = self.adaptor(self.vectors.of_new(vectors))
        return made_RD

    def of_numbers(self, item_I: Tensor) -> Tensor:
        """The adaptor's vectors, with `transductive` the items' own added; [I, D]."""
        made_ID: Tensor = self.adaptor(self.vectors(item_I))
        return made_ID if self.items is None else made_ID + self.items.table(item_I)

    def user_vectors(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """The hidden state at the last position, [B, D]; the last block computes no other."""
        hidden_B1D: Tensor = self.user_encoder(e_BLW, valid_BL, last=True)
        return hidden_B1D[:, 0]

    def cosine_loss(self, found: Encoded, batch: Batch, generator: Generator) -> Tensor:
        """The contrast with items, and with a weight that of sequences with shorter ones."""
        loss, weight = super().cosine_loss(found, batch, generator), self.options.sequence_weight
        if not weight:
            return loss
        shorter_BLW, valid_BL = dropped(found.e_BLW, batch.slot_BS[:, :-1] > 0, generator)
        augmented_BLD = self.encode_users(shorter_BLW, valid_BL)
        some_B = batch.slot_BS[:, -2] > 0
        contrast = sequence_softmax(
            found.user_BLD[some_B, -1],
            augmented_BLD[some_B, -1],
            batch.slot_BS[some_B, -1] - 1,
            tau=self.options.tau,
            same_target=self.options.same_target,
        )
        return loss + weight * contrast


def dropped(
    e_BLW: Tensor, valid_BL: Tensor, generator: Generator, keep: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Windows that lost items, those left moved to the right, and which places hold one.

    Each item but a window's first is kept with the probability `keep` (UniSRec's item drop).
    """
    draw_BL = torch.rand(valid_BL.shape, generator=generator, device=generator.device)
    first_BL = valid_BL & (valid_BL.cumsum(1) == 1)
    kept_BL = valid_BL & ((draw_BL.to(valid_BL.device) < keep) | first_BL)
    order_BL = kept_BL.int().argsort(dim=1, stable=True)
    left_BL = kept_BL.gather(1, order_BL)
    moved_BLW = e_BLW.gather(1, order_BL[:, :, None].expand_as(e_BLW))
    return moved_BLW * left_BL[:, :, None], left_BL


def at_stage(options: UnisrecOptions, asked: Asked) -> UnisrecOptions:
    """Sequences are compared with a batch's targets first, with all items of the target later.

    Then the user encoder's positions and blocks are frozen; as published, items get vectors of
    their own.
    """
    if asked.stage == "scratch":
        return options
    after = asked.stage == "finetune"
    return replace(
        options,
        loss="full" if after else "cosine",
        sequence_weight=0.0 if after else SEQUENCE_WEIGHT,
        freeze_users=after,
        transductive=after and (asked.preset == "original" or options.transductive),
    )


ENTRY = ModelEntry(
    knows_by="frozen vectors",
    settings={
        DEFAULT: Settings(options=UnisrecOptions(), training=TRAINING),
        "original": Settings(
            options=UnisrecOptions(
                width=300,
                max_length=50,
                dropout=0.5,
                transductive=True,
                same_target="official",
            ),
            training={**TRAINING, "batch_users": SAMPLES, "weight_decay": 0.0},
        ),
    },
    space={**SIZES, **TEMPERATURE, **USER_ENCODER},
    build=lambda options, inputs: Unisrec(options, inputs.n_items, inputs.features),
    read_vectors=vectors_of,
    transfers={"full": ("adaptor", "user_encoder")},
    at_stage=at_stage,
)
