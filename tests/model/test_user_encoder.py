"""The user encoder: causal, blind to padding, and SASRec's block to the letter."""

import math

import pytest
import torch
from torch import Tensor

from pmm.errors import InputError
from pmm.model.user_encoders.transformer import UserEncoder

VALID = torch.tensor([[False, False, True, True, True], [True] * 5, [False] * 5])


@pytest.fixture
def encoder() -> UserEncoder:
    torch.manual_seed(0)
    return UserEncoder(8, max_length=5).eval()


def literal(encoder: UserEncoder, e_LD: Tensor, valid_L: Tensor) -> Tensor:
    """The SASRec encoder for one user with additive masks, head by head."""
    x = encoder.norm(e_LD + encoder.position.weight)
    for block in encoder.blocks:
        parts = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            q, k, v = (f(x)[:, part] for f in (block.query, block.key, block.value))
            scores = q @ k.T / math.sqrt(4)
            for i in range(5):
                for j in range(5):
                    scores[i, j] += 0 if valid_L[j] and j <= i else -1e9
            parts.append(scores.softmax(-1) @ v)
        x = block.attention_norm(x + block.out(torch.cat(parts, -1)))
        x = block.norm(x + block.down(block.up(x).relu()))
    return x * valid_L[:, None]


def test_it_equals_the_definition_written_out_for_the_transformer(encoder: UserEncoder) -> None:
    e = torch.randn(3, 5, 8)
    expected = torch.stack([literal(encoder, e[b], VALID[b]) for b in range(3)])
    assert torch.allclose(encoder(e, VALID), expected, atol=1e-5)


def test_the_last_state_alone_is_the_last_of_all_states(encoder: UserEncoder) -> None:
    e = torch.randn(3, 5, 8)
    found = encoder(e, VALID, last=True)
    assert found.shape == (3, 1, 8)
    assert torch.allclose(found, encoder(e, VALID)[:, -1:], atol=1e-6)


def test_the_order_of_the_past_matters_for_the_transformer(encoder: UserEncoder) -> None:
    e = torch.randn(1, 5, 8)
    swapped = e[:, [1, 0, 2, 3, 4]]
    assert not torch.allclose(encoder(e, VALID[1:2])[:, -1], encoder(swapped, VALID[1:2])[:, -1])


def test_an_empty_window_gives_zeros_and_finite_gradients(encoder: UserEncoder) -> None:
    encoder.train()
    e = torch.randn(3, 5, 8, requires_grad=True)
    encoder(e, VALID).square().sum().backward()
    assert e.grad.isfinite().all()
    assert e.grad[~VALID].abs().sum() == 0


def test_it_starts_from_xavier_weights_and_zero_biases() -> None:
    torch.manual_seed(0)
    encoder = UserEncoder(768, max_length=20)
    assert encoder.blocks[0].up.weight.std().item() == pytest.approx(math.sqrt(2 / 3840), rel=0.01)
    assert encoder.position.weight.std().item() == pytest.approx(math.sqrt(2 / 788), rel=0.05)
    assert encoder.blocks[1].down.bias.abs().sum() == 0
    norm = encoder(torch.randn(1, 20, 768), torch.ones(1, 20, dtype=torch.bool)).norm(dim=-1)
    assert norm.mean().item() == pytest.approx(math.sqrt(768), rel=0.01)


def test_heads_that_do_not_divide_the_width_are_refused_for_the_transformer() -> None:
    with pytest.raises(InputError, match="user_heads = 3"):
        UserEncoder(8, max_length=5, heads=3)
