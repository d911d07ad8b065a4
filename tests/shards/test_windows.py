"""Which training items a row holds: the last, random ones, or all; against literal readings."""

import hashlib
import itertools
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pmm.data.loader import batch_positions, steps_per_epoch, train_batches
from pmm.data.training_set import TrainingSet
from pmm.data.windows import Windows, told
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists

LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 0, 41]
RULES = ["last", "random", "all"]


@pytest.fixture(scope="module")
def parts(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Shards]:
    """Users with 2 to 7 training items, in two targets."""
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("windows"), n_items=20, n_users=30)
    return [shop.shards(), shop.add_target("Kwai", n_items=12, n_users=10)]


def lists(lengths: list[int] = LENGTHS) -> Lists:
    """All items are distinct over all users."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Lists(offsets=offsets, values=np.arange(1, offsets[-1] + 1, dtype=np.int32))


def rows_of(windows: Windows, train: Lists, epoch: int = 0) -> list[list[int]]:
    user, end = windows.at(np.arange(len(windows)), seed=7, epoch=epoch)
    return [[i for i in row if i] for row in train.before(user, end, windows.length).tolist()]


def literal_windows(items: list[int], length: int) -> list[list[int]]:
    """From the latest item on backwards, each window ends where the one after it begins."""
    found, end = [], len(items)
    while end >= 2:
        found.append(items[max(0, end - length) : end])
        end -= length - 1
    return found


@pytest.mark.parametrize("length", [2, 3, 5, 8, 21])
def test_with_all_windows_every_transition_is_a_target_exactly_once(length: int) -> None:
    train = lists()
    windows = Windows(rule="all", length=length, items_U=train.lengths)
    rows = rows_of(windows, train)
    transitions = Counter(pair for row in rows for pair in itertools.pairwise(row))
    users = [train[user].tolist() for user in range(len(train))]
    expected = Counter(pair for user in users for pair in itertools.pairwise(user))
    assert transitions == expected
    assert set(expected.values()) == {1}
    literal = [row for user in users for row in literal_windows(user, length)]
    assert sorted(rows) == sorted(literal)


@pytest.mark.parametrize("length", [2, 5, 21])
def test_the_latest_of_all_windows_is_the_last_window(length: int) -> None:
    train = lists()
    last, every = (
        rows_of(Windows(rule=rule, length=length, items_U=train.lengths), train)  # type: ignore[arg-type]
        for rule in ("last", "all")
    )
    assert last == [user[-length:] for user in map(list, train_lists(train)) if len(user) > 1]
    assert [row for row in every if row[-1] in {each[-1] for each in last}] == last


def train_lists(train: Lists) -> list[list[int]]:
    return [train[user].tolist() for user in range(len(train))]


def test_random_windows_are_whole_and_all_equally_likely() -> None:
    train, draws = lists([9] * 40), 100
    windows = Windows(rule="random", length=4, items_U=train.lengths)
    starts: Counter[int] = Counter()
    for epoch in range(draws):
        for user, row in enumerate(rows_of(windows, train, epoch)):
            own = train[user].tolist()
            start = own.index(row[0])
            assert row == own[start : start + 4]
            starts[start] += 1
    counts = np.array([starts[start] for start in range(6)])
    mean = 40 * draws / 6
    # 5 degrees of freedom: chi-square above 30 has a chance below 2e-5.
    assert ((counts - mean) ** 2 / mean).sum() < 30


def test_random_windows_differ_by_epoch_seed_user_and_part() -> None:
    items_U = np.full(50, 200)
    one = Windows(rule="random", length=5, items_U=items_U)
    other = Windows(rule="random", length=5, items_U=items_U, part=1)

    def ends(windows: Windows, seed: int, epoch: int) -> list[int]:
        return windows.at(np.arange(50), seed=seed, epoch=epoch)[1].tolist()

    drawn = [ends(one, 0, 0), ends(one, 1, 0), ends(one, 0, 1), ends(other, 0, 0)]
    assert len({tuple(each) for each in drawn}) == 4
    assert all(len(set(each)) > 20 for each in drawn)
    assert ends(one, 0, 0) == drawn[0]
    user, end = one.at(np.array([17]), seed=0, epoch=0)
    assert (user[0], end[0]) == (17, drawn[0][17])


def test_users_with_few_items_give_all_of_them_by_any_rule() -> None:
    train = lists([3, 1, 4, 2])
    for rule in RULES:
        rows = rows_of(Windows(rule=rule, length=4, items_U=train.lengths), train)  # type: ignore[arg-type]
        assert rows == [[1, 2, 3], [5, 6, 7, 8], [9, 10]]


@pytest.mark.parametrize("rule", ["last", "all"])
@pytest.mark.parametrize("length", [2, 3, 5, 21])
def test_item_counts_are_those_of_an_epochs_rows(rule: Any, length: int) -> None:
    train = lists()
    shuffled = Lists(offsets=train.offsets, values=(train.values * 7 % 11 + 1).astype(np.int32))
    windows = Windows(rule=rule, length=length, items_U=train.lengths)
    literal = Counter(item for row in rows_of(windows, shuffled) for item in row)
    found = windows.item_counts(shuffled, 11)
    assert found.tolist() == [literal[item] for item in range(12)]


def test_item_counts_of_random_windows_are_the_mean_over_all_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, length = lists(), 5
    expected = np.zeros(int(train.values.max()) + 1)
    for own in train_lists(train):
        starts = range(max(len(own) - length, 0) + 1) if len(own) > 1 else range(0)
        for start in starts:
            expected[own[start : start + length]] += 1 / len(starts)
    windows = Windows(rule="random", length=length, items_U=train.lengths)
    found = windows.item_counts(train, len(expected) - 1)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    monkeypatch.setattr("pmm.data.windows._VALUES_A_PIECE", 6)  # users come in many pieces
    np.testing.assert_array_equal(windows.item_counts(train, len(expected) - 1), found)


def every_row(data: TrainingSet, epoch: int = 0, seed: int = 3) -> list[list[int]]:
    return data.rows(np.arange(len(data)), seed=seed, epoch=epoch, length=data.length).tolist()


@pytest.mark.parametrize(
    ("mixing", "digest"),
    [
        ("proportional", "38c2896b20f1a71d6005131ad2856f2b"),
        ("equal", "ba23e76a8c9fcd8d79d40c4091f0cb57"),
    ],
)
def test_rows_of_the_last_windows_are_those_of_before_there_was_a_choice(
    parts: list[Shards], mixing: Any, digest: str
) -> None:
    """The digests were taken from the program before it had other windows."""
    data = TrainingSet(parts, mixing=mixing)
    asked = [(s, e, n) for s in (0, 3) for e in (0, 1, 5) for n in (3, 7, 21)]
    rows = [data.rows(np.arange(len(data)), seed=s, epoch=e, length=n).ravel() for s, e, n in asked]
    whole = np.concatenate(rows).astype("<i8").tobytes()
    assert hashlib.sha256(whole).hexdigest()[:32] == digest


@pytest.mark.parametrize("mixing", ["proportional", "equal"])
@pytest.mark.parametrize("rule", RULES)
def test_a_row_of_any_rule_is_a_function_of_seed_epoch_and_position(
    parts: list[Shards], mixing: Any, rule: Any
) -> None:
    data = TrainingSet(parts, mixing=mixing, windows=rule, max_length=3)
    whole = every_row(data, epoch=2)
    for position in (0, 17, len(data) - 1):
        alone = data.rows(np.array([position]), seed=3, epoch=2, length=4)
        assert alone.tolist() == [whole[position]]


def test_all_windows_of_a_mix_hold_every_transition_of_every_source_once(
    parts: list[Shards],
) -> None:
    data = TrainingSet(parts, windows="all", max_length=2)
    found: Counter[tuple[int, int]] = Counter()
    for row in every_row(data, epoch=1):
        found.update((a, b) for a, b in itertools.pairwise(row) if a)
    expected: Counter[tuple[int, int]] = Counter()
    for shards, first in zip(parts, data.first, strict=False):
        for own in train_lists(shards.sequences().train):
            expected.update((a + first, b + first) for a, b in itertools.pairwise(own))
    assert found == expected


def test_equal_mixing_goes_through_all_windows_of_the_small_source(parts: list[Shards]) -> None:
    data = TrainingSet(parts, mixing="equal", windows="all", max_length=2)
    rows = [row for epoch in range(4) for row in every_row(data, epoch)]
    small = Counter(tuple(row) for row in rows if row[-1] > data.first[1])
    assert sum(small.values()) == len(rows) // 2
    owned = [
        (0,) * (3 - len(each)) + tuple(int(item + data.first[1]) for item in each)
        for own in train_lists(parts[1].sequences().train)
        for each in literal_windows(own, 3)
    ]
    laps, held = sum(small.values()) / len(owned), Counter(owned)
    assert laps > 2
    assert small.keys() == held.keys()
    assert all(abs(small[row] - laps * held[row]) <= held[row] for row in held)


def test_random_windows_of_a_mix_are_new_in_each_pass_through_a_source(
    shop_maker: ModuleType, tmp_path: Path
) -> None:
    """With equal mixing a small source is passed through several times in one epoch."""
    shop = shop_maker.open_shop(tmp_path, n_items=20, n_users=40)
    few = shop.add_target("Kwai", n_items=12, n_users=6, pictures=False)
    data = TrainingSet([shop.shards(), few], mixing="equal", windows="random", max_length=1)
    by_user: dict[int, set[tuple[int, ...]]] = {}
    owners = {
        (a, b): user
        for user, own in enumerate(train_lists(few.sequences().train))
        for a, b in itertools.pairwise(own)
    }
    for row in every_row(data):
        if row[-1] > data.first[1]:
            pair = (row[0] - int(data.first[1]), row[1] - int(data.first[1]))
            by_user.setdefault(owners[pair], set()).add(pair)
    assert max(len(each) for each in by_user.values()) > 1


@pytest.mark.parametrize("rule", RULES)
def test_batches_that_start_in_the_middle_are_those_of_the_whole_epoch(
    parts: list[Shards], rule: Any
) -> None:
    data = TrainingSet(parts[:1], read="none", windows=rule, max_length=2)
    ask = {"seed": 1, "epoch": 3, "batch_users": 4, "max_length": 2}
    whole = [batch.slot_BS for batch in train_batches(data, **ask)]
    later = [batch.slot_BS for batch in train_batches(data, **ask, start_step=3, ahead=4)]
    assert len(whole) == steps_per_epoch(len(data), 4)
    assert [each.tolist() for each in later] == [each.tolist() for each in whole[3:]]
    assert len(batch_positions(len(data), 4, len(whole) - 1)) == len(whole[-1])


def test_all_windows_are_of_one_length(parts: list[Shards]) -> None:
    data = TrainingSet(parts, windows="all", max_length=3)
    with pytest.raises(ValueError, match="windows of 4 items, not of 7"):
        data.rows(np.arange(2), seed=0, epoch=0, length=7)


def test_how_much_is_read_is_said_and_recorded(parts: list[Shards]) -> None:
    for rule, read in (("last", 2 * 3 + 2), ("random", 2 * 3 + 2), ("all", 12)):
        windows = Windows(rule=rule, length=3, items_U=np.array([4, 6, 1, 2]))  # type: ignore[arg-type]
        assert windows.items_read == read
    data = TrainingSet(parts, windows="all", max_length=2)
    held = [each for part in parts for each in part.sequences().train.lengths.tolist()]
    assert data.reads() == {"windows": "all", "interactions": sum(held), "of": sum(held)}


@pytest.mark.parametrize(
    ("rule", "items", "said"),
    [
        ("last", [100, 10], "reads 28% of the training interactions: the last 21 of each user;"),
        ("random", [100, 10], "reads 28% of the training interactions: 21 in a row of each user"),
        ("all", [100, 10], "reads all 110 training interactions"),
        ("last", [21, 10], "reads all 31 training interactions"),
        ("all", [100, 1], "reads 99% of the training interactions: all but those of users who"),
        ("last", [9999, 1], "reads 0.21% of"),
        ("all", [9999, 1], "reads over 99% of"),
    ],
)
def test_a_training_says_how_much_it_reads(rule: Any, items: list[int], said: str) -> None:
    assert said in told([Windows(rule=rule, length=21, items_U=np.array(items))])
