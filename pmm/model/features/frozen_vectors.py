"""Frozen vectors of items: one of a text, one of a picture, computed once and stored.

What baselines on fixed features read. They come from the same shards, encoders and store of
activations as PMMRec's own, but from whole encoders: no block is left to train.

Shape suffixes: N items of the catalogue, I items that run together, T text tokens, D width,
R rows that something is fitted on.
"""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from pmm.errors import InputError
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.encoders.vision_encoder import (
    VisionEncoder,
    load_open_clip_whole,
    load_vision,
    pixel_scale,
    require_size,
)
from pmm.model.features.trunks import activations_folder, described, tensors_digest
from pmm.model.text_encoders.load_text import load_text
from pmm.model.text_encoders.text_pooling import POOLINGS, pooling_of
from pmm.shards.activations import Activations, Trunk, write_activations
from pmm.shards.items import Items
from pmm.shards.kinds import Side, Storage
from pmm.shards.read import Shards
from pmm.shards.tokens import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

ITEMS_AT_ONCE = 8_192
"""Rows that are turned to float32 together, so that of a mapped file little is held twice."""


@dataclass(frozen=True, kw_only=True)
class FrozenVectors:
    """What frozen encoders make of each item, in memory; row i - 1 belongs to item i.

    The vectors are as the encoders give them: neither of unit length nor standardised.
    """

    text_ND: Tensor | None
    """float32, pooled tokens; zeros where there is no text. None: no encoder was asked."""
    picture_ND: Tensor | None
    """float32, the tower's image embedding; zeros where there is no picture. None: as above."""
    has_text_N: Tensor
    """bool."""
    has_picture_N: Tensor
    """bool."""
    made_by: Mapping[str, str]
    """"text", "vision" -> digest of the encoder's weights, of those that were asked."""


def frozen_vectors(
    shards: Shards,
    *,
    text: TextSpec | None,
    vision: VisionSpec | None,
    storage: Storage = "fp16",
    device: torch.device | str = "cpu",
    items_at_once: int = 64,
) -> FrozenVectors:
    """The vectors of all items of a target; what is not stored yet is computed and stored first.

    A text's vector is pooled from the whole encoder's last hidden states as that was trained: their
    mean over the real tokens, the special ones included, the first or the last. A picture's is the
    tower's image embedding: of open_clip class token, final norm, output projection, as its
    `encode_image` gives it before normalisation; of other libraries their own pooled vector
    (docs/how-to/choose-encoders.md). Which blocks a spec trains does not matter. The encoders are
    loaded each time, as their weights are what tells whether the stored vectors are theirs. What
    happens is said on the standard error. An encoder of texts need not be the one whose tokens the
    shards hold: then its own are made of the texts.

    Args:
        shards: of a target; stored activations that they give are not used.
        text: whose vectors of the texts; None = none.
        vision: whose vectors of the pictures; None = none.
        storage: type of the stored values.
        device: where encoders run. The vectors are on the CPU.
        items_at_once: run together.

    Raises:
        InputError: an encoder cannot be had or read, or takes pictures of another size.
        StorageError: the disk is full, or the home folder cannot be written.
        BrokenArtefact: stored vectors or shards are damaged.
    """
    plain = shards.with_activations({})
    parts: dict[str, Tensor | None] = {"text": None, "vision": None}
    made_by: dict[str, str] = {}
    for spec in (text, vision):
        if spec is not None:  # one encoder at a time in memory
            trunk, read = vectors_trunk(spec, plain, device)
            parts[trunk.side] = _stored(read, trunk, storage, items_at_once)
            made_by[trunk.side] = str(trunk.about["weights"])
    return FrozenVectors(
        text_ND=parts["text"],
        picture_ND=parts["vision"],
        has_text_N=torch.from_numpy(shards.has_text[1:].copy()),
        has_picture_N=torch.from_numpy(shards.has_picture[1:].copy()),
        made_by=made_by,
    )


def vectors_trunk(
    spec: TextSpec | VisionSpec, shards: Shards, device: torch.device | str = "cpu"
) -> tuple[Trunk, Shards]:
    """A whole encoder as a trunk of one vector an item, and the shards as it reads them.

    A text encoder with another tokenizer than the shards' reads them with its own tokens; one
    without tokenizer files is taken to fit.

    Raises:
        InputError: as of `text_vectors_trunk` and `picture_vectors_trunk`.
    """
    trunk = trunk_of(whole_encoder(spec, device, shards.picture_size))
    own = own_tokenizer(spec, shards)
    if own is None:
        return trunk, shards
    about = {**trunk.about, "tokens": own.digest}
    return dataclasses.replace(trunk, about=about), shards.with_tokenizer(own)


def own_tokenizer(spec: TextSpec | VisionSpec, shards: Shards) -> Tokenizer | None:
    """A text encoder's tokenizer where it is another one than made the tokens of the shards."""
    if isinstance(spec, VisionSpec):
        return None
    try:
        own = load_tokenizer(spec.encoder)
    except InputError:
        return None
    return None if own.digest == shards.tokenizer["sha256"] else own


