"""Runs by each rule of windows: what is read is said and recorded; resumed = uninterrupted."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from pmm.errors import RecipeError
from pmm.model.baselines.sasrec import SasrecOptions
from pmm.runs.checkpoint import LAST
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.train import trainer
from pmm.train.train_run import train


def recipe(windows: Any, **changes: Any) -> Recipe:
    options = {"epochs": 3, "batch_users": 8, "lr": 5e-3, "log_every": 1, "save_every": 2}
    return Recipe(
        target="HM",
        model=SasrecOptions(width=16, max_length=2, user_blocks=1),
        train=TrainOptions(**{**options, "windows": windows, **changes}),
    )


class Broken(BaseException):
    """Nothing in the program catches this."""


@pytest.mark.parametrize("windows", ["random", "all"])
@pytest.mark.parametrize("step", [3, 7])
def test_a_killed_run_goes_on_to_the_same_bits_by_any_rule(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: str, step: int
) -> None:
    train(shop.home, tmp_path / "whole", recipe(windows))
    real = trainer.Trainer._step

    def cut(self: trainer.Trainer, batch: Any) -> None:
        if self.state.step == step:
            raise Broken
        real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", cut)
        with pytest.raises(Broken):
            train(shop.home, tmp_path / "cut", recipe(windows))
    train(shop.home, tmp_path / "cut", recipe(windows, ahead=5), existing="resume")
    for name in (BEST, LAST):
        (one, _), (two, _) = (
            read_tensors(tmp_path / run / name, made_by="") for run in ("whole", "cut")
        )
        assert one.keys() == two.keys()
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())


def test_the_rules_train_different_models_and_say_what_they_read(
    shop: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pmm")
    lengths = shop.shards().sequences().train.lengths
    total, first = int(lengths.sum()), int(lengths.clip(max=3).sum())
    expected = {"last": (first, 24), "random": (first, 24), "all": (total, None)}
    found = []
    for rule, (read, rows) in expected.items():
        caplog.clear()
        train(shop.home, tmp_path / rule, recipe(rule))
        about = json.loads((tmp_path / rule / "run.json").read_text())
        assert about["reads"] == {"windows": rule, "interactions": read, "of": total}
        share = f"reads {100 * read / total:.0f}% of" if rule != "all" else f"reads all {total}"
        assert share in caplog.text
        if rows is None:
            rows = int((-((1 - lengths) // 2)).sum())
        assert about["steps_per_epoch"] == rows // 8 + (rows % 8 > 1)
        found.append(read_tensors(tmp_path / rule / LAST, made_by="")[0])
    tables = [each["model/items.table.weight"] for each in found]
    assert not any(torch.equal(tables[a], tables[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_a_run_is_not_resumed_by_another_rule(shop: Any, tmp_path: Path) -> None:
    train(shop.home, tmp_path / "run", recipe("last", epochs=1))
    with pytest.raises(RecipeError, match="windows was 'last', is 'all'"):
        train(shop.home, tmp_path / "run", recipe("all", epochs=1), existing="resume")


def test_the_rule_is_a_value_of_the_recipe_and_says_its_choices(shop: Any) -> None:
    request = TrainRequest(target="HM", model="sasrec", set=("train.windows=all",))
    assert resolve_run(shop.home, shop.home.run("x"), request, {}).train.windows == "all"
    request = TrainRequest(target="HM", model="sasrec", set=("train.windows=some",))
    with pytest.raises(RecipeError, match=r"train\.windows"):
        resolve_run(shop.home, shop.home.run("x"), request, {})


def test_a_recipe_from_before_there_was_a_choice_is_that_of_the_last_windows() -> None:
    assert TrainOptions().windows == "last"
