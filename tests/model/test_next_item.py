"""The in-batch softmax against closed forms and against loops over every slot of the batch."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pmm.model.losses.next_item import in_batch_softmax

# Closed forms worked out by hand for these ids; item 2 was seen twice in training.
G1_SLOTS = torch.tensor([[0, 1, 2, 3], [4, 2, 5, 6]])
G1_LOG_P = (torch.tensor([1.0, 2, 1, 1, 1, 1]) / 7).log()
CHOICES = list(itertools.product(["on", "off", "corrected"], ["same_ids", "own_columns", "none"]))


def loops(
    user: Tensor,
    item: Tensor,
    slots: Tensor,
    log_p: Tensor,
    logq: str,
    reject: str,
    group: list[int] | None = None,
) -> float:
    """The definition over all B x S columns, row by row; duplicates are columns of their own."""
    losses = []
    for u, at in itertools.product(range(len(slots)), range(slots.shape[1] - 1)):
        if slots[u, at] == 0 or slots[u, at + 1] == 0:
            continue
        target = int(slots[u, at + 1]) - 1
        kept = []
        for v, k in itertools.product(range(len(slots)), range(slots.shape[1])):
            own = set(slots[u].tolist())
            alien = {
                "same_ids": int(slots[v, k]) not in own,
                "own_columns": v != u,
                "none": True,
            }[reject]
            near = slots[v, k] == 0 or not group or group[slots[v, k] - 1] == group[target]
            if slots[v, k] > 0 and (v, k) != (u, at + 1) and alien and near:
                kept.append(int(slots[v, k]) - 1)
        z = [float(user[u, at] @ item[i]) for i in range(len(item))]
        p = [float(x) for x in log_p.exp()]
        barred = {target} | ({i - 1 for i in own if i} if reject == "same_ids" else set())
        barred |= {i for i in range(len(item)) if group and group[i] != group[target]}
        losses.append(one_row(z, p, target, kept, barred, logq))
    return sum(losses) / len(losses)


def one_row(
    z: list[float], p: list[float], target: int, kept: list[int], barred: set[int], logq: str
) -> float:
    if logq == "corrected":
        kept = [i for i in kept if i != target]
        if not kept:
            return 0.0
        free = 1 - sum(p[i] for i in barred)
        others = sum(math.exp(z[i]) / (p[i] / free) for i in kept) / len(kept)
        miss = others / (others + math.exp(z[target]))
        return -miss * (z[target] - math.log(others))
    shift = [math.log(x) if logq == "on" else 0.0 for x in p]
    total = sum(math.exp(z[i] - shift[i]) for i in [target, *kept])
    return math.log(total) - (z[target] - shift[target])


def random_batch(seed: int, users: int = 4, slots: int = 5, items: int = 6) -> tuple[Tensor, ...]:
    """Short left-padded sequences with items repeated within and across users."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, items + 1, (users, slots), generator=draw)
    ids[torch.arange(slots) < torch.randint(0, slots, (users, 1), generator=draw)] = 0
    known, dense = ids.unique(return_inverse=True)
    dense = dense if known[0] == 0 else dense + 1
    n = int(dense.max())
    share = torch.rand(n, generator=draw) + 0.1
    user = torch.randn(users, slots - 1, 3, generator=draw)
    return user, torch.randn(n, 3, generator=draw), dense, (share / share.sum() * 0.7).log()


@pytest.mark.parametrize(
    ("logq", "reject", "flat", "peaked"),
    [
        ("on", "same_ids", 1.427773, 0.369387),
        ("off", "same_ids", 1.213685, 0.280028),
        ("off", "own_columns", 1.475552, 0.562440),
    ],
)
def test_closed_forms_of_two_users_for_the_next_item_loss(
    logq: str, reject: str, flat: float, peaked: float
) -> None:
    one_hot = torch.eye(6)
    targets = 2 * one_hot[(G1_SLOTS[:, 1:] - 1).clamp(min=0)]
    for user, expected in ((torch.zeros(2, 3, 6), flat), (targets, peaked)):
        found = in_batch_softmax(user, one_hot, G1_SLOTS, G1_LOG_P, logq=logq, reject=reject)
        assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("logq", "reject"), CHOICES)
@pytest.mark.parametrize("seed", range(6))
def test_distinct_items_give_the_same_as_loops_over_all_slots(seed, logq, reject) -> None:
    user, item, slots, log_p = random_batch(seed)
    found = in_batch_softmax(user, item, slots, log_p, logq=logq, reject=reject)
    assert found.item() == pytest.approx(loops(user, item, slots, log_p, logq, reject), abs=1e-4)