def text_vectors_trunk(spec: TextSpec, device: torch.device | str = "cpu") -> Trunk:
    """A text encoder as a trunk that makes one vector of each item.

    Raises:
        InputError: as of `load_text` and `pooling_of`.
    """
    return trunk_of(whole_encoder(spec, device))


def picture_vectors_trunk(
    spec: VisionSpec, device: torch.device | str = "cpu", side: int = 0
) -> Trunk:
    """A vision tower with its head as a trunk that makes one vector of each item.

    Args:
        spec: which tower.
        device: where it runs.
        side: of the pictures, pixels; 0: the tower's own.

    Raises:
        InputError: as of `load_vision`; or the tower makes more than one vector of a picture, or
            reads pictures of other sizes only.
    """
    return trunk_of(whole_encoder(spec, device, side))


class TextVectors(nn.Module):
    """A whole text encoder and the pooling that it was trained with; it never trains."""

    def __init__(self, encoder: TextEncoder, pooling: str) -> None:
        super().__init__()
        self.encoder, self.pooling, self.width = encoder, pooling, encoder.width

    @torch.no_grad()
    def forward(self, token_IT: Tensor, mask_IT: Tensor) -> Tensor:
        """Vectors [I, D] of right-padded tokens, of which each text has one at least."""
        hidden_ITD = self.encoder.trunk(token_IT, mask_IT)
        return POOLINGS[self.pooling](hidden_ITD, mask_IT)


