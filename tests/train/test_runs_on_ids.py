"""SASRec on item ids goes the way of PMMRec's runs, and reads no content of any item."""

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
from pmm.errors import BrokenArtefact, InputError, RecipeError, StaleArtefact
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model.baselines.sasrec import SasrecOptions
from pmm.runs.checkpoint import LAST
from pmm.runs.loading import load_run
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.shards.item_shards import OFFSETS
from pmm.storage.home import Home
from pmm.storage.schemas import RANKS, read_table
from pmm.storage.toml import read_recipe
from pmm.train import trainer
from pmm.train.train_run import train

TIMES = {"crc32", "users_per_s", "waiting", "seconds"}


def recipe(model: SasrecOptions | None = None, **changes: Any) -> Recipe:
    options = {"epochs": 3, "batch_users": 8, "lr": 5e-3, "log_every": 1, "save_every": 2}
    model = model or SasrecOptions(width=16, max_length=6, user_blocks=1)
    return Recipe(target="HM", model=model, train=TrainOptions(**{**options, **changes}))


@pytest.fixture(scope="module")
def whole(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    train(shop.home, run_dir, recipe())
    return run_dir


def pmm(*arguments: object, status: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    assert ended.value.code == status


class Killed(BaseException):
    """Nothing in the program catches this."""


def stop_before(step: int) -> Callable[..., None]:
    real = trainer.Trainer._step

    def cut(self: trainer.Trainer, batch: Any) -> None:
        if self.state.step == step:
            raise Killed
        real(self, batch)

    return cut


@pytest.mark.parametrize("step", [0, 1, 4, 6])
def test_a_killed_run_resumes_to_the_same_bits_for_ids(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", stop_before(step))
        with pytest.raises(Killed):
            train(shop.home, tmp_path / "run", recipe())
    torch.manual_seed(step)
    train(shop.home, tmp_path / "run", recipe(), existing="resume")
    for name in (BEST, LAST):
        (tensors, _), (others, _) = (
            read_tensors(run / name, made_by="") for run in (tmp_path / "run", whole)
        )
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[key]) for key, tensor in tensors.items())
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k not in TIMES}
            for line in (run / "log.jsonl").read_text().splitlines()
        ]
        for run in (tmp_path / "run", whole)
    ]
    assert logs[0] == logs[1]


def test_the_row_of_padding_is_zero_in_the_checkpoint(shop: Any, whole: Path) -> None:
    tensors, _ = read_tensors(whole / BEST, made_by="")
    table = tensors["items.table.weight"]
    assert table.shape == (shop.shards().n_items + 1, 16)
    assert (table != 0).any(1).tolist() == [False] + [True] * 30


def test_nothing_of_the_items_content_is_read(shop: Any, tmp_path: Path) -> None:
    """Pictures, tokens and records overwritten, the encoders gone: the same weights and ranks."""
    found = []
    for name in ("whole", "damaged"):
        shutil.copytree(shop.home.root, tmp_path / name)
        home = dataclasses.replace(shop.home, root=tmp_path / name)
        if name == "damaged":
            shutil.rmtree(home.root / "encoders")
            damage(home)
        request = TrainRequest(target="HM", model="sasrec")
        run = resolve_run(
            home, home.run("new"), request, {"train": {"epochs": 1, "batch_users": 8}}
        )
        train(home, home.run("new"), run)
        evaluate_run(home, home.run("new"), EvaluateOptions(cold=True, gallery_users=0))
        ranks = read_table(home.run("new") / "ranks.parquet", RANKS)
        found.append((read_tensors(home.run("new") / BEST, made_by="")[0], ranks))
        assert not (home.run("new") / "first_batch.png").exists()
    (whole, first), (damaged, second) = found
    assert first.equals(second)
    assert all(torch.equal(tensor, damaged[name]) for name, tensor in whole.items())


def damage(home: Home) -> None:
    """Zeros over every picture, token list and record of HM."""
    for row in read_table(home.shards("HM") / "offsets.parquet", OFFSETS).to_pylist():
        path = home.shards("HM") / f"items-{row['shard']:05d}.tar"
        content = np.memmap(path, dtype=np.uint8, mode="r+")
        for member in ("jpg", "tokens", "json"):
            start, size = row[f"{member}_offset"], row[f"{member}_size"]
            content[start : start + size] = 0
        content.flush()


