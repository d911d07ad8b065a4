"""Models of one modality never read the other one: it is absent, or it is damaged."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pmm.cli import main
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.errors import BrokenArtefact
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model.pmmrec.pmmrec_options import ALL_OBJECTIVES
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.shards.item_shards import OFFSETS
from pmm.storage.schemas import SHARD_ITEMS, read_table
from pmm.train.train_run import train

TRAIN = TrainOptions(epochs=1, batch_users=8, lr=2e-3, encoder_lr=1e-3)
MEMBER = {"text": "jpg", "vision": "tokens"}
"""What a model of the modality has no business with."""


@pytest.fixture(scope="module")
def start(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home with the run "start", which was pre-trained on HM, and a target HM Shoes."""
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("start"), n_items=14, n_users=10)
    shop.add_target("HM Shoes", n_items=12, n_users=10)
    model = dataclasses.replace(shop.options, weights=ALL_OBJECTIVES)
    recipe = Recipe(stage="pretrain", sources=("HM",), model=model, train=TRAIN)
    train(shop.home, shop.home.run("start"), recipe)
    return shop


def damage(home: Any, member: str, reseal: Callable[[Path], None]) -> None:
    """Zeros over every picture or token list of HM Shoes, which no digest tells."""
    where = read_table(home.shards("HM Shoes") / "offsets.parquet", OFFSETS)
    for row in where.to_pylist():
        path = home.shards("HM Shoes") / f"items-{row['shard']:05d}.tar"
        content = np.memmap(path, dtype=np.uint8, mode="r+")
        start, size = row[f"{member}_offset"], row[f"{member}_size"]
        content[start : start + size] = 0
        content.flush()
    reseal(home.shards("HM Shoes"))


@pytest.mark.parametrize("cache", ["off", "fp32"])
@pytest.mark.parametrize("modality", ["text", "vision"])
def test_a_damaged_other_modality_changes_nothing(
    start: Any, modality: Any, cache: Any, tmp_path: Path, reseal: Callable[[Path], None]
) -> None:
    found = []
    for name in ("whole", "damaged"):
        shutil.copytree(start.home.root, tmp_path / name)
        home = dataclasses.replace(start.home, root=tmp_path / name)
        if name == "damaged":
            damage(home, MEMBER[modality], reseal)
        request = TrainRequest(
            stage="finetune", target="HM Shoes", start=start.home.run("start"), transfer=modality
        )
        recipe = resolve_run(home, home.run("new"), request, {})
        options = dataclasses.replace(TRAIN, cache=cache)
        train(home, home.run("new"), dataclasses.replace(recipe, train=options))
        metrics = evaluate_run(home, home.run("new"), EvaluateOptions(cold=True, gallery_users=0))
        found.append((read_tensors(home.run("new") / BEST, made_by="")[0], metrics["model"]))
    (whole, first), (damaged, second) = found
    assert first == second
    assert all(torch.equal(tensor, damaged[name]) for name, tensor in whole.items())


def test_the_damage_is_one(start: Any, tmp_path: Path, reseal: Callable[[Path], None]) -> None:
    shutil.copytree(start.home.root, tmp_path / "home")
    home = dataclasses.replace(start.home, root=tmp_path / "home")
    damage(home, "jpg", reseal)
    request = TrainRequest(stage="finetune", target="HM Shoes", start=start.home.run("start"))
    recipe = resolve_run(home, home.run("new"), request, {})
    with pytest.raises(BrokenArtefact, match="the picture of item"):
        train(home, home.run("new"), dataclasses.replace(recipe, train=TRAIN))


@pytest.mark.parametrize("transfer", ["full", "item", "user"])
@pytest.mark.parametrize("modality", ["text", "vision"])
def test_a_pre_training_on_one_modality_starts_each_transfer_that_is_not_of_the_other(
    start: Any, modality: Any, transfer: Any, tmp_path: Path
) -> None:
    home = dataclasses.replace(start.home, root=tmp_path / "home")
    shutil.copytree(start.home.root, home.root)
    model = dataclasses.replace(start.options, modality=modality)
    before = Recipe(stage="pretrain", sources=("HM",), model=model, train=TRAIN)
    train(home, home.run("before"), before)
    request = TrainRequest(
        stage="finetune", target="HM Shoes", start=home.run("before"), transfer=transfer
    )
    recipe = resolve_run(home, home.run("new"), request, {})
    assert recipe.model.content == modality
    train(home, home.run("new"), dataclasses.replace(recipe, train=TRAIN))
    report = json.loads((home.run("new") / "transfer.json").read_text())
    taken = {name.partition(".")[0] for name in report["loaded"]}
    of_items = {modality, f"{modality}_projection"}
    parts = {"full": {*of_items, "user_encoder"}, "item": of_items, "user": {"user_encoder"}}
    assert taken == parts[transfer]


def pmm(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    assert ended.value.code == 0


def test_text_transfer_from_the_command_line_to_a_target_whose_pictures_are_missing(
    tmp_path: Path,
) -> None:
    home, poor = tmp_path / "home", tmp_path / "poor"
    sizes = SmallSizes(width=32, blocks=2, heads=1, vocabulary=400)
    save_small_encoders(tmp_path / "encoders", ["a red shoe", "blau"], seed=0, sizes=sizes)
    text = ("--text-encoder", tmp_path / "encoders" / "text")
    vision = ("--vision-encoder", tmp_path / "encoders" / "vision")
    few = ("--epochs", 1, "--batch-users", 32)
    pmm("world", "--size", "tiny", "--to", home / "raw" / "hm")
    shutil.copytree(home / "raw", poor / "raw", ignore=shutil.ignore_patterns("images"))
    pmm("ingest", "hm", "--home", home, "--target", "HM")
    pmm("shard", "--home", home, "--target", "HM", *text, "--workers", 1)
    pmm("train", "--home", home, "--stage", "pretrain", "--sources", "HM", *text, *vision, *few)
    shoes = ("--home", poor, "--target", "HM Shoes")
    pmm("ingest", "hm", *shoes, "--missing-image", "text-only")
    pmm("shard", *shoes, *text, "--workers", 1, "--allow-no-pictures")
    rows = read_table(poor / "shards" / "hm-shoes" / "items-00000.parquet", SHARD_ITEMS)
    assert set(rows["reason"].to_pylist()) == {"no-image"}
    run = home / "runs" / "pretrain-hm"
    pmm("train", *shoes, "--stage", "finetune", "--from", run, "--transfer", "text", *few)
    pmm("evaluate", poor / "runs" / "hm-shoes-finetune-from-pretrain-hm", "--cold")
    (ranks,) = (poor / "runs").glob(
        "hm-shoes-finetune-from-pretrain-hm-*-text-*/ranks-cold.parquet"
    )
    assert ranks.is_file()
