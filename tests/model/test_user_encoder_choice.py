"""The choice of a user encoder: rotary positions, convolution and HSTU as they are defined."""

import cmath
import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.errors import InputError
from pmm.model.baselines.carca import CarcaOptions
from pmm.model.baselines.sasrec import SasrecOptions
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions
from pmm.model.user_encoders.choice import (
    UserEncoderOptions,
    freeze_but_input_norm,
    make_user_encoder,
)
from pmm.model.user_encoders.hstu import HstuEncoder
from pmm.model.user_encoders.local_convolution import LocalConvolution
from pmm.model.user_encoders.rotary import rotate
from pmm.model.user_encoders.transformer import UserEncoder

VALID = torch.tensor([[False, False, True, True, True], [True] * 5, [False] * 5])
SIZES = {"max_length": 5, "blocks": 2, "heads": 2, "dropout": 0.1}


def turned(x_E: Tensor, place: int) -> list[float]:
    """One vector turned at its place, pair by pair, as complex numbers."""
    half = len(x_E) // 2
    pairs = [
        complex(x_E[k], x_E[k + half]) * cmath.exp(1j * place * 10_000 ** (-2 * k / len(x_E)))
        for k in range(half)
    ]
    return [pair.real for pair in pairs] + [pair.imag for pair in pairs]


def test_rotary_positions_multiply_complex_numbers() -> None:
    x = torch.randn(2, 3, 5, 6)
    found = rotate(x, first=7)
    for b, h, place in itertools.product(range(2), range(3), range(5)):
        expected = torch.tensor(turned(x[b, h, place], place + 7))
        torch.testing.assert_close(found[b, h, place], expected)


