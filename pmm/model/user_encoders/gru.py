"""GRURec's user encoder: a GRU over item vectors, whose state at each step is the user.

Shape suffixes: B users, L positions of the window, D width.
"""

from torch import Tensor, nn


class GruEncoder(nn.Module):
    """Item vectors of a left-padded window -> a hidden state at each position, from its past.

    As in the published code of PMMRec: dropout on the inputs, no biases, no dropout between the
    layers, no layer behind the GRU. `dense=True` puts a linear layer behind it, as RecBole does.

    Windows may have any length.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int = 2,
        dropout: float = 0.1,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(width, width, num_layers=layers, bias=False, batch_first=True)
        self.dense = nn.Linear(width, width) if dense else None
        for name, matrix in self.gru.named_parameters():
            if name.endswith("_l0"):  # the later layers start as torch has them, as published
                nn.init.xavier_uniform_(matrix)

    def forward(self, e_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D], zeros at padding.

        Padding enters as zeros. Without biases a zero input leaves a zero state at zero, so a
        window means the same however many places of padding stand on its left.

        Args:
            e_BLD: item vectors.
            valid_BL: bool, True at real items.
        """
        padding_BL1 = ~valid_BL[:, :, None]
        state_BLD: Tensor = self.gru(self.dropout(e_BLD.masked_fill(padding_BL1, 0.0)))[0]
        hidden_BLD: Tensor = state_BLD if self.dense is None else self.dense(state_BLD)
        return hidden_BLD.masked_fill(padding_BL1, 0.0)
