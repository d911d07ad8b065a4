"""NextItNet: its convolutions to the letter, its reach, its padding, and PeterRec's adapters."""

import math

import pytest
import torch
from torch import Tensor, nn

from pmm.errors import InputError
from pmm.model.user_encoders.dilated_convolutions import Adapter, NextItNetEncoder

VALID = torch.tensor([[False, False, True, True, True], [True] * 5, [False] * 5])
INSERTIONS = ["serial", "parallel"]


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def small(**options: object) -> NextItNetEncoder:
    """An encoder of width 8, whose adapters are woken from their zeros."""
    torch.manual_seed(0)
    encoder = NextItNetEncoder(8, **options).eval()
    for module in encoder.modules():
        if isinstance(module, Adapter):
            nn.init.normal_(module.up.weight)
            nn.init.normal_(module.up.bias)
    return encoder


def literal(encoder: NextItNetEncoder, e_LD: Tensor, insertion: str | None) -> Tensor:
    """The convolutions as sums over their taps, for one window of real items."""
    x, length = e_LD, len(e_LD)
    for number, block in enumerate(encoder.blocks):
        dilation = (1, 4)[number % 2]
        y = x
        for layer, norm, step in (
            (block.first, block.first_norm, dilation),
            (block.second, block.second_norm, 2 * dilation),
        ):
            rows = []
            for i in range(length):
                row = layer.convolution.bias
                for back in range(3):
                    if i - back * step >= 0:
                        row = row + layer.convolution.weight[:, :, 2 - back] @ y[i - back * step]
                read = {"serial": row, "parallel": y[i], None: None}[insertion]
                if read is not None:
                    inner = layer.adapter.down.weight @ read + layer.adapter.down.bias
                    root = math.sqrt(2 / math.pi)
                    inner = 0.5 * inner * (1 + (root * (inner + 0.044715 * inner**3)).tanh())
                    row = row + layer.adapter.up.weight @ inner + layer.adapter.up.bias
                spread = ((row - row.mean()) ** 2).mean()
                rows.append((row - row.mean()) / (spread + 1e-8).sqrt() * norm.weight + norm.bias)
            y = torch.stack(rows).clamp(min=0)
        x = x + y
    return x


@pytest.mark.parametrize("insertion", [None, *INSERTIONS])
def test_it_equals_the_definition_written_out_for_nextitnet(insertion: str | None) -> None:
    encoder, e = small(adapter=insertion), torch.randn(3, 5, 8)
    found = encoder(e, VALID)
    torch.testing.assert_close(found[1], literal(encoder, e[1], insertion), atol=1e-4, rtol=1e-4)
    expected = literal(encoder, e[0, 2:], insertion)
    torch.testing.assert_close(found[0, 2:], expected, atol=1e-4, rtol=1e-4)


def test_its_sizes_are_those_of_the_specification_for_nextitnet() -> None:
    with torch.device("meta"):
        encoder = NextItNetEncoder(768)
        assert [count(block) for block in encoder.blocks] == [3_543_552] * 4
        assert count(encoder) == 14_174_208
        peter = NextItNetEncoder(256, repeats=4)
        patched = NextItNetEncoder(256, repeats=4, adapter="serial")
        assert [count(block) for block in peter.blocks] == [394_752] * 8
        assert count(peter) == 3_158_016
        assert count(Adapter(256, 64)) == 33_088
        assert count(patched) - count(peter) == 16 * 33_088 == 529_408
        assert count(NextItNetEncoder(256, dense=True)) - count(NextItNetEncoder(256)) == 65_792


def test_the_dilations_are_those_of_the_specification() -> None:
    layers = [part for block in NextItNetEncoder(8).blocks for part in (block.first, block.second)]
    assert [each.convolution.dilation[0] for each in layers] == [1, 2, 4, 8] * 2
    wide = NextItNetEncoder(8, repeats=1, dilations=(2,), kernel=5)
    assert wide.receptive_field == 1 + 4 * (2 + 4)
    assert wide(torch.randn(3, 5, 8), VALID).shape == (3, 5, 8)


def test_a_state_reaches_back_over_61_positions_and_no_further() -> None:
    encoder = small()
    e = torch.randn(1, 70, 8, requires_grad=True)
    (encoder(e, torch.ones(1, 70, dtype=torch.bool))[0, -1] * torch.randn(8)).sum().backward()
    reached = (e.grad[0] != 0).any(1)
    assert encoder.receptive_field == 61
    assert reached.tolist() == [False] * 9 + [True] * 61