def test_a_product_of_turned_vectors_knows_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 8)
    near, far = (rotate(q, first=place + 3) @ rotate(k, first=place).T for place in (0, 1_000))
    torch.testing.assert_close(near, far, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(near, rotate(q, first=1) @ rotate(k).T, atol=1e-3)


def test_rotary_attention_is_written_out() -> None:
    torch.manual_seed(0)
    encoder = UserEncoder(8, max_length=5, blocks=1, positions="rope").eval()
    block, e = encoder.blocks[0], torch.randn(1, 5, 8)
    x = encoder.norm(e[0])
    parts = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        q, k, v = (f(x)[:, part].detach() for f in (block.query, block.key, block.value))
        rows = []
        for i in range(5):
            scores = [
                sum(a * b for a, b in zip(turned(q[i], i), turned(k[j], j), strict=True))
                / math.sqrt(4)
                for j in range(i + 1)
            ]
            rows.append(torch.tensor(scores).softmax(0) @ v[: i + 1])
        parts.append(torch.stack(rows))
    x = block.attention_norm(x + block.out(torch.cat(parts, -1)))
    expected = block.norm(x + block.down(block.up(x).relu()))
    found = encoder(e, torch.ones(1, 5, dtype=torch.bool))[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    last = encoder(e, torch.ones(1, 5, dtype=torch.bool), last=True)[0, 0]
    torch.testing.assert_close(last, expected[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 2, 3, 6])
def test_the_convolution_reads_the_last_items_that_are_real(kernel: int) -> None:
    torch.manual_seed(0)
    layer, x = LocalConvolution(4, kernel), torch.randn(3, 5, 4)
    weight, bias = layer.convolution.weight, layer.convolution.bias
    assert bias is not None
    found = layer(x, VALID)
    for b in range(3):
        for place in range(5):
            here = x[b, place] if VALID[b, place] else torch.zeros(4)
            expected = here + bias
            for back in range(kernel):
                if place >= back and VALID[b, place - back]:
                    expected = expected + weight[:, :, kernel - 1 - back] @ x[b, place - back]
            torch.testing.assert_close(found[b, place], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["absolute", "rope"])
def test_hstu_is_written_out(positions: str) -> None:
    torch.manual_seed(0)
    encoder = HstuEncoder(8, max_length=5, positions=positions).eval()  # type: ignore[arg-type]
    for block in encoder.blocks:
        nn.init.normal_(block.bias_L)
    e = torch.randn(3, 5, 8)
    for b in range(3):
        x = e[b] if encoder.position is None else e[b] + encoder.position.weight
        x = encoder.norm(x) * VALID[b][:, None]
        for block in encoder.blocks:
            split = functional.silu(block.parts(block.input_norm(x))).split(8, dim=1)
            gate, value, query, key = (part.detach() for part in split)
            attended = torch.zeros(5, 8)
            for head, i, j in itertools.product(range(2), range(5), range(5)):
                if j <= i and VALID[b, j] and VALID[b, i]:
                    own = slice(4 * head, 4 * head + 4)
                    q, k = query[i, own], key[j, own]
                    if positions == "rope":
                        q, k = torch.tensor(turned(q, i)), torch.tensor(turned(k, j))
                    score = q @ k + block.bias_L[i - j]
                    attended[i, own] += functional.silu(score) / 5 * value[j, own]
            x = x + block.out(block.attended_norm(attended) * gate)
        expected = encoder.out_norm(x) * VALID[b][:, None]
        torch.testing.assert_close(encoder(e, VALID)[b], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("inner", [None, 16])
def test_norms_in_front_of_the_layers_are_written_out(inner: int | None) -> None:
    """x + attention(LN(x)), then x + layers(LN(x)), and a norm behind all blocks."""
    torch.manual_seed(0)
    chosen = UserEncoderOptions(user_norm="pre", user_convolution=2)
    encoder = make_user_encoder(chosen, 8, **SIZES, inner=inner).eval()  # type: ignore[arg-type]
    for name, tensor in encoder.named_parameters():
        nn.init.normal_(tensor, 1.0 if name.endswith("norm.weight") else 0.0, 0.5)
    stem = encoder if inner is None else encoder.input
    held = encoder if inner is None else encoder.transformer
    activation = functional.relu if inner is None else functional.gelu
    e = torch.randn(3, 5, 8)
    for b in range(3):
        x = stem.convolution(stem.norm(e[b] + stem.position.weight)[None], VALID[b : b + 1])[0]
        for block in held.blocks:
            read = block.attention_norm(x)
            query, key, value = (f(read) for f in (block.query, block.key, block.value))
            attended = torch.zeros(5, 8)
            for head, i in itertools.product(range(2), range(5)):
                own = slice(4 * head, 4 * head + 4)
                seen = [j for j in range(i + 1) if VALID[b, j]] or [i]
                scores = torch.stack([query[i, own] @ key[j, own] / 2 for j in seen])
                mixed = zip(scores.softmax(0), seen, strict=True)
                attended[i, own] = sum(share * value[j, own] for share, j in mixed)
            x = x + block.out(attended)
            x = x + block.down(activation(block.up(block.norm(x))))
        expected = held.out_norm(x) * VALID[b][:, None]
        torch.testing.assert_close(encoder(e, VALID)[b], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            encoder(e, VALID, last=True)[b, 0], expected[-1], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("inner", [None, 16])
def test_with_norms_in_front_nothing_is_read_of_what_comes_later_or_stands_at_padding(
    inner: int | None,
) -> None:
    torch.manual_seed(0)
    chosen = UserEncoderOptions(user_norm="pre", user_positions="rope")
    encoder = make_user_encoder(chosen, 8, **SIZES, inner=inner).eval()  # type: ignore[arg-type]
    e = torch.randn(3, 5, 8)
    found = encoder(e, VALID)
    later = e.clone()
    later[:, 3:] = 7.0
    assert torch.equal(encoder(later, VALID)[:, :3], found[:, :3])
    padded = e.masked_fill(~VALID[:, :, None], 1e4)
    torch.testing.assert_close(encoder(padded, VALID), found)
    assert found[~VALID].count_nonzero() == 0
    shorter = encoder(e[:1, 2:], VALID[:1, 2:])
    torch.testing.assert_close(shorter, found[:1, 2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("inner", [None, 16])
def test_weights_of_a_seed_are_the_same_wherever_a_block_norms(inner: int | None) -> None:
    found = []
    for norm in ("post", "pre"):
        torch.manual_seed(0)
        chosen = UserEncoderOptions(user_norm=norm)  # type: ignore[arg-type]
        found.append(dict(make_user_encoder(chosen, 8, **SIZES, inner=inner).named_parameters()))  # type: ignore[arg-type]
    added = set(found[1]) - set(found[0])
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in added} == {"out_norm"}
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize("kind", ["transformer", "gru", "nextitnet", "hstu"])
@pytest.mark.parametrize("inner", [None, 16])
def test_every_choice_gives_the_last_state_alone_and_freezes_all_but_the_norm_of_its_input(
    kind: str, inner: int | None
) -> None:
    torch.manual_seed(0)
    chosen = UserEncoderOptions(user_encoder=kind, user_convolution=2)  # type: ignore[arg-type]
    encoder = make_user_encoder(chosen, 8, **SIZES, inner=inner).eval()  # type: ignore[arg-type]
    e = torch.randn(3, 5, 8)
    torch.testing.assert_close(encoder(e, VALID, last=True), encoder(e, VALID)[:, -1:])
    freeze_but_input_norm(encoder)
    trained = [name for name, tensor in encoder.named_parameters() if tensor.requires_grad]
    assert len(trained) == 2
    assert all(name.endswith(("norm.weight", "norm.bias")) for name in trained)
    encoder(e, VALID).square().sum().backward()


def test_a_convolution_leaves_the_other_weights_of_a_seed_as_they_are() -> None:
    without = UserEncoderOptions()
    found = []
    for options in (without, replace(without, user_convolution=3)):
        torch.manual_seed(0)
        found.append(dict(make_user_encoder(options, 8, **SIZES).named_parameters()))  # type: ignore[arg-type]
    assert set(found[1]) - set(found[0]) == {
        "convolution.convolution.weight",
        "convolution.convolution.bias",
    }
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@pytest.mark.parametrize("options", [PmmrecOptions, SasrecOptions, CarcaOptions])
def test_a_convolution_over_fewer_than_no_items_is_refused(options: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="user_convolution must be at least 0"):
        options(user_convolution=-1)


def test_heads_of_an_odd_width_cannot_be_turned() -> None:
    with pytest.raises(InputError, match="odd number"):
        make_user_encoder(UserEncoderOptions(user_positions="rope"), 6, **SIZES)  # type: ignore[arg-type]
