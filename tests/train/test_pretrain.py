"""Pre-training on several sources, and what fine-tuning takes over from it."""

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

from pmm.errors import BrokenArtefact, InputError, MissingArtefact, PmmError, StaleArtefact
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_entry import PARTS
from pmm.model.pmmrec.pmmrec_options import ALL_OBJECTIVES, Weights
from pmm.runs.loading import targets_of
from pmm.runs.recipe import Recipe, Start
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.transfer import REPORT, take_over
from pmm.runs.weights import BEST, read_tensors, write_tensors
from pmm.shards.read import Shards
from pmm.storage.home import Home
from pmm.train import trainer
from pmm.train.train_run import train

TRAIN = TrainOptions(epochs=2, batch_users=8, lr=2e-3, encoder_lr=1e-3, log_every=2)


@dataclasses.dataclass(frozen=True)
class World:
    home: Home
    shop: Any
    run: Path


@pytest.fixture(scope="module")
def world(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two sources pre-trained on, a target, and the same target without pictures."""
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("world"), n_items=20, n_users=16)
    shop.add_target("Kwai", n_items=14, n_users=12)
    shop.add_target("HM Shoes", n_items=12, n_users=10)
    shop.add_target("HM Clothes", n_items=12, n_users=10, pictures=False)
    run = shop.home.run("pretrain")
    train(shop.home, run, pretraining(shop))
    return World(shop.home, shop, run)


def pretraining(shop: Any, **changes: Any) -> Recipe:
    model = dataclasses.replace(shop.options, weights=ALL_OBJECTIVES)
    options = dataclasses.replace(TRAIN, **changes)
    return Recipe(stage="pretrain", sources=("HM", "Kwai"), model=model, train=options)


def finetuning(world: World, transfer: Any, target: str = "HM Shoes", **changes: Any) -> Recipe:
    """The recipe that `pmm train --stage finetune --from RUN` makes."""
    request = TrainRequest(
        stage="finetune", target=target, start=world.run, transfer=transfer, **changes
    )
    recipe = resolve_run(world.home, world.home.run("new"), request, {})
    return dataclasses.replace(recipe, train=TRAIN)


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [each for each in found if each["kind"] == kind]


def test_the_log_shows_each_loss_and_each_source(world: World) -> None:
    steps, evaluations = records(world.run, "step"), records(world.run, "evaluation")
    for step in steps:
        parts = [step[name] for name in ("dap", "nicl", "nid", "rcl")]
        assert step["loss"] == pytest.approx(sum(parts), abs=1e-5)  # rounded to six digits
    last = evaluations[-1]
    assert set(last["sources"]) == {"HM", "Kwai"}
    of_sources = [each["hr@10"] for each in last["sources"].values()]
    assert last["hr@10"] == pytest.approx(np.mean(of_sources))
    assert last["best"] == max(each["hr@10"] for each in evaluations), "the mean decides"


def test_a_stopped_pretraining_goes_on_as_if_it_was_not(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = trainer.Trainer._step, []

    def step(self: Any, batch: Any) -> None:
        if len(done) == 4:
            done.append(True)
            raise KeyboardInterrupt
        done.append(True)
        real(self, batch)

    monkeypatch.setattr(trainer.Trainer, "_step", step)
    recipe = pretraining(world.shop, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(world.home, tmp_path / "run", recipe)
    train(world.home, tmp_path / "run", recipe, existing="resume")
    tensors, _ = read_tensors(tmp_path / "run" / BEST, made_by="")
    expected, _ = read_tensors(world.run / BEST, made_by="")
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_sources_without_shards_are_all_named_with_their_commands(world: World) -> None:
    recipe = dataclasses.replace(pretraining(world.shop), sources=("HM", "Bili", "Amazon"))
    with pytest.raises(MissingArtefact) as error:
        train(world.home, world.home.run("none"), recipe)
    lines = str(error.value).splitlines()
    for name, line in zip(("Bili", "Amazon"), lines, strict=True):
        ingest, shard = line.partition("Run: ")[2].split("; ")
        assert ingest == f"pmm ingest {name.lower()} --home {world.home.root}"
        assert shard.startswith(f"pmm shard --target {name} --text-encoder /")
        assert shard.endswith(f" --home {world.home.root}")


def test_a_source_that_was_ingested_needs_its_shards_only(world: World) -> None:
    world.home.target("Kwai Food").mkdir(parents=True)
    recipe = dataclasses.replace(pretraining(world.shop), sources=("HM", "Kwai Food"))
    with pytest.raises(
        MissingArtefact, match=r"there\. Run: pmm shard --target 'Kwai Food' --text"
    ):
        train(world.home, world.home.run("none"), recipe)
    world.home.target("Kwai Food").rmdir()


@pytest.mark.parametrize("transfer", list(PARTS))
def test_each_mode_loads_exactly_its_parts(world: World, transfer: Any) -> None:
    recipe = finetuning(world, transfer)
    torch.manual_seed(5)
    model = Pmmrec(recipe.model)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    report = take_over(model, recipe.start)
    held, _ = read_tensors(world.run / BEST, made_by="")
    for name, tensor in model.named_parameters():
        if name.split(".")[0] in PARTS[transfer] and tensor.requires_grad:
            assert torch.equal(tensor, held[name]), name
            assert name in report.loaded
        else:
            assert torch.equal(tensor, before[name]), name
            assert name not in report.loaded
    assert set(report.loaded) | set(report.fresh) == set(model.trained_names())
    assert set(report.frozen) == set(model.state_dict()) - set(model.trained_names())
    assert set(report.left_behind) == set(held) - set(report.loaded)
    assert "detector.weight" in report.left_behind


@pytest.mark.parametrize("transfer", list(PARTS))
def test_a_fine_tuned_run_trains_evaluates_and_keeps_its_report(
    world: World, transfer: Any, tmp_path: Path
) -> None:
    recipe = finetuning(world, transfer)
    assert recipe.model.weights == Weights()
    train(world.home, tmp_path / "run", recipe)
    report = json.loads((tmp_path / "run" / REPORT).read_text())
    assert (report["transfer"], bool(report["loaded"])) == (transfer, True)
    metrics = evaluate_run(world.home, tmp_path / "run", EvaluateOptions(gallery_users=0))
    assert metrics["users"] == 10


def test_text_transfer_never_reads_a_picture(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shards, "picture", lambda *_: pytest.fail("a picture was read"))
    recipe = finetuning(world, "text", "HM Clothes")
    assert recipe.model.modality == "text"
    result = train(world.home, tmp_path / "run", recipe)
    assert result["steps"] > 0


def test_vision_transfer_to_a_target_without_pictures_is_refused(
    world: World, tmp_path: Path
) -> None:
    recipe = finetuning(world, "vision", "HM Clothes")
    with pytest.raises(InputError, match="no item of HM Clothes has a picture"):
        train(world.home, tmp_path / "run", recipe)
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_text_transfer_to_a_target_without_texts_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shards, "has_text", np.zeros(13, dtype=np.bool_))
    with pytest.raises(InputError, match="no item of HM Shoes has a text"):
        train(world.home, tmp_path / "run", finetuning(world, "text"))


def test_a_fine_tuning_goes_on_without_the_run_it_started_from(
    world: World, tmp_path: Path
) -> None:
    shutil.copytree(world.run, tmp_path / "start")
    recipe = finetuning(dataclasses.replace(world, run=tmp_path / "start"), "full")
    short = dataclasses.replace(recipe, train=dataclasses.replace(TRAIN, max_steps=1))
    train(world.home, tmp_path / "run", short)
    report = (tmp_path / "run" / REPORT).read_text()
    shutil.rmtree(tmp_path / "start")
    result = train(world.home, tmp_path / "run", recipe, existing="resume")
    assert result["steps"] > 1
    assert (tmp_path / "run" / REPORT).read_text() == report


def test_all_objectives_can_be_asked_for(world: World) -> None:
    assert finetuning(world, "full", objectives="all").model.weights == ALL_OBJECTIVES
    text = finetuning(world, "text", objectives="all").model.weights
    assert (text.nicl, text.nid, text.rcl) == (0, 1, 1)


def damaged(world: World, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Start:
    tensors, about = read_tensors(world.run / BEST, made_by="")
    change(tensors)
    write_tensors(tmp_path / BEST, tensors, about)
    return Start(run=str(tmp_path), transfer="full")


def test_a_missing_tensor_is_an_error(world: World, tmp_path: Path) -> None:
    start = damaged(world, tmp_path, lambda held: held.pop("user_encoder.norm.weight"))
    with pytest.raises(BrokenArtefact, match=r"user_encoder\.norm\.weight is missing"):
        take_over(Pmmrec(finetuning(world, "full").model), start)
    tensors, _ = read_tensors(tmp_path / BEST, made_by="")
    gone = set(read_tensors(world.run / BEST, made_by="")[0]) - set(tensors)
    assert gone == {"user_encoder.norm.weight"}


def test_a_run_that_holds_nothing_of_a_mode_is_an_error(world: World, tmp_path: Path) -> None:
    def rename(held: dict[str, Any]) -> None:
        for name in list(held):
            held[f"module.{name}"] = held.pop(name)

    start = damaged(world, tmp_path, rename)
    with pytest.raises(InputError, match="cannot start a full transfer: it holds no text"):
        take_over(Pmmrec(finetuning(world, "full").model), start)


def test_another_shape_is_an_error(world: World) -> None:
    model = dataclasses.replace(finetuning(world, "full").model, user_convolution=5)
    with pytest.raises(BrokenArtefact, match="has shape"):
        take_over(Pmmrec(model), Start(run=str(world.run)))


def test_a_top_is_not_put_on_another_trunk(
    world: World, shop_maker: ModuleType, tmp_path: Path
) -> None:
    other = shop_maker.open_shop(tmp_path, n_items=12, n_users=8, texts="other")
    model = dataclasses.replace(finetuning(world, "full").model, text=other.options.text)
    with pytest.raises((StaleArtefact, BrokenArtefact)):
        take_over(Pmmrec(model), Start(run=str(world.run)))


def test_a_pretrained_run_ranks_its_sources_and_targets_it_never_saw(world: World) -> None:
    assert targets_of(world.run) == ["HM", "Kwai"]
    options = EvaluateOptions(gallery_users=0)
    with pytest.raises(InputError, match="say which one with --target"):
        evaluate_run(world.home, world.run, options)
    found = evaluate_run(world.home, world.run, options, target="HM Shoes")
    assert found["target"] == "HM Shoes"
    assert (world.run / "metrics-hm-shoes.json").is_file()
    evaluate_run(world.home, world.run, options, target="kwai")
    assert (world.run / "ranks-kwai.parquet").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stage": "pretrain", "target": "HM"}, "not on a --target"),
        ({"stage": "scratch"}, "needs --target"),
        ({"stage": "scratch", "target": "HM", "sources": ("HM",)}, "belong to --stage pretrain"),
        ({"stage": "finetune", "target": "HM"}, "needs --from RUN"),
        ({"stage": "scratch", "target": "HM", "transfer": "text"}, "belong to --stage finetune"),
        (
            {"stage": "finetune", "target": "HM", "start": Path("x"), "modality": "text"},
            "--transfer text or vision",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TrainRequest(**options)


def test_a_run_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(MissingArtefact, match=r"is no run: it has no recipe\.toml"):
        finetuning(dataclasses.replace(world, run=world.home.root / "nowhere"), "full")


def test_a_single_modality_cannot_align(world: World) -> None:
    model = dataclasses.replace(world.shop.options, modality="text", weights=ALL_OBJECTIVES)
    with pytest.raises(PmmError, match="aligns text and picture"):
        Pmmrec(model)
