"""FDSA: two causal streams with one input and one norm, joined; features that can be ignored."""

import math

import pytest
import torch
from torch import Tensor, nn

from pmm.model.user_encoders.fdsa_encoder import FdsaEncoder

VALID = torch.tensor([[False, False, True, True, True], [True] * 5, [False] * 5])


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def small(*fields: int) -> FdsaEncoder:
    """With matrices large enough, and biases and norms of their own, that each must be read."""
    torch.manual_seed(0)
    encoder = FdsaEncoder(8, fields=fields, max_length=5, inner=12).eval()
    for tensor in encoder.parameters():
        nn.init.normal_(tensor, std=0.4)
    return encoder


def inputs(*fields: int) -> tuple[Tensor, list[Tensor]]:
    draw = torch.Generator().manual_seed(1)
    e, *features = (torch.randn(3, 5, width, generator=draw) for width in (8, *fields))
    return e, features


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True)
    return centred / (spread + 1e-12).sqrt() * norm.weight + norm.bias


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T if layer.bias is None else x @ layer.weight.T + layer.bias


def transformer(blocks: nn.ModuleList, x: Tensor, valid_L: Tensor) -> Tensor:
    """RecBole's Transformer for one user, head by head, each query over the keys it may see."""
    for block in blocks:
        rows = []
        for i in range(5):
            seen = [j for j in range(5) if valid_L[j] and j <= i] or [i]
            parts = []
            for part in (slice(0, 4), slice(4, 8)):
                q, k, v = (linear(f, x)[:, part] for f in (block.query, block.key, block.value))
                weight = torch.stack([q[i] @ k[j] / math.sqrt(4) for j in seen]).softmax(0)
                parts.append(sum(w * v[j] for w, j in zip(weight, seen, strict=True)))
            rows.append(torch.cat(parts))
        x = layer_norm(block.attention_norm, x + linear(block.out, torch.stack(rows)))
        inner = linear(block.up, x)
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = layer_norm(block.norm, x + linear(block.down, inner))
    return x


def literal(encoder: FdsaEncoder, e: Tensor, fields: list[Tensor], valid_L: Tensor) -> Tensor:
    """One user, from the definition."""
    embedded = [
        linear(layer, x).clamp(min=0) for layer, x in zip(encoder.projections, fields, strict=True)
    ]
    feature = embedded[0]
    if len(fields) > 1:
        attention = encoder.field_attention
        rows = []
        for i in range(5):
            logits = [
                linear(attention.logit, linear(attention.inner, f[i]).clamp(min=0))
                for f in embedded
            ]
            weight = torch.cat(logits).softmax(0)
            rows.append(sum(w * f[i] for w, f in zip(weight, embedded, strict=True)))
        feature = torch.stack(rows)
    norm, position = encoder.input.norm, encoder.input.position.weight
    item = transformer(encoder.item_stream.blocks, layer_norm(norm, e + position), valid_L)
    feature = layer_norm(norm, feature + position)
    feature = transformer(encoder.feature_stream.blocks, feature, valid_L)
    joined = linear(encoder.join, torch.cat([item, feature], -1))
    return layer_norm(norm, joined) * valid_L[:, None]


@pytest.mark.parametrize("fields", [(6,), (6, 3)])
def test_it_equals_the_definition_written_out(fields: tuple[int, ...]) -> None:
    encoder, (e, features) = small(*fields), inputs(*fields)
    expected = torch.stack(
        [literal(encoder, e[b], [each[b] for each in features], VALID[b]) for b in range(3)]
    )
    torch.testing.assert_close(encoder(e, features, VALID), expected, atol=1e-5, rtol=1e-4)


def test_its_sizes_are_those_of_the_specification() -> None:
    """Of 300 wide, 50 positions and one field of 768: two Transformers, P, LN, W, W_c."""
    with torch.device("meta"):
        encoder = FdsaEncoder(300, fields=(768,), max_length=50)
        two = FdsaEncoder(300, fields=(768, 512), max_length=50)
    assert count(encoder.item_stream) == count(encoder.feature_stream) == 1_033_112
    assert count(encoder.input) == 15_000 + 600
    assert count(encoder.projections) == 230_700
    assert count(encoder) == 2_492_824 - 180_300 + count(encoder.join)
    assert count(encoder.join) == 180_300
    assert count(two) - count(encoder) == 512 * 300 + 300 + (300 * 300 + 300) + 300


@pytest.mark.parametrize("stream", ["items", "features"])
def test_later_items_do_not_change_earlier_states(stream: str) -> None:
    encoder, (e, features) = small(6), inputs(6)
    changed = {"items": e.clone(), "features": features[0].clone()}
    changed[stream][:, 3:] += torch.randn(changed[stream][:, 3:].shape)
    before = encoder(e, features, VALID)
    after = encoder(changed["items"], [changed["features"]], VALID)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:2, 3:], after[:2, 3:])


def test_with_the_right_half_of_the_join_at_zero_features_are_ignored() -> None:
    encoder, (e, features) = small(6), inputs(6)
    others = [torch.randn_like(features[0])]
    assert not torch.allclose(encoder(e, features, VALID), encoder(e, others, VALID), atol=1e-2)
    with torch.no_grad():
        encoder.join.weight[:, 8:] = 0
    assert torch.equal(encoder(e, features, VALID), encoder(e, others, VALID))
    assert not torch.allclose(encoder(e, features, VALID), encoder(-e, others, VALID), atol=1e-2)


def test_distinct_items_can_be_embedded_once_and_put_into_windows() -> None:
    encoder = small(6, 3)
    features = [torch.randn(7, 6), torch.randn(7, 3)]
    e, slot_BL = inputs()[0], torch.tensor([[0, 0, 1, 2, 3], [4, 5, 6, 1, 1], [0] * 5])
    found = encoder.join_streams(e, encoder.embed_features(features)[slot_BL], VALID)
    expected = encoder(e, [each[slot_BL] for each in features], VALID)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_it_starts_from_small_normal_weights_and_zero_biases() -> None:
    torch.manual_seed(0)
    encoder = FdsaEncoder(300, fields=(768,), max_length=50)
    for name, tensor in encoder.named_parameters():
        if tensor.ndim == 2:
            assert tensor.std().item() == pytest.approx(0.02, rel=0.03), name
        else:
            expected = 1.0 if name.endswith("norm.weight") else 0.0
            assert torch.equal(tensor, torch.full_like(tensor, expected)), name


def test_fields_that_do_not_fit_are_refused() -> None:
    e, features = inputs(6)
    with pytest.raises(ValueError, match="at least one field"):
        FdsaEncoder(8, fields=(), max_length=5)
    with pytest.raises(ValueError, match="zip"):
        small(6, 3)(e, features, VALID)
