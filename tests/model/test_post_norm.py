"""RecBole's Transformer: causal, blind to padding, and BERT's block to the letter."""

import math

import pytest
import torch
from torch import Tensor, nn

from pmm.errors import InputError
from pmm.model.user_encoders.post_norm import PostNormBlocks, PostNormEncoder

VALID = torch.tensor([[False, False, True, True, True], [True] * 5, [False] * 5])


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


@pytest.fixture
def encoder() -> PostNormEncoder:
    """With matrices large enough, and biases and norms of their own, that each must be read."""
    torch.manual_seed(0)
    encoder = PostNormEncoder(8, max_length=5, inner=12).eval()
    for tensor in encoder.parameters():
        nn.init.normal_(tensor, std=0.4)
    return encoder


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True)
    return centred / (spread + 1e-12).sqrt() * norm.weight + norm.bias


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def literal(encoder: PostNormEncoder, e_LD: Tensor, valid_L: Tensor) -> Tensor:
    """RecBole's Transformer for one user with its additive mask, head by head."""
    x = layer_norm(encoder.input.norm, e_LD + encoder.input.position.weight)
    for block in encoder.transformer.blocks:
        parts = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            q, k, v = (linear(f, x)[:, part] for f in (block.query, block.key, block.value))
            scores = q @ k.T / math.sqrt(4)
            for i in range(5):
                for j in range(5):
                    scores[i, j] += 0 if valid_L[j] and j <= i else -10_000
            parts.append(scores.softmax(-1) @ v)
        x = layer_norm(block.attention_norm, x + linear(block.out, torch.cat(parts, -1)))
        inner = linear(block.up, x)
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = layer_norm(block.norm, x + linear(block.down, inner))
    return x * valid_L[:, None]


def test_it_equals_the_definition_written_out_for_the_post_norm_transformer(
    encoder: PostNormEncoder,
) -> None:
    e = torch.randn(3, 5, 8)
    expected = torch.stack([literal(encoder, e[b], VALID[b]) for b in range(3)])
    torch.testing.assert_close(encoder(e, VALID), expected, atol=1e-5, rtol=1e-4)


def test_its_sizes_are_those_of_unisrec() -> None:
    with torch.device("meta"):
        encoder = PostNormEncoder(300, max_length=50)
    assert count(encoder.transformer) == 1_033_112
    assert count(encoder.input.position) == 15_000
    assert count(encoder.input.norm) == 600
    assert count(encoder) == 2_910_344 - 1_861_632  # UniSRec less its adaptor
    assert len(list(encoder.parameters())) == 3 + 2 * 16


def test_the_order_of_the_past_matters_for_the_post_norm_transformer(
    encoder: PostNormEncoder,
) -> None:
    e = torch.randn(1, 5, 8)
    swapped = e[:, [1, 0, 2, 3, 4]]
    assert not torch.allclose(encoder(e, VALID[1:2])[:, -1], encoder(swapped, VALID[1:2])[:, -1])


def test_dropout_draws_anew_in_training_only() -> None:
    torch.manual_seed(0)
    encoder, e = PostNormEncoder(8, max_length=5), torch.randn(3, 5, 8)
    assert not torch.equal(encoder(e, VALID), encoder(e, VALID))
    encoder.eval()
    assert torch.equal(encoder(e, VALID), encoder(e, VALID))


def test_dropout_of_the_input_stands_behind_its_norm(encoder: PostNormEncoder) -> None:
    e = torch.randn(3, 5, 8)
    expected, found = encoder.input(e, VALID), encoder.train().input(e, VALID)
    dropped = found == 0
    assert 0.3 < dropped.float().mean() < 0.7
    torch.testing.assert_close(found, torch.where(dropped, 0.0, 2 * expected))


def test_it_starts_from_small_normal_weights_and_zero_biases_for_the_post_norm_transformer() -> (
    None
):
    torch.manual_seed(0)
    encoder = PostNormEncoder(300, max_length=50)
    for name, tensor in encoder.named_parameters():
        if tensor.ndim == 2:
            assert tensor.std().item() == pytest.approx(0.02, rel=0.03), name
        else:
            expected = 1.0 if name.endswith("norm.weight") else 0.0
            assert torch.equal(tensor, torch.full_like(tensor, expected)), name


def test_sizes_that_do_not_fit_are_refused(encoder: PostNormEncoder) -> None:
    with pytest.raises(InputError, match="user_heads = 3"):
        PostNormBlocks(8, heads=3)
    with pytest.raises(ValueError, match="a window of 6 items"):
        encoder(torch.zeros(1, 6, 8), torch.ones(1, 6, dtype=torch.bool))
