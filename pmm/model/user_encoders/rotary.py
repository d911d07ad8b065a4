"""Rotary positions (Su et al. 2021, RoFormer): queries and keys are turned by their place.

Shape suffixes: L positions, E width of a head.
"""

import torch
from torch import Tensor

_BASE = 10_000.0


def rotate(x_LE: Tensor, *, first: int = 0) -> Tensor:
    """Turn vectors [..., L, E] at the places first, first + 1, ...; the same shape and type.

    Value k of the first half and value k of the second are a point of the plane, which is turned by
    place * 10,000^(-2k / E) (Eq. 14, 15; which values make a pair is a matter of naming). So the
    product of a query and a key depends on how far apart they stand, and on nothing else of their
    places. E must be even.
    """
    length, width = x_LE.shape[-2:]
    place_L = torch.arange(first, first + length, device=x_LE.device, dtype=torch.float32)
    exponent_P = torch.arange(0, width, 2, device=x_LE.device, dtype=torch.float32) / width
    angle_LP = place_L[:, None] * _BASE**-exponent_P
    cos_LP, sin_LP = angle_LP.cos().to(x_LE.dtype), angle_LP.sin().to(x_LE.dtype)
    left_LP, right_LP = x_LE.chunk(2, dim=-1)
    turned = (left_LP * cos_LP - right_LP * sin_LP, left_LP * sin_LP + right_LP * cos_LP)
    return torch.cat(turned, dim=-1)
