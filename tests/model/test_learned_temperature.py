"""A learned temperature of next-item prediction: where it starts, moves, ends, and who reads it."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pmm.data.batch import Batch
from pmm.evaluate.catalogue import embed_catalogue, rank_mixes
from pmm.evaluate.evaluation import questions
from pmm.evaluate.popularity_mix import PopularityMix
from pmm.model.pmmrec.pmmrec import TAUS, Pmmrec
from pmm.runs.loading import load_run
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import kept_tensors
from pmm.train.optimiser import make_optimiser
from pmm.train.train_run import train

LEARNED = {"dap_tau_learned": True, "dap_tau": 0.2, "dap_similarity": "cosine", "dap_logq": "off"}


def literal_loss(model: Pmmrec, batch: Batch, tau: float) -> float:
    """The cross entropy of cosines / tau, target by target, over slots of the others' items."""
    item_ID = model.encode_items(batch.items)
    slot_BS = batch.slot_BS
    e_BLD = functional.pad(item_ID, (0, 0, 1, 0))[slot_BS[:, :-1]]
    user_BLD = model.encode_users(e_BLD, slot_BS[:, :-1] > 0)
    losses = []
    for b, own in enumerate(slot_BS.tolist()):
        for place in range(len(own) - 1):
            if not own[place] or not own[place + 1]:
                continue
            target = own[place + 1]
            columns = [i for row in slot_BS.tolist() for i in row if i and i not in own]
            user = user_BLD[b, place]
            z = [torch.cosine_similarity(user, item_ID[i - 1], 0) / tau for i in [target, *columns]]
            losses.append(torch.stack(z).logsumexp(0) - z[0])
    return float(torch.stack(losses).mean().detach())


@pytest.mark.parametrize("tau", [0.07, 0.4])
def test_the_loss_is_that_of_the_temperature_which_it_has_reached(
    build: Callable[..., Pmmrec], batch: Batch, tau: float
) -> None:
    model = build(**LEARNED).eval()
    assert model.log_tau is not None
    assert model.temperature == pytest.approx(0.2)
    with torch.no_grad():
        model.log_tau.fill_(math.log(tau))
        found = model.loss(batch)
    assert float(found["dap"]) == pytest.approx(literal_loss(model, batch, tau), rel=1e-4)
    assert float(found["tau"]) == model.temperature == pytest.approx(tau)


def test_its_gradient_is_that_of_the_logarithm(build: Callable[..., Pmmrec], batch: Batch) -> None:
    model = build(**LEARNED).eval()
    assert model.log_tau is not None
    model.loss(batch)["loss"].backward()
    with torch.no_grad():
        up, down = (literal_loss(model, batch, 0.2 * math.exp(step)) for step in (1e-2, -1e-2))
    assert float(model.log_tau.grad) == pytest.approx((up - down) / 2e-2, rel=1e-2)  # type: ignore[arg-type]


def test_it_trains_without_decay_and_stays_between_its_bounds(
    build: Callable[..., Pmmrec], batch: Batch
) -> None:
    model = build(**LEARNED).train()
    assert model.log_tau is not None
    optimiser = make_optimiser(model, TrainOptions(lr=1e-2, weight_decay=0.5, decay_norms=True))
    (group,) = [each for each in optimiser.param_groups if each["name"] == "log_tau"]
    assert group["weight_decay"] == 0
    assert group["lr"] == 1e-2
    model.loss(batch)["loss"].backward()
    optimiser.step()
    assert float(model.log_tau.detach()) != pytest.approx(math.log(0.2), abs=1e-4)
    for beyond, bound in ((-50.0, TAUS[0]), (50.0, TAUS[1])):
        with torch.no_grad():
            model.log_tau.fill_(beyond)
        assert model.temperature == pytest.approx(bound)
        model.zero_grad()
        loss = model.loss(batch)
        assert float(loss["tau"]) == pytest.approx(bound)
        loss["loss"].backward()
        assert model.log_tau.grad is not None  # it can come back
        assert model.log_tau.grad != 0


def test_without_it_nothing_is_there(build: Callable[..., Pmmrec], batch: Batch) -> None:
    fixed, learned = build(), build(dap_tau_learned=True)
    assert kept_tensors(learned).keys() - kept_tensors(fixed).keys() == {"log_tau"}
    held = kept_tensors(fixed).items()
    assert all(torch.equal(each, kept_tensors(learned)[name]) for name, each in held)
    assert "tau" not in fixed.loss(batch)


def test_a_run_ranks_with_what_it_learned_and_a_full_transfer_begins_there(
    shop_maker: ModuleType, tmp_path: Path
) -> None:
    shop: Any = shop_maker.open_shop(tmp_path, n_items=20, n_users=16)
    model_options = shop.with_options(**LEARNED)
    options = TrainOptions(epochs=2, batch_users=8, lr=5e-2, log_every=1)
    run = shop.home.run("run")
    train(shop.home, run, Recipe(target="HM", model=model_options, train=options))
    model, shards, _ = load_run(shop.home, run, device="cpu")
    tau = model.temperature
    assert tau != pytest.approx(0.2, rel=1e-3)
    catalogue, asked = embed_catalogue(model, shards), questions(shards, "test")
    mix = PopularityMix(alpha=0.5)
    (found,) = rank_mixes(model, catalogue, asked, [mix])
    model.log_tau = None  # type: ignore[attr-defined]  # as if it was still at its start
    (other,) = rank_mixes(model, catalogue, asked, [PopularityMix(alpha=0.5 * tau / 0.2)])
    assert np.array_equal(found, other)
    for transfer, expected in (("full", tau), ("user", 0.2)):
        request = TrainRequest(stage="finetune", target="HM", start=run, transfer=transfer)  # type: ignore[arg-type]
        made = resolve_run(shop.home, tmp_path / "new", request, {}).model
        assert made.dap_tau == pytest.approx(expected)  # type: ignore[attr-defined]
        assert made.dap_tau_learned  # type: ignore[attr-defined]
