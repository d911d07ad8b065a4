"""HR and NDCG against implementations that sort: one written out here, and ranx's where it is.

Ours count, these sort. They agree wherever scores differ; of equal scores a sort takes any order,
so the tie rule has tests of its own here and in test_ranking.py.
"""

import math

import numpy as np
import pytest
import torch

from pmm.evaluate.metrics import CUTOFFS, measure
from pmm.evaluate.ranking import Queries, rank_users
from pmm.shards.sequence_shards import Lists

USERS, ITEMS, WIDTH = 300, 400, 8
SAME = 1e-9
"""Means of the same 300 numbers, added up in another order."""

Scores = list[dict[int, float]]


def world(*, ties: bool) -> tuple[torch.Tensor, torch.Tensor, Queries]:
    """Vectors of users and items, targets and histories, some of which hold the target."""
    draw = np.random.default_rng(11)
    user = torch.from_numpy(draw.standard_normal((USERS, WIDTH))).float()
    item = torch.from_numpy(draw.standard_normal((ITEMS, WIDTH))).float()
    if ties:
        user, item = user.round(), item.round()
    histories = [draw.integers(1, ITEMS + 1, draw.integers(0, 30)) for _ in range(USERS)]
    # Targets near the user, so that some of them are found: the best of a few random items.
    some = draw.integers(0, ITEMS, (USERS, 40))
    best = (user.numpy()[:, None] * item.numpy()[some]).sum(2).argmax(1)
    target = some[np.arange(USERS), best] + 1
    for row in range(0, USERS, 10):
        histories[row] = np.append(histories[row], target[row])
    asked = Queries(
        user_U=np.arange(USERS, dtype=np.int32),
        target_U=target.astype(np.int32),
        history=Lists(
            offsets=np.cumsum([0, *map(len, histories)]).astype(np.int64),
            values=np.concatenate(histories).astype(np.int32),
        ),
    )
    return user, item, asked


def candidates(user: torch.Tensor, item: torch.Tensor, asked: Queries) -> Scores:
    """Of each user, item -> score: the history is left out, but not the target."""
    exact = (user.double() @ item.double().T).float().tolist()
    found = []
    for row, target in enumerate(asked.target_U.tolist()):
        masked = {*asked.history[row].tolist()} - {target}
        found.append({i: exact[row][i - 1] for i in range(1, ITEMS + 1) if i not in masked})
    return found


def by_sorting(scores: Scores, targets: list[int]) -> dict[str, float]:
    """Sort all candidates, the target behind its equals; look where it stands."""
    places = []
    for each, target in zip(scores, targets, strict=True):
        order = sorted(each, key=lambda i: (-each[i], i == target))
        places.append(order.index(target))
    found = {}
    for k in CUTOFFS:
        found[f"hr@{k}"] = math.fsum(place < k for place in places) / len(places)
        gains = [1 / math.log2(place + 2) for place in places if place < k]
        found[f"ndcg@{k}"] = math.fsum(gains) / len(places)
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_equal_those_of_sorted_candidates(ties: bool) -> None:
    user, item, asked = world(ties=ties)
    scores = candidates(user, item, asked)
    equal = sum(len(each) - len({*each.values()}) for each in scores)
    assert equal > 10_000 if ties else equal < 10  # a few by rounding to fp32
    found = measure(rank_users(user, item, asked))
    assert found.pop("users") == USERS
    assert found == pytest.approx(by_sorting(scores, asked.target_U.tolist()), abs=SAME)
    assert 0.1 < found["ndcg@10"] < found["hr@10"] < found["hr@50"] < 1


def test_the_tie_rule_gives_the_lowest_of_what_sorting_may_give() -> None:
    user, item, asked = world(ties=True)
    scores, targets = candidates(user, item, asked), asked.target_U.tolist()
    ours = measure(rank_users(user, item, asked))
    draw = np.random.default_rng(12)
    for _ in range(3):
        lucky = [{i: score + 1e-6 * draw.random() for i, score in each.items()} for each in scores]
        theirs = by_sorting(lucky, targets)
        assert all(ours[name] < value for name, value in theirs.items())


@pytest.mark.filterwarnings("ignore")  # of the compiler that ranx runs
def test_metrics_equal_those_of_ranx() -> None:
    ranx = pytest.importorskip("ranx", reason="ranx is not installed")
    user, item, asked = world(ties=False)
    scores = candidates(user, item, asked)
    relevant = {f"u{row}": {str(target): 1} for row, target in enumerate(asked.target_U.tolist())}
    ranked = {
        f"u{row}": {str(i): score for i, score in each.items()} for row, each in enumerate(scores)
    }
    names = {f"hr@{k}": f"hit_rate@{k}" for k in CUTOFFS} | {
        f"ndcg@{k}": f"ndcg@{k}" for k in CUTOFFS
    }
    theirs = ranx.evaluate(ranx.Qrels(relevant), ranx.Run(ranked), list(names.values()))
    found = measure(rank_users(user, item, asked))
    assert {name: found[name] for name in names} == pytest.approx(
        {name: float(theirs[their]) for name, their in names.items()}, abs=SAME
    )
