"""What every user encoder keeps: the past alone counts, padding is nothing, every tensor learns."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pmm.model.user_encoders.carca_attention import CarcaEncoder
from pmm.model.user_encoders.dilated_convolutions import Adapter, NextItNetEncoder
from pmm.model.user_encoders.fdsa_encoder import FdsaEncoder
from pmm.model.user_encoders.gru import GruEncoder
from pmm.model.user_encoders.hstu import HstuEncoder
from pmm.model.user_encoders.post_norm import PostNormEncoder
from pmm.model.user_encoders.transformer import UserEncoder

VALID = torch.tensor([[False, False, True, True, True], [True] * 5, [False] * 5])


class Streams(nn.Module):
    """FDSA, whose first eight inputs are the id's vector and whose others are fields of six."""

    def __init__(self, fields: int, **options: Any) -> None:
        super().__init__()
        self.encoder = FdsaEncoder(8, fields=(6,) * fields, max_length=5, **options)

    def forward(self, x_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        widths = [8] + [6] * len(self.encoder.projections)
        e_BLD, *fields = torch.split(x_BLD, widths, dim=-1)
        found: Tensor = self.encoder(e_BLD, fields, valid_BL)
        return found


MAKERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "SASRec": (lambda: UserEncoder(8, max_length=5), 8),
    "GRURec": (lambda: GruEncoder(8), 8),
    "GRURec, dense": (lambda: GruEncoder(8, dense=True), 8),
    "NextItNet": (lambda: NextItNetEncoder(8), 8),
    "NextItNet, dense": (lambda: NextItNetEncoder(8, dense=True), 8),
    "PeterRec, serial": (lambda: NextItNetEncoder(8, adapter="serial"), 8),
    "PeterRec, parallel": (lambda: NextItNetEncoder(8, adapter="parallel"), 8),
    "UniSRec": (lambda: PostNormEncoder(8, max_length=5), 8),
    "FDSA": (lambda: Streams(1), 14),
    "FDSA, two fields": (lambda: Streams(2), 20),
    "CARCA": (lambda: CarcaEncoder(8, heads=2), 8),
    "HSTU": (lambda: HstuEncoder(8, max_length=5), 8),
    "HSTU, rotary, convolution": (
        lambda: HstuEncoder(8, max_length=5, positions="rope", convolution=3),
        8,
    ),
    "SASRec, rotary": (lambda: UserEncoder(8, max_length=5, positions="rope"), 8),
    "SASRec, convolution": (lambda: UserEncoder(8, max_length=5, convolution=3), 8),
    "SASRec, rotary, convolution": (
        lambda: UserEncoder(8, max_length=5, positions="rope", convolution=2),
        8,
    ),
    "SASRec, norms in front": (lambda: UserEncoder(8, max_length=5, norm="pre"), 8),
    "GRURec, convolution": (lambda: GruEncoder(8, convolution=3), 8),
    "NextItNet, convolution": (lambda: NextItNetEncoder(8, convolution=3), 8),
    "UniSRec, rotary, convolution": (
        lambda: PostNormEncoder(8, max_length=5, positions="rope", convolution=3),
        8,
    ),
    "FDSA, rotary, convolution": (lambda: Streams(1, positions="rope", convolution=3), 14),
    "CARCA, convolution": (lambda: CarcaEncoder(8, heads=2, convolution=3), 8),
}
"""Name -> how it is made, how wide its inputs are."""


def made(name: str) -> tuple[nn.Module, Tensor]:
    """An encoder at rest, with biases that would show what stands at padding; inputs for it."""
    torch.manual_seed(0)
    make, width = MAKERS[name]
    encoder = make().eval()
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.bias)
        if isinstance(module, Adapter):  # which else adds nothing
            nn.init.normal_(module.up.weight)
            nn.init.normal_(module.up.bias)
    return encoder, torch.randn(3, 5, width)


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_later_items_do_not_change_earlier_states_for_every_user_encoder(name: str) -> None:
    encoder, x = made(name)
    changed = torch.cat([x[:, :3], torch.randn(x[:, 3:].shape)], dim=1)
    before, after = encoder(x, VALID), encoder(changed, VALID)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:2, 3:], after[:2, 3:])


def test_what_stands_at_padding_does_not_matter_and_its_states_are_zero_for_every_user_encoder(
    name: str,
) -> None:
    encoder, x = made(name)
    found = encoder(x, VALID)
    assert torch.equal(found, encoder(torch.where(VALID[:, :, None], x, 1e3), VALID))
    assert found[~VALID].abs().sum() == 0
    assert found[VALID].abs().min() > 0


def test_a_shorter_window_is_the_same_as_one_padded_on_the_left_for_every_user_encoder(
    name: str,
) -> None:
    encoder, x = made(name)
    found = encoder(x[:1, 2:], torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(found, encoder(x, VALID)[:1, 2:], atol=1e-6, rtol=1e-5)


def test_every_tensor_gets_a_gradient_and_padding_none_for_every_user_encoder(name: str) -> None:
    encoder, x = made(name)
    x.requires_grad_()
    (encoder.train()(x, VALID) * torch.randn(3, 5, 8)).sum().backward()
    for which, tensor in encoder.named_parameters():
        assert tensor.grad is not None, which
        assert tensor.grad.isfinite().all(), which
        # a key bias shifts all scores of a query alike: its gradient is zero up to rounding
        assert which.endswith("key.bias") or tensor.grad.abs().max() > 1e-6, which
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad[~VALID].abs().sum() == 0
    assert (x.grad[VALID] != 0).any(1).all()
