"""Batches: their order needs no memory, their content is that of a literal reading."""

import collections
import contextlib
import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pmm.data.batch import Batch
from pmm.data.loader import (
    BatchLoader,
    batch_positions,
    steps_per_epoch,
    train_batches,
)
from pmm.data.order import shuffled
from pmm.data.training_set import TrainingSet
from pmm.errors import InputError
from pmm.shards.read import Shards
from pmm.shards.shard_options import ShardOptions
from pmm.shards.write import write_shards
from pmm.storage.home import Home

Make = Callable[..., Home]


@pytest.fixture(scope="module")
def shards(make_home: Make, options: ShardOptions) -> Shards:
    """34 items; 33 users with 1 to 30 training items."""
    home = make_home(n_users=33)
    write_shards(home, "HM", options)
    return Shards.of(home, "HM")


def same(one: Batch, two: Batch) -> bool:
    tensors = ([b.slot_BS, b.log_p_I, *vars(b.items).values()] for b in (one, two))
    pairs = list(zip(*tensors, strict=True))
    return all(torch.equal(a, b) for a, b in pairs if a is not None or b is not None)


def first_batch(shards: Shards, max_length: int = 20) -> Batch:
    with train_batches(
        TrainingSet([shards]), seed=1, epoch=0, batch_users=4, max_length=max_length
    ) as batches:
        return next(batches)


@pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 17, 255, 256, 257, 1000, 65_537])
def test_the_order_is_a_permutation(n: int) -> None:
    order = shuffled(np.arange(n), n, seed=3, epoch=1)
    assert np.array_equal(np.sort(order), np.arange(n))


def test_the_order_differs_by_seed_and_epoch() -> None:
    orders = {
        tuple(shuffled(np.arange(50), 50, seed=seed, epoch=epoch))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_a_shuffled_position_does_not_depend_on_the_others_asked_for() -> None:
    whole = shuffled(np.arange(1000), 1000, seed=5, epoch=9)
    assert shuffled(np.array([731]), 1000, seed=5, epoch=9)[0] == whole[731]


def test_every_sample_is_equally_likely_at_every_position() -> None:
    counts = np.zeros((6, 6))
    for seed in range(600):
        counts[np.arange(6), shuffled(np.arange(6), 6, seed=seed, epoch=0)] += 1
    # 25 degrees of freedom: chi-square above 61 has a chance below 1e-4.
    assert ((counts - 100) ** 2 / 100).sum() < 61


@pytest.mark.parametrize("n", range(2, 20))
@pytest.mark.parametrize("size", [2, 3, 5])
def test_each_position_stands_in_one_batch_of_two_or_more(n: int, size: int) -> None:
    batches = [batch_positions(n, size, step) for step in range(steps_per_epoch(n, size))]
    assert np.concatenate(batches).tolist() == list(range(n))
    assert min(map(len, batches)) >= 2
    assert max(map(len, batches)) <= size + 1


def test_batches_are_those_of_a_literal_reading(shards: Shards) -> None:
    sequences = shards.sequences()
    users = [u for u in range(33) if len(sequences.train[u]) >= 2]
    order = shuffled(np.arange(len(users)), len(users), seed=7, epoch=2)
    batches = list(train_batches(TrainingSet([shards]), seed=7, epoch=2, batch_users=5))
    assert len(users) == 31
    met = collections.Counter(i for user in users for i in sequences.train[user][-21:].tolist())
    assert [len(b.slot_BS) for b in batches] == [5, 5, 5, 5, 5, 6]
    for step, batch in enumerate(batches):
        rows = [
            sequences.train[users[k]][-21:].tolist()
            for k in order[5 * step :][: len(batch.slot_BS)]
        ]
        numbers = [0, *batch.items.item_I.tolist()]
        found = [[numbers[slot] for slot in row] for row in batch.slot_BS.tolist()]
        assert found == [[0] * (21 - len(row)) + row for row in rows]
        assert numbers[1:] == sorted({item for row in rows for item in row})
        expected = [math.log(met[item] / met.total()) for item in numbers[1:]]
        assert batch.log_p_I.tolist() == pytest.approx(expected)  # fp32
        assert torch.equal(
            batch.items.picture_I3HW, shards.items(batch.items.item_I.numpy()).picture_I3HW
        )


@pytest.mark.parametrize("parts", [1, 2, 3, 50])
def test_parts_of_a_batch_hold_its_users_over_their_own_items(shards: Shards, parts: int) -> None:
    (batch, *_) = train_batches(TrainingSet([shards]), seed=7, epoch=2, batch_users=7)
    found = batch.split(parts)
    assert len(found) == min(parts, 3)
    assert min(len(part.slot_BS) for part in found) >= 2
    numbers = torch.nn.functional.pad(batch.items.item_I, (1, 0))
    rows = []
    for part in found:
        own = torch.nn.functional.pad(part.items.item_I, (1, 0))
        rows.append(own[part.slot_BS])
        assert own[1:].tolist() == sorted({*rows[-1].flatten().tolist()} - {0})
        whole = batch.items.map(lambda each: each[torch.isin(batch.items.item_I, own[1:])])  # noqa: B023
        assert torch.equal(part.items.token_IT, whole.token_IT)
        assert torch.equal(part.items.picture_I3HW, whole.picture_I3HW)
        assert torch.equal(part.log_p_I, batch.log_p_I[torch.isin(numbers[1:], own[1:])])
    assert torch.equal(torch.cat(rows), numbers[batch.slot_BS])


def test_an_epoch_taken_up_at_a_step_goes_on_with_the_same_batches(shards: Shards) -> None:
    whole = list(train_batches(TrainingSet([shards]), seed=1, epoch=0, batch_users=4))
    rest = list(
        train_batches(TrainingSet([shards]), seed=1, epoch=0, batch_users=4, start_step=5, ahead=1)
    )
    assert len(rest) == len(whole) - 5
    assert all(map(same, whole[5:], rest))


def test_a_shorter_window_keeps_the_most_recent_items(shards: Shards) -> None:
    batch = first_batch(shards, max_length=3)
    users = np.flatnonzero(shards.sequences().train.lengths >= 2)
    first = users[shuffled(np.array([0]), len(users), seed=1, epoch=0)][0]
    expected = shards.sequences().train[first][-4:].tolist()
    row = [int(batch.items.item_I[slot - 1]) for slot in batch.slot_BS[0] if slot > 0]
    assert (batch.slot_BS.shape, row) == ((4, 4), expected)


def test_one_user_alone_cannot_be_trained_on(shards: Shards) -> None:
    with pytest.raises(InputError, match="at least 2 users a batch"):
        train_batches(TrainingSet([shards]), seed=1, epoch=0, batch_users=1)


def test_an_error_in_a_batch_comes_where_the_batch_would(shards: Shards) -> None:
    batch = first_batch(shards)

    def make(step: int) -> Batch:
        if step == 2:
            raise OSError("gone")
        return batch

    batches = BatchLoader(make, 0, 5, ahead=3)
    assert [next(batches), next(batches)] == [batch, batch]
    with pytest.raises(OSError, match="gone"):
        next(batches)
    assert not [t for t in threading.enumerate() if t.name.startswith("pmm-batches")]


def test_leaving_an_epoch_early_leaves_no_threads(shards: Shards) -> None:
    batches = train_batches(TrainingSet([shards]), seed=1, epoch=0, batch_users=4)
    with contextlib.suppress(KeyboardInterrupt), batches:
        next(batches)
        raise KeyboardInterrupt
    assert batches.waited > 0
    assert not [t for t in threading.enumerate() if t.name.startswith("pmm-batches")]
    assert list(batches) == []
