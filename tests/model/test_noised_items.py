"""Corrupted sequences by their invariants and their chances; what finds them against loops."""

import collections
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from pmm.model.losses.noised_items import (
    PADDING,
    REPLACED,
    SHUFFLED,
    UNCHANGED,
    Corrupted,
    CorruptionOptions,
    corrupt,
    noised_item_detection,
)

ALL_SHUFFLED = CorruptionOptions(shuffle=1.0, replace=0.0)
ALL_REPLACED = CorruptionOptions(shuffle=0.0, replace=1.0)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def left_padded(rows: list[list[int]], slots: int) -> Tensor:
    return torch.tensor([[0] * (slots - len(row)) + row for row in rows]).reshape(-1, slots)


def distinct_items(counts: list[int], seed: int = 0, pool: int = 60) -> Tensor:
    """Users with so many inputs; no item twice in a row, but every item with many users."""
    longest = max(counts)
    slots = torch.rand(len(counts), pool, generator=seeded(seed)).argsort(1)[:, : longest + 1] + 1
    padding = torch.arange(longest + 1) < longest - torch.tensor(counts)[:, None]
    return slots.masked_fill(padding, 0)


def assert_sound(slots: Tensor, found: Corrupted, *, last_item: bool = False) -> None:
    """All that holds whatever chance decides, user by user."""
    read = slots[:, 1:] if last_item else slots[:, :-1]
    assert found.slot_BL.dtype == found.label_BL.dtype == torch.int64
    assert found.slot_BL.shape == found.label_BL.shape == read.shape
    rows = [row.tolist() for row in (slots, read, found.slot_BL, found.label_BL)]
    for u, (own, inputs, new, label) in enumerate(zip(*rows, strict=True)):
        others = set(itertools.chain(*rows[0][:u], *rows[0][u + 1 :])) - {0}
        before = collections.defaultdict(list)
        after = collections.defaultdict(list)
        for old, item, kind in zip(inputs, new, label, strict=True):
            before[kind].append(old)
            after[kind].append(item)
            assert (kind == PADDING) == (old == 0)
            assert (kind in (PADDING, UNCHANGED)) == (item == old)
        # Equal multisets, so there is never one shuffled item alone.
        assert sorted(before[SHUFFLED]) == sorted(after[SHUFFLED])
        assert set(after[REPLACED]) <= others - set(own)


