"""VQ-Rec: items as codes of frozen vectors of their texts (Hou et al. 2023).

Shape suffixes: I items, N items of the catalogue, K codes of an item, R prediction rows, or rows of
the table of codes; D width, B users, L positions.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from pmm.data.batch import Batch
from pmm.model.baselines.next_item_baseline import Loss, NextItemBaseline
from pmm.model.baselines.sequence_baseline import SAMPLES, TRAINING, check_options
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.features.item_features import ItemFeatures, Scaling, vectors_of
from pmm.model.features.quantise import learn_codes, learn_codes_faiss
from pmm.model.item_parts.code_items import CodeItems, CodePermutation, fake_codes
from pmm.model.item_parts.vector_table import require_vectors
from pmm.model.losses.next_item import LogQ, Reject, Similarity
from pmm.model.losses.of_baselines import PredictionRows, SameTarget
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

CodeOrder = Literal["none", "straight", "official"]


@dataclass(frozen=True, kw_only=True)
class VqrecOptions(UserEncoderOptions, ModelOptions):
    """What VQ-Rec is made of; docs/paper.md, Baselines, has the sources of all values."""

    name: Literal["vqrec"] = "vqrec"
    width: int = 128
    """D, of items and users."""
    max_length: int = 20
    """L, the most recent items that are read (R32)."""
    dropout: float = 0.2
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
    """Whose frozen vectors are turned into codes."""
    scaling: Scaling = "none"
    """Of the frozen vectors, before codes are learned."""
    same_target: SameTarget = "masked"
    fake_ratio: float = 0.75
    """Of "cosine": the probability with which a digit of a synthetic negative is drawn anew."""
    parts: int = 32
    """Codes of an item."""
    centroids: int = 256
    """Values of a code."""
    quantiser: Literal["own", "faiss"] = "own"
    """What learns the codes; "faiss" as published, which must be installed."""
    permutation: CodeOrder = "none"
    """Whether the first epochs learn which code's vector each code of this catalogue gets;
    "official" as published, where nothing is learned (`pmm.model.item_parts.code_items`)."""
    permutation_epochs: int = 5
    """How many epochs; nothing else trains in them."""
    freeze_users: bool = False
    """The user encoder's positions and blocks do not train."""

    def __post_init__(self) -> None:
        faults = [] if 0 <= self.fake_ratio <= 1 else ["fake_ratio must be from 0 to 1"]
        check_options(self, {"parts": 1, "centroids": 2, "permutation_epochs": 0}, faults)

    @property
    def content(self) -> Modality:
        """As frozen vectors."""
        return self.features

    @property
    def knows_items(self) -> bool:
        """Each by its codes, which were learned on one catalogue."""
        return True


