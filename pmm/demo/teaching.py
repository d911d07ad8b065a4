"""Small encoders taught on pairs, as public ones are: what is the same thing, told or shown twice.

A symmetric contrast over the pairs of a batch (InfoNCE) for each encoder by itself: text with text,
picture with picture. As XLM-RoBERTa and a CLIP tower, they know nothing of each other. The blocks
learn; the embeddings in front of them stay random.

Shape suffixes: N things, B things of a batch, T text tokens, P picture tokens, K either, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pmm.model.encoders.packing import Packing
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.encoders.vision_encoder import VisionEncoder, load_vision
from pmm.model.losses.next_item import similarities
from pmm.model.text_encoders.load_text import load_text
from pmm.progress import progress
from pmm.shards.tokens import TokenEncoder, load_tokenizer

TAU = 0.1
WARMUP_STEPS = 100
_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Telling:
    """One telling of N things: text and picture of each."""

    texts: Sequence[str]
    picture_N3HW: Tensor
    """uint8, of the tower's size."""


@dataclass(frozen=True, kw_only=True)
class _Embedded:
    """What the frozen embeddings make of a telling."""

    text_NTD: Tensor
    mask_NT: Tensor
    picture_NPD: Tensor


def teach(
    folder: Path,
    tellings: tuple[Telling, Telling],
    *,
    blocks: int,
    steps: int,
    batch: int = 96,
    lr: float = 1e-3,
    seed: int = 0,
) -> float:
    """Train all blocks of `folder/text` and `folder/vision`, and write them back in half precision.

    Args:
        folder: made by `save_small_encoders`.
        tellings: two of the same things, in the same order.
        blocks: of each encoder.
        steps: of AdamW, the learning rate rising for 100 steps and falling linearly to 0.
        batch: things of a step; the others are each other's negatives.
        lr: at its peak.
        seed: of the order and the dropout.

    Returns:
        The mean loss of the last tenth of the steps, in nats.
    """
    text = load_text(TextSpec(encoder=str(folder / "text"), train_blocks=blocks))
    vision = load_vision(VisionSpec(encoder=str(folder / "vision"), train_blocks=blocks))
    embedded = [_embed(text, vision, folder / "text", telling) for telling in tellings]
    trained = [p for each in (text, vision) for p in each.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr, fused=True)
    order = np.random.default_rng(seed)
    losses = []
    with torch.random.fork_rng(devices=[]), progress(steps, "Teaching encoders", "steps") as bar:
        torch.manual_seed(seed)
        for step in range(steps):
            falling = (steps - step) / max(1, steps - WARMUP_STEPS)
            optimiser.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / WARMUP_STEPS, falling)
            row_B = torch.from_numpy(order.choice(len(tellings[0].texts), batch, replace=False))
            loss = _loss(text, vision, embedded, row_B)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(loss.detach()))
            bar.advance(loss=f"{losses[-1]:.3f}")
    _write_back(folder / "text" / "model.safetensors", "encoder.layer", text.blocks)
    weights = folder / "vision" / "open_clip_model.safetensors"
    _write_back(weights, "visual.transformer.resblocks", vision.blocks)
    return float(np.mean(losses[-max(1, steps // 10) :]))


def embed_texts(text: TextEncoder, folder: Path, texts: Sequence[str]) -> Tensor:
    """Mean over the tokens of each text, in eval mode. [N, D]"""
    token_NT, mask_NT = _tokens(folder, texts)
    text.eval()
    with torch.inference_mode():
        packing = Packing.of_mask(mask_NT)
        return packing.mean(packing.pack(text(token_NT, mask_NT)))


def embed_pictures(vision: VisionEncoder, picture_N3HW: Tensor) -> Tensor:
    """Mean over the tokens of each picture, in eval mode. [N, D]"""
    vision.eval()
    with torch.inference_mode():
        return torch.cat([vision(part).mean(1) for part in torch.split(picture_N3HW, _AT_ONCE)])


def _embed(text: TextEncoder, vision: VisionEncoder, folder: Path, telling: Telling) -> _Embedded:
    token_NT, mask_NT = _tokens(folder, telling.texts)
    return _Embedded(
        text_NTD=text.trunk(token_NT, mask_NT),
        mask_NT=mask_NT,
        picture_NPD=vision.trunk(telling.picture_N3HW),
    )


def _tokens(folder: Path, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids [N, T], right-padded, and which are real."""
    tokenizer = load_tokenizer(str(folder))
    rows = TokenEncoder(tokenizer, 50).encode(texts)
    token_NT = np.full((len(rows), max(map(len, rows))), tokenizer.pad, dtype=np.int64)
    mask_NT: npt.NDArray[np.bool_] = np.zeros(token_NT.shape, dtype=np.bool_)
    for n, row in enumerate(rows):
        token_NT[n, : len(row)], mask_NT[n, : len(row)] = row, True
    return torch.from_numpy(token_NT), torch.from_numpy(mask_NT)


def _loss(
    text: TextEncoder, vision: VisionEncoder, embedded: Sequence[_Embedded], row_B: Tensor
) -> Tensor:
    texts, pictures = [], []
    for each in embedded:
        packing = Packing.of_mask(each.mask_NT[row_B])
        texts.append(packing.mean(text.top(packing.pack(each.text_NTD[row_B]), packing)))
        pictures.append(vision.top(each.picture_NPD[row_B]).mean(1))
    return (_contrast(*texts) + _contrast(*pictures)) / 2


def _contrast(one_BD: Tensor, other_BD: Tensor) -> Tensor:
    """Symmetric InfoNCE: each must find its other half among those of the batch."""
    logit_BB = similarities(one_BD, other_BD, "cosine") / TAU
    own_B = torch.arange(len(logit_BB))
    there = functional.cross_entropy(logit_BB, own_B)
    return (there + functional.cross_entropy(logit_BB.T, own_B)) / 2


def _write_back(path: Path, prefix: str, blocks: nn.ModuleList) -> None:
    """Put trained blocks into a file of weights; all of it in half precision."""
    weights = load_file(path)
    for name, tensor in blocks.state_dict().items():
        assert f"{prefix}.{name}" in weights, f"{path} has no {prefix}.{name}"
        weights[f"{prefix}.{name}"] = tensor
    halves = {
        name: t.half().contiguous() if t.is_floating_point() else t for name, t in weights.items()
    }
    save_file(halves, path, metadata={"format": "pt"})
