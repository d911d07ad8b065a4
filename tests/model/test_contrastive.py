"""The contrastive objectives against their definitions as loops, closed forms and invariances."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pmm.model.losses.contrastive import (
    ContrastOptions,
    RobustOptions,
    cross_modal_contrast,
    robust_contrast,
)

# Vectors come in float64; the logarithms of the numbers of columns alone are float32, off by 1e-7.
TOLERANCE = 1e-6
FAMILIES = ["vcl", "icl", "ncl", "nicl"]


@dataclasses.dataclass(frozen=True)
class Case:
    """What cross_modal_contrast is given; vectors in float64."""

    text: Tensor
    picture: Tensor
    slots: list[list[int]]
    has_text: list[bool]
    has_picture: list[bool]
    options: ContrastOptions
    group: list[int] | None = None

    def found(self) -> Tensor:
        return cross_modal_contrast(
            self.text,
            self.picture,
            torch.tensor(self.slots),
            torch.tensor(self.has_text),
            torch.tensor(self.has_picture),
            self.options,
            group_I=None if self.group is None else torch.tensor(self.group),
        )

    def moved(self, text: Tensor, picture: Tensor) -> "Case":
        return dataclasses.replace(self, text=text, picture=picture)


Modality = tuple[list[list[float]], list[bool]]


def cosine(left: list[float], right: list[float]) -> float:
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / math.sqrt(sum(a * a for a in left)) / math.sqrt(sum(b * b for b in right))


def is_negative(case: Case, at: tuple[int, int], column: tuple[int, int]) -> bool:
    """Whether a column of the batch is a negative of the anchor that stands in a slot."""
    own = case.slots[at[0]]
    item = case.slots[column[0]][column[1]]
    if item == 0 or column == at:
        return False
    if case.group and case.group[item - 1] != case.group[own[at[1]] - 1]:
        return False
    if case.options.reject == "same_ids":
        return item not in own
    return column[0] != at[0]


def one_direction(case: Case, at: tuple[int, int], anchor: Modality, other: Modality) -> float:
    """One line of Eq. 6, 7 or 8: the anchor's modality against the other."""
    options, own = case.options, case.slots[at[0]]
    here, after = own[at[1]] - 1, own[at[1] + 1] - 1
    query = anchor[0][here]

    def delta(modality: Modality, item: int) -> list[float]:
        """Nothing where the item lacks the modality."""
        vectors, there = modality
        return [math.exp(cosine(query, vectors[item]) / options.tau)] if there[item] else []

    pair = delta(other, here)
    following = delta(other, after) + delta(anchor, after)
    positives = pair + (following if options.family in ("ncl", "nicl") else [])
    denominator = sum(positives if options.denominator == "all" else pair)
    within = options.family in ("icl", "nicl")
    for column in itertools.product(range(len(case.slots)), range(len(own))):
        if is_negative(case, at, column):
            item = case.slots[column[0]][column[1]] - 1
            denominator += sum(delta(other, item) + (delta(anchor, item) if within else []))
    if options.form == "sum":
        return -math.log(sum(positives) / denominator)
    return -sum(math.log(positive / denominator) for positive in positives) / len(positives)