Batch = tuple[list[list[int]], int, CorruptionOptions]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Sequences of any length, few items (so many repeats), any shares that leave something."""
    n, slots = draw(st.integers(1, 9)), draw(st.integers(2, 8))
    rows = st.lists(st.lists(st.integers(1, n), max_size=slots), min_size=1, max_size=5)
    shuffle = draw(st.sampled_from([0.0, 0.15, 0.5, 1.0]))
    replace = draw(
        st.sampled_from([share for share in (0.0, 0.05, 0.5, 1.0) if share <= 1 - shuffle])
    )
    padded = [[0] * (slots - len(row)) + row for row in draw(rows)]
    last = draw(st.booleans())
    return padded, n, CorruptionOptions(shuffle=shuffle, replace=replace, last_item=last)


@settings(max_examples=400, deadline=None)
@given(batches(), st.integers(0, 2**32))
def test_any_batch_keeps_the_invariants(batch: Batch, seed: int) -> None:
    slots = torch.tensor(batch[0])
    before = slots.clone()
    found = corrupt(slots, batch[1], batch[2], seeded(seed))
    assert_sound(slots, found, last_item=batch[2].last_item)
    assert torch.equal(slots, before)


@pytest.mark.parametrize("shares", [(0.15, 0.05), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("others", [[], [[1, 2, 3, 4]], [[5, 6, 7, 8], [9]]])
@pytest.mark.parametrize("length", range(5))
def test_short_sequences_are_safe(length: int, others: list[list[int]], shares) -> None:
    slots = left_padded([[1, 2, 3, 4][:length], *others], 4)
    options = CorruptionOptions(shuffle=shares[0], replace=shares[1])
    for seed in range(20):
        assert_sound(slots, corrupt(slots, 9, options, seeded(seed)))


def test_where_the_last_item_is_read_it_is_corrupted_as_often_as_any_other() -> None:
    slots = distinct_items([6] * 4000)
    options = CorruptionOptions(shuffle=0.5, replace=0.25, last_item=True)
    found = corrupt(slots, 60, options, seeded(1))
    assert_sound(slots, found, last_item=True)
    shares = (found.label_BL != UNCHANGED).float().mean(0)
    assert shares.tolist() == pytest.approx([0.75] * 6, abs=0.04)


@pytest.mark.parametrize("length", range(2, 7))
def test_every_rotated_input_gets_another_inputs_item(length: int) -> None:
    slots = distinct_items([length] * 200, seed=length)
    found = corrupt(slots, 60, ALL_SHUFFLED, seeded(1))
    assert (found.label_BL == SHUFFLED).all()
    assert (found.slot_BL != slots[:, :-1]).all()
    assert torch.equal(found.slot_BL.sort(1).values, slots[:, :-1].sort(1).values)


def test_the_shuffled_inputs_form_one_cycle_and_every_cycle_is_as_likely() -> None:
    slots = torch.arange(1, 6).expand(6000, 5)
    moves = corrupt(slots, 5, ALL_SHUFFLED, seeded(2)).slot_BL - 1
    at, steps = torch.zeros(6000, 1, dtype=torch.int64), []
    for _ in range(4):
        at = moves.gather(1, at)
        steps.append(at)
    path = torch.cat(steps, 1)
    assert (path[:, -1] == 0).all()
    assert (path[:, :-1] != 0).all()
    # 3! cycles through 4 inputs; 5 degrees of freedom.
    assert_as_expected(collections.Counter(map(tuple, path.tolist())), [1] * 6)


def assert_as_expected(seen: dict[object, int], weights: list[float]) -> None:
    """Pearson's statistic below its mean plus five standard deviations."""
    total, counts = sum(seen.values()), [seen[key] for key in sorted(seen)]
    expected = [total * weight / sum(weights) for weight in weights]
    statistic = sum((a - b) ** 2 / b for a, b in zip(counts, expected, strict=True))
    freedom = len(weights) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def test_an_equal_item_in_a_rotated_place_is_unchanged() -> None:
    slots = torch.tensor([[7, 7, 7, 7, 1], [7, 7, 2, 2, 1]]).repeat(500, 1)
    found = corrupt(slots, 7, ALL_SHUFFLED, seeded(3))
    assert (found.label_BL[::2] == UNCHANGED).all()
    moved = (found.label_BL[1::2] == SHUFFLED).sum(1)
    # Of the six cycles two alternate the items (four moved); the others move one of each kind.
    assert sorted(set(moved.tolist())) == [2, 4]
    assert (moved == 4).double().mean().item() == pytest.approx(1 / 3, abs=0.1)


def test_shuffled_and_replaced_inputs_stand_anywhere_with_equal_chances() -> None:
    slots = distinct_items([10] * 8000, seed=4)
    label = corrupt(slots, 60, CorruptionOptions(), seeded(4)).label_BL
    for kind in (SHUFFLED, REPLACED):
        counts = (label == kind).sum(0).tolist()
        assert_as_expected(dict(enumerate(counts)), [1] * 10)


def test_replacements_come_uniformly_from_the_other_users_slots() -> None:
    # Foreign to the first user: 5 twice, 6 three times (one a target), 7 once. 1 and 2 are his own.
    rows = [[1, 2, 3, 4], [5, 1, 6, 5], [6, 7], [2, 6]]
    slots, draw, seen = left_padded(rows, 4), seeded(5), collections.Counter()
    for _ in range(1500):
        seen.update(corrupt(slots, 7, ALL_REPLACED, draw).slot_BL[0].tolist())
    assert sorted(seen) == [5, 6, 7]
    assert sum(seen.values()) == 4500
    assert_as_expected(seen, [2, 3, 1])


def test_each_replacement_is_drawn_for_itself() -> None:
    slots = torch.arange(1, 601).reshape(30, 20)
    found = corrupt(slots, 600, ALL_REPLACED, seeded(6)).slot_BL
    # 570 draws from 600 leave e^-0.95 of them undrawn; one draw a user or a column far more.
    assert 300 < len(found.unique()) < 440


