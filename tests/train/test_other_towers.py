"""Vision towers of transformers through shards, activations, runs and evaluation."""

import dataclasses
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers as hf

from pmm.cli import main
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.errors import InputError
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model.encoders.specs import VisionSpec
from pmm.model.features.frozen_vectors import frozen_vectors
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.shards.hub import quiet_libraries
from pmm.shards.read import Shards
from pmm.train.train_run import train

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE |= {"intermediate_size": 64, "patch_size": 8}
TOWERS = {
    "dinov2": hf.Dinov2WithRegistersConfig(**SIZE, image_size=32, num_register_tokens=2),
    "dinov3": hf.DINOv3ViTConfig(**SIZE, image_size=32, num_register_tokens=2),
    "siglip": hf.SiglipVisionConfig(**SIZE, image_size=48),
}


def tower(folder: Path, name: str) -> VisionSpec:
    torch.manual_seed(0)
    with quiet_libraries():
        hf.AutoModel.from_config(TOWERS[name]).save_pretrained(folder)
    read = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(read))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return VisionSpec(encoder=str(folder), train_blocks=1)


@pytest.fixture
def open_shop(shop_maker: ModuleType, tmp_path: Path) -> Any:
    return shop_maker.open_shop(tmp_path / "home", n_items=14, n_users=10)


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_of_transformers_trains_alike_with_stored_activations_and_without(
    name: str, open_shop: Any, tmp_path: Path
) -> None:
    model = open_shop.with_options(vision=tower(tmp_path / name, name))
    found = []
    for cache in ("off", "fp32"):
        options = TrainOptions(epochs=1, batch_users=8, lr=2e-3, encoder_lr=1e-3, cache=cache)
        place = open_shop.home.run(cache)
        train(open_shop.home, place, Recipe(target="HM", model=model, train=options))
        metrics = evaluate_run(open_shop.home, place, EvaluateOptions(gallery_users=0))
        found.append((read_tensors(place / BEST, made_by="")[0], metrics["model"]))
    (plain, first), (cached, second) = found
    trained = {each for each in plain if each.startswith("vision.")}
    assert {each.split(".")[1] for each in trained} == {"blocks", "norm"}
    assert {each.split(".")[2] for each in trained if "blocks" in each} == {"1"}
    # A bias of keys adds the same to all scores of a softmax: its gradient is rounding alone.
    compared = {key: each for key, each in plain.items() if not key.endswith("k_proj.bias")}
    assert all(torch.allclose(each, cached[key], atol=1e-5) for key, each in compared.items())
    assert first["users"] == second["users"] == 10
    about = json.loads((open_shop.home.run("off") / "run.json").read_text())
    assert about["encoders"]["vision"] == {
        "source": str(tmp_path / name),
        "library": "transformers",
        "license": "apache-2.0",
    }
    assert about["encoders"]["text"]["license"] == "unknown"


def test_shards_of_another_size_are_told_of_and_fitted(
    open_shop: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = open_shop.with_options(vision=tower(tmp_path / "siglip", "siglip"))
    place = open_shop.home.run("fitted")
    with caplog.at_level(logging.INFO):
        train(
            open_shop.home,
            place,
            Recipe(target="HM", model=model, train=TrainOptions(epochs=1, batch_users=8)),
        )
    said = [each for each in caplog.messages if "interpolated" in each]
    assert len(said) == 1
    assert "hold 32x32" in said[0]
    assert "--size 48" in said[0]
    assert evaluate_run(open_shop.home, place)["model"]["users"] == 10


def test_a_tower_of_one_size_says_which_shards_to_make(open_shop: Any, tmp_path: Path) -> None:
    sizes = SmallSizes(width=32, blocks=2, heads=2, vocabulary=300, picture=48, patch=16)
    _, folder = save_small_encoders(tmp_path / "encoders", ["a"], seed=1, sizes=sizes)
    model = open_shop.with_options(vision=VisionSpec(encoder=str(folder), train_blocks=1))
    recipe = Recipe(target="HM", model=model, train=TrainOptions(epochs=1, batch_users=8))
    with pytest.raises(InputError, match=r"\(48, 48\), the shards of HM hold 32x32.*--size 48"):
        train(open_shop.home, open_shop.home.run("refused"), recipe)


def test_frozen_vectors_are_of_the_shards_size(open_shop: Any, tmp_path: Path) -> None:
    spec = tower(tmp_path / "siglip", "siglip")
    found = frozen_vectors(Shards.of(open_shop.home, "HM"), text=None, vision=spec)
    assert found.picture_ND is not None
    assert found.picture_ND.shape == (14, 32)
    assert (found.picture_ND.abs().sum(1) > 0).equal(found.has_picture_N)


def test_pmm_shard_makes_pictures_of_the_size_that_is_asked_for(
    open_shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, home = open_shop.options.text.encoder, str(open_shop.home.root)
    asked = ["shard", "--target", "HM", "--text-encoder", text, "--home", home]
    with pytest.raises(SystemExit) as done:
        main([*asked, "--size", "48"])
    assert done.value.code == 0
    shards = Shards.of(open_shop.home, "HM")
    assert shards.picture_size == 48
    assert "--size 48" in shards.command_to_make(max_tokens=20)
    spec = tower(tmp_path / "siglip", "siglip")
    model = dataclasses.replace(open_shop.options, vision=spec)
    recipe = Recipe(target="HM", model=model, train=TrainOptions(epochs=1, batch_users=8))
    assert train(open_shop.home, open_shop.home.run("sized"), recipe)["ended"] == "epochs"
    capsys.readouterr()
    for size, why in (("4", "the least is 8"), ("5000", "the most is 4,096")):
        with pytest.raises(SystemExit) as stopped:
            main([*asked, "--size", size])
        assert stopped.value.code == 1
        assert why in capsys.readouterr().err
