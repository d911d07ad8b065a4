"""Several sources as one training set: what is in a batch, and in which order."""

import collections
import math
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pmm.arrays import Int64s
from pmm.data.loader import train_batches
from pmm.data.training_set import TrainingSet
from pmm.errors import InputError
from pmm.shards.read import Shards


def trainable_users(shards: Shards) -> Int64s:
    """The users whose training part has a next item to learn."""
    return np.flatnonzero(shards.sequences().train.lengths >= 2)


@pytest.fixture(scope="module")
def parts(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Shards]:
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("two"), n_items=20, n_users=30)
    return [shop.shards(), shop.add_target("Kwai", n_items=12, n_users=10)]


def all_rows(data: TrainingSet, epoch: int = 0) -> np.ndarray:
    return data.rows(np.arange(len(data)), seed=3, epoch=epoch, length=7)


def part_of(data: TrainingSet, rows: np.ndarray) -> np.ndarray:
    """0 or 1 for each row, by its last item."""
    return (rows[:, -1] > data.first[1]).astype(int)


def test_every_trainable_user_of_every_source_stands_once_in_an_epoch(parts: list[Shards]) -> None:
    data = TrainingSet(parts)
    expected = []
    for shards, first in zip(parts, data.first, strict=False):
        for user in trainable_users(shards).tolist():
            row = [int(item + first) for item in shards.sequences().train[user][-7:]]
            expected.append([0] * (7 - len(row)) + row)
    assert sorted(all_rows(data).tolist()) == sorted(expected)
    assert sorted(all_rows(data, epoch=1).tolist()) == sorted(expected)
    assert all_rows(data).tolist() != all_rows(data, epoch=1).tolist()


