"""The oracle against its definition as loops, against brute force, against what happens."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from pmm.errors import InputError
from pmm.world import World, generate
from pmm.world.attributes import ATTRIBUTES
from pmm.world.describe import core, kept_oracle_ranks, pair_ranks, popularity_ranks
from pmm.world.generate import WorldItems
from pmm.world.oracle import Oracle, WalkOracle, hit_rate, ndcg, oracle_ranks
from pmm.world.platforms import TARGETS, find_collection

ALL = [attribute.name for attribute in ATTRIBUTES]
IN_TEXT = [attribute.name for attribute in ATTRIBUTES if "text" in attribute.shows]
SlowWalk = Callable[[WorldItems, list[int], float, list[str]], list[float]]


def sequences_of(world: World, collection: str) -> list[list[int]]:
    drawn = world.sequences(collection)
    return [part.tolist() for part in np.split(drawn.items, drawn.starts[1:-1])]


@pytest.mark.parametrize(("sees", "seen"), [("both", ALL), ("text", IN_TEXT)])
def test_a_walk_has_the_probabilities_of_its_definition(
    tiny: World, slow_walk: SlowWalk, sees: str, seen: list[str]
) -> None:
    items = tiny.items("Bili Food")
    walk = WalkOracle(items, noise=10, sees=sees)
    for history in ([], [3], [3, 7], [3, 7, 1, 4]):
        expected = slow_walk(items, history, 0.10, seen)
        np.testing.assert_allclose(walk.probabilities([history])[0], expected, rtol=1e-12)


def test_ranks_are_those_of_a_slow_loop(tiny: World, slow_walk: SlowWalk) -> None:
    raw, items = tiny.item_ids("Kwai Food"), tiny.items("Kwai Food")
    users = sequences_of(tiny, "Kwai Food")[:30]
    kept = [i for i in range(len(raw)) if i % 7 != 3 or any(u[-1] == i for u in users)]
    expected = []
    for *history, truth in users:
        score = slow_walk(items, history, 0.10, ALL)
        others = [score[i] >= score[truth] for i in kept if i not in history and i != truth]
        expected.append(1 + sum(others))
    histories = [[raw[i] for i in user[:-1]] for user in users]
    truths = [raw[user[-1]] for user in users]
    found = oracle_ranks(tiny, "Kwai Food", [raw[i] for i in kept], histories, truths)
    assert found.dtype == np.int32
    assert found.tolist() == expected


def test_unseen_attributes_averaged_by_brute_force_give_the_order_of_the_titles_only_oracle() -> (
    None
):
    kind, mood, colour = [0, 2, 1], [1, 0, 3], [4, 5, 2]
    seen = np.array([kind, mood, colour, [0] * 3, [0] * 3], dtype=np.int8).T
    weight = np.array([5, 9, 4])
    hidden = [c for c, a in enumerate(ATTRIBUTES) if "text" not in a.shows]
    total = np.zeros(3)
    choices = list(itertools.product(range(4), repeat=len(hidden)))
    for drawn in itertools.product(choices, repeat=3):  # 16 ** 3 ways to fill what titles hide
        values = seen.copy()
        values[:, hidden] = drawn
        items = WorldItems(department=np.zeros(3, dtype=np.int8), values=values, weight=weight)
        total += WalkOracle(items, noise=0, sees="both").probabilities([[2]])[0]
    items = WorldItems(department=np.zeros(3, dtype=np.int8), values=seen, weight=weight)
    text = WalkOracle(items, noise=0, sees="text").probabilities([[2]])[0]
    assert np.argsort(total).tolist() == np.argsort(text).tolist()
    # Near, not equal: three items are too few for the normaliser to be its expectation.
    np.testing.assert_allclose(total / total.sum(), text, atol=0.12)


def test_the_next_department_follows_by_bayes_rule(tiny: World) -> None:
    items, collection = tiny.items("HM"), find_collection("HM")
    history = sequences_of(tiny, "HM")[0][:6]
    share = [part.share for part in collection.departments]
    loyal, size = collection.loyalty / 100, len(share)
    odds = [
        [loyal * (f == d) + (1 - loyal) * share[d] / sum(share) for d in range(size)]
        for f in range(size)
    ]
    favourite = [float(s) for s in share]
    for item in history:
        favourite = [p * odds[f][items.department[item]] for f, p in enumerate(favourite)]
    mixed = [sum(favourite[f] * odds[f][d] for f in range(size)) for d in range(size)]
    found = Oracle(tiny, "HM").probabilities([history])[0]
    for d in range(size):
        inside = found[items.department == d].sum()
        assert inside == pytest.approx(mixed[d] / sum(mixed), rel=1e-9)


@pytest.mark.parametrize("name", ["HM", "Amazon", "Bili Food", "Kwai Cartoon"])
def test_the_oracle_hits_as_often_as_its_own_probabilities_say(name: str) -> None:
    world = generate("demo", seed=3)
    users = sequences_of(world, name)[:1500]
    chance = Oracle(world, name).probabilities([user[:-1] for user in users])
    np.testing.assert_allclose(chance.sum(axis=1), 1.0, rtol=1e-9)
    best = np.argsort(-chance, axis=1)[:, :10]
    expected = np.take_along_axis(chance, best, axis=1).sum(axis=1)
    hits = sum(user[-1] in row for user, row in zip(users, best.tolist(), strict=True))
    spread = np.sqrt((expected * (1 - expected)).sum())
    assert abs(hits - expected.sum()) < 4 * spread


@pytest.mark.parametrize("name", [target.name for target in TARGETS])
def test_no_count_model_beats_the_oracle(tiny: World, name: str) -> None:
    kept = core(tiny, name)
    best = hit_rate(kept_oracle_ranks(tiny, name, kept), 10)
    assert best > hit_rate(popularity_ranks(kept), 10)
    assert best >= hit_rate(pair_ranks(kept), 10)


def test_an_item_taken_again_ranks_behind_all_that_are_left(tiny: World) -> None:
    raw = tiny.item_ids("Bili Food")
    ranks = oracle_ranks(tiny, "bili food", raw, [[raw[0], raw[1], raw[2]]], [raw[1]])
    assert ranks.tolist() == [len(raw) - 2]


def test_an_item_of_another_world_is_refused(tiny: World) -> None:
    raw = tiny.item_ids("Bili Food")
    with pytest.raises(InputError, match="another size or seed"):
        oracle_ranks(tiny, "Bili Food", raw, [["v-none"]], [raw[0]])


def test_metrics_are_those_computed_by_hand() -> None:
    ranks = np.array([1, 2, 10, 11, 20, 21])
    assert hit_rate(ranks, 10) == 0.5
    by_hand = (1 + 1 / np.log2(3) + 1 / np.log2(11) + 1 / np.log2(12) + 1 / np.log2(21)) / 6
    assert ndcg(ranks, 20) == pytest.approx(by_hand)
