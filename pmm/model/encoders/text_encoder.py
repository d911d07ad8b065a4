"""What a text encoder does, whichever family it is of (paper Eq. 1).

Shape suffixes: I items, T text tokens, N packed tokens of all items, D the encoder's width, K
tokens of the longest item.
"""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pmm.model.encoders.cut_encoder import CutEncoder
from pmm.model.encoders.packing import Packing


class TextEncoder(CutEncoder):
    """A text encoder without its pooler (paper Eq. 1)."""

    causal = False
    """A token sees those before it alone, so only the last one knows the whole text."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """The most tokens of a text."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Rows of the table of sub-words."""

    @abstractmethod
    def trunk(self, token_IT: Tensor, mask_IT: Tensor) -> Tensor:
        """Hidden states [I, T, D] at the cut, without gradient unless the stem trains.

        Args:
            token_IT: int64, right-padded with the tokenizer's padding id.
            mask_IT: bool, True at real tokens; at least one in each row.
        """

    @abstractmethod
    def top(self, hidden_ND: Tensor, packing: Packing) -> Tensor:
        """Packed hidden states [N, D] of the last block."""

    def packed_trunk(self, token_IT: Tensor, mask_IT: Tensor, packing: Packing) -> Tensor:
        """The same as packed tokens [N, D]; no item is padded to one of another group.

        Args:
            token_IT, mask_IT: as of `trunk`, but rows without any real token are allowed.
            packing: of the real tokens.
        """
        # The library's embeddings need rectangles. In groups by length they are narrow, and rows
        # without text, which would be attention over nothing, are left out.
        found = [torch.zeros(0, self.width, device=token_IT.device)]
        for items in packing.groups():
            lengths = packing.lengths[items]
            kept = torch.from_numpy(np.flatnonzero(lengths)).to(token_IT.device)
            if len(kept):
                token_iK = token_IT[items][kept, : lengths.max()]
                mask_iK = mask_IT[items][kept, : lengths.max()]
                found.append(self.trunk(token_iK, mask_iK)[mask_iK])
        return torch.cat(found)

    def forward(self, token_IT: Tensor, mask_IT: Tensor) -> Tensor:
        """Trunk and top: the library's `last_hidden_state` [I, T, D], zeros at padding."""
        packing = Packing.of_mask(mask_IT)
        padded_IKD = packing.spread(self.top(packing.pack(self.trunk(token_IT, mask_IT)), packing))
        return functional.pad(padded_IKD, (0, 0, 0, mask_IT.shape[1] - padded_IKD.shape[1]))