def oracle(case: Case) -> float:
    """Eq. 9: the mean over anchors with a next item, of both directions."""
    text: Modality = (case.text.tolist(), case.has_text)
    picture: Modality = (case.picture.tolist(), case.has_picture)
    losses = []
    for u, row in enumerate(case.slots):
        for k in range(len(row) - 1):
            whole = row[k] > 0 and case.has_text[row[k] - 1] and case.has_picture[row[k] - 1]
            if whole and row[k + 1] > 0:
                losses.append(one_direction(case, (u, k), text, picture) / 2)
                losses[-1] += one_direction(case, (u, k), picture, text) / 2
    return sum(losses) / len(losses) if losses else 0.0


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few items, so repeats within and across users are common; any of the rest may be absent."""
    n, users, slots = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(2, 5))
    rows = st.lists(st.integers(1, n), max_size=slots)
    full = [draw(rows) for _ in range(users)]
    there = st.lists(st.sampled_from([True, True, True, False]), min_size=n, max_size=n)
    options = ContrastOptions(
        family=draw(st.sampled_from(FAMILIES)),
        form=draw(st.sampled_from(["sum", "mean"])),
        tau=draw(st.sampled_from([0.05, 0.3, 1.0, 2.0])),
        denominator=draw(st.sampled_from(["eq8", "all"])),
        reject=draw(st.sampled_from(["same_ids", "own_columns"])),
    )
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    text, picture = torch.randn(2, n, 3, generator=random, dtype=torch.float64).unbind()
    padded = [[0] * (slots - len(row)) + row for row in full]
    group = draw(st.none() | st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return Case(5 * text, picture / 5, padded, draw(there), draw(there), options, group)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_loss_is_that_of_loops_over_every_slot(case: Case) -> None:
    assert case.found().item() == pytest.approx(oracle(case), rel=TOLERANCE, abs=TOLERANCE)


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(0, 2**32))
def test_the_gradient_is_the_slope_of_the_loops(case: Case, seed: int) -> None:
    shape, random = case.text.shape, torch.Generator().manual_seed(seed)
    along, across = torch.randn(2, *shape, generator=random, dtype=torch.float64).unbind()
    text, picture = case.text.clone().requires_grad_(), case.picture.clone().requires_grad_()
    case.moved(text, picture).found().backward()
    found = (text.grad * along + picture.grad * across).sum().item()
    # The slope of the loops is central; its own error is far below the tolerance.
    ahead, back = (
        oracle(case.moved(case.text + h * along, case.picture + h * across)) for h in (1e-6, -1e-6)
    )
    assert found == pytest.approx((ahead - back) / 2e-6, rel=1e-5, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_gradients_pass_torchs_own_check_in_double_precision_for_contrasts(case: Case) -> None:
    inputs = case.text.clone().requires_grad_(), case.picture.clone().requires_grad_()
    # Vectors of length 0.2 bend the loss at tau = 0.05: what is left out grows with (1e-6 / tau)^2.
    assert torch.autograd.gradcheck(lambda *x: case.moved(*x).found(), inputs, atol=1e-4)


G1_SLOTS = [[0, 1, 2, 3], [4, 2, 5, 6]]


def options_of(name: str, **changes: object) -> ContrastOptions:
    """A family, or "all", which is NICL with every positive in the denominator."""
    if name == "all":
        return ContrastOptions(family="nicl", denominator="all", **changes)
    return ContrastOptions(family=name, **changes)


def complete(
    text: Tensor, picture: Tensor, slots: list[list[int]], options: ContrastOptions
) -> Case:
    """A case where no modality is missing."""
    return Case(text, picture, slots, [True] * len(text), [True] * len(text), options)


@pytest.mark.parametrize(
    ("name", "reject", "orthogonal", "collapsed"),
    [
        ("vcl", "own_columns", 0.906231, 1.475552),
        ("vcl", "same_ids", 0.628334, 1.213685),
        ("icl", "own_columns", 1.370116, 2.046436),
        ("icl", "same_ids", 1.009068, 1.744027),
        ("nicl", "own_columns", 0.818671, 0.947824),
        ("nicl", "same_ids", 0.457624, 0.645415),
        ("all", "own_columns", 0.992399, 1.178881),
        ("all", "same_ids", 0.696589, 0.947824),
    ],
)
def test_closed_forms_of_two_users_for_contrasts(
    name: str, reject: str, orthogonal: float, collapsed: float
) -> None:
    options = options_of(name, reject=reject)
    for vectors, expected in ((torch.eye(6), orthogonal), (torch.ones(6, 4), collapsed)):
        found = complete(vectors, vectors, G1_SLOTS, options).found()
        assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("negatives", [1, 2, 7])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_closed_forms_of_a_single_anchor(negatives: int, tau: float) -> None:
    slots = [[1, 2], *([0, 3 + k] for k in range(negatives))]
    n, s, items = negatives, math.exp(1 / tau), negatives + 2
    collapse = {"vcl": 1 + n, "icl": 1 + 2 * n, "nicl": (1 + 2 * n) / 3, "all": (3 + 2 * n) / 3}
    orthonormal = {
        "vcl": 1 + n / s,
        "icl": 1 + 2 * n / s,
        "nicl": (s + 2 * n) / (s + 2),
        "all": (s + 2 + 2 * n) / (s + 2),
    }
    for vectors, values in ((torch.ones(items, 3), collapse), (torch.eye(items), orthonormal)):
        for name, value in values.items():
            found = complete(vectors, vectors, slots, options_of(name, tau=tau)).found()
            assert found.item() == pytest.approx(math.log(value), abs=3e-6)


def test_the_next_item_is_two_positives_beside_the_own_pair() -> None:
    # One anchor, one negative, all cosines 0 but the own pair's: e and three times 1.
    text, picture = torch.eye(3), torch.eye(3)
    case = complete(text, picture, [[1, 2], [0, 3]], options_of("ncl"))
    assert case.found().item() == pytest.approx(math.log((math.e + 1) / (math.e + 2)), abs=1e-6)
    mean = dataclasses.replace(case, options=options_of("ncl", form="mean", denominator="all"))
    assert mean.found().item() == pytest.approx(math.log(math.e + 3) - 1 / 3, abs=1e-6)


def test_no_family_is_no_loss() -> None:
    text, picture = torch.randn(2, 6, 4).unbind()
    assert complete(text, picture, G1_SLOTS, ContrastOptions(family="none")).found().item() == 0


def random_case(seed: int = 0, **changes: object) -> Case:
    """Three users, repeats within and across them, an item 5 without picture, a 6 without text."""
    random = torch.Generator().manual_seed(seed)
    text, picture = torch.randn(2, 7, 4, generator=random, dtype=torch.float64).unbind()
    slots = [[0, 1, 2, 3, 3], [4, 2, 5, 6, 7], [0, 0, 0, 0, 1]]
    has_text, has_picture = [True] * 5 + [False, True], [True] * 4 + [False, True, True]
    return Case(text, picture, slots, has_text, has_picture, ContrastOptions(**changes))


def swapped(case: Case) -> Case:
    return dataclasses.replace(
        case,
        text=case.picture,
        picture=case.text,
        has_text=case.has_picture,
        has_picture=case.has_text,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_text_and_picture_can_be_swapped(family: str) -> None:
    case = random_case(family=family)
    assert case.found().item() == pytest.approx(swapped(case).found().item(), abs=1e-6)


def gradients(case: Case, autocast: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients at the texts and the pictures."""
    text, picture = case.text.clone().requires_grad_(), case.picture.clone().requires_grad_()
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        loss = case.moved(text, picture).found()
    loss.backward()
    assert text.grad is not None
    assert picture.grad is not None
    return loss, text.grad, picture.grad


