"""GRURec's user encoder: a GRU over item vectors, whose state at each step is the user.

Shape suffixes: B users, L positions of the window, D width.
"""

from torch import Tensor, nn

from pmm.model.user_encoders.local_convolution import convolved_input


class GruEncoder(nn.Module):
    """Item vectors of a left-padded window -> a hidden state at each position, from its past.

    As in the published code of PMMRec: dropout on the inputs, no biases, no dropout between the
    layers, no layer behind the GRU. `dense=True` puts a linear layer behind it, as RecBole does;
    `convolution` a norm and a convolution over so many items in front.

    Windows may have any length.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int = 2,
        dropout: float = 0.1,
        dense: bool = False,
        convolution: int = 0,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(width, width, num_layers=layers, bias=False, batch_first=True)
        self.dense = nn.Linear(width, width) if dense else None
        for name, matrix in self.gru.named_parameters():
            if name.endswith("_l0"):  # the later layers start as torch has them, as published
                nn.init.xavier_uniform_(matrix)
        self.input = convolved_input(width, convolution)

    @property
    def input_norm(self) -> nn.LayerNorm | None:
        """What norms its inputs, if anything does."""
        return None if self.input is None else self.input.norm

    def forward(self, e_BLD: Tensor, valid_BL: Tensor, *, last: bool = False) -> Tensor:
        """Hidden states [B, L, D], zeros at padding; with `last` that of the last position alone.

        Padding enters as zeros. Without biases a zero input leaves a zero state at zero, so a
        window means the same however many places of padding stand on its left.

        Args:
            e_BLD: item vectors.
            valid_BL: bool, True at real items.
        """
        padding_BL1 = ~valid_BL[:, :, None]
        if self.input is not None:
            e_BLD = self.input(e_BLD, valid_BL)
        state_BLD: Tensor = self.gru(self.dropout(e_BLD.masked_fill(padding_BL1, 0.0)))[0]
        if last:
            state_BLD, padding_BL1 = state_BLD[:, -1:], padding_BL1[:, -1:]
        hidden_BLD: Tensor = state_BLD if self.dense is None else self.dense(state_BLD)
        return hidden_BLD.masked_fill(padding_BL1, 0.0)