@pytest.mark.parametrize("rows", [[[1, 2, 3, 4]], [[1, 2, 3, 4], [4, 3, 2, 1]], [[1, 2, 3, 4], []]])
def test_without_a_foreign_item_nothing_is_replaced(rows: list[list[int]]) -> None:
    slots = left_padded(rows, 4)
    found = corrupt(slots, 4, ALL_REPLACED, seeded(7))
    assert torch.equal(found.slot_BL, slots[:, :-1])
    assert set(found.label_BL.unique().tolist()) <= {UNCHANGED, PADDING}


def numbers_by_length(
    options: CorruptionOptions, lengths: range, users: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """For each length, of how many inputs each user had shuffled and how many replaced."""
    counts = [length for length in lengths for _ in range(users)]
    label = corrupt(distinct_items(counts, seed=8), 60, options, seeded(8)).label_BL
    shuffled, replaced = ((label == kind).sum(1).split(users) for kind in (SHUFFLED, REPLACED))
    return dict(zip(lengths, zip(shuffled, replaced, strict=True), strict=True))


def assert_mean(number: Tensor, expected: float) -> None:
    """Within 4.5 standard errors."""
    error = number.double().std().item() / math.sqrt(len(number))
    assert number.double().mean().item() == pytest.approx(expected, abs=4.5 * error + 1e-9)


def test_the_mean_numbers_are_the_shares_at_every_length() -> None:
    options = CorruptionOptions()
    for length, (shuffled, replaced) in numbers_by_length(options, range(2, 21), 4000).items():
        assert not (shuffled == 1).any()
        assert_mean(shuffled, 0.15 * length)
        assert_mean(replaced, 0.05 * length)


def test_numbers_are_the_nearest_two_integers() -> None:
    options = CorruptionOptions(shuffle=0.35, replace=0.25)
    ((shuffled, replaced),) = numbers_by_length(options, range(10, 11), 2000).values()
    assert shuffled.unique().tolist() == [3, 4]
    assert replaced.unique().tolist() == [2, 3]


def test_a_single_input_is_never_shuffled_and_replaced_at_its_share() -> None:
    halves = CorruptionOptions(shuffle=0.5, replace=0.5)
    ((shuffled, replaced),) = numbers_by_length(halves, range(1, 2), 4000).values()
    assert not shuffled.any()
    assert_mean(replaced, 0.5)


def test_the_mix_of_labels_is_80_15_5() -> None:
    label = corrupt(distinct_items([20] * 5000), 60, CorruptionOptions(), seeded(9)).label_BL
    share = label.flatten().bincount(minlength=3) / label.numel()
    assert label.numel() == 10**5
    assert share.tolist() == pytest.approx([0.80, 0.15, 0.05], abs=0.005)


def test_all_chance_comes_from_the_generator() -> None:
    slots, options = distinct_items([20] * 30), CorruptionOptions()
    state = torch.get_rng_state()
    first, again, other = (corrupt(slots, 60, options, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.slot_BL, again.slot_BL)
    assert torch.equal(first.label_BL, again.label_BL)
    assert not torch.equal(first.label_BL, other.label_BL)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_generator_gives_another_corruption_each_time() -> None:
    slots, draw = distinct_items([20] * 30), seeded(1)
    first, second = (corrupt(slots, 60, CorruptionOptions(), draw) for _ in range(2))
    assert not torch.equal(first.label_BL, second.label_BL)


def test_no_share_is_no_corruption() -> None:
    slots = distinct_items([3, 0, 1, 5])
    found = corrupt(slots, 60, CorruptionOptions(shuffle=0, replace=0), seeded(1))
    assert torch.equal(found.slot_BL, slots[:, :-1])
    assert torch.equal(found.label_BL == UNCHANGED, slots[:, :-1] > 0)


def detection_oracle(logits: Tensor, label: Tensor, relu: bool) -> float:
    """Eq. 10 with the softmax that must be meant, input by input."""
    losses = []
    for row, kind in zip(logits.reshape(-1, 3).tolist(), label.flatten().tolist(), strict=True):
        if kind == PADDING:
            continue
        kept = [max(z, 0) if relu else z for z in row]
        losses.append(-math.log(math.exp(kept[kind]) / sum(map(math.exp, kept))))
    return sum(losses) / len(losses) if losses else 0.0


Detection = tuple[Tensor, Tensor, bool]


@st.composite
def detections(draw: st.DrawFn) -> Detection:
    users, length = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    kinds = st.sampled_from([PADDING, UNCHANGED, SHUFFLED, REPLACED])
    label = draw(st.lists(kinds, min_size=users * length, max_size=users * length))
    random = seeded(draw(st.integers(0, 2**32)))
    logits = torch.randn(users, length, 3, generator=random, dtype=torch.float64)
    return 4 * logits, torch.tensor(label).reshape(users, length), draw(st.booleans())


@settings(max_examples=150, deadline=None)
@given(detections(), st.integers(0, 2**32))
def test_detection_and_its_gradient_are_those_of_loops(case: Detection, seed: int) -> None:
    logits, label, relu = case
    inputs = logits.clone().requires_grad_()
    loss = noised_item_detection(inputs, label, relu=relu)
    loss.backward()
    along = torch.randn(logits.shape, generator=seeded(seed), dtype=torch.float64)
    ahead, back = (detection_oracle(logits + h * along, label, relu) for h in (1e-7, -1e-7))
    assert loss.item() == pytest.approx(detection_oracle(*case), rel=1e-12, abs=1e-12)
    assert (inputs.grad * along).sum().item() == pytest.approx((ahead - back) / 2e-7, abs=1e-5)
    if not relu:  # which has no derivative at 0
        assert torch.autograd.gradcheck(lambda x: noised_item_detection(x, label), inputs)


def test_detection_without_logits_and_with_the_prior() -> None:
    label = torch.tensor([[PADDING] * 5 + [UNCHANGED] * 16 + [SHUFFLED] * 3 + [REPLACED]])
    prior = torch.tensor([0.80, 0.15, 0.05]).log().expand(1, 25, 3)
    assert noised_item_detection(torch.zeros(1, 25, 3), label).item() == pytest.approx(math.log(3))
    assert noised_item_detection(prior, label).item() == pytest.approx(0.6129, abs=5e-5)


def test_relu_before_the_softmax_stops_gradients_and_its_absence_does_not() -> None:
    label = torch.tensor([[UNCHANGED]])
    for relu in (True, False):
        logits = torch.tensor([[[-1.0, -2.0, 0.5]]], requires_grad=True)
        noised_item_detection(logits, label, relu=relu).backward()
        assert (logits.grad != 0).tolist() == [[[not relu, not relu, True]]]


@pytest.mark.parametrize("relu", [True, False])
def test_padding_gets_no_gradient_and_a_batch_of_padding_gives_zero(relu: bool) -> None:
    logits = torch.randn(2, 3, 3, requires_grad=True)
    label = torch.tensor([[PADDING, UNCHANGED, SHUFFLED], [PADDING] * 3])
    noised_item_detection(logits, label, relu=relu).backward()
    assert logits.grad[label == PADDING].abs().sum() == 0
    logits.grad = None
    loss = noised_item_detection(logits, torch.full((2, 3), PADDING), relu=relu)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.tolist() == torch.zeros(2, 3, 3).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = (3e4 * torch.randn(2, 3, 3, generator=seeded(1))).clamp(-6e4, 6e4).to(dtype)
    logits[0] /= 1e4
    logits.requires_grad_()
    label = torch.tensor([[PADDING, UNCHANGED, SHUFFLED], [REPLACED, REPLACED, UNCHANGED]])
    expected = noised_item_detection(logits.double(), label)
    with torch.autocast("cpu", dtype):
        loss = noised_item_detection(logits, label)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert logits.grad.isfinite().all()


def test_the_order_of_users_and_padding_do_not_matter_to_detection() -> None:
    logits, label = torch.randn(2, 3, 3), torch.tensor([[PADDING, 0, 1], [0, 2, 0]])
    wider = torch.nn.functional.pad(logits.flip(0), (0, 0, 2, 0), value=9.0)
    padded = torch.nn.functional.pad(label.flip(0), (2, 0), value=PADDING)
    found, expected = noised_item_detection(wider, padded), noised_item_detection(logits, label)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
