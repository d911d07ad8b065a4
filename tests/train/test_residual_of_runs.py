"""Runs with residuals: resumed, evaluated at home and elsewhere, transferred, refused."""

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pmm.check.check_runs import check_runs
from pmm.cli import main
from pmm.evaluate.catalogue import embed_catalogue
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.runs.loading import load_run
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.transfer import REPORT
from pmm.runs.weights import BEST, kept_tensors, read_tensors
from pmm.shards.read import Shards
from pmm.storage.home import Home
from pmm.train import trainer
from pmm.train.train_run import train

TABLE = "residual.table_ND"
TRAIN = TrainOptions(epochs=2, batch_users=8, lr=2e-3, encoder_lr=1e-3, log_every=1, save_every=1)
FROM = 3
"""Of the shop's items some occur as often in training, some do not."""


@pytest.fixture(scope="module", params=["vectors", "encoders"])
def world(
    request: Any, shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Home, Path, Recipe]:
    """A home with the run "start" on HM, trained with residuals, and another target."""
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("residuals"), n_items=30, n_users=24)
    shop.add_target("HM Shoes", n_items=12, n_users=10)
    changes = {"items": request.param, "residual": "item", "residual_from": FROM}
    recipe = Recipe(target="HM", model=shop.with_options(**changes), train=TRAIN)
    train(shop.home, shop.home.run("start"), recipe)
    return shop.home, shop.home.run("start"), recipe


def loaded(home: Home, run: Path, target: str | None = None) -> tuple[Pmmrec, Shards]:
    model, shards, _ = load_run(home, run, device="cpu", target=target)
    assert isinstance(model, Pmmrec)
    return model, shards


def test_a_cold_items_vector_is_its_contents_bit_for_bit(world: Any) -> None:
    home, run, _ = world
    model, shards = loaded(home, run)
    found = embed_catalogue(model, shards)
    model.residual = None
    content = embed_catalogue(model, shards)
    cold = torch.from_numpy(shards.train_count[1:] < FROM)
    assert cold.any()
    assert not cold.all()
    assert torch.equal(found.input_ND[cold], content.input_ND[cold])
    assert torch.equal(found.score_ND[cold], content.score_ND[cold])
    assert (found.input_ND[~cold] != content.input_ND[~cold]).any(1).all()


def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run, recipe = world
    real, done = trainer.Trainer._step, list[bool]()

    def step(self: Any, batch: Any) -> None:
        done.append(True)
        if len(done) == 4:
            raise KeyboardInterrupt
        real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(home, tmp_path / "run", recipe)
    train(home, tmp_path / "run", recipe, existing="resume")
    tensors, _ = read_tensors(tmp_path / "run" / BEST, made_by="")
    expected, _ = read_tensors(run / BEST, made_by="")
    assert TABLE in expected
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_it_is_evaluated_warm_and_cold_and_is_whole(world: Any) -> None:
    home, run, _ = world
    metrics = evaluate_run(home, run, EvaluateOptions(cold=True, gallery_users=0), device="cpu")
    assert metrics["model"]["users"] > 0
    assert metrics["cold_start"]["held_out"]["model"]["users"] > 0
    assert [(each.state, each.why) for each in check_runs(home) if each.place == run] == [
        ("whole", "")
    ]


def test_another_target_is_ranked_by_content_alone(world: Any) -> None:
    home, run, _ = world
    model, shards = loaded(home, run, "HM Shoes")
    assert model.residual is None
    tensors, _ = read_tensors(run / BEST, made_by="")
    assert set(tensors) - set(kept_tensors(model)) == {TABLE}
    assert all(torch.equal(each, tensors[name]) for name, each in kept_tensors(model).items())
    evaluate_run(home, run, EvaluateOptions(gallery_users=0), device="cpu", target="HM Shoes")
    assert len(embed_catalogue(model, shards).input_ND) == 12


def test_a_transfer_leaves_the_residuals_behind_and_says_so(world: Any, tmp_path: Path) -> None:
    home, run, _ = world
    request = TrainRequest(stage="finetune", target="HM Shoes", start=run)
    recipe = dataclasses.replace(resolve_run(home, tmp_path / "new", request, {}), train=TRAIN)
    assert recipe.model.of_one_target == ("residual",)  # of the new target
    train(home, tmp_path / "new", recipe)
    report = json.loads((tmp_path / "new" / REPORT).read_text())
    assert TABLE in report["left_behind"]
    assert TABLE in report["fresh"]
    assert TABLE not in report["loaded"]
    tensors, _ = read_tensors(tmp_path / "new" / BEST, made_by="")
    assert tensors[TABLE].shape == (12, recipe.model.width)  # type: ignore[attr-defined]


def test_pretraining_has_none(
    world: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _, recipe = world
    asked = ["train", "--stage", "pretrain", "--sources", "HM", "--home", str(home.root)]
    asked += ["--text-encoder", recipe.model.text.encoder]
    asked += ["--vision-encoder", recipe.model.vision.encoder, "--set", "model.residual=item"]
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="1"):
        main(asked)
    said = " ".join(capsys.readouterr().err.split())
    assert "model.residual keeps something of each single item of one target" in said
    assert "set it in fine-tuning" in said
    assert not home.run("pretrain").exists()


def test_training_items_decide_not_those_to_be_predicted(world: Any) -> None:
    home, run, _ = world
    model, shards = loaded(home, run)
    train_part = np.concatenate([shards.sequences().train[k] for k in range(24)])
    expected = [int((train_part == item).sum()) >= FROM for item in range(1, 31)]
    assert model.residual is not None
    assert model.residual.has_N.tolist() == expected
