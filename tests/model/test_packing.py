"""Packed tokens: the same attention as an item by itself, whatever stands beside it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pmm.model.encoders.packing import GROUPS, LEAST_GROUP, Packing, beside, merge

LENGTHS = st.lists(st.integers(0, 7), min_size=1, max_size=3 * LEAST_GROUP)
CPU = torch.device("cpu")


def drawn(lengths: list[int], *shape: int) -> torch.Tensor:
    torch.manual_seed(sum(lengths))
    return torch.randn(sum(lengths), *shape)


@given(LENGTHS)
def test_spread_and_pack_undo_each_other(lengths: list[int]) -> None:
    packing, tokens = Packing(np.array(lengths), CPU), drawn(lengths, 3)
    padded = packing.spread(tokens)
    assert padded.shape == (len(lengths), max(lengths), 3)
    assert torch.equal(packing.valid().sum(1), torch.tensor(lengths))
    assert torch.equal(padded[packing.valid()], tokens)
    assert padded[~packing.valid()].abs().sum() == 0
    assert torch.equal(packing.pack(functional.pad(padded, (0, 0, 0, 2))), tokens)
    assert len(packing) == len(tokens)


@given(LENGTHS)
def test_tokens_attend_to_those_of_their_item_alone(lengths: list[int]) -> None:
    packing = Packing(np.array(lengths), CPU)
    query, key, value = drawn(lengths, 3, 2, 4).unbind(1)
    found = packing.attend(query, key, value)
    expected = [
        torch.einsum("qkh,khe->qhe", (torch.einsum("qhe,khe->qkh", q, k) / 2).softmax(1), v)
        for q, k, v in zip(*(each.split(lengths) for each in (query, key, value)), strict=True)
    ]
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)


@given(LENGTHS)
def test_means_and_first_tokens(lengths: list[int]) -> None:
    packing, tokens = Packing(np.array(lengths), CPU), drawn(lengths, 3)
    nothing = torch.zeros(3)
    parts = tokens.split(lengths)
    means = torch.stack([each.mean(0) if len(each) else nothing for each in parts])
    firsts = torch.stack([each[0] if len(each) else nothing for each in parts])
    assert torch.allclose(packing.mean(tokens), means, atol=1e-6)
    assert torch.equal(packing.first(tokens), firsts)
    kept, ones = packing.only_first(tokens)
    assert torch.equal(kept, torch.stack([nothing, *(each[0] for each in parts if len(each))])[1:])
    assert ones.lengths.tolist() == [min(1, n) for n in lengths]
    shorter, rest = packing.without_first(tokens)
    assert torch.equal(shorter, torch.cat([each[1:] for each in parts]))
    assert rest.lengths.tolist() == [max(0, n - 1) for n in lengths]


@given(LENGTHS)
def test_two_kinds_of_tokens_lie_item_by_item(lengths: list[int]) -> None:
    others = lengths[::-1]
    one, other = drawn(lengths, 2), drawn(others, 2) + 100
    both, *places = beside(Packing(np.array(lengths), CPU), Packing(np.array(others), CPU))
    expected = [
        torch.cat(pair) for pair in zip(one.split(lengths), other.split(others), strict=True)
    ]
    assert torch.equal(merge([one, other], places), torch.cat(expected))
    assert both.lengths.tolist() == [a + b for a, b in zip(lengths, others, strict=True)]


def test_no_gradient_is_nan_beside_an_item_without_tokens() -> None:
    packing = Packing(np.array([0, 2, 0, 3]), CPU)
    parts = torch.randn(3, 5, 2, 4, requires_grad=True)
    packing.attend(*parts).square().sum().backward()
    assert parts.grad is not None
    assert parts.grad.isfinite().all()


@pytest.mark.parametrize(("items", "groups"), [(1, 1), (2 * LEAST_GROUP, 2), (1000, GROUPS)])
def test_attention_pads_in_groups(items: int, groups: int) -> None:
    found = Packing(np.arange(items), CPU).groups()
    assert len(found) == groups
    assert [n for each in found for n in range(each.start, each.stop)] == list(range(items))
