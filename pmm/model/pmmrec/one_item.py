"""PMMRec's item encoder for one item at a time, without packing: what is exported to ONNX.

Packing pays in training, where hundreds of items of all lengths run together, and needs lengths
that are known before the graph runs. One item has no padding, so there is nothing to pack.

Shape suffixes: T text tokens, P picture tokens, K tokens of either, D width.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.model.encoders.text_encoder import TextEncoder
from pmm.model.encoders.vision_encoder import VisionEncoder
from pmm.model.pmmrec.fusion import MergeFusion
from pmm.model.pmmrec.item_fusion import CoAttention
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions
from pmm.model.protocol import OneItem


def one_item(
    options: PmmrecOptions,
    *,
    text: tuple[TextEncoder | None, nn.Module | None],
    vision: tuple[VisionEncoder | None, nn.Module | None],
    fusion: nn.Module | None,
) -> OneItem:
    """The modules, which share their weights with the model's.

    Args:
        options: of the model.
        text, vision: encoder and projection; None where it does not read that side.
        fusion: None where it reads one side.
    """
    both = all(each is not None for side in (text, vision) for each in side)
    return OneItem(
        text=TextSide(text[0], text[1]) if text[0] and text[1] else None,
        vision=PictureSide(vision[0], vision[1]) if vision[0] and vision[1] else None,
        item=FusedSides(options, fusion) if both and fusion else PooledSide(options),
    )


class TextSide(nn.Module):
    """Tokens of one text -> projected hidden states."""

    def __init__(self, encoder: TextEncoder, projection: nn.Module) -> None:
        super().__init__()
        # The whole of it as a trunk: that takes texts as they are, not packed.
        self.encoder = copy.copy(encoder)
        self.encoder.cut = len(encoder.blocks)
        self.projection = projection

    def forward(self, token_1T: Tensor) -> Tensor:
        """[1, T, D]; all tokens are real."""
        mask_1T = torch.ones_like(token_1T, dtype=torch.bool)
        projected_1TD: Tensor = self.projection(self.encoder.trunk(token_1T, mask_1T))
        return projected_1TD


class PictureSide(nn.Module):
    """One picture -> projected hidden states, class token first."""

    def __init__(self, encoder: VisionEncoder, projection: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projection = encoder, projection

    def forward(self, picture_13HW: Tensor) -> Tensor:
        """[1, P, D] of a uint8 picture of the tower's size."""
        projected_1PD: Tensor = self.projection(self.encoder(picture_13HW))
        return projected_1PD


class PooledSide(nn.Module):
    """The vector of a model that reads one side."""

    def __init__(self, options: PmmrecOptions) -> None:
        super().__init__()
        self.first = options.modality_pool == "cls"
        self.gelu = options.fusion != "merge" and options.modality_gelu

    def forward(self, token_1KD: Tensor, mask_1K: Tensor) -> Tensor:
        """[1, D]; zeros where there is no token (R4, R5)."""
        if self.first:
            vector_1D = token_1KD[:, 0] * mask_1K[:, :1]
        else:
            count_11 = mask_1K.sum(1, keepdim=True).clamp(min=1)
            vector_1D = (token_1KD * mask_1K[:, :, None]).sum(1) / count_11
        return functional.gelu(vector_1D) if self.gelu else vector_1D


class FusedSides(nn.Module):
    """The vector of a model that reads both."""

    def __init__(self, options: PmmrecOptions, fusion: nn.Module) -> None:
        super().__init__()
        self.pooled, self.fusion = PooledSide(options), fusion

    def forward(
        self, text_1TD: Tensor, text_1T: Tensor, picture_1PD: Tensor, picture_1P: Tensor
    ) -> Tensor:
        """[1, D] of tokens and masks."""
        fusion = self.fusion
        if isinstance(fusion, MergeFusion):
            return fusion.padded(text_1TD, text_1T, picture_1PD, picture_1P)
        if isinstance(fusion, CoAttention):
            attended_1D: Tensor = fusion(text_1TD, picture_1PD, text_1T, picture_1P)
            return attended_1D
        vectors = self.pooled(text_1TD, text_1T), self.pooled(picture_1PD, picture_1P)
        fused_1D: Tensor = fusion(*vectors, text_1T.any(1), picture_1P.any(1))
        return fused_1D
