"""Vectors and weights cut into the heads of an attention."""

from torch import Tensor


def split_heads(x_D: Tensor, heads: int) -> Tensor:
    """[..., D] -> [..., heads, D / heads]."""
    return x_D.view(*x_D.shape[:-1], heads, x_D.shape[-1] // heads)


def split_rows(weight_DD: Tensor, heads: int) -> Tensor:
    """The rows of a projection by head: [D, D] -> [heads, D / heads, D]."""
    return weight_DD.view(heads, -1, weight_DD.shape[1])
