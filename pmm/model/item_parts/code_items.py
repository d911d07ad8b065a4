"""VQ-Rec's items: the mean of one vector for each of an item's codes.

Shape suffixes: I distinct items, N items of the catalogue, K codes of an item (parts of its frozen
vector), C = 1 + centroids places of a part in the table (place 0, then one for each code), R = K C
rows of the table, D width.
"""

import math
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn
from torch.nn import functional

from pmm.shards.items import Items
from pmm.storage.schemas import PAD

LearnedOrder = Literal["straight", "official"]

TINY = 1e-6
"""Added before logarithms, as published."""


class CodeItems(nn.Module):
    """A table with a vector of its own for each code of each part; an item is the mean of its K.

    Code c of part k is row 1 + k (centroids + 1) + c. Row 0 stands for padding: it is zero and has
    no gradient. Row k (centroids + 1) of the other parts is not used. All start from N(0, 0.02).
    """

    codes_NK: Tensor

    def __init__(self, codes_NK: Tensor, width: int, centroids: int = 256) -> None:
        """Take the codes of a catalogue; row i - 1 belongs to item i.

        Args:
            codes_NK: uint8.
            width: D.
            centroids: values of a code, at most 256.

        Raises:
            ValueError: codes of another type, or of values that the table does not have.
        """
        super().__init__()
        if codes_NK.dtype != torch.uint8:
            raise ValueError(f"codes must be uint8, found {codes_NK.dtype}")
        if codes_NK.numel() and int(codes_NK.max()) >= centroids:
            raise ValueError(f"code {int(codes_NK.max())}, but there are {centroids} centroids")
        self.centroids, self.parts = centroids, codes_NK.shape[1]
        self.register_buffer("codes_NK", codes_NK)
        self.table = nn.Embedding(self.parts * (centroids + 1), width, padding_idx=PAD)
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.zeros_(self.table.weight[PAD].data)

    def forward(self, items: Items, permutation: "CodePermutation | None" = None) -> Tensor:
        """The vectors [I, D] of distinct items; zeros for padding.

        Args:
            items: only their numbers are read.
            permutation: of the table's rows, where it is what trains.
        """
        table_RD = None if permutation is None else permutation(self.table.weight)
        vector_ID = self.of_codes(self.codes(items.item_I), table_RD)
        return vector_ID.masked_fill((items.item_I == PAD)[:, None], 0.0)

    def codes(self, item_I: Tensor) -> Tensor:
        """The codes of items 1..N, uint8 [I, K]; any for padding."""
        return self.codes_NK[item_I - 1]

    def of_codes(self, codes_IK: Tensor, table_RD: Tensor | None = None) -> Tensor:
        """The vectors [I, D] of any codes, as of synthetic items.

        Args:
            codes_IK: uint8.
            table_RD: a permuted table; None: the table itself.
        """
        place_K = torch.arange(self.parts, device=codes_IK.device) * (self.centroids + 1)
        row_IK = 1 + place_K + codes_IK.long()
        return functional.embedding_bag(
            row_IK,
            self.table.weight if table_RD is None else table_RD,
            mode="mean",
            padding_idx=PAD,
        )

    @torch.no_grad()
    def permute(self, source_KC: Tensor) -> None:
        """Put the table's rows into another order, part by part; the row of padding stays zero.

        Args:
            source_KC: for each place of each part, which place's row it gets: of
                `CodePermutation.fixed`.
        """
        part_K1 = torch.arange(self.parts, device=source_KC.device)[:, None]
        weight = self.table.weight
        weight.copy_(weight.view(*source_KC.shape, -1)[part_K1, source_KC].flatten(0, 1))
        weight[PAD] = 0.0


def fake_codes(
    codes_IK: Tensor, ratio: float, generator: Generator, centroids: int = 256
) -> Tensor:
    """Codes of synthetic items: each digit is drawn anew with a probability (VQ-Rec).

    A new digit is uniform over the part's codes, so at times the old one.

    Args:
        codes_IK: uint8.
        ratio: the probability; 0.75 as published.
        generator: all chance comes from it; on any device.
        centroids: values of a code.

    Returns:
        uint8 [I, K].
    """
    shape, device = codes_IK.shape, generator.device
    anew_IK = torch.rand(shape, generator=generator, device=device) < ratio
    digit_IK = torch.randint(
        centroids, shape, generator=generator, device=device, dtype=torch.uint8
    )
    return torch.where(anew_IK.to(codes_IK.device), digit_IK.to(codes_IK.device), codes_IK)