def test_the_command_line_trains_resumes_evaluates_and_compares(
    shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = shutil.copytree(shop.home.root, tmp_path / "home")
    run = home / "runs" / "hm-scratch-sasrec-width-32-lr-0.002"
    to_train = ("train", "--home", home, "--stage", "scratch", "--target", "HM", "--model")
    to_train += ("sasrec", "--set", "model.width=32", "--set", "train.lr=2e-3")
    pmm(*to_train, "--epochs", 1)
    pmm(*to_train, "--epochs", 2, "--resume")
    held = read_recipe(run / "recipe.toml")
    assert (held["model"]["name"], held["model"]["width"]) == ("sasrec", 32)
    assert (held["train"]["lr"], held["train"]["batch_users"]) == (2e-3, 256)
    pmm("evaluate", run, "--cold")
    names = {each.name for each in run.iterdir() if not each.name.startswith("events.")}
    assert names - {".lock", ".sums"} == {
        *("recipe.toml", "run.json", "log.jsonl", "checkpoint", "curves.png", "first_batch.json"),
        *("ranks.parquet", "ranks-cold.parquet", "ranks-cold-all.parquet", "metrics.json"),
        *("ranks-chosen.parquet", "gallery.png"),
    }
    train(Home(home), home / "runs" / "content", Recipe(target="HM", model=shop.options))
    pmm("evaluate", "--home", home, home / "runs" / "content", "--cold")
    for split in ("test", "cold-all"):
        capsys.readouterr()
        pmm("compare", "--home", home, run, "content", "--split", split)
        assert "HR@10" in capsys.readouterr().out
    pmm("inspect", run)


def test_a_run_goes_on_without_saying_the_model_again(
    shop: Any, whole: Path, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(whole, tmp_path / "run")
    again = resolve_run(shop.home, run_dir, TrainRequest(target="HM"), {}, resume=True)
    assert again.model == recipe().model
    assert train(shop.home, run_dir, again, existing="resume")["steps"] == 9
    with pytest.raises(RecipeError, match="is a run of sasrec, not of pmmrec"):
        resolve_run(shop.home, run_dir, TrainRequest(target="HM", model="pmmrec"), {}, resume=True)
    other = Recipe(target="HM", model=shop.options, train=recipe().train)
    with pytest.raises(RecipeError, match=r"\(model.name was 'sasrec', is 'pmmrec'\)"):
        train(shop.home, run_dir, other, existing="resume")


def test_a_recipe_file_can_name_the_model(shop: Any) -> None:
    values = {"model": {"name": "sasrec", "tau": 0.5}, "train": {"seed": 3}}
    found = resolve_run(shop.home, shop.home.run("new"), TrainRequest(target="HM"), values)
    assert found.model == SasrecOptions(tau=0.5)
    assert (found.train.seed, found.train.lr, found.train.batch_users) == (3, 1e-3, 256)
    with pytest.raises(InputError, match=r"but the recipe says model.name = 'sasrec'"):
        resolve_run(
            shop.home, shop.home.run("x"), TrainRequest(target="HM", model="pmmrec"), values
        )
    with pytest.raises(
        RecipeError, match=r"model.name = 'bert' should be one of 'pmmrec', 'morec', 'sas"
    ):
        resolve_run(
            shop.home, shop.home.run("x"), TrainRequest(target="HM"), {"model": {"name": "bert"}}
        )
    with pytest.raises(RecipeError, match=r'unknown key "model.wdth" \(did you mean "width"\?\)'):
        resolve_run(
            shop.home,
            shop.home.run("x"),
            TrainRequest(target="HM", model="sasrec"),
            {"model": {"wdth": 1}},
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "pretrain"}, "cannot be trained in --stage pretrain, only in --stage scratch"),
        ({"stage": "finetune", "target": "HM", "start": Path("x")}, "in --stage finetune, only"),
        ({"target": "HM", "preset": "paper"}, "--preset paper .sasrec has default, original."),
        (
            {"target": "HM", "modality": "text", "objectives": "all"},
            "--objectives all .sasrec has none. and --modality text .* by ids",
        ),
    ],
)
def test_what_needs_content_is_refused_with_ids(
    shop: Any, options: dict[str, Any], message: str
) -> None:
    request = TrainRequest(model="sasrec", **options)
    with pytest.raises(InputError, match=message):
        resolve_run(shop.home, shop.home.run("new"), request, {})


def test_encoders_and_stages_of_content_are_refused_wherever_they_are_said(
    shop: Any, whole: Path
) -> None:
    request, new = TrainRequest(target="HM", model="sasrec"), shop.home.run("new")
    text = {"model": {"text": {"encoder": "xlm-roberta-base"}}}
    with pytest.raises(InputError, match="reads no text: leave out --text-encoder"):
        resolve_run(shop.home, new, request, text)
    start = TrainRequest(stage="finetune", target="HM", start=whole)
    with pytest.raises(InputError, match=r"--from .*sasrec knows items by their numbers"):
        resolve_run(shop.home, new, start, {})
    with pytest.raises(ValueError, match="cannot be trained in --stage pretrain"):
        Recipe(stage="pretrain", sources=("HM",), model=SasrecOptions())


def test_another_target_cannot_be_ranked_by_ids(
    shop_maker: ModuleType, whole: Path, tmp_path: Path
) -> None:
    shop = shop_maker.open_shop(tmp_path)
    shop.add_target("HM Shoes", n_items=30, n_users=10)
    with pytest.raises(InputError, match="one by one, which says nothing of HM Shoes"):
        evaluate_run(shop.home, whole, target="HM Shoes")


def test_a_table_of_another_catalogue_is_refused(
    shop_maker: ModuleType, whole: Path, tmp_path: Path
) -> None:
    shop = shop_maker.open_shop(tmp_path / "larger", n_items=31)
    run_dir = shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(StaleArtefact, match=r"was trained on shards .*--model sasrec .*--name run"):
        evaluate_run(shop.home, run_dir)
    with pytest.raises(StaleArtefact, match="was trained on shards"):
        train(shop.home, run_dir, recipe(epochs=4), existing="resume")
    shutil.rmtree(run_dir / ".sums")  # else the other recipe is told of first
    (run_dir / "recipe.toml").write_text('target = "HM"\n[model]\nname = "sasrec"\nwidth = 8\n')
    with pytest.raises(BrokenArtefact, match="does not fit the recipe's model"):
        load_run(shop_maker.open_shop(tmp_path / "same").home, run_dir)
