"""BERT and its family, whose tokens run packed: nothing is computed for padding (paper Eq. 1).

Shape suffixes: I items, T text tokens, N packed tokens of all items, D the encoder's width, H
heads, E width of a head, K tokens of the longest item.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pmm.model.encoders.packing import Packing
from pmm.model.encoders.text_encoder import TextEncoder

BERT_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
"""Families of which every member has the parts that are cut: embeddings and numbered layers."""


def attend(
    module: nn.Module,
    query_IHKE: Tensor,
    key_IHKE: Tensor,
    value_IHKE: Tensor,
    attention_mask: Tensor | Packing,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """The library's attention; of packed tokens (one row, a `Packing` as its mask) ours."""
    # The library passes the mask through all layers as it is, so the packing can travel in its
    # place: no layer has to be patched, and whatever version of a layer is loaded stays the
    # library's.
    parts = (query_IHKE, key_IHKE, value_IHKE)
    if isinstance(attention_mask, Packing):
        packed = (each[0].transpose(0, 1) for each in parts)
        return attention_mask.attend(*packed, dropout=dropout)[None], None
    attended, _ = sdpa_attention_forward(module, *parts, attention_mask, dropout=dropout, **more)
    return attended, None


ATTENTION = "pmm_packed"
AttentionInterface.register(ATTENTION, attend)


class BertText(TextEncoder):
    """An encoder of the BERT family without its pooler."""

    @property
    def positions(self) -> int:
        """The most tokens of a text; RoBERTa counts positions from behind its padding id."""
        embedding = self.stem.get_submodule("position_embeddings")
        assert isinstance(embedding, nn.Embedding)
        first = 0 if embedding.padding_idx is None else embedding.padding_idx + 1
        return embedding.num_embeddings - first

    @property
    def vocabulary(self) -> int:
        """Rows of the table of sub-words."""
        return self.stem.get_submodule("word_embeddings").get_parameter("weight").shape[0]

    def trunk(self, token_IT: Tensor, mask_IT: Tensor) -> Tensor:
        """As of `TextEncoder`."""
        with self._gradients():
            hidden_ITD: Tensor = self.stem(input_ids=token_IT)
            for block in self.blocks[: self.cut]:
                hidden_ITD = block(hidden_ITD, mask_IT[:, None, None, :])
            return hidden_ITD

    def top(self, hidden_ND: Tensor, packing: Packing) -> Tensor:
        """Packed hidden states [N, D] of the last block."""
        if not len(packing):
            return hidden_ND
        return self.through_top(hidden_ND[None], packing)[0]
