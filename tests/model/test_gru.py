"""GRURec's encoder: the GRU to the letter, and zeros that leave it alone."""

import math

import pytest
import torch
from torch import Tensor, nn

from pmm.model.user_encoders.gru import GruEncoder

VALID = torch.tensor([[False, False, True, True, True], [True] * 5, [False] * 5])


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def literal(encoder: GruEncoder, e_LD: Tensor, valid_L: Tensor) -> Tensor:
    """The gates of two layers for one user, over the real items alone."""
    gru = encoder.gru
    steps = [e_LD[i] for i in range(5) if valid_L[i]]
    for layer in range(2):
        inputs = getattr(gru, f"weight_ih_l{layer}").chunk(3)
        states = getattr(gru, f"weight_hh_l{layer}").chunk(3)
        h, out = torch.zeros(inputs[0].shape[0]), []
        for x in steps:
            reset = torch.sigmoid(inputs[0] @ x + states[0] @ h)
            update = torch.sigmoid(inputs[1] @ x + states[1] @ h)
            new = torch.tanh(inputs[2] @ x + reset * (states[2] @ h))
            h = (1 - update) * new + update * h
            out.append(h)
        steps = out
    if encoder.dense is not None:
        steps = [encoder.dense.weight @ h + encoder.dense.bias for h in steps]
    found = torch.zeros(5, 8)
    if steps:
        found[valid_L] = torch.stack(steps)
    return found


@pytest.mark.parametrize("options", [{}, {"dense": True}])
def test_it_equals_the_definition_written_out_for_gru(options: dict[str, int]) -> None:
    torch.manual_seed(0)
    encoder, e = GruEncoder(8, **options).eval(), torch.randn(3, 5, 8)
    expected = torch.stack([literal(encoder, e[b], VALID[b]) for b in range(3)])
    torch.testing.assert_close(encoder(e, VALID), expected, atol=1e-6, rtol=1e-5)


def test_its_sizes_are_those_of_the_specification_for_gru() -> None:
    with torch.device("meta"):
        assert count(GruEncoder(768)) == 7_077_888
        dense = GruEncoder(64, layers=1, dense=True)
        assert count(dense) == 3 * 64 * (64 + 64) + 64 * 64 + 64
    assert len(list(GruEncoder(8).parameters())) == 4


def test_dropout_falls_on_the_inputs_alone() -> None:
    torch.manual_seed(0)
    encoder, e = GruEncoder(8, dropout=0.5), torch.ones(1, 5, 8)
    encoder.dropout.register_forward_hook(lambda _, __, out: seen.append(out))
    seen: list[Tensor] = []
    found = encoder(e, VALID[1:2])
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}
    assert torch.equal(found, encoder.eval().gru(seen[0])[0])


def test_only_the_first_layer_starts_xavier_uniform() -> None:
    torch.manual_seed(0)
    gru = GruEncoder(128).gru
    for name, matrix in gru.named_parameters():
        first = name.endswith("_l0")
        bound = math.sqrt(6 / (3 * 128 + 128)) if first else 1 / math.sqrt(128)
        assert matrix.abs().max().item() == pytest.approx(bound, rel=1e-3), name
        assert matrix.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02), name