@pytest.mark.parametrize("mask_pads", [True, False])
def test_later_items_do_not_change_earlier_states_for_nextitnet(mask_pads: bool) -> None:
    encoder, e = small(mask_pads=mask_pads), torch.randn(3, 5, 8)
    changed = e.clone()
    changed[:, 3:] = torch.randn(3, 2, 8)
    before, after = encoder(e, VALID), encoder(changed, VALID)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:2, 3:], after[:2, 3:])


def test_the_published_code_feels_padding_by_content_and_by_number() -> None:
    """The reason for `mask_pads`: this must fail there, or the option does nothing."""
    encoder, e = small(mask_pads=False), torch.randn(1, 3, 8)
    alone = encoder(e, torch.ones(1, 3, dtype=torch.bool))
    zeros, ones = (
        encoder(torch.cat([torch.full((1, 2, 8), fill), e], dim=1), VALID[:1])
        for fill in (0.0, 1.0)
    )
    assert not torch.allclose(alone, zeros[:, 2:], atol=1e-3)
    assert not torch.allclose(ones[:, 2:], zeros[:, 2:], atol=1e-3)
    assert zeros[:, :2].abs().sum() == 0


def test_without_padding_the_option_changes_nothing() -> None:
    e = torch.randn(1, 5, 8)
    assert torch.equal(small()(e, VALID[1:2]), small(mask_pads=False)(e, VALID[1:2]))


@pytest.mark.parametrize("insertion", INSERTIONS)
def test_new_adapters_leave_the_base_as_it_is(insertion: str) -> None:
    torch.manual_seed(0)
    base = NextItNetEncoder(8).eval()
    patched = NextItNetEncoder(8, adapter=insertion).eval()
    missing, unexpected = patched.load_state_dict(base.state_dict(), strict=False)
    assert unexpected == []
    assert len(missing) == 8 * 4
    assert all(".adapter." in name for name in missing)
    e = torch.randn(3, 5, 8)
    assert torch.equal(patched(e, VALID), base(e, VALID))
    assert not torch.allclose(small(adapter=insertion)(e, VALID), small()(e, VALID), atol=1e-2)


def test_adapters_and_second_norms_alone_are_trained_names() -> None:
    encoder = NextItNetEncoder(8, repeats=1, dilations=(1,), dense=True, adapter="serial")
    encoder.freeze_for_patching()
    assert encoder.trained_names() == [
        *(f"blocks.0.first.adapter.{name}" for name in Adapter(8, 2).state_dict()),
        *(f"blocks.0.second.adapter.{name}" for name in Adapter(8, 2).state_dict()),
        "blocks.0.second_norm.weight",
        "blocks.0.second_norm.bias",
    ]


def test_the_trained_part_of_peterrec_is_small() -> None:
    with torch.device("meta"):
        encoder = NextItNetEncoder(256, repeats=4, adapter="parallel")
    encoder.freeze_for_patching()
    trained = sum(each.numel() for each in encoder.parameters() if each.requires_grad)
    assert trained == 529_408 + 8 * 2 * 256


@pytest.mark.parametrize("insertion", INSERTIONS)
def test_steps_move_the_trained_tensors_and_no_other(insertion: str) -> None:
    """Two steps: at zero, the up-projection lets no gradient through to the down-projection."""
    torch.manual_seed(0)
    encoder = NextItNetEncoder(8, adapter=insertion)
    encoder.freeze_for_patching()
    before = {name: tensor.detach().clone() for name, tensor in encoder.named_parameters()}
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=1e-2, weight_decay=0.1)
    e, target = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    for _ in range(2):
        optimiser.zero_grad()
        (encoder(e, VALID) * target).sum().backward()
        optimiser.step()
    trained = set(encoder.trained_names())
    for name, tensor in encoder.named_parameters():
        assert torch.equal(tensor, before[name]) == (name not in trained), name
        assert (tensor.grad is None) == (name not in trained), name
        assert tensor.grad is None or tensor.grad.abs().max() > 1e-6, name


def test_freezing_without_adapters_is_refused() -> None:
    with pytest.raises(InputError, match="no adapter to train"):
        NextItNetEncoder(8).freeze_for_patching()