def test_proportional_batches_hold_users_of_both_sources(parts: list[Shards]) -> None:
    data = TrainingSet(parts)
    shares = [len(trainable_users(each)) / len(data) for each in parts]
    found = part_of(data, all_rows(data))
    assert found.mean() == pytest.approx(shares[1])
    assert 0 < found[: len(data) // 2].sum() < found.sum()


def test_equal_batches_hold_as_many_of_each_and_go_through_all_users(parts: list[Shards]) -> None:
    data = TrainingSet(parts, mixing="equal")
    assert part_of(data, all_rows(data)).tolist() == [k % 2 for k in range(len(data))]
    seen = [row for epoch in range(3) for row in all_rows(data, epoch).tolist()]
    small = [tuple(row) for row in seen if row[-1] > data.first[1]]
    counts = [small.count(row) for row in set(small)]
    users = len(trainable_users(parts[1]))
    assert len(counts) == users
    assert max(counts) - min(counts) <= 1, "laps through a source are whole"


def test_a_mixed_row_does_not_depend_on_the_other_positions_asked_for(parts: list[Shards]) -> None:
    for mixing in ("proportional", "equal"):
        data = TrainingSet(parts, mixing=mixing)
        alone = data.rows(np.array([17]), seed=3, epoch=2, length=7)
        assert alone[0].tolist() == all_rows(data, epoch=2)[17].tolist()


def test_items_of_several_sources_are_their_own_contents_side_by_side(parts: list[Shards]) -> None:
    data = TrainingSet(parts)
    numbers = np.array([2, 5, 20, 21, 32])
    found = data.items(numbers)
    alone = [*parts[0].items(numbers[:3]).token_IT, *parts[1].items(np.array([1, 12])).token_IT]
    assert found.item_I.tolist() == numbers.tolist()
    for row, tokens in zip(found.token_IT, alone, strict=True):
        assert row[: len(tokens)].tolist() == tokens.tolist()
        assert set(row[len(tokens) :].tolist()) <= {parts[0].tokenizer["pad"]}
    assert torch.equal(found.picture_I3HW[3:], parts[1].items(np.array([1, 12])).picture_I3HW)
    assert found.has_text_I.tolist() == [True, False, True, True, True]
    assert data.record(21)["text"].startswith("Kwai number 1 ")
    assert data.record(20)["text"].startswith("article number 20 ")


@pytest.mark.parametrize("mixing", ["proportional", "equal"])
@pytest.mark.parametrize("length", [2, 3, 7])
def test_log_p_is_the_share_with_which_batches_meet_an_item(
    parts: list[Shards], mixing: Any, length: int
) -> None:
    data, users = TrainingSet(parts, mixing=mixing), [trainable_users(each) for each in parts]
    # So many that every part has been gone through whole.
    epochs = 1 if mixing == "proportional" else 2 * math.lcm(*(len(each) for each in users))
    positions = np.arange(len(data))
    met = np.zeros(data.n_items + 1)
    for epoch in range(epochs):
        rows = data.rows(positions, seed=3, epoch=epoch, length=length)
        met += np.bincount(rows.ravel(), minlength=len(met))
    batch = data.collate(np.resize(np.arange(1, data.n_items + 1), (data.n_items, length)))
    share = batch.log_p_I.double().exp().numpy()
    assert share == pytest.approx(met[1:] / met[1:].sum(), abs=1e-7)


def test_the_count_is_not_that_of_whole_histories_nor_of_users_who_have_no_row(
    parts: list[Shards],
) -> None:
    (shards,) = parts[:1]
    data, train = TrainingSet([shards]), shards.sequences().train
    expected = collections.Counter()
    for user in range(len(train)):
        if len(train[user]) >= 2:
            expected.update(train[user][-3:].tolist())
    (found,) = data.occurrences(3)
    assert {k: n for k, n in enumerate(found.tolist(), start=1) if n} == expected
    assert found.sum() < shards.train_count.sum()


def test_a_batch_takes_memory_by_its_own_size_not_by_the_number_of_items(
    shop_maker: ModuleType, tmp_path: Path
) -> None:
    shop = shop_maker.open_shop(tmp_path, n_items=12, n_users=8)
    peaks = []
    for name, n_items in (("Kwai Food", 100), ("Bili Food", 1000)):
        shop.add_target(name, n_items=n_items, n_users=12, pictures=False)
        data = TrainingSet([Shards.of(shop.home, name)], read="text")
        rows = data.rows(np.arange(2), seed=0, epoch=0, length=7)
        data.collate(rows)  # opens what stays open
        tracemalloc.start()
        data.collate(data.rows(np.arange(2), seed=0, epoch=0, length=7))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The batches are of one size; one more byte for each of the 900 further items would show.
    assert peaks[1] < peaks[0] + 900


def test_one_part_alone_is_as_its_shards(parts: list[Shards]) -> None:
    data = TrainingSet(parts[:1])
    assert data.fingerprint == parts[0].fingerprint
    assert TrainingSet(parts).fingerprint != TrainingSet(parts, mixing="equal").fingerprint
    with train_batches(data, seed=1, epoch=0, batch_users=4) as batches:
        batch = next(batches)
    assert torch.equal(
        batch.items.picture_I3HW, parts[0].items(batch.items.item_I.numpy()).picture_I3HW
    )


def test_a_modality_that_is_not_asked_for_is_not_read(
    parts: list[Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shards, "picture", lambda *_: pytest.fail("a picture was read"))
    text = TrainingSet(parts, read="text").items(np.array([1, 2, 25]))
    assert not text.has_picture_I.any()
    assert text.picture_I3HW.numel() == 0
    monkeypatch.undo()
    monkeypatch.setattr(Shards, "_padded", lambda *_: pytest.fail("a text was read"))
    vision = TrainingSet(parts, read="vision").items(np.array([1, 2, 25]))
    assert not vision.has_text_I.any()
    assert vision.has_picture_I.all()


def test_sources_with_other_tokens_cannot_stand_in_one_batch(
    parts: list[Shards], shop_maker: ModuleType, tmp_path: Any
) -> None:
    other = shop_maker.open_shop(tmp_path, n_items=12, n_users=8, texts="quite other words")
    with pytest.raises(
        InputError, match=r"Make them alike: pmm shard --target HM .*--text-encoder /"
    ):
        TrainingSet([parts[0], other.shards()])
    assert TrainingSet([parts[0], other.shards()], read="vision").n_items == 32
