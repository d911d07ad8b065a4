"""What a run is made of, by stage and preset."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from pmm.errors import BrokenArtefact
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import ALL_OBJECTIVES, Weights
from pmm.runs.recipe import Recipe, Start
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.transfer import take_over
from pmm.runs.weights import (
    BEST,
    frozen_digest,
    frozen_digests,
    load_weights,
    read_tensors,
    save_weights,
    write_tensors,
)
from pmm.storage.toml import dump, read_recipe


@pytest.fixture
def start(shop: Any, tmp_path: Path) -> Path:
    """A run that a fine-tuning can start from."""
    torch.manual_seed(0)
    model = Pmmrec(shop.options)
    about = {"frozen": frozen_digest(model), "frozen_parts": frozen_digests(model)}
    save_weights(tmp_path / BEST, model, about)
    recipe = Recipe(stage="pretrain", sources=("HM",), model=shop.options)
    (tmp_path / "recipe.toml").write_text(dump(recipe))
    return tmp_path


def resolved(shop: Any, **request: Any) -> Recipe:
    values = {"model": {"text": {"encoder": shop.options.text.encoder}}}
    return resolve_run(shop.home, shop.home.run("new"), TrainRequest(**request), values)


def test_a_checkpoint_that_does_not_name_its_trunks_starts_nothing(shop: Any, start: Path) -> None:
    model = Pmmrec(shop.options)
    save_weights(start / BEST, model, {"frozen": frozen_digest(model)})
    with pytest.raises(BrokenArtefact, match="does not say on which frozen text encoder"):
        take_over(model, Start(run=str(start)))


def test_presets_train_as_their_columns_say(shop: Any) -> None:
    default, paper, official = (
        resolved(shop, target="HM", preset=name).train for name in ("default", "paper", "official")
    )
    assert (default.decay_norms, default.precision, default.patience) == (False, "auto", 10)
    assert (paper.decay_norms, paper.precision, paper.patience) == (True, "auto", 10)
    assert (official.decay_norms, official.precision, official.patience) == (True, "fp16", 0)


def test_given_values_win_over_a_preset(shop: Any) -> None:
    values = {"train": {"patience": 3}, "model": {"text": {"encoder": shop.options.text.encoder}}}
    request = TrainRequest(target="HM", preset="official")
    train = resolve_run(shop.home, shop.home.run("new"), request, values).train
    assert (train.patience, train.precision) == (3, "fp16")


def test_fine_tuning_stops_early_and_keeps_the_model_of_its_start(shop: Any, start: Path) -> None:
    recipe = resolved(shop, stage="finetune", target="HM", start=start)
    assert recipe.train.patience == 5
    official = resolved(shop, stage="finetune", target="HM", start=start, preset="official")
    assert (official.train.patience, official.train.decay_norms) == (0, True)
    assert official.model == recipe.model
    assert recipe.model.fusion_type_embedding, "which the preset official has not"


def test_early_stopping_alone_ends_a_run_of_the_preset_paper(shop: Any, start: Path) -> None:
    paper = resolved(shop, target="HM", preset="paper").train
    assert (paper.epochs, paper.patience) == (0, 10)
    tuned = resolved(shop, stage="finetune", target="HM", start=start, preset="paper").train
    assert (tuned.epochs, tuned.patience) == (0, 5)


def test_stages_have_their_objectives(shop: Any, start: Path) -> None:
    assert resolved(shop, target="HM").model.weights == Weights()
    assert resolved(shop, stage="pretrain", sources=("HM",)).model.weights == ALL_OBJECTIVES
    one = resolved(shop, stage="pretrain", sources=("HM",), modality="vision").model
    assert (one.modality, one.weights.nicl, one.weights.nid, one.weights.rcl) == ("vision", 0, 1, 1)
    assert resolved(shop, target="HM", objectives="all").model.weights == ALL_OBJECTIVES
    tuned = resolved(shop, stage="finetune", target="HM", start=start, transfer="vision")
    assert (tuned.model.modality, tuned.model.weights) == ("vision", Weights())


def test_a_run_of_another_version_is_read_by_name(shop: Any, start: Path) -> None:
    """Its recipe lacks later options; its tensors stand in another order, its header has more."""
    values = read_recipe(start / "recipe.toml")
    for name in ("weights", "nicl", "corruption", "nid_relu", "rcl", "dap_similarity"):
        del values["model"][name]
    (start / "recipe.toml").write_text(tomli_w.dumps(values))
    tensors, about = read_tensors(start / BEST, made_by="")
    reversed_order = dict(reversed(tensors.items()))
    write_tensors(start / BEST, reversed_order, {**about, "of a later version": [1]})
    recipe = resolved(shop, stage="finetune", target="HM", start=start)
    torch.manual_seed(1)
    tuned, whole = Pmmrec(recipe.model), Pmmrec(recipe.model)
    take_over(tuned, recipe.start)
    load_weights(start / BEST, whole, made_by="")
    for model in (tuned, whole):
        held = dict(model.named_parameters())
        assert all(torch.equal(held[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("model", ["pmmrec", "morec"])
def test_models_on_vectors_train_as_the_baselines_where_nobody_says(shop: Any, model: Any) -> None:
    text = {"encoder": shop.options.text.encoder}
    request = TrainRequest(target="HM", model=model)

    def train(**given: Any) -> tuple[float, int]:
        values = {"model": {"text": text, "items": given.pop("items", "vectors")}, "train": given}
        found = resolve_run(shop.home, shop.home.run("new"), request, values).train
        return found.lr, found.batch_users

    assert train() == (1e-3, 256)
    assert train(lr=2e-3) == (2e-3, 256)
    assert train(batch_users=16) == (1e-3, 16)
    assert train(items="encoders") == (1e-4, 64)
