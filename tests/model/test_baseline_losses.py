"""The baselines' losses against closed forms and against loops over rows and columns."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pmm.model.losses import of_baselines as baseline_losses
from pmm.model.losses.of_baselines import (
    binary_cross_entropy,
    bpr,
    cosine_softmax,
    draw_negatives,
    full_softmax,
    prediction_rows,
    sequence_softmax,
)

SLOTS = torch.tensor([[0, 1, 2, 3], [4, 2, 5, 6], [0, 0, 0, 5], [0, 0, 6, 6]])
ROWS = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (3, 2)]
"""The (user, input) pairs of SLOTS that predict something."""
TARGETS = [1, 2, 1, 4, 5, 5]
NEGATIVES = torch.tensor([[0, 4, 5], [1, 3, 3], [0, 0, 0], [0, 0, 2]])


def numbers(seed: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((4, 3, 5), (6, 5))
    return tuple(torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes)


def dot(left: Tensor, right: Tensor) -> float:
    return math.fsum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True))


def cosine(left: Tensor, right: Tensor) -> float:
    return dot(left, right) / math.sqrt(dot(left, left) * dot(right, right))


def softmax_loss(z: list[float], target: int) -> float:
    return math.log(sum(math.exp(each) for each in z)) - z[target]


def test_rows_are_where_an_item_follows_an_item() -> None:
    user, _ = numbers(0)
    rows = prediction_rows(user, SLOTS)
    assert rows.owner_N.tolist() == [u for u, _ in ROWS]
    assert rows.target_N.tolist() == TARGETS
    assert torch.equal(rows.user_ND, torch.stack([user[row] for row in ROWS]))


@pytest.mark.parametrize(("similarity", "tau"), [("dot", 1.0), ("cosine", 0.3)])
def test_full_softmax_is_over_all_items(similarity: str, tau: float) -> None:
    user, item = numbers(1)
    alike = {"dot": dot, "cosine": cosine}[similarity]
    losses = [
        softmax_loss([alike(user[row], each) / tau for each in item], target)
        for row, target in zip(ROWS, TARGETS, strict=True)
    ]
    found = full_softmax(user, item, SLOTS, similarity=similarity, tau=tau)
    assert found.item() == pytest.approx(sum(losses) / 6, rel=1e-9)


def test_full_softmax_in_groups_has_the_same_value_and_gradients() -> None:
    expected, found = (
        gradients(lambda u, i, n=n: full_softmax(u, i, SLOTS, logits_at_once=n), *numbers(2))
        for n in (10_000, 13)
    )
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def gradients(loss, *vectors: Tensor) -> list[Tensor]:
    vectors = [each.clone().requires_grad_() for each in vectors]
    value = loss(*vectors)
    return [value.detach(), *torch.autograd.grad(value, vectors)]


def test_full_softmax_never_holds_more_logits_than_asked(monkeypatch) -> None:
    seen: list[int] = []

    def counted(left, right, similarity):
        z = similarities(left, right, similarity)
        seen.append(z.numel())
        return z

    similarities = baseline_losses.similarities
    monkeypatch.setattr(baseline_losses, "similarities", counted)
    user, item = numbers(3)
    saved: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(x.numel()) or x, lambda x: x
    )
    with hooks:
        loss = full_softmax(user.requires_grad_(), item, SLOTS, logits_at_once=24)
    assert seen == [24, 12]  # four rows at a time
    assert 24 not in saved
    loss.backward()
    assert sorted(seen) == [12, 12, 24, 24]  # and once more for the gradients


def test_full_softmax_of_equal_items_is_the_log_of_their_number() -> None:
    user, item = torch.randn(4, 3, 5), torch.ones(6, 5)
    assert full_softmax(user, item, SLOTS).item() == pytest.approx(math.log(6), rel=1e-5)


def test_binary_cross_entropy_takes_one_negative_a_row() -> None:
    user, item = numbers(4)
    losses = []
    for (u, at), target in zip(ROWS, TARGETS, strict=True):
        right = 1 / (1 + math.exp(-dot(user[u, at], item[target])))
        wrong = 1 / (1 + math.exp(-dot(user[u, at], item[NEGATIVES[u, at] - 1])))
        losses.append(-math.log(right) - math.log(1 - wrong))
    found = binary_cross_entropy(user, item, SLOTS, NEGATIVES)
    assert found.item() == pytest.approx(sum(losses) / 6, rel=1e-9)


def test_bpr_sums_over_a_users_rows_and_averages_over_users_that_have_one() -> None:
    user, item = numbers(5)
    sums: Counter[int] = Counter()
    for (u, at), target in zip(ROWS, TARGETS, strict=True):
        margin = dot(user[u, at], item[target]) - dot(user[u, at], item[NEGATIVES[u, at] - 1])
        sums[u] -= math.log(1 / (1 + math.exp(-margin)))
    found = bpr(user, item, SLOTS, NEGATIVES)
    assert found.item() == pytest.approx(sum(sums.values()) / 3, rel=1e-9)


def test_a_user_of_zeros_gives_ln_2_for_each_comparison() -> None:
    user, item = torch.zeros(4, 3, 5), torch.randn(6, 5)
    found = binary_cross_entropy(user, item, SLOTS, NEGATIVES)
    assert found.item() == pytest.approx(2 * math.log(2))
    assert bpr(user, item, SLOTS, NEGATIVES).item() == pytest.approx(6 * math.log(2) / 3)


def test_scores_far_apart_neither_overflow_nor_lose_their_gradient() -> None:
    user = torch.full((1, 1, 1), 1e4, requires_grad=True)
    item, slots, negative = (
        torch.tensor([[-1.0], [1.0]]),
        torch.tensor([[1, 1]]),
        torch.tensor([[2]]),
    )
    for loss, expected in ((binary_cross_entropy, 2e4), (bpr, 2e4)):
        found = loss(user, item, slots, negative)
        (gradient,) = torch.autograd.grad(found, user)
        assert found.item() == pytest.approx(expected)
        assert gradient.item() == pytest.approx(2.0)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_negatives_are_of_the_catalogue_and_never_the_users_own(data: st.DataObject) -> None:
    n_items = data.draw(st.integers(2, 12))
    width = data.draw(st.integers(2, 8))
    own = st.lists(st.integers(1, n_items), max_size=width)
    rows = data.draw(
        st.lists(own.filter(lambda row: len(set(row)) < n_items), min_size=1, max_size=4)
    )
    item = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    found = draw_negatives(item, n_items, draw)
    assert found.shape == (len(rows), width - 1)
    for row, negatives in zip(rows, found.tolist(), strict=True):
        assert not set(row) & set(negatives)
        assert all(1 <= each <= n_items for each in negatives)


def test_negatives_are_uniform_over_the_items_outside() -> None:
    item = torch.tensor([[0, 0, 3, 7, 3, 1, 10]]).repeat(10_000, 1)
    found = draw_negatives(item, 10, torch.Generator().manual_seed(0))
    counts = Counter(found.flatten().tolist())
    assert sorted(counts) == [2, 4, 5, 6, 8, 9]
    # 60,000 draws: one deviation of a count of 10,000 is 91.
    assert all(abs(count - 10_000) < 5 * 91 for count in counts.values())
    joint = Counter(zip(found[:, 0].tolist(), found[:, 1].tolist(), strict=True))
    assert len(joint) == 36
    assert all(abs(count - 10_000 / 36) < 5 * 17 for count in joint.values())


def test_negatives_depend_on_the_generator_alone() -> None:
    item = torch.randint(1, 1000, (5, 8))
    one, again, other = (
        draw_negatives(item, 1000, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_user_that_has_everything_has_no_negative() -> None:
    item = torch.tensor([[0, 1, 2, 2], [1, 2, 3, 3]])
    with pytest.raises(ValueError, match="a user has all 3 items"):
        draw_negatives(item, 3, torch.Generator())


def contrast(
    user: Tensor,
    item: Tensor,
    targets: list[int],
    *,
    tau: float,
    official: bool,
    barred: Tensor | None,
    synthetic: Tensor | None,
) -> float:
    """Row by row over the N x N columns as published, one term after another."""
    losses = []
    for n, target in enumerate(targets):
        terms = []
        for m, other in enumerate(targets):
            if m == n:
                terms.append(math.exp(cosine(user[n], item[target]) / tau))
            elif other == target:
                if official:
                    terms.append(math.exp(0.0))
            elif barred is None or not barred[n, other]:
                terms.append(math.exp(cosine(user[n], item[other]) / tau))
        if synthetic is not None:
            terms.append(math.exp(cosine(user[n], synthetic[n]) / tau))
        losses.append(math.log(sum(terms)) - cosine(user[n], item[target]) / tau)
    return sum(losses) / len(losses)


CHOICES = list(itertools.product(["masked", "official"], [False, True], [False, True]))


@pytest.mark.parametrize(("same_target", "bars", "fakes"), CHOICES)
@pytest.mark.parametrize("seed", range(3))
def test_cosine_softmax_equals_loops_over_rows_and_columns(
    seed: int, same_target: str, bars: bool, fakes: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    user, item, fake = (torch.randn(n, 5, generator=draw, dtype=torch.float64) for n in (12, 7, 12))
    target = torch.randint(5, (12,), generator=draw)  # with repeats; two items are no targets
    barred = torch.rand(12, 7, generator=draw) < 0.3 if bars else None
    synthetic = fake if fakes else None
    choices = {"same_target": same_target, "barred_NI": barred, "synthetic_ND": synthetic}
    found = cosine_softmax(user, item, target, tau=0.2, **choices)
    expected = contrast(
        user,
        item,
        target.tolist(),
        tau=0.2,
        official=same_target == "official",
        barred=barred,
        synthetic=synthetic,
    )
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("same_target", ["masked", "official"])
def test_where_all_vectors_are_equal_the_losses_are_ln_b(same_target: str) -> None:
    user, item, target = torch.ones(6, 5), torch.ones(6, 5), torch.arange(6)
    for loss in (cosine_softmax, sequence_softmax):
        found = loss(user, item, target, same_target=same_target)
        assert found.item() == pytest.approx(math.log(6), rel=1e-5)


def test_a_synthetic_negative_that_is_the_positive_makes_it_ln_of_b_plus_1() -> None:
    ones = torch.ones(6, 5)
    found = cosine_softmax(ones, ones, torch.arange(6), synthetic_ND=ones)
    assert found.item() == pytest.approx(math.log(7), rel=1e-5)


def test_three_rows_two_of_the_same_target_have_the_published_closed_form() -> None:
    user, item, target = torch.ones(3, 4), torch.ones(2, 4), torch.tensor([0, 0, 1])
    official = cosine_softmax(user, item, target, same_target="official").item()
    assert official == pytest.approx(
        (2 * math.log(2 + math.exp(-1 / 0.07)) + math.log(3)) / 3, rel=1e-6
    )
    # A tau at which the quirk is not lost in rounding.
    official = cosine_softmax(user, item, target, same_target="official", tau=1.0).item()
    assert official == pytest.approx((2 * math.log(2 + math.exp(-1)) + math.log(3)) / 3, rel=1e-6)
    masked = cosine_softmax(user, item, target, tau=1.0).item()
    assert masked == pytest.approx((2 * math.log(2) + math.log(3)) / 3, rel=1e-6)
    pairs = sequence_softmax(user, user, target, tau=1.0, same_target="official").item()
    assert pairs == pytest.approx((2 * math.log(2 + math.exp(-1)) + math.log(3)) / 3, rel=1e-6)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_sequence_softmax_equals_loops(seed: int, official: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    user, augmented = torch.randn(2, 9, 5, generator=draw, dtype=torch.float64)
    target = torch.randint(4, (9,), generator=draw).tolist()
    losses = []
    for n in range(9):
        terms = []
        for m in range(9):
            if m == n or target[m] != target[n]:
                terms.append(math.exp(cosine(user[n], augmented[m]) / 0.3))
            elif official:
                terms.append(1.0)
        losses.append(math.log(sum(terms)) - cosine(user[n], augmented[n]) / 0.3)
    found = sequence_softmax(
        user,
        augmented,
        torch.tensor(target),
        tau=0.3,
        same_target="official" if official else "masked",
    )
    assert found.item() == pytest.approx(sum(losses) / 9, rel=1e-9)


def all_losses(user: Tensor, item: Tensor, slots: Tensor = SLOTS) -> dict[str, Tensor]:
    rows = prediction_rows(user, slots)
    vectors = (rows.user_ND, item, rows.target_N)
    negative = NEGATIVES[: len(slots)]
    return {
        "full": full_softmax(user, item, slots),
        "full in groups": full_softmax(user, item, slots, logits_at_once=6),
        "full by cosine": full_softmax(user, item, slots, similarity="cosine", tau=0.07),
        "binary": binary_cross_entropy(user, item, slots, negative),
        "bpr": bpr(user, item, slots, negative),
        "masked": cosine_softmax(*vectors, synthetic_ND=item[rows.target_N].flip(1)),
        "official": cosine_softmax(*vectors, same_target="official"),
        "sequences": sequence_softmax(rows.user_ND, item[rows.target_N].flip(1), rows.target_N),
        "official sequences": sequence_softmax(
            rows.user_ND, item[rows.target_N].flip(1), rows.target_N, same_target="official"
        ),
    }


NAMES = list(all_losses(*numbers(0)))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_pass_torchs_own_check_in_double_precision_for_losses_of_baselines(
    name: str,
) -> None:
    vectors = [each.requires_grad_() for each in numbers(6)]
    assert torch.autograd.gradcheck(lambda u, i: all_losses(u, i)[name], vectors)


@pytest.mark.parametrize("name", NAMES)
def test_rows_get_gradients_and_padding_none(name: str) -> None:
    user, item = (each.requires_grad_() for each in numbers(7))
    all_losses(user, item)[name].backward()
    moved = user.grad.abs().sum(2) > 1e-9
    assert sorted(map(tuple, moved.nonzero().tolist())) == ROWS
    assert (item.grad.abs().sum(1) > 1e-9)[[1, 2, 4, 5]].all()  # the targets


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_vectors_are_computed_in_float32_for_losses_of_baselines(
    name: str, dtype: torch.dtype
) -> None:
    # Products of entries of hundreds: past float16's largest number.
    halves = [(300 * each).to(dtype).requires_grad_() for each in numbers(8)]
    with torch.autocast("cpu", dtype):
        loss = all_losses(*halves)[name]
    loss.backward()
    exact = all_losses(*[each.detach().float() for each in halves])[name]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert all(each.grad.isfinite().all() for each in halves)


@pytest.mark.parametrize("name", NAMES)
def test_without_rows_the_loss_is_0_with_zero_gradients(name: str) -> None:
    user, item = (each.requires_grad_() for each in numbers(9))
    loss = all_losses(user[:2], item, torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0]]))[name]
    loss.backward()
    assert loss.item() == 0
    assert user.grad.abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_one_row_alone_gives_finite_loss_and_gradient(name: str) -> None:
    user, item = (each.requires_grad_() for each in numbers(10))
    loss = all_losses(user[:1], item, torch.tensor([[0, 0, 2, 1]]))[name]
    loss.backward()
    assert loss.isfinite()
    assert user.grad.isfinite().all()
    if name in ("official", "sequences"):  # nothing to compare with
        assert loss.item() == pytest.approx(0, abs=1e-9)


def test_the_target_is_a_column_even_where_it_is_barred() -> None:
    user, item = torch.randn(3, 4), torch.randn(5, 4)
    barred = torch.ones(3, 5, dtype=torch.bool)
    found = cosine_softmax(user, item, torch.tensor([0, 3, 3]), barred_NI=barred)
    assert found.item() == pytest.approx(0, abs=1e-6)


def test_cosine_softmax_ignores_lengths() -> None:
    draw = torch.Generator().manual_seed(0)
    user, item = (torch.randn(4, 5, generator=draw) for _ in range(2))
    scale = functional.softplus(torch.randn(4, 1, generator=draw))
    found = cosine_softmax(scale * user, 7 * item, torch.arange(4), synthetic_ND=3 * item)
    expected = cosine_softmax(user, item, torch.arange(4), synthetic_ND=item)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
