"""Negatives of the own source or category through the whole model, against loops over columns."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pmm.data.batch import Batch
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import ALL_OBJECTIVES, Weights

GROUPS = (
    [0, 0, 1, 1, 0, 1, 1],
    [3, 3, 3, 3, 3, 3, 3],
    [0, 1, 2, 3, 4, 5, 6],
    [0, 1, 0, 1, 1, 0, 1],
)


def grouped(batch: Batch, group: list[int]) -> Batch:
    return replace(batch, group_I=torch.tensor(group))


def negatives(batch: Batch, user: int, anchor: int, group: list[int]) -> list[int]:
    """Items of columns that are negatives: of another user's slot, none of the user's own items,
    of the anchor's group; as often as they stand there."""
    rows = batch.slot_BS.tolist()
    return [
        slot - 1
        for other, row in enumerate(rows)
        for slot in row
        if slot and other != user and slot not in rows[user] and group[slot - 1] == group[anchor]
    ]


def next_item(model: Pmmrec, batch: Batch, group: list[int]) -> float:
    """Eq. 5 row by row, logits corrected by the items' shares where that is asked."""
    shift_I = batch.log_p_I * (model.options.dap_logq == "on")
    item_ID = model.encode_items(batch.items)
    padded = functional.pad(item_ID, (0, 0, 1, 0))
    inputs = batch.slot_BS[:, :-1]
    user_BLD = model.encode_users(padded[inputs], inputs > 0)
    rows, losses = batch.slot_BS.tolist(), []
    for user, at in itertools.product(range(len(rows)), range(len(rows[0]) - 1)):
        if rows[user][at]:
            target = rows[user][at + 1] - 1
            z = (item_ID @ user_BLD[user, at]) - shift_I
            columns = [target, *negatives(batch, user, target, group)]
            losses.append(math.log(sum(math.exp(z[i]) for i in columns)) - float(z[target]))
    return sum(losses) / len(losses)


def alignment(model: Pmmrec, batch: Batch, group: list[int]) -> float:
    """Eq. 8 and 9 anchor by anchor, as printed."""
    parts = model.item_parts(batch.items, apart=True)
    sides = [functional.normalize(each, dim=-1) for each in (parts.text_ID, parts.picture_ID)]
    rows, losses = batch.slot_BS.tolist(), []
    for user, at in itertools.product(range(len(rows)), range(len(rows[0]) - 1)):
        if not rows[user][at]:
            continue
        own, after = rows[user][at] - 1, rows[user][at + 1] - 1
        below = negatives(batch, user, own, group)
        for here, there in (sides, sides[::-1]):

            def e(side: Tensor, item: int, query: Tensor = here[own]) -> float:
                return math.exp(query @ side[item])

            positive = e(there, own) + e(there, after) + e(here, after)
            negative = sum(e(there, item) + e(here, item) for item in below)
            losses.append(-math.log(positive / (e(there, own) + negative)) / 2)
    return 2 * sum(losses) / len(losses)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("logq", ["on", "off"])
@torch.no_grad()
def test_the_losses_are_those_of_counting_columns(
    build: Any, batch: Batch, group: Any, logq: str
) -> None:
    weights = Weights(dap=1.0, nicl=1.0)
    model = build(negatives="category", weights=weights, dap_logq=logq).double().eval()
    wide = replace(grouped(batch, group), log_p_I=batch.log_p_I.double())
    found = model.loss(wide)
    assert found["dap"].item() == pytest.approx(next_item(model, wide, group), rel=1e-6)
    assert found["nicl"].item() == pytest.approx(alignment(model, wide, group), rel=1e-5)


def losses(build: Any, batch: Batch, **options: Any) -> dict[str, Tensor]:
    model = build(weights=ALL_OBJECTIVES, **options).eval()
    found: dict[str, Tensor] = model.loss(batch, torch.Generator().manual_seed(0))
    return found


def test_one_group_is_the_batch_and_batches_groups_do_not_count(build: Any, batch: Batch) -> None:
    plain = losses(build, batch)
    for options, group in (({"negatives": "source"}, [4] * 7), ({}, [0, 1, 2, 3, 4, 5, 6])):
        found = losses(build, grouped(batch, group), **options)
        assert all(torch.equal(found[name], each) for name, each in plain.items())


def test_only_next_items_and_alignment_look_at_groups(build: Any, batch: Batch) -> None:
    plain = losses(build, batch)
    found = losses(build, grouped(batch, [0, 0, 1, 1, 0, 1, 1]), negatives="category")
    assert [name for name in ("dap", "nicl", "nid", "rcl") if found[name] != plain[name]] == [
        "dap",
        "nicl",
    ]


def test_batches_without_groups_are_refused_where_they_count(build: Any, batch: Batch) -> None:
    with pytest.raises(ValueError, match='negatives = "source" needs batches'):
        build(negatives="source").loss(batch)