class PooledTower(nn.Module):
    """A whole tower of transformers or timm with its library's pooling; it never trains."""

    def __init__(self, encoder: VisionEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        device = next(encoder.parameters()).device
        none = torch.zeros(1, 3, *encoder.picture_size, dtype=torch.uint8, device=device)
        self.width = int(self(none).shape[1])

    @torch.no_grad()
    def forward(self, picture_I3HW: Tensor) -> Tensor:
        """Vectors [I, D] of uint8 RGB pictures."""
        return self.encoder.pooled(picture_I3HW)


class EmbeddingTower(nn.Module):
    """open_clip's whole vision tower, from pixels to the image embedding; it never trains."""

    scale_311: Tensor
    shift_311: Tensor

    def __init__(
        self, tower: VisionTransformer, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        """Take a tower and the mean and deviation of its pixels.

        Raises:
            InputError: it has no single vector of a picture.
        """
        super().__init__()
        if tower.attn_pool is None and tower.pool_type == "none":
            raise InputError("the vision tower does not pool its tokens: it has no image embedding")
        tower.output_tokens = False
        self.tower = tower.requires_grad_(False)
        projected = tower.proj is not None
        self.width = int(tower.proj.shape[1] if projected else tower.ln_post.weight.shape[0])
        self.gelu = type(tower.transformer.resblocks[0].mlp.gelu).__name__
        scale_311, shift_311 = pixel_scale(mean, std)
        self.register_buffer("scale_311", scale_311, persistent=False)
        self.register_buffer("shift_311", shift_311, persistent=False)

    @torch.no_grad()
    def forward(self, picture_I3HW: Tensor) -> Tensor:
        """Image embeddings [I, D] of uint8 RGB pictures of the tower's own size.

        Raises:
            InputError: pictures of another size.
        """
        require_size(picture_I3HW, self.tower.image_size)
        pixels_I3HW = (picture_I3HW * self.scale_311).add_(self.shift_311)
        found_ID: Tensor = self.tower(pixels_I3HW)
        return found_ID


WholeEncoder: TypeAlias = TextVectors | EmbeddingTower | PooledTower
"""What makes one frozen vector of a text or a picture."""


def whole_encoder(
    spec: TextSpec | VisionSpec, device: torch.device | str = "cpu", side: int = 0
) -> WholeEncoder:
    """The whole encoder of a spec, in eval mode; arguments and errors as `picture_vectors_trunk`
    and `text_vectors_trunk`."""
    if isinstance(spec, TextSpec):
        text = load_text(dataclasses.replace(spec, train_blocks=0)).to(device).eval()
        return TextVectors(text, pooling_of(spec.encoder, causal=text.causal)).eval()
    whole = load_open_clip_whole(spec)
    if whole is not None:
        return EmbeddingTower(*whole).to(device).eval()
    tower = load_vision(dataclasses.replace(spec, train_blocks=0), pools=True).to(device).eval()
    if side:
        tower.fit(side)
    return PooledTower(tower).eval()


def trunk_of(whole: WholeEncoder) -> Trunk:
    """A whole encoder as a trunk that makes one vector of each item."""
    device = next(whole.parameters()).device
    inner = whole if isinstance(whole, EmbeddingTower) else whole.encoder
    about: dict[str, Any] = {"weights": _digest(inner)}
    match whole:
        case TextVectors():
            about = {"vectors": whole.pooling, **about}
        case EmbeddingTower():  # the same weights mean something else with the other GELU
            about = {"vectors": "image embedding", **about, "gelu": whole.gelu}
        case PooledTower():
            about = {"vectors": "pooled by the library", **about, **whole.encoder.about}

    def run(items: Items) -> Tensor:
        if isinstance(whole, TextVectors):
            found_ID = whole(items.token_IT.to(device), items.token_mask_IT.to(device))
        else:
            found_ID = whole(items.picture_I3HW.to(device))
        vector_I1D: Tensor = found_ID[:, None]
        return vector_I1D

    side: Side = "text" if isinstance(whole, TextVectors) else "vision"
    return Trunk(side=side, run=run, about=about, tokens=1, width=whole.width, **_size(inner))


def standardise(x_ND: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each column, each [D]: `(x_ND - mean_D) / scale_D` is standardised.

    The scale is the deviation of the population; of a column that is constant it is 1. Both are
    computed in double precision and come in x_ND's type.

    Args:
        x_ND: vectors.
        rows: which to fit on, as row numbers or as a mask [N]: training items that have one.

    Raises:
        ValueError: there are no such rows.

    >>> x_ND = torch.tensor([[0.0, 5.0], [2.0, 5.0], [9.0, 7.0]])
    >>> [part.tolist() for part in standardise(x_ND, torch.tensor([0, 1]))]
    [[1.0, 5.0], [1.0, 1.0]]
    """
    fitted_RD = _rows(x_ND, rows)
    mean_D = fitted_RD.mean(0)
    scale_D = fitted_RD.std(0, correction=0)
    # Values that are equal in the stored type leave a deviation of a few last bits in their mean.
    constant_D = scale_D <= 1e-6 * fitted_RD.abs().amax(0)
    scale_D = torch.where(constant_D, 1.0, scale_D)
    return mean_D.to(x_ND.dtype), scale_D.to(x_ND.dtype)


def whiten(x_ND: Tensor, rows: Tensor, eps: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Mean [D] and ZCA matrix [D, D]: `(x_ND - mean_D) @ matrix_DD` is white on the fitted rows.

    The matrix is the inverse root of their covariance, symmetric, so of all whitenings the one
    that moves vectors least (WhitenRec, arXiv 2402.10602; the frozen vectors of language models
    have a mean cosine above 0.8). Computed in double precision.

    Args:
        x_ND: vectors.
        rows: which to fit on, as row numbers or as a mask [N]: training items that have one.
        eps: added to every variance along an eigenvector, as a share of their mean. Directions in
            which the fitted rows hardly differ, of fewer rows than columns most of them, are
            blown up by at most 1 / sqrt(eps) as much as an average one. With 0 it is exact.

    Raises:
        ValueError: there are no such rows, or with eps = 0 too few to span all directions.
    """
    fitted_RD = _rows(x_ND, rows)
    mean_D = fitted_RD.mean(0)
    centred_RD = fitted_RD - mean_D
    variance_D, vector_DD = torch.linalg.eigh(centred_RD.T @ centred_RD / len(fitted_RD))
    variance_D = variance_D.clamp(min=0) + eps * variance_D.mean()
    if not float(variance_D.min()) > 1e-14 * float(variance_D.max()):
        raise ValueError(f"{len(fitted_RD)} vectors do not span all directions: set eps above 0")
    matrix_DD = (vector_DD * variance_D.rsqrt()) @ vector_DD.T
    return mean_D.to(x_ND.dtype), matrix_DD.to(x_ND.dtype)


def _rows(x_ND: Tensor, rows: Tensor) -> Tensor:
    fitted_RD = x_ND[rows].double()
    if not len(fitted_RD):
        raise ValueError("there are no vectors to fit on")
    return fitted_RD


def _stored(shards: Shards, trunk: Trunk, storage: Storage, items_at_once: int) -> Tensor:
    """The vectors [N, D] of all items in float32, from the store."""
    built = write_activations(
        activations_folder(shards), shards, trunk, storage=storage, items_at_once=items_at_once
    )
    found = Activations(built.place, shards, trunk, device=torch.device("cpu"))
    state = "written" if built.fresh else "found"
    what = f"frozen vectors of the {trunk.side} encoder on {shards.target}"
    logger.info(described(what, state, found))
    vector_ND = torch.empty(shards.n_items, trunk.width)
    for start in range(0, shards.n_items, ITEMS_AT_ONCE):
        numbers = np.arange(start, min(start + ITEMS_AT_ONCE, shards.n_items)) + 1
        vector_ND[start : start + len(numbers)] = found.gather(numbers)[:, 0]
    return vector_ND


def _size(encoder: nn.Module) -> dict[str, int]:
    """What a `Trunk` says of an encoder's size."""
    each = list(encoder.parameters())
    return {
        "parameters": sum(p.numel() for p in each),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in each),
    }


def _digest(encoder: nn.Module) -> str:
    """Of all weights and pixel statistics."""
    return tensors_digest([*encoder.named_parameters(), *encoder.named_buffers()])
