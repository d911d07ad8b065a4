"""UniSRec's adaptor: a mixture of whitening experts that turns frozen vectors into item vectors.

Shape suffixes: I items, F width of the frozen vectors, D width, K experts.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST_NOISE = 0.01
"""Deviation of the gates' noise below which it does not fall."""


class MixtureAdaptor(nn.Module):
    """sum_k g_k W_k (dropout(x) - b_k): a gated sum of parametric whitenings (UniSRec).

    The gates are softmax(x W_g + n (softplus(x W_n) + 0.01)) with n ~ N(0, 1) while training and
    n = 0 otherwise. All experts are in the sum, each with its own dropout of x; the gates see x
    whole. At the start gates are uniform and offsets zero: in evaluation the output is
    x mean_k(W_k)^T.

    Args:
        features: width F of the frozen vectors.
        width: D.
        experts: K.
        dropout: of the experts' input.
    """

    def __init__(
        self, features: int, width: int, *, experts: int = 8, dropout: float = 0.2
    ) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"experts must be at least 1, found {experts}")
        self.expert_KDF = nn.Parameter(torch.empty(experts, width, features).normal_(std=0.02))
        self.offset_KF = nn.Parameter(torch.zeros(experts, features))
        self.gate_KF = nn.Parameter(torch.zeros(experts, features))
        self.noise_KF = nn.Parameter(torch.zeros(experts, features))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_IF: Tensor) -> Tensor:
        """Item vectors [I, D].

        One expert after another: in evaluation the memory is that of one, so a whole catalogue can
        pass at once.
        """
        gate_IK = self.gates(x_IF)
        return sum(
            (
                gate_I1 * functional.linear(self.dropout(x_IF) - offset_F, expert_DF)
                for gate_I1, offset_F, expert_DF in zip(
                    torch.split(gate_IK, 1, dim=1), self.offset_KF, self.expert_KDF, strict=True
                )
            ),
            start=gate_IK.new_zeros(()),
        )

    def gates(self, x_IF: Tensor) -> Tensor:
        """The experts' shares [I, K], which sum to 1; noisy while training."""
        logit_IK = functional.linear(x_IF, self.gate_KF)
        if self.training:
            logit_IK = logit_IK + torch.randn_like(logit_IK) * self.noise_scale(x_IF)
        return logit_IK.softmax(1)

    def noise_scale(self, x_IF: Tensor) -> Tensor:
        """Deviation of the noise on the gates' logits, [I, K]; ln 2 + 0.01 at the start."""
        return functional.softplus(functional.linear(x_IF, self.noise_KF)) + LEAST_NOISE
