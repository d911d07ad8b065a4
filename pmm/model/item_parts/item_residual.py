"""What is known of single items beside their content: a trained vector added to that of each.

Content says what an item is, not how people take it; the residual learns the difference where there
are enough examples. An item without one is its content alone.

Shape suffixes: I distinct items, N items of the catalogue, D width.
"""

import torch
from torch import Tensor, nn

STD = 0.02
"""Of the residuals' start."""


class ItemResidual(nn.Module):
    """A vector for each item of the catalogue, zeros for those that have none.

    Those start from N(0, 0.02), and in each batch of a training some items are left without, so
    that the content has to say as much as it can.
    """

    has_N: Tensor

    def __init__(self, has_N: Tensor, width: int, *, drop: float) -> None:
        """Take which items have one.

        Args:
            has_N: bool.
            width: D.
            drop: share of a batch's items that are left without while training.
        """
        super().__init__()
        self.drop = drop
        self.register_buffer("has_N", has_N, persistent=False)
        # Zeros stand in the table itself, so that whoever reads it need not know who has one.
        self.table_ND = nn.Parameter(STD * torch.randn(len(has_N), width) * has_N[:, None])

    def forward(self, item_I: Tensor) -> Tensor:
        """Items by number -> [I, D]; zeros for numbers that the catalogue does not have.

        Which items are left out is drawn from torch's generator, as dropout is.
        """
        row_I = (item_I - 1).clamp(max=len(self.table_ND) - 1)
        kept_I = self.has_N[row_I] & (item_I <= len(self.table_ND))
        if self.training:
            kept_I = kept_I & (torch.rand(len(item_I), device=item_I.device) >= self.drop)
        # Not multiplied: a row that grew past all numbers must not make an item that has none NaN.
        residual_ID: Tensor = self.table_ND[row_I].masked_fill(~kept_I[:, None], 0.0)
        return residual_ID
