"""Merge-attention fusion: BERT's own block, what is missing, two ways to pool."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from pmm.model.encoders.packing import Packing
from pmm.model.pmmrec.fusion import FusionBlock, MergeFusion

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


def tokens() -> tuple[Tensor, Packing, Tensor, Packing]:
    """Items with both kinds, without picture, without text, without anything."""
    torch.manual_seed(0)
    text, picture = packing([2, 3, 0, 0]), packing([5, 0, 5, 0])
    return torch.randn(5, 64), text, torch.randn(10, 64), picture


def packing(lengths: list[int]) -> Packing:
    return Packing(np.array(lengths), torch.device("cpu"))


def literal(fusion: MergeFusion, text: Tensor, picture: Tensor) -> Tensor:
    """One item's vector, every token through the whole block, the pooling at its end."""
    block, width = fusion.block, text.shape[1]
    if fusion.type_2D is not None:
        text, picture = text + fusion.type_2D[0], picture + fusion.type_2D[1]
    if fusion.mm_cls_D is None:
        x = torch.cat([text, picture])
    else:
        x = torch.cat([fusion.mm_cls_D[None], text[1:], picture[1:]])
    heads = [slice(64 * h, 64 * h + 64) for h in range(block.heads)]
    q, k, v = block.query(x), block.key(x), block.value(x)
    scores = [(q[:, h] @ k[:, h].T / (width / block.heads) ** 0.5).softmax(1) for h in heads]
    attended = torch.cat([s @ v[:, h] for s, h in zip(scores, heads, strict=True)], dim=1)
    x = block.attention_norm(x + block.out(attended))
    x = block.norm(x + block.down(torch.nn.functional.gelu(block.up(x))))
    return x.mean(0) if fusion.mm_cls_D is None else x[0]


def test_the_block_equals_berts() -> None:
    config = BertConfig(
        hidden_size=128, num_attention_heads=2, intermediate_size=512, attn_implementation="sdpa"
    )
    theirs, ours = BertLayer(config).eval(), FusionBlock(128, dropout=0.1).eval()
    for mine, name in BERT_NAMES.items():
        getattr(ours, mine).load_state_dict(theirs.get_submodule(name).state_dict())
    x, valid = torch.randn(2, 7, 128), torch.arange(7) < torch.tensor([[7], [4]])
    expected = theirs(x, valid[:, None, None, :])
    rows = packing([7, 4])
    assert torch.allclose(ours(x[valid], rows), expected[valid], atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("type_embedding", [True, False])
def test_values_and_gradients_are_those_of_the_whole_block(pool: str, type_embedding: bool) -> None:
    fusion = MergeFusion(128, pool=pool, type_embedding=type_embedding, dropout=0.0)
    for tensor in fusion.parameters():
        torch.nn.init.normal_(tensor, std=0.2)
    text, picture = torch.randn(9, 128), torch.randn(15, 128)
    found = fusion(text, packing([2, 3, 4]), picture, packing([5, 5, 5]))
    rows = zip(text.split([2, 3, 4]), picture.split(5), strict=True)
    expected = torch.stack([literal(fusion, *row) for row in rows])
    assert torch.allclose(found, expected, atol=1e-5)
    gradients = []
    for each in (found, expected):
        fusion.zero_grad()
        each.square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in fusion.named_parameters()})
    for name, gradient in gradients[1].items():
        assert torch.allclose(gradients[0][name], gradient, atol=1e-3), name


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_an_item_without_picture_is_fused_from_its_text_alone(pool: str) -> None:
    fusion = MergeFusion(64, pool=pool).eval()
    text, rows, picture, picture_rows = tokens()
    among_others = fusion(text, rows, picture, picture_rows)
    assert among_others.isfinite().all()
    alone = fusion(text[2:], packing([3]), picture[:0], packing([0]))[0]
    assert torch.allclose(among_others[1], alone, atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_an_item_without_anything_is_finite_and_has_no_nan_gradient(pool: str) -> None:
    fusion = MergeFusion(64, pool=pool)
    fused = fusion(*tokens())
    fused.square().sum().backward()
    assert fused.isfinite().all()
    assert (fused[3].abs().sum() == 0) == (pool == "mean")
    assert all(p.grad.isfinite().all() for p in fusion.parameters())


def test_cls_pooling_leaves_the_encoders_class_tokens_outside() -> None:
    fusion = MergeFusion(64, pool="cls").eval()
    text, rows, picture, picture_rows = tokens()
    first = fusion(text, rows, picture, picture_rows)
    text, picture = text.clone(), picture.clone()
    text[[0, 2]], picture[[0, 5]] = 5.0, 5.0
    assert torch.equal(first, fusion(text, rows, picture, picture_rows))
    text[3] = 5.0
    assert not torch.equal(first[1], fusion(text, rows, picture, picture_rows)[1])


def test_the_one_query_drops_whole_attention_weights() -> None:
    fusion = MergeFusion(64, pool="cls", dropout=0.5).train()
    row = torch.randn(3, 64).expand(300, 3, 64).reshape(900, 64), packing([3] * 300)
    none = torch.zeros(0, 64), packing([0] * 300)
    torch.nn.init.normal_(fusion.block.value.weight)
    assert fusion(*row, *none).unique(dim=0).shape[0] > 200


def test_the_type_embedding_tells_text_from_picture() -> None:
    one, other = torch.randn(2, 3, 64)
    for on in (True, False):
        fusion = MergeFusion(64, type_embedding=on).eval()
        there, back = (
            fusion(a, packing([3]), b, packing([3])) for a, b in ((one, other), (other, one))
        )
        assert torch.allclose(there, back, atol=1e-6) is not on


def test_both_type_vectors_train() -> None:
    fusion = MergeFusion(64)
    fusion(*tokens()).square().sum().backward()
    assert (fusion.type_2D.grad.abs().max(dim=1).values > 1e-7).all()


def test_weights_start_from_a_normal_of_two_hundredths() -> None:
    fusion = MergeFusion(256, pool="cls")
    assert fusion.block.up.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert fusion.block.up.bias.abs().sum() == 0
    assert fusion.mm_cls_D.std().item() == pytest.approx(0.02, rel=0.2)