Case = tuple[Tensor, Tensor, Tensor, Tensor, str, str]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any number of users and items, repeats within and across users; vectors in float64."""
    n, users, slots = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(2, 5))
    rows = [draw(st.lists(st.integers(1, n), max_size=slots)) for _ in range(users)]
    ids = torch.tensor([[0] * (slots - len(row)) + row for row in rows])
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    user = torch.randn(users, slots - 1, 3, generator=random, dtype=torch.float64)
    item = torch.randn(n, 3, generator=random, dtype=torch.float64)
    share = torch.rand(n, generator=random, dtype=torch.float64) + 0.1
    log_p = (share / share.sum() * 0.7).log()
    return (user, item, ids, log_p, *draw(st.sampled_from(CHOICES)))


def rows_of(ids: Tensor) -> int:
    return int(((ids[:, :-1] > 0) & (ids[:, 1:] > 0)).sum())


@settings(max_examples=300, deadline=None)
@given(cases())
def test_any_batch_gives_the_loss_of_loops_over_all_slots(case: Case) -> None:
    found = in_batch_softmax(*case[:4], logq=case[4], reject=case[5]).item()
    # The logarithms of the numbers of columns are float32.
    assert found == pytest.approx(loops(*case) if rows_of(case[2]) else 0, rel=1e-6, abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(cases(), st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_with_groups_the_negatives_are_of_the_targets_own_group(
    case: Case, group: list[int]
) -> None:
    group_I = torch.tensor(group[: len(case[1])])
    found = in_batch_softmax(*case[:4], logq=case[4], reject=case[5], group_I=group_I).item()
    expected = loops(*case, group) if rows_of(case[2]) else 0
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([("dot", 1.0), ("cosine", 0.2)]))
def test_gradients_pass_torchs_own_check_in_double_precision_for_the_next_item_loss(
    case: Case, scale: tuple[str, float]
) -> None:
    user, item, ids, log_p, logq, reject = case
    if logq == "corrected":  # its gradient is not that of its value
        logq = "on"

    def loss(*vectors: Tensor) -> Tensor:
        similarity, tau = scale
        choices = {"logq": logq, "reject": reject, "similarity": similarity, "tau": tau}
        return in_batch_softmax(*vectors, ids, log_p, **choices)

    assert torch.autograd.gradcheck(loss, (user.requires_grad_(), item.requires_grad_()), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("logq", "reject"), CHOICES)
def test_half_precision_vectors_are_computed_in_float32_for_the_next_item_loss(
    dtype, logq: str, reject: str
) -> None:
    user, item, slots, log_p = random_batch(4)
    # Products of entries of hundreds: past float16's largest number.
    halves = [(300 * each).to(dtype).requires_grad_() for each in (user, item)]
    with torch.autocast("cpu", dtype):
        loss = in_batch_softmax(*halves, slots, log_p, logq=logq, reject=reject)
    loss.backward()
    exact = [each.detach().double() for each in halves]
    expected = in_batch_softmax(*exact, slots, log_p, logq=logq, reject=reject)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(each.grad.isfinite().all() for each in halves)


@pytest.mark.parametrize(("logq", "reject"), CHOICES)
def test_one_user_alone_gives_finite_loss_and_gradient(logq: str, reject: str) -> None:
    user = torch.randn(1, 3, 4, requires_grad=True)
    slots, log_p = torch.tensor([[0, 1, 2, 1]]), torch.tensor([0.6, 0.4]).log()
    loss = in_batch_softmax(user, torch.randn(2, 4), slots, log_p, logq=logq, reject=reject)
    loss.backward()
    assert loss.isfinite()
    assert user.grad.isfinite().all()
    if reject == "same_ids":
        assert loss.item() == pytest.approx(0, abs=1e-6)


def test_rows_without_a_next_item_do_not_count() -> None:
    slots, log_p = torch.tensor([[0, 0, 1], [0, 0, 0]]), torch.zeros(1)
    user = torch.randn(2, 2, 4, requires_grad=True)
    loss = in_batch_softmax(user, torch.randn(1, 4), slots, log_p)
    loss.backward()
    assert loss.item() == 0
    assert user.grad.abs().sum() == 0


def test_corrected_has_the_full_softmaxs_gradient_when_every_item_is_a_negative_once() -> None:
    slots = torch.tensor([[0, 1, 2], [3, 4, 5]])
    item = torch.randn(5, 4)
    user = torch.randn(2, 2, 4, requires_grad=True)
    log_p = torch.full((5,), 0.2).log()
    loss = in_batch_softmax(user, item, slots, log_p, logq="corrected", reject="none")
    (found,) = torch.autograd.grad(loss, user)
    rows = [(0, 1), (1, 0), (1, 1)]
    full = sum(-(user[u, at] @ item.T).log_softmax(0)[slots[u, at + 1] - 1] for u, at in rows) / 3
    (expected,) = torch.autograd.grad(full, user)
    assert torch.allclose(found, expected, atol=1e-6)


def test_cosine_ignores_lengths_and_tau_divides() -> None:
    user, item, slots, log_p = random_batch(1)
    unit = torch.nn.functional.normalize(user, dim=-1), torch.nn.functional.normalize(item, dim=-1)
    expected = in_batch_softmax(unit[0] / 0.1, unit[1], slots, log_p)
    found = in_batch_softmax(9 * user, 5 * item, slots, log_p, similarity="cosine", tau=0.1)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_order_of_users_and_items_does_not_matter() -> None:
    user, item, slots, log_p = random_batch(2)
    order = torch.randperm(len(item))
    renamed = torch.zeros_like(slots)
    renamed[slots > 0] = order.argsort()[slots[slots > 0] - 1] + 1
    expected = in_batch_softmax(user, item, slots, log_p)
    found = in_batch_softmax(user.flip(0), item[order], renamed.flip(0), log_p[order])
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)


def test_logits_stay_float32_under_autocast_for_the_next_item_loss() -> None:
    user, item, slots, log_p = random_batch(3)
    expected = in_batch_softmax(user, item, slots, log_p)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(in_batch_softmax(user, item, slots, log_p), expected)
