"""Merge-attention fusion: BERT's own block, masks for what is missing, two ways to pool."""

import pytest
import torch
from torch import Tensor
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from pmm.model.fusion import FusionBlock, MergeFusion

BERT_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}


def tokens() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Items with both kinds, without picture, without text, without anything."""
    torch.manual_seed(0)
    text_mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]).bool()
    picture_mask = torch.tensor([1, 0, 1, 0]).bool()[:, None].expand(4, 5)
    return torch.randn(4, 3, 64), text_mask, torch.randn(4, 5, 64), picture_mask


def test_the_block_equals_berts() -> None:
    config = BertConfig(
        hidden_size=128, num_attention_heads=2, intermediate_size=512, attn_implementation="sdpa"
    )
    theirs, ours = BertLayer(config).eval(), FusionBlock(128, dropout=0.1).eval()
    for mine, name in BERT_NAMES.items():
        getattr(ours, mine).load_state_dict(theirs.get_submodule(name).state_dict())
    x, valid = torch.randn(2, 7, 128), torch.arange(7) < torch.tensor([[7], [4]])
    expected = theirs(x, valid[:, None, None, :])
    assert torch.allclose(ours(x, x, valid), expected, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_masked_tokens_do_not_matter_and_nothing_is_nan(pool: str) -> None:
    fusion = MergeFusion(64, pool=pool).eval()
    text, text_mask, picture, picture_mask = tokens()
    first = fusion(text, text_mask, picture, picture_mask)
    text, picture = text.clone(), picture.clone()
    text[~text_mask], picture[~picture_mask] = 9.0, -9.0
    again = fusion(text, text_mask, picture, picture_mask)
    assert first.isfinite().all()
    assert torch.equal(first[:3], again[:3])


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_an_item_without_picture_is_fused_from_its_text_alone(pool: str) -> None:
    fusion = MergeFusion(64, pool=pool).eval()
    text, text_mask, picture, picture_mask = tokens()
    with_masks = fusion(text, text_mask, picture, picture_mask)[1]
    alone = fusion(text[1:2], text_mask[1:2], picture[1:2, :1], picture_mask[1:2, :1])[0]
    assert torch.allclose(with_masks, alone, atol=1e-6)


def test_an_item_without_anything_gets_zeros_from_the_mean_and_no_nan_gradient() -> None:
    fusion = MergeFusion(64)
    text, text_mask, picture, picture_mask = tokens()
    fused = fusion(text, text_mask, picture, picture_mask)
    fused.square().sum().backward()
    assert fused[3].abs().sum() == 0
    assert all(p.grad.isfinite().all() for p in fusion.parameters())


def test_cls_pooling_leaves_the_encoders_class_tokens_outside() -> None:
    fusion = MergeFusion(64, pool="cls").eval()
    text, text_mask, picture, picture_mask = tokens()
    first = fusion(text, text_mask, picture, picture_mask)
    text[:, 0], picture[:, 0] = 5.0, 5.0
    assert torch.equal(first, fusion(text, text_mask, picture, picture_mask))
    text[1, 1] = 5.0
    assert not torch.equal(first[1], fusion(text, text_mask, picture, picture_mask)[1])


def test_mean_pooling_is_the_mean_over_the_blocks_outputs_of_valid_tokens() -> None:
    fusion = MergeFusion(64, type_embedding=False).eval()
    text, text_mask, picture, picture_mask = tokens()
    row = torch.cat([text[:1, :2], picture[:1]], dim=1)
    expected = fusion.block(row, row, torch.ones(1, 7, dtype=torch.bool)).mean(1)
    found = fusion(text, text_mask, picture, picture_mask)[:1]
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_type_embedding_tells_text_from_picture() -> None:
    text, text_mask, _, _ = tokens()
    both = (text[:2, :2], text_mask[:2, :2]), (text[:2, 1:] * 2, text_mask[:2, :2])
    for on in (True, False):
        fusion = MergeFusion(64, type_embedding=on).eval()
        same = torch.allclose(fusion(*both[0], *both[1]), fusion(*both[1], *both[0]), atol=1e-6)
        assert same is not on


def test_both_type_vectors_train() -> None:
    fusion = MergeFusion(64)
    fusion(*tokens()).square().sum().backward()
    assert (fusion.type_2D.grad.abs().max(dim=1).values > 1e-7).all()


def test_weights_start_from_a_normal_of_two_hundredths() -> None:
    fusion = MergeFusion(256, pool="cls")
    assert fusion.block.up.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert fusion.block.up.bias.abs().sum() == 0
    assert fusion.mm_cls_D.std().item() == pytest.approx(0.02, rel=0.2)
