"""Residuals of single items: who has one, what is added, what is left out, how they train."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pmm.data.batch import Batch
from pmm.model.build import build_model
from pmm.model.features.item_features import ItemFeatures
from pmm.model.item_parts.item_residual import ItemResidual
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions, Weights
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import kept_tensors
from pmm.train.optimiser import make_optimiser

COUNT = np.array([12, 10, 9, 0, 30, 1, 10])
"""Of the seven items of the batch: 3, 4 and 6 are cold."""
HAS = [True, True, False, False, True, False, True]


def vector_features() -> ItemFeatures:
    draw = torch.Generator().manual_seed(1)
    fields = tuple(torch.randn(7, width, generator=draw) for width in (5, 4))
    return ItemFeatures(fields, torch.ones(7, dtype=torch.bool), {"text": "a" * 64})


@pytest.fixture(params=["encoders", "vectors"])
def pair(request: Any, options: Callable[..., PmmrecOptions]) -> Callable[..., tuple[Pmmrec, ...]]:
    """The same model with residuals and without."""

    def make(**changes: Any) -> tuple[Pmmrec, ...]:
        made = options(items=request.param, residual="item", **changes)
        features = vector_features() if request.param == "vectors" else None
        found = []
        for each in (made, dataclasses.replace(made, residual="none")):
            torch.manual_seed(0)
            found.append(build_model(each, 7, features, train_count=COUNT))
        return tuple(found)  # type: ignore[arg-type]

    return make


def test_what_is_added_is_the_items_own_row_and_nothing_to_a_cold_item(
    pair: Callable[..., tuple[Pmmrec, ...]], batch: Batch
) -> None:
    model, plain = (each.eval() for each in pair())
    table = kept_tensors(model)["residual.table_ND"]
    with torch.no_grad():
        found, content = model.encode_items(batch.items), plain.encode_items(batch.items)
    for row, has in enumerate(HAS):
        expected = content[row] + table[row] if has else content[row]
        assert torch.equal(found[row], expected)
        assert torch.equal(found[row], content[row]) != has


def test_all_other_weights_of_a_seed_are_as_without(
    pair: Callable[..., tuple[Pmmrec, ...]],
) -> None:
    model, plain = pair()
    held, without = kept_tensors(model), kept_tensors(plain)
    assert held.keys() - without.keys() == {"residual.table_ND"}
    assert all(torch.equal(held[name], tensor) for name, tensor in without.items())


def test_a_modality_alone_has_no_residual(
    pair: Callable[..., tuple[Pmmrec, ...]], batch: Batch
) -> None:
    model, plain = (each.eval() for each in pair())
    found, content = (each.item_parts(batch.items, apart=True) for each in (model, plain))
    assert torch.equal(found.text_ID, content.text_ID)
    assert torch.equal(found.picture_ID, content.picture_ID)
    assert not torch.equal(found.item_ID, content.item_ID)


def test_cold_rows_never_train_and_the_others_do(
    pair: Callable[..., tuple[Pmmrec, ...]], batch: Batch
) -> None:
    model = pair(residual_drop=0.0, weights=Weights(nicl=1.0, nid=1.0, rcl=1.0))[0].train()
    assert model.residual is not None
    before = model.residual.table_ND.detach().clone()
    optimiser = make_optimiser(model, TrainOptions(lr=1e-2, weight_decay=0.5))
    for step in range(3):
        optimiser.zero_grad()
        model(batch, torch.Generator().manual_seed(step))["loss"].backward()
        optimiser.step()
    changed = (model.residual.table_ND != before).any(1).tolist()
    assert changed == HAS
    assert model.residual.table_ND[[2, 3, 5]].count_nonzero() == 0


def test_a_share_of_a_batch_is_without_while_training_as_the_step_draws_it() -> None:
    residual = ItemResidual(torch.ones(1000, dtype=torch.bool), 4, drop=0.3)
    item_I = torch.arange(1, 1001)
    assert torch.equal(residual.eval()(item_I), residual.table_ND)
    residual.train()
    torch.manual_seed(7)
    found = residual(item_I)
    torch.manual_seed(7)
    kept = torch.rand(1000) >= 0.3
    assert torch.equal(found[kept], residual.table_ND[kept])
    assert found[~kept].count_nonzero() == 0
    assert 0.25 < 1 - kept.float().mean() < 0.35
    assert not torch.equal(residual(item_I), found)  # the next step leaves out others


def test_they_start_small() -> None:
    torch.manual_seed(0)
    has_N = torch.ones(2000, dtype=torch.bool)
    table = ItemResidual(has_N, 64, drop=0.3).table_ND.detach()
    assert float(table.mean()) == pytest.approx(0, abs=1e-3)
    assert float(table.std()) == pytest.approx(0.02, rel=0.02)


def test_an_item_that_the_catalogue_does_not_have_has_none() -> None:
    residual = ItemResidual(torch.ones(3, dtype=torch.bool), 4, drop=0.3).eval()
    found = residual(torch.tensor([2, 4, 9, 3]))
    assert torch.equal(found[[0, 3]], residual.table_ND[[1, 2]])
    assert found[1:3].count_nonzero() == 0


def test_a_row_without_a_number_spoils_no_item_that_has_none() -> None:
    residual = ItemResidual(torch.tensor([True, False]), 4, drop=0.0)
    with torch.no_grad():
        residual.table_ND.fill_(torch.nan)
    assert residual(torch.tensor([1, 2]))[1].tolist() == [0.0] * 4


@pytest.mark.parametrize("decay_norms", [True, False])
def test_its_rate_is_a_multiple_of_the_models_and_it_never_decays(
    pair: Callable[..., tuple[Pmmrec, ...]], decay_norms: bool
) -> None:
    model, plain = pair(residual_rate=3.0)
    options = TrainOptions(lr=2e-3, weight_decay=0.5, decay_norms=decay_norms)
    groups = {each["name"]: each for each in make_optimiser(model, options).param_groups}
    assert [each.shape for each in groups["residual"]["params"]] == [(7, model.width)]
    assert groups["residual"]["weight_decay"] == 0
    assert groups["residual"]["peak_lr"] == groups["residual"]["lr"] == pytest.approx(6e-3)
    without = {each["name"]: each for each in make_optimiser(plain, options).param_groups}
    assert groups.keys() - without.keys() == {"residual"}
    for name, group in without.items():
        assert len(groups[name]["params"]) == len(group["params"])
        assert groups[name]["lr"] == group["lr"]
        assert groups[name]["weight_decay"] == group["weight_decay"]


def test_options_out_of_range_are_refused() -> None:
    for wrong in ({"residual_drop": 1.0}, {"residual_rate": 0.0}, {"residual_from": -1}):
        (name,) = wrong
        with pytest.raises(ValueError, match=name):
            PmmrecOptions(**wrong)  # type: ignore[arg-type]
    assert PmmrecOptions(residual="item").elsewhere() == PmmrecOptions()
