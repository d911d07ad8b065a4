"""Frozen vectors of a whole catalogue, as baselines read them: by an item's number.

Shape suffixes: N items of the catalogue, F width of the vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from pmm.errors import InputError
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.features.frozen_vectors import FrozenVectors, frozen_vectors, standardise, whiten
from pmm.shards.kinds import Modality
from pmm.shards.read import Shards

Scaling = Literal["none", "standardise", "whiten"]


@dataclass(frozen=True)
class ItemFeatures:
    """Row i - 1 belongs to item i; zeros where an item lacks the modality."""

    fields: tuple[Tensor, ...]
    """Text, then picture, as far as they are asked for; each float32 [N, F]."""
    trained_N: Tensor
    """bool: items that occur in the training sequences."""
    made_by: Mapping[str, str] = field(default_factory=dict)
    """"text", "vision" -> digest of the encoder whose vectors they are."""
    scalers: tuple["Scaler", ...] = ()
    """Of each field: what made its values of the encoder's; empty where nothing did."""

    def joined(self) -> Tensor:
        """All fields behind one another, [N, F]."""
        return torch.cat(self.fields, dim=1)


def read_features(
    parts: Sequence[Shards],
    *,
    features: Modality,
    text: TextSpec,
    vision: VisionSpec,
    scaling: Scaling,
    device: torch.device | str = "cpu",
) -> ItemFeatures:
    """The vectors of the items of several catalogues behind one another.

    What is not stored yet is computed and stored (`pmm.model.features.frozen_vectors`).

    Args:
        parts: shards of the targets, in the order of their items' numbers.
        features: which modalities.
        text, vision: the encoders.
        scaling: "standardise" to mean 0 and deviation 1, "whiten" to no correlation at all
            (WhitenRec, arXiv 2402.10602); learned from the training items that have the modality.
        device: where the encoders run. The vectors stay on the CPU.

    Raises:
        InputError: no item has the modality, or the encoder cannot read the shards.
        StorageError: the disk is full.
    """
    found = [
        frozen_vectors(
            part,
            text=text if features in ("text", "both") else None,
            vision=vision if features in ("vision", "both") else None,
            device=device,
        )
        for part in parts
    ]
    # Scalings and codes are learned from training items alone: an item that first occurs in the
    # test must not have shaped them.
    trained_N = torch.from_numpy(np.concatenate([part.train_count[1:] > 0 for part in parts]))
    fields, scalers = [], list[Scaler]()
    for side in ("text", "vision"):
        if features in (side, "both"):
            x_NF, has_N = _side(found, side)
            if not bool((has_N & trained_N).any()):
                what = "text" if side == "text" else "picture"
                raise InputError(
                    f"no item of {', '.join(part.target for part in parts)} has a {what}, which "
                    "this model reads"
                )
            scalers.append(Scaler.learned(x_NF, has_N & trained_N, scaling))
            fields.append(scalers[-1](x_NF, has_N))
    return ItemFeatures(tuple(fields), trained_N, found[0].made_by, tuple(scalers))


class VectorOptions(Protocol):
    """The options of a model that reads frozen vectors."""

    @property
    def features(self) -> Modality:
        """Of which modalities."""
        ...

    @property
    def text(self) -> TextSpec:
        """The encoder of texts."""
        ...

    @property
    def vision(self) -> VisionSpec:
        """The encoder of pictures."""
        ...

    @property
    def scaling(self) -> Scaling:
        """Of the vectors, before anything reads them."""
        ...


def vectors_of(
    options: VectorOptions, parts: Sequence[Shards], device: torch.device | str = "cpu"
) -> ItemFeatures:
    """The vectors that a model reads, by its options; arguments and errors as `read_features`."""
    return read_features(
        parts,
        features=options.features,
        text=options.text,
        vision=options.vision,
        scaling=options.scaling,
        device=device,
    )


def scaled(x_NF: Tensor, has_N: Tensor, trained_N: Tensor, scaling: Scaling) -> Tensor:
    """The vectors after a scaling that is learned from the training items; zeros stay zeros."""
    return Scaler.learned(x_NF, has_N & trained_N, scaling)(x_NF, has_N)


@dataclass(frozen=True)
class Scaler:
    """A scaling with what it learned, so that items which come later are scaled alike."""

    mean_F: Tensor | None = None
    """Taken away; None: nothing is done."""
    scale_F: Tensor | None = None
    """What is left is divided by it,"""
    matrix_FF: Tensor | None = None
    """or multiplied."""

    @classmethod
    def learned(cls, x_NF: Tensor, rows_N: Tensor, scaling: Scaling) -> "Scaler":
        """What a scaling learns of some rows."""
        match scaling:
            case "none":
                return cls()
            case "standardise":
                mean_F, scale_F = standardise(x_NF, rows_N)
                return cls(mean_F, scale_F)
            case "whiten":
                mean_F, matrix_FF = whiten(x_NF, rows_N)
                return cls(mean_F, matrix_FF=matrix_FF)

    def __call__(self, x_NF: Tensor, has_N: Tensor) -> Tensor:
        """Scaled vectors; zeros for items that have none."""
        y_NF = x_NF
        if self.mean_F is not None:
            y_NF = x_NF - self.mean_F
        if self.scale_F is not None:
            y_NF = y_NF / self.scale_F
        if self.matrix_FF is not None:
            y_NF = y_NF @ self.matrix_FF
        return y_NF * has_N[:, None]


def _side(found: Sequence[FrozenVectors], side: str) -> tuple[Tensor, Tensor]:
    """The vectors of one modality, and which items have it."""
    if side == "text":
        vectors, has = [each.text_ND for each in found], [each.has_text_N for each in found]
    else:
        vectors, has = [each.picture_ND for each in found], [each.has_picture_N for each in found]
    return torch.cat([each for each in vectors if each is not None]), torch.cat(has)
