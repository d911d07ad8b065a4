"""PMMRec's entry in the table of models: its stages, what a transfer takes over, its search."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pmm.model.features.item_features import ItemFeatures, read_features
from pmm.model.model_entry import DEFAULT, Asked, BuildInputs, ModelEntry, Settings, Transfer
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import ALL_OBJECTIVES, PmmrecOptions, Weights, preset
from pmm.model.search_space import (
    DECAY,
    DROPOUT,
    LOGQ,
    TAU,
    USER_ENCODER,
    Choice,
    Interval,
    Space,
)
from pmm.shards.kinds import Modality
from pmm.shards.read import Shards

AnyPmmrec = TypeVar("AnyPmmrec", bound=PmmrecOptions)


def objectives_of(asked: Asked, modality: Modality) -> Weights:
    """The weights of the objectives: all four in pre-training, DAP alone elsewhere, unless asked.

    One modality has nothing to align, so no NICL.
    """
    if (asked.objectives or ("all" if asked.stage == "pretrain" else "dap")) == "dap":
        return Weights()
    if modality != "both":
        return Weights(nid=ALL_OBJECTIVES.nid, rcl=ALL_OBJECTIVES.rcl)
    return ALL_OBJECTIVES


def with_modality(options: AnyPmmrec, asked: Asked) -> AnyPmmrec:
    """The options with the modality that is asked for, if one is."""
    return replace(options, modality=asked.modality) if asked.modality else options


def on_sources(options: AnyPmmrec, asked: Asked) -> AnyPmmrec:
    """In pre-training nothing of one catalogue: no residuals, and the items of a batch as
    candidates, among which those of other categories can be left out."""
    if asked.stage != "pretrain":
        return options
    return replace(options.elsewhere(), dap_candidates="batch")


def at_stage(options: PmmrecOptions, asked: Asked) -> PmmrecOptions:
    """The modality that is asked for, and the stage's objectives; pre-training has no residuals."""
    reads = on_sources(with_modality(options, asked), asked)
    weights = objectives_of(asked, reads.modality)
    # A fine-tuning has one target; groups were for telling apart the sources before it.
    negatives = options.negatives if asked.stage == "pretrain" else "batch"
    return replace(reads, weights=weights, negatives=negatives)


def of_run(
    options: AnyPmmrec, transfer: Transfer, tensors: Callable[[], Mapping[str, Tensor]]
) -> AnyPmmrec:
    """Where a fine-tuning starts: the run's width, whatever encoder is left to give one.

    A width of 0 takes the text encoder's, and a transfer of pictures alone builds none. A learned
    temperature begins a full transfer where the run's ended.
    """
    if transfer == "full" and "log_tau" in tensors():
        options = replace(options, dap_tau=float(tensors()["log_tau"].exp()))
    names = ("text_projection.bias", "vision_projection.bias", "vector_head.out.bias")
    width = next(tensors()[name].shape[0] for name in names if name in tensors())
    if transfer in ("text", "vision"):
        return replace(options, width=width, modality=transfer)
    return replace(options, width=width)


_ITEM = ("text", "vision", "text_projection", "vision_projection", "fusion")
PARTS: Mapping[Transfer, tuple[str, ...]] = {
    "full": (*_ITEM, "user_encoder"),
    "item": _ITEM,
    "user": ("user_encoder",),
    "text": ("text", "text_projection", "user_encoder"),
    "vision": ("vision", "vision_projection", "user_encoder"),
}
"""Mode -> the parts that are taken over; all others start fresh (paper III-E; R44, R45)."""
_VECTORS = ("text_vectors", "vision_vectors", "vector_head")
VECTOR_PARTS: Mapping[Transfer, tuple[str, ...]] = {
    "full": (*_VECTORS, "user_encoder"),
    "item": _VECTORS,
    "user": ("user_encoder",),
    "text": ("text_vectors", "vector_head", "user_encoder"),
    "vision": ("vision_vectors", "vector_head", "user_encoder"),
}
"""The same where items are made of vectors."""


_OF_BOTH = ("fusion",)


def parts(options: PmmrecOptions) -> Mapping[Transfer, tuple[str, ...]]:
    """Mode -> the parts that are taken over; none of a modality that the model does not read."""
    every = PARTS if options.items == "encoders" else VECTOR_PARTS
    if options.modality == "both":
        return every
    unread = ("vision" if options.modality == "text" else "text", *_OF_BOTH)
    return {
        mode: tuple(part for part in taken if not part.startswith(unread))
        for mode, taken in every.items()
    }


def training(options: PmmrecOptions) -> Mapping[str, Any]:
    """Where nothing of an encoder trains, as the baselines: at the rate that suits encoders too it
    would take ten times as many steps (docs/log.md)."""
    return {"lr": 1e-3, "batch_users": 256} if options.items == "vectors" else {}


def read_vectors(
    options: PmmrecOptions, shards: Sequence[Shards], device: torch.device | str
) -> ItemFeatures | None:
    """The frozen vectors of the items, where they are made of them."""
    if options.items == "encoders":
        return None
    return read_features(
        shards,
        features=options.modality,
        text=options.text,
        vision=options.vision,
        scaling="none",
        device=device,
    )


def build(options: PmmrecOptions, inputs: BuildInputs) -> Pmmrec:
    """With fresh weights."""
    count_N = inputs.train_count
    if count_N is None:  # nobody says: none is rare, all are as popular
        count_N = np.full(inputs.n_items, options.residual_from)
    return Pmmrec(options, inputs.features, count_N=count_N)


SPACE: Space = {
    "train.lr": Interval(low=5e-5, high=5e-3),
    "train.encoder_lr": Interval(low=1e-5, high=5e-4),
    "train.weight_decay": DECAY,
    "model.dropout": DROPOUT,
    "model.dap_similarity": Choice(values=("dot", "cosine")),
    "model.dap_tau": replace(
        TAU, only={"model.dap_similarity": ("cosine",)}, instead_of_zero="temperature"
    ),
    "model.dap_tau_learned": Choice(values=(False, True)),
    "model.dap_candidates": Choice(
        values=("batch", "catalogue"), only={"model.items": ("vectors",)}
    ),
    "model.dap_prior": Choice(
        values=(0.0, 0.5, 1.0),
        only={"model.items": ("vectors",), "model.dap_candidates": ("auto", "catalogue")},
    ),
    "model.dap_logq": Choice(values=LOGQ, only={"model.dap_candidates": ("auto", "batch")}),
    "model.residual": Choice(values=("none", "item")),
    "model.residual_drop": replace(DROPOUT, only={"model.residual": ("item",)}),
    "model.residual_rate": Interval(low=0.1, high=10.0, only={"model.residual": ("item",)}),
    **USER_ENCODER,
}

ENTRY = ModelEntry(
    knows_by="text and picture",
    settings={
        DEFAULT: Settings(options=preset("default")),
        # It says AdamW and no more, so norms decay as in the published code; early stopping alone
        # ends a run (R34, R41, R43).
        "paper": Settings(
            options=preset("paper"),
            training={"decay_norms": True, "epochs": 0},
        ),
        "official": Settings(
            options=preset("official"),
            training={"decay_norms": True, "precision": "fp16", "patience": 0},
        ),
    },
    space=SPACE,
    build=build,
    read_vectors=read_vectors,
    transfers=PARTS,
    parts=parts,
    training=training,
    at_stage=at_stage,
    of_run=of_run,
    objectives=("dap", "all"),
    modalities=("both", "text", "vision"),
)
