"""PeterRec on frozen vectors: NextItNet that is patched by adapters (Yuan et al. 2020).

Published, it knows items by ids; a linear layer on frozen vectors is our extension, without which
nothing of it could be transferred.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from pmm.model.baselines.next_item_baseline import Loss, NextItemBaseline
from pmm.model.baselines.sequence_baseline import TRAINING, check_options
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.features.item_features import ItemFeatures, Scaling, vectors_of
from pmm.model.item_parts.vector_table import VectorTable
from pmm.model.losses.next_item import LogQ, Reject, Similarity
from pmm.model.losses.of_baselines import SameTarget
from pmm.model.model_entry import DEFAULT, Asked, ModelEntry, Settings
from pmm.model.protocol import ModelOptions
from pmm.model.search_space import CONVOLUTION, IN_BATCH, RATES, WIDTH
from pmm.model.user_encoders.dilated_convolutions import Insertion, NextItNetEncoder
from pmm.shards.kinds import Modality


@dataclass(frozen=True, kw_only=True)
class PeterrecOptions(ModelOptions):
    """What PeterRec is made of; docs/paper.md, Baselines, has the sources of all values.

    It has no dropout, as published.
    """

    name: Literal["peterrec"] = "peterrec"
    width: int = 128
    """D, of items and users."""
    max_length: int = 20
    """L, the most recent items that are read (R32)."""
    user_blocks: int = 2
    """Repeats of the pair of blocks."""
    dense: bool = False
    """A linear layer behind the convolutions, as RecBole has it."""
    user_convolution: int = 0
    """Items that a causal convolution in front of it reads at once; 0: there is none."""
    loss: Loss = "in_batch"
    logq: LogQ = "off"
    reject: Reject = "same_ids"
    similarity: Similarity = "dot"
    tau: float = 1.0
    text: TextSpec = field(default_factory=TextSpec)
    vision: VisionSpec = field(default_factory=VisionSpec)
    features: Modality = "both"
    """Whose frozen vectors are read."""
    scaling: Scaling = "standardise"
    """Of the frozen vectors, before anything reads them."""
    same_target: SameTarget = "masked"
    adapters: bool = False
    """Patches in every block; where they are, nothing else of the user encoder but the blocks'
    second norms trains."""
    insertion: Insertion = "serial"
    """Whether an adapter reads its convolution's output or its input."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def content(self) -> Modality:
        """As frozen vectors."""
        return self.features


class Peterrec(NextItemBaseline):
    """What a linear layer makes of frozen vectors, read by convolutions with adapters."""

    options: PeterrecOptions

    def __init__(
        self, options: PeterrecOptions, n_items: int, features: ItemFeatures | None
    ) -> None:
        super().__init__(options, n_items)
        self.vectors = VectorTable(features)
        self.frozen_by = self.vectors.made_by
        # Of standardised vectors it makes values of N(0, 0.1): no larger than a table's.
        self.projection = nn.Linear(self.vectors.width, self.width)
        nn.init.normal_(self.projection.weight, std=0.1 / math.sqrt(self.vectors.width))
        nn.init.zeros_(self.projection.bias)
        self.user_encoder = NextItNetEncoder(
            self.width,
            repeats=options.user_blocks,
            dense=options.dense,
            adapter=options.insertion if options.adapters else None,
            convolution=options.user_convolution,
        )
        if options.adapters:
            self.user_encoder.freeze_for_patching()

    def encode_vectors(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Items that the catalogue does not have, [R, D]; arguments as of `Recommender`."""
        made_RD: Tensor = self.projection(self.vectors.of_new(vectors))
        return made_RD

    def of_numbers(self, item_I: Tensor) -> Tensor:
        """The projected frozen vectors, [I, D]."""
        projected_ID: Tensor = self.projection(self.vectors(item_I))
        return projected_ID


def at_stage(options: PeterrecOptions, asked: Asked) -> PeterrecOptions:
    """The user encoder is patched in fine-tuning."""
    if asked.stage == "scratch":
        return options
    return replace(options, adapters=asked.stage == "finetune")


ENTRY = ModelEntry(
    knows_by="frozen vectors",
    settings={
        DEFAULT: Settings(options=PeterrecOptions(), training=TRAINING),
        "original": Settings(
            options=PeterrecOptions(width=256, user_blocks=4, loss="full"),
            training={**TRAINING, "batch_users": 32, "weight_decay": 0.0},
        ),
    },
    space={**RATES, **WIDTH, **IN_BATCH, **CONVOLUTION},
    build=lambda options, inputs: Peterrec(options, inputs.n_items, inputs.features),
    read_vectors=vectors_of,
    transfers={"full": ("projection", "user_encoder")},
    at_stage=at_stage,
)