class CodePermutation(nn.Module):
    """Learns which code's vector each code of a new catalogue gets (VQ-Rec's first stage).

    An order of each part's C places, from a matrix of logits that Gumbel noise and Sinkhorn's
    steps make nearly doubly stochastic, rounded to the largest of each row.

    "straight" lets gradients pass as if it was not rounded; place 0, which stands for padding or
    nothing, keeps its row, so the logits' first row and column take no part; noise is for training
    only. "official" is what was published: rounding has zero gradient, so nothing is learned, place
    0 is as any other, there is always noise, and `fixed` is no permutation.

    Args:
        parts: K.
        centroids: C - 1.
        mode: see above.
        tau: logits and noise are divided by it.
        steps: of Sinkhorn's algorithm; each makes rows sum to 1, then columns.
    """

    def __init__(
        self,
        parts: int,
        centroids: int = 256,
        *,
        mode: LearnedOrder = "straight",
        tau: float = 0.7,
        steps: int = 3,
    ) -> None:
        super().__init__()
        self.mode, self.tau, self.steps = mode, tau, steps
        self.logit_KCC = nn.Parameter(torch.randn(parts, centroids + 1, centroids + 1))

    def forward(self, table_RD: Tensor) -> Tensor:
        """A table with permuted rows, of the same shape; row 0 is zero.

        Gradients reach the logits ("straight") and the table.
        """
        parts, places = self.logit_KCC.shape[:2]
        table_KCD = table_RD.view(parts, places, -1)
        soft = self.soft()
        with torch.autocast(table_RD.device.type, enabled=False):
            if self.mode == "official":
                below = soft.amax(2, keepdim=True) - soft
                row_KCD = (1 - below.ceil().clamp(max=1)) @ table_KCD
            else:
                hard = torch.zeros_like(soft).scatter(2, soft.argmax(2, keepdim=True), 1.0)
                # The difference is 0: the values are those of the rounded matrix to the last bit.
                order = hard + (soft - soft.detach())
                row_KCD = torch.cat([table_KCD[:, :1], order @ table_KCD[:, 1:]], dim=1)
        return functional.pad(row_KCD.flatten(0, 1)[1:], (0, 0, 1, 0))

    def soft(self) -> Tensor:
        """The matrices before rounding, float32; columns sum to 1 and rows nearly.

        [K, C, C], or [K, C - 1, C - 1] where place 0 takes no part.
        """
        noisy = self.training or self.mode == "official"
        with torch.autocast(self.logit_KCC.device.type, enabled=False):
            log = self._logits()
            if noisy:
                uniform = torch.rand_like(log)
                log = log - ((uniform + TINY).log().neg() + TINY).log()
            log = log / self.tau
            for _ in range(self.steps):
                log = log - log.logsumexp(2, keepdim=True)
                log = log - log.logsumexp(1, keepdim=True)
            return log.exp()

    @torch.no_grad()
    def fixed(self) -> Tensor:
        """The place from which each place gets its row when learning ends, int64 [K, C].

        "straight": the permutation of the largest sum of logits, without noise. Sinkhorn's steps
        add the same to all of a row or a column, so they do not change which it is.
        """
        if self.mode == "official":
            return self.soft().argmax(2)
        logits = self._logits().double().cpu().numpy()
        found = np.stack([linear_sum_assignment(each, maximize=True)[1] for each in logits])
        source_KC = torch.from_numpy(found).to(self.logit_KCC.device) + 1
        return functional.pad(source_KC, (1, 0))

    def _logits(self) -> Tensor:
        """Those of the places that may move, kept above ln 1e-6 as published: ln(e^T + 1e-6)."""
        first = 0 if self.mode == "official" else 1
        moved = self.logit_KCC[:, first:, first:]
        return torch.logaddexp(moved, moved.new_tensor(math.log(TINY)))
