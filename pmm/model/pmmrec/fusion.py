"""Merge-attention fusion of an item's text and picture tokens into one vector (paper Eq. 3).

Shape suffixes: I items, N tokens of all of them (M of texts, Q of pictures), K tokens of the
longest item, D width, H heads, E width of a head.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.model.encoders.attention_heads import split_heads, split_rows
from pmm.model.encoders.packing import Packing, beside, merge

Pool = Literal["mean", "cls"]


class FusionBlock(nn.Module):
    """One BERT-type post-norm block (docs/paper.md R7) over the packed tokens of items."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, token_ND: Tensor, packing: Packing) -> Tensor:
        """Each token attends to the tokens of its item; [N, D]."""
        attended_NHE = packing.attend(
            split_heads(self.query(token_ND), self.heads),
            split_heads(self.key(token_ND), self.heads),
            split_heads(self.value(token_ND), self.heads),
            dropout=self._attention_dropout(),
        )
        return self._behind_attention(token_ND, attended_NHE.flatten(1))

    def of_one_query(self, query_D: Tensor, token_ND: Tensor, packing: Packing) -> Tensor:
        """What the block makes of one more token in front of each item's, the same in all; [I, D].

        Nothing else of the block's output is computed. Since the query is the same for all items,
        its product with the key projection is one vector a head, and the value projection comes
        after the weighted sum: the same values, with no projection of a token.
        """
        # Worth it: a step with "cls" takes 1.41 s where "mean", which needs every token's output,
        # takes 1.90 (benchmarks/results.md, train_step, Bili Food, 8 users).
        key_HED = split_rows(self.key.weight, self.heads)
        query_HE = split_heads(self.query(query_D), self.heads) / key_HED.shape[1] ** 0.5
        folded_HD = torch.einsum("he,hed->hd", query_HE, key_HED)
        bias_H = (query_HE * split_heads(self.key.bias, self.heads)).sum(1)
        token_IKD, valid_IK = packing.spread(token_ND), packing.valid()
        count = len(token_IKD)
        own_I1D = query_D.to(token_IKD.dtype).expand(count, 1, -1)
        all_IKD = torch.cat([own_I1D, token_IKD], dim=1)
        score_IHK = torch.einsum("ikd,hd->ihk", all_IKD, folded_HD) + bias_H[:, None]
        seen_IK = torch.cat([valid_IK.new_ones(count, 1), valid_IK], dim=1)
        # In float32, since a sum over a hundred exponentials loses too much in 16 bits.
        score_IHK = score_IHK.float().masked_fill(~seen_IK[:, None], -torch.inf)
        weight_IHK = functional.dropout(score_IHK.softmax(2), self._attention_dropout())
        summed_IHD = torch.einsum("ihk,ikd->ihd", weight_IHK.to(all_IKD.dtype), all_IKD)
        value_HED = split_rows(self.value.weight, self.heads)
        attended_IHE = torch.einsum("ihd,hed->ihe", summed_IHD, value_HED)
        # With dropout the weights do not sum to 1, so the values' bias is weighted as they are;
        # added once as it stands it would be right in evaluation only.
        shift_HE = split_heads(self.value.bias, self.heads)
        attended_IHE = attended_IHE + weight_IHK.sum(2)[:, :, None] * shift_HE
        return self._behind_attention(query_D.expand(count, -1), attended_IHE.flatten(1))

    def padded(self, token_IKD: Tensor, mask_IK: Tensor) -> Tensor:
        """The same as `forward` of tokens [I, K, D] that are not packed; True at real ones."""
        query_IHKE, key_IHKE, value_IHKE = (
            split_heads(projection(token_IKD), self.heads).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        attended_IHKE = functional.scaled_dot_product_attention(
            query_IHKE, key_IHKE, value_IHKE, attn_mask=mask_IK[:, None, None, :]
        )
        return self._behind_attention(token_IKD, attended_IHKE.transpose(1, 2).flatten(2))

    def _attention_dropout(self) -> float:
        return self.dropout.p if self.training else 0.0

    def _behind_attention(self, query_ND: Tensor, attended_ND: Tensor) -> Tensor:
        x_ND = self.attention_norm(query_ND + self.dropout(self.out(attended_ND)))
        hidden_ND = self.down(functional.gelu(self.up(x_ND)))
        out_ND: Tensor = self.norm(x_ND + self.dropout(hidden_ND))
        return out_ND


class MergeFusion(nn.Module):
    """Text and picture tokens of an item through one block over both, pooled to the item's vector.

    `pool="mean"`: mean over all tokens (R2). `pool="cls"`: a learned token in front, whose
    output is the vector; the class tokens of the two encoders then stay outside (R3), as the
    paper writes.
    """

    def __init__(
        self, width: int, *, pool: Pool = "mean", type_embedding: bool = True, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.pool = pool
        self.block = FusionBlock(width, dropout=dropout)
        self.type_2D = nn.Parameter(torch.empty(2, width)) if type_embedding else None
        self.mm_cls_D = nn.Parameter(torch.empty(width)) if pool == "cls" else None
        self._initialise()

    def _initialise(self) -> None:
        """N(0, 0.02), zero biases: what the published code trains from (docs/paper.md R6)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for tensor in (self.type_2D, self.mm_cls_D):
            if tensor is not None:
                nn.init.normal_(tensor, std=0.02)

    def forward(
        self, text_MD: Tensor, text: Packing, picture_QD: Tensor, picture: Packing
    ) -> Tensor:
        """One vector an item, [I, D], of its packed text tokens and its packed picture tokens.

        An item may lack all of one kind. One that lacks both gets a finite vector that says
        nothing (zeros for `mean`).
        """
        if self.type_2D is not None:
            text_MD = text_MD + self.type_2D[0]
            picture_QD = picture_QD + self.type_2D[1]
        if self.mm_cls_D is not None:
            # The learned token takes the place of the encoders' own class tokens (R3).
            (text_MD, text), (picture_QD, picture) = (
                packing.without_first(token_ND)
                for token_ND, packing in ((text_MD, text), (picture_QD, picture))
            )
        packing, *places = beside(text, picture)
        token_ND = merge([text_MD, picture_QD], places)
        if self.mm_cls_D is not None:
            return self.block.of_one_query(self.mm_cls_D, token_ND, packing)
        return packing.mean(self.block(token_ND, packing))

    def padded(
        self, text_ITD: Tensor, text_IT: Tensor, picture_IPD: Tensor, picture_IP: Tensor
    ) -> Tensor:
        """The same in eval mode, of tokens that are not packed and masks that are True at real
        ones; an item has at least one."""
        if self.type_2D is not None:
            text_ITD, picture_IPD = text_ITD + self.type_2D[0], picture_IPD + self.type_2D[1]
        if self.mm_cls_D is None:
            token_IKD = torch.cat([text_ITD, picture_IPD], dim=1)
            mask_IK = torch.cat([text_IT, picture_IP], dim=1)
            made_IKD = self.block.padded(token_IKD, mask_IK)
            weight_IK = mask_IK / mask_IK.sum(1, keepdim=True)
            return (made_IKD * weight_IK[:, :, None]).sum(1)
        # The learned token takes the place of the encoders' own class tokens (R3).
        first_I1D = self.mm_cls_D.expand(len(text_ITD), 1, -1)
        token_IKD = torch.cat([first_I1D, text_ITD[:, 1:], picture_IPD[:, 1:]], dim=1)
        seen_I1 = torch.ones_like(text_IT[:, :1])
        mask_IK = torch.cat([seen_I1, text_IT[:, 1:], picture_IP[:, 1:]], dim=1)
        return self.block.padded(token_IKD, mask_IK)[:, 0]