@pytest.mark.parametrize("form", ["sum", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_both_modalities_of_each_item_that_has_them(family: str, form: str) -> None:
    case = random_case(family=family, form=form)
    _, text, picture = gradients(case)
    assert (text.abs().sum(1) > 1e-6).tolist() == case.has_text
    assert (picture.abs().sum(1) > 1e-6).tolist() == case.has_picture


def test_slots_without_a_next_item_are_no_anchors() -> None:
    random = torch.Generator().manual_seed(0)
    text, picture = torch.randn(2, 4, 3, generator=random, dtype=torch.float64).unbind()
    alone = complete(text, picture, [[1, 2], [0, 3], [0, 4]], ContrastOptions(family="vcl"))
    # Item 2 is the next item only: in VCL it is neither anchor nor negative of its own user.
    _, at_text, at_picture = gradients(alone)
    assert at_text[1].abs().sum() == at_picture[1].abs().sum() == 0
    again = complete(text, picture, [[1, 2], [1, 2], [0, 3], [0, 4]], alone.options)
    assert again.found().item() == pytest.approx(alone.found().item(), abs=1e-6)


@pytest.mark.parametrize("slots", [[[0, 1], [0, 2]], [[0, 0], [0, 0]], [[1, 3], [2, 3]]])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_without_anchors_gives_zero_and_zero_gradients(slots, family: str) -> None:
    # In the last batch item 1 has no text and item 2 no picture.
    has_text, has_picture = [False, True, True], [True, False, True]
    vectors = torch.randn(2, 3, 4)
    case = Case(*vectors, slots, has_text, has_picture, ContrastOptions(family=family))
    loss, text, picture = gradients(case)
    assert loss.item() == 0
    assert text.abs().sum() == picture.abs().sum() == 0


@pytest.mark.parametrize("absent", [0.0, 1e4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_vector_of_a_missing_modality_is_never_read(absent: float, family: str) -> None:
    case = random_case(family=family)
    text, picture = case.text.clone(), case.picture.clone()
    text[~torch.tensor(case.has_text)] = absent
    picture[~torch.tensor(case.has_picture)] = absent
    found, expected = gradients(case.moved(text, picture)), gradients(case)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_one_modality_gives_zero(family: str) -> None:
    case = dataclasses.replace(random_case(family=family), has_picture=[False] * 7)
    loss, text, picture = gradients(case)
    assert loss.item() == text.abs().sum() == picture.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tau", [0.01, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_vectors_are_computed_in_float32_for_contrasts(
    dtype: torch.dtype, tau: float, family: str
) -> None:
    # Entries of a thousand: their squares are past float16's largest number.
    case = random_case(family=family, tau=tau, denominator="all")
    rounded = case.moved((1000 * case.text).to(dtype), (1000 * case.picture).to(dtype))
    loss, text, picture = gradients(rounded)
    expected = oracle(case.moved(rounded.text.double(), rounded.picture.double()))
    assert loss.dtype == torch.float32
    # 1 / tau = 100 magnifies float32's last digits of a cosine to 2e-5.
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert text.isfinite().all()
    assert picture.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["sum", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_stay_float32_under_autocast_for_contrasts(
    dtype: torch.dtype, form: str, family: str
) -> None:
    case = random_case(family=family, form=form)
    case = case.moved(case.text.float(), case.picture.float())
    found, expected = gradients(case, autocast=dtype), gradients(case)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("reject", ["same_ids", "own_columns"])
@pytest.mark.parametrize("family", FAMILIES)
def test_users_numbers_of_items_and_padding_do_not_matter(family: str, reject: str) -> None:
    case = random_case(family=family, reject=reject)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    number = [0, *(order.argsort() + 1).tolist()]
    renamed = dataclasses.replace(
        case.moved(case.text[order], case.picture[order]),
        slots=[[0, 0] + [number[item] for item in row] for row in reversed(case.slots)],
        has_text=[case.has_text[i] for i in order],
        has_picture=[case.has_picture[i] for i in order],
    )
    assert renamed.found().item() == pytest.approx(case.found().item(), abs=1e-6)


def pooled(states: list[list[float]], valid: list[bool], pool: str) -> list[float]:
    kept = [state for state, there in zip(states, valid, strict=True) if there]
    if pool == "last":
        return kept[-1]
    return [sum(column) / len(kept) for column in zip(*kept, strict=True)]


def robust_oracle(
    hidden: Tensor, corrupted: Tensor, valid: Tensor, options: RobustOptions
) -> float:
    """Eq. 11, user by user; a user without an item is neither query nor negative."""

    def similarity(left: list[float], right: list[float]) -> float:
        if options.similarity == "cosine":
            return cosine(left, right) / options.tau
        return sum(a * b for a, b in zip(left, right, strict=True)) / options.tau

    rows = [u for u in range(len(valid)) if valid[u].any()]
    clean = {u: pooled(hidden[u].tolist(), valid[u].tolist(), options.pool) for u in rows}
    noisy = {u: pooled(corrupted[u].tolist(), valid[u].tolist(), options.pool) for u in rows}
    losses = []
    for u in rows:
        scores = [math.exp(similarity(clean[u], noisy[v])) for v in rows]
        losses.append(-math.log(math.exp(similarity(clean[u], noisy[u])) / sum(scores)))
    return sum(losses) / len(losses) if losses else 0.0


RobustCase = tuple[Tensor, Tensor, Tensor, RobustOptions]


@st.composite
def robust_cases(draw: st.DrawFn) -> RobustCase:
    users, length = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    counts = torch.tensor([[draw(st.integers(0, length))] for _ in range(users)])
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = (2, users, length, 3)
    hidden, corrupted = torch.randn(shape, generator=random, dtype=torch.float64).unbind()
    options = RobustOptions(
        pool=draw(st.sampled_from(["mean", "last"])),
        similarity=draw(st.sampled_from(["cosine", "dot"])),
        tau=draw(st.sampled_from([0.1, 1.0, 3.0])),
    )
    return hidden, corrupted, torch.arange(length) >= length - counts, options


@settings(max_examples=200, deadline=None)
@given(robust_cases())
def test_robust_contrast_is_that_of_loops_over_users(case: RobustCase) -> None:
    expected = robust_oracle(*case)
    assert robust_contrast(*case).item() == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@settings(max_examples=100, deadline=None)
@given(robust_cases(), st.integers(0, 2**32))
def test_the_gradient_of_robust_contrast_is_the_slope_of_the_loops(
    case: RobustCase, seed: int
) -> None:
    hidden, corrupted, valid, options = case
    random = torch.Generator().manual_seed(seed)
    along, across = torch.randn(2, *hidden.shape, generator=random, dtype=torch.float64).unbind()
    inputs = hidden.clone().requires_grad_(), corrupted.clone().requires_grad_()
    robust_contrast(*inputs, valid, options).backward()
    found = (inputs[0].grad * along + inputs[1].grad * across).sum().item()
    ahead, back = (
        robust_oracle(hidden + h * along, corrupted + h * across, valid, options)
        for h in (1e-6, -1e-6)
    )
    assert found == pytest.approx((ahead - back) / 2e-6, rel=1e-5, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(robust_cases())
def test_gradients_of_robust_contrast_pass_torchs_own_check(case: RobustCase) -> None:
    inputs = case[0].clone().requires_grad_(), case[1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: robust_contrast(*x, *case[2:]), inputs, atol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_robust_closed_forms_of_four_users(pool: str, similarity: str) -> None:
    options = RobustOptions(pool=pool, similarity=similarity, tau=1)
    valid = torch.arange(3) >= 3 - torch.tensor([[3], [1], [2], [3]])
    apart = torch.eye(4)[:, None].expand(4, 3, 4)
    found = robust_contrast(apart, apart, valid, options)
    assert found.item() == pytest.approx(0.743668, abs=1e-6)
    assert found.item() == pytest.approx(math.log(1 + 3 / math.e), abs=1e-6)
    equal = torch.ones(4, 3, 4)
    assert robust_contrast(equal, equal, valid, options).item() == pytest.approx(math.log(4))


def states(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Three users of 3, 0 and 1 items and noise at the pads."""
    random = torch.Generator().manual_seed(seed)
    hidden, corrupted = torch.randn(2, 3, 3, 4, generator=random).unbind()
    return hidden, corrupted, torch.arange(3) >= 3 - torch.tensor([[3], [0], [1]])


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_what_stands_at_padding_and_how_much_of_it_does_not_matter(pool: str) -> None:
    hidden, corrupted, valid = states()
    options = RobustOptions(pool=pool)
    expected = robust_contrast(hidden, corrupted, valid, options).item()
    for vectors in (hidden, corrupted):
        vectors[~valid] = 1e4
    wider = [torch.nn.functional.pad(vectors, (0, 0, 2, 0)) for vectors in (hidden, corrupted)]
    padded = torch.nn.functional.pad(valid, (2, 0))
    order = [2, 0, 1]
    found = robust_contrast(wider[0][order], wider[1][order], padded[order], options)
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_padding_and_users_without_items_get_zero_gradient(pool: str, similarity: str) -> None:
    hidden, corrupted, valid = states()
    hidden[1], corrupted[2] = 0, 0
    options = RobustOptions(pool=pool, similarity=similarity)
    for mask in (valid, torch.zeros_like(valid)):
        inputs = hidden.clone().requires_grad_(), corrupted.clone().requires_grad_()
        loss = robust_contrast(*inputs, mask, options)
        loss.backward()
        for each in inputs:
            assert each.grad.isfinite().all()
            assert each.grad[~mask].abs().sum() == 0
    assert loss.item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_half_precision_states_are_pooled_and_compared_in_float32(dtype, pool: str) -> None:
    hidden, corrupted, valid = states()
    # Entries of thousands: 16-bit sums and squares of them would be infinite or coarse.
    inputs = (2e4 * hidden).to(dtype).requires_grad_(), (2e4 * corrupted).to(dtype).requires_grad_()
    options = RobustOptions(pool=pool)
    expected = robust_oracle(inputs[0].double(), inputs[1].double(), valid, options)
    with torch.autocast("cpu", dtype):
        loss = robust_contrast(*inputs, valid, options)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
    assert all(each.grad.isfinite().all() for each in inputs)