class Vqrec(NextItemBaseline):
    """Means of codes' vectors, read by a Transformer."""

    options: VqrecOptions
    user_encoder: AnyUserEncoder
    permuted: Tensor
    """Whether the order of the codes is fixed."""

    def __init__(
        self,
        options: VqrecOptions,
        n_items: int,
        features: ItemFeatures | None,
        *,
        fresh: bool = True,
    ) -> None:
        """Build it.

        Args:
            options: see there.
            n_items: N.
            features: of the catalogue.
            fresh: learn the items' codes; False: they come from a checkpoint, as the weights do.
        """
        super().__init__(options, n_items)
        read = require_vectors(features)
        self.frozen_by = dict(read.made_by)
        code_NK = torch.zeros(n_items, options.parts, dtype=torch.uint8)
        if fresh:
            code_NK = learned_codes(read, options)
        self.codes = CodeItems(code_NK, self.width, options.centroids)
        self.permutation: CodePermutation | None = None
        if options.permutation != "none":
            self.permutation = CodePermutation(
                options.parts, options.centroids, mode=options.permutation
            )
            self.register_buffer("permuted", torch.tensor(False))
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

    def of_numbers(self, item_I: Tensor) -> Tensor:
        """The means of their codes' vectors, [I, D]."""
        return self.codes.of_codes(self.codes.codes(item_I), self._table())

    def user_vectors(self, e_BLW: Tensor, valid_BL: Tensor) -> Tensor:
        """The hidden state at the last position, [B, D]; the last block computes no other."""
        hidden_B1D: Tensor = self.user_encoder(e_BLW, valid_BL, last=True)
        return hidden_B1D[:, 0]

    def synthetic_negatives(
        self, rows: PredictionRows, batch: Batch, generator: Generator
    ) -> Tensor:
        """Vectors of synthetic items: the targets' codes, some digits drawn anew. [R, D]"""
        options = self.options
        code_RK = self.codes.codes(batch.items.item_I[rows.target_N])
        fake_RK = fake_codes(code_RK, options.fake_ratio, generator, options.centroids)
        return self.codes.of_codes(fake_RK, self._table())

    def begin_epoch(self, epoch: int) -> None:
        """The order of the codes is learned, and from `permutation_epochs` on it is fixed."""
        if self.learning_codes and epoch >= self.options.permutation_epochs:
            assert self.permutation is not None
            self.codes.permute(self.permutation.fixed())
            self.permuted.fill_(True)

    @property
    def learning_codes(self) -> bool:
        """Whether the order of the codes is still being learned."""
        return self.permutation is not None and not self.permuted

    def after_backward(self) -> None:
        """While the order of the codes is learned, nothing else moves.

        All other tensors keep requiring gradients, so that the optimiser has one set of groups for
        both stages; without a gradient AdamW passes them over, its decay included.
        """
        if self.permutation is not None and self.learning_codes:
            kept = set(self.permutation.parameters())
            for tensor in self.parameters():
                if tensor not in kept:
                    tensor.grad = None

    def _table(self) -> Tensor | None:
        """The codes' vectors in the order that is being learned; None: the table as it is."""
        if self.permutation is None or self.permuted:
            return None
        table_RD: Tensor = self.permutation(self.codes.table.weight)
        return table_RD


def learned_codes(features: ItemFeatures, options: VqrecOptions) -> Tensor:
    """The codes of all items, learned from those that training knows. uint8 [N, K]"""
    joined_NF = features.joined()
    sizes = {"parts": options.parts, "centroids": options.centroids}
    if options.quantiser == "faiss":
        quantiser = learn_codes_faiss(joined_NF, features.trained_N, **sizes)
    else:
        quantiser = learn_codes(joined_NF, features.trained_N, **sizes, seed=0)
    return quantiser.encode(joined_NF)


def at_stage(options: VqrecOptions, asked: Asked) -> VqrecOptions:
    """Sequences are compared with a batch's targets first, with all items of the target later.

    Then the user encoder's positions and blocks are frozen, and the order of the codes is learned
    first, in at most a third of the epochs, so that the model itself has most of them. The preset
    "original" does so from scratch too, as the published code does with or without a pre-trained
    run: the user encoder then stays as it was drawn.
    """
    if asked.stage == "pretrain":
        return replace(options, loss="cosine", freeze_users=False, permutation="none")
    if asked.stage == "scratch" and asked.preset != "original":
        return options
    third = asked.epochs // 3 if asked.epochs else VqrecOptions.permutation_epochs
    return replace(
        options,
        loss="full",
        freeze_users=True,
        permutation="official" if asked.preset == "original" else "straight",
        permutation_epochs=min(VqrecOptions.permutation_epochs, third),
    )


ENTRY = ModelEntry(
    knows_by="frozen vectors",
    settings={
        DEFAULT: Settings(options=VqrecOptions(), training=TRAINING),
        "original": Settings(
            options=VqrecOptions(width=300, max_length=50, dropout=0.5, same_target="official"),
            training={**TRAINING, "batch_users": SAMPLES, "weight_decay": 0.0},
        ),
    },
    space={**SIZES, **TEMPERATURE, **USER_ENCODER},
    build=lambda options, inputs: Vqrec(
        options, inputs.n_items, inputs.features, fresh=inputs.fresh
    ),
    read_vectors=vectors_of,
    transfers={"full": ("codes", "user_encoder")},
    at_stage=at_stage,
)
