"""UniSRec's adaptor against its definition, expert by expert, and what it starts from."""

import math

import pytest
import torch
from torch import Tensor

from pmm.model.item_parts.adaptor import MixtureAdaptor


def trained(features: int = 7, width: int = 5, experts: int = 3) -> MixtureAdaptor:
    """An adaptor without any zero parameter."""
    torch.manual_seed(0)
    adaptor = MixtureAdaptor(features, width, experts=experts)
    with torch.no_grad():
        for parameter in adaptor.parameters():
            parameter.normal_()
    return adaptor


@torch.no_grad()
def literal(adaptor: MixtureAdaptor, x: Tensor) -> Tensor:
    """One item and one expert after another, without noise or dropout."""
    rows = []
    for i in range(len(x)):
        logits = [float(x[i] @ gate) for gate in adaptor.gate_KF]
        total = sum(math.exp(each) for each in logits)
        row = torch.zeros(adaptor.expert_KDF.shape[1])
        for k, logit in enumerate(logits):
            whitened = adaptor.expert_KDF[k] @ (x[i] - adaptor.offset_KF[k])
            row = row + math.exp(logit) / total * whitened
        rows.append(row)
    return torch.stack(rows)


def test_it_equals_the_definition_written_out() -> None:
    adaptor, x = trained().eval(), torch.randn(6, 7)
    torch.testing.assert_close(adaptor(x), literal(adaptor, x), atol=1e-5, rtol=1e-5)


def test_its_size_is_that_of_the_specification() -> None:
    with torch.device("meta"):
        adaptor = MixtureAdaptor(768, 300)
    assert sum(each.numel() for each in adaptor.parameters()) == 1_861_632


def test_at_the_start_it_is_the_mean_of_the_experts() -> None:
    torch.manual_seed(0)
    adaptor, x = MixtureAdaptor(40, 30).eval(), torch.randn(9, 40)
    torch.testing.assert_close(adaptor(x), x @ adaptor.expert_KDF.mean(0).T)
    assert adaptor.expert_KDF.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_gates_noise_starts_with_a_deviation_of_ln_2_and_a_hundredth() -> None:
    torch.manual_seed(0)
    adaptor, x = MixtureAdaptor(6, 4), torch.randn(50_000, 6)
    expected = math.log(2) + 0.01
    assert adaptor.noise_scale(x[:2]).tolist() == [[pytest.approx(expected)] * 8] * 2
    log_gate = adaptor.gates(x).log()
    # The softmax keeps differences of logits; one of two equal noises has sqrt(2) their deviation.
    found = (log_gate[:, 0] - log_gate[:, 1]).std() / math.sqrt(2)
    assert found.item() == pytest.approx(expected, rel=0.02)


def test_noise_follows_what_noise_weights_make_of_the_vector() -> None:
    adaptor, x = trained(), torch.randn(4, 7)
    expected = torch.log1p((x @ adaptor.noise_KF.T).exp()) + 0.01
    torch.testing.assert_close(adaptor.noise_scale(x), expected)


def test_noise_and_dropout_are_for_training_only() -> None:
    adaptor, x = trained().eval(), torch.randn(4, 7)
    assert torch.equal(adaptor(x), adaptor(x))
    adaptor.train()
    adaptor.dropout.p = 0.0
    assert not torch.equal(adaptor.gates(x), adaptor.gates(x))
    assert torch.allclose(adaptor.gates(x).sum(1), torch.ones(4))


def test_each_expert_drops_other_entries_and_the_gates_drop_none() -> None:
    torch.manual_seed(0)
    adaptor, x = MixtureAdaptor(100, 4, experts=2, dropout=0.5), torch.ones(3, 100)
    seen: list[Tensor] = []
    adaptor.dropout.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        adaptor.gate_KF.normal_()
        adaptor.noise_KF.fill_(-10)  # softplus 0: noise of 0.01 only
    adaptor(x)
    assert len(seen) == 2
    assert not torch.equal(*seen)
    assert set(torch.cat(seen).unique().tolist()) == {0.0, 2.0}
    logits = adaptor.gates(x).log()
    expected = (x @ adaptor.gate_KF.T).log_softmax(1)
    assert torch.allclose(logits, expected, atol=0.2)


def test_dropout_comes_before_the_offset_is_taken_away() -> None:
    torch.manual_seed(0)
    adaptor = MixtureAdaptor(4, 4, experts=1, dropout=1 - 1e-9)
    with torch.no_grad():
        adaptor.expert_KDF.copy_(torch.eye(4)[None])
        adaptor.offset_KF.fill_(3.0)
    assert torch.equal(adaptor(torch.randn(2, 4)), torch.full((2, 4), -3.0))


def test_every_tensor_gets_a_gradient_from_the_start() -> None:
    torch.manual_seed(0)
    adaptor = MixtureAdaptor(7, 5)
    x = torch.randn(6, 7, requires_grad=True)
    (adaptor(x) * torch.randn(6, 5)).sum().backward()
    for name, parameter in adaptor.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.flatten(1).abs().sum(1).min() > 0, name
    assert x.grad.abs().min() > 0


def test_gradients_pass_torchs_own_check() -> None:
    adaptor = trained().double().eval()
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(adaptor, (x,))


def test_sixteen_bits_give_the_same_within_their_precision() -> None:
    torch.manual_seed(0)
    adaptor, x = MixtureAdaptor(64, 32), torch.randn(10, 64)
    exact = adaptor.eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = adaptor(x)
        noisy = adaptor.train()(x)
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0.02)
    noisy.float().sum().backward()
    assert all(each.grad.isfinite().all() for each in adaptor.parameters())


def test_no_items_give_no_vectors() -> None:
    assert trained()(torch.zeros(0, 7)).shape == (0, 5)


def test_no_experts_are_refused() -> None:
    with pytest.raises(ValueError, match="experts must be at least 1, found 0"):
        MixtureAdaptor(7, 5, experts=0)
