"""Training on real shards, with small encoders."""

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pmm.data.loader import train_batches
from pmm.data.training_set import TrainingSet
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.errors import (
    BrokenArtefact,
    InputError,
    PmmError,
    RecipeError,
    StaleArtefact,
    StorageError,
)
from pmm.evaluate.catalogue import embed_catalogue, user_vectors
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.evaluate.ranking import Queries, rank_users
from pmm.model.baselines.morec import MorecOptions
from pmm.model.baselines.sasrec import SasrecOptions
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.protocol import ModelOptions
from pmm.runs import folder as run_folder
from pmm.runs.checkpoint import LAST
from pmm.runs.loading import load_run
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_header, read_tensors
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists
from pmm.train import curves, trainer
from pmm.train.optimiser import make_optimiser
from pmm.train.train_run import train


def recipe(shop: Any, **changes: Any) -> Recipe:
    options = {"epochs": 3, "batch_users": 8, "lr": 2e-3, "encoder_lr": 1e-3, "log_every": 2}
    return Recipe(target="hm", model=shop.options, train=TrainOptions(**{**options, **changes}))


def data_of(shop: Any) -> TrainingSet:
    return TrainingSet([Shards.of(shop.home, "hm")])


@pytest.fixture(scope="module")
def trained(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run_dir = tmp_path_factory.mktemp("runs") / "short"
    return run_dir, train(shop.home, run_dir, recipe(shop), command="pmm train …")


@pytest.mark.parametrize("name", ["pmmrec", "morec", "sasrec"])
def test_eight_users_are_learnt_by_heart(name: str, shop_maker: ModuleType, tmp_path: Path) -> None:
    """T16: HR@1 = 1 on the training parts."""
    shop = shop_maker.open_shop(tmp_path, n_items=12, n_users=8)
    options = recipe(shop, epochs=80, lr=5e-3, patience=0, eval_every=80)
    models: dict[str, ModelOptions] = {
        "pmmrec": shop.options,
        "morec": MorecOptions(
            **{**vars(shop.options), "name": "morec", "fusion": "concat", "modality_pool": "cls"}
        ),
        "sasrec": SasrecOptions(width=32, max_length=6),
    }
    options = dataclasses.replace(options, model=models[name])
    assert train(shop.home, shop.home.run("heart"), options)["ended"] == "epochs"
    model, shards, _ = load_run(shop.home, shop.home.run("heart"))
    parts = [each for each in map(shards.sequences().train.__getitem__, range(8)) if len(each) > 1]
    asked = Queries(
        user_U=np.arange(len(parts), dtype=np.int32),
        target_U=np.array([each[-1] for each in parts], dtype=np.int32),
        history=Lists(
            offsets=np.cumsum([0, *(len(each) - 1 for each in parts)]),
            values=np.concatenate([each[:-1] for each in parts]),
        ),
    )
    catalogue = embed_catalogue(model, shards)
    vectors = user_vectors(model, catalogue, asked.history)
    found = rank_users(vectors, catalogue.score_ND, asked)
    assert found.tolist() == [1] * len(parts)


def test_a_run_writes_what_it_says(trained: tuple[Path, dict[str, Any]]) -> None:
    run_dir, result = trained
    names = {path.name for path in run_dir.iterdir()} - {".lock", ".sums"}
    assert sum(name.startswith("events.out.tfevents.") for name in names) == 1
    assert {name for name in names if not name.startswith("events.")} == {
        *("recipe.toml", "run.json", "log.jsonl", "checkpoint", "curves.png"),
        *("first_batch.json", "first_batch.png"),
    }
    assert (result["ended"], result["epochs"], result["steps"]) == ("epochs", 3, 9)
    about = json.loads((run_dir / "run.json").read_text())
    assert (about["command"], about["seed"], about["target"]) == ("pmm train …", 0, "HM")
    assert about["steps_per_epoch"] == 3


def test_the_log_holds_steps_and_evaluations(trained: tuple[Path, dict[str, Any]]) -> None:
    lines = (trained[0] / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    assert [record["step"] for record in steps] == [2, 3, 4, 6, 8, 9]
    assert [record["epoch"] for record in evaluations] == [1, 2, 3]
    assert all(0 <= record["waiting"] <= 1 and record["users_per_s"] > 0 for record in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert trained[1]["best_hr@10"] == max(record["hr@10"] for record in evaluations)


def test_pictures_of_a_run_are_pngs_of_their_size(trained: tuple[Path, dict[str, Any]]) -> None:
    with Image.open(trained[0] / "curves.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (1320, 504))
    with Image.open(trained[0] / "first_batch.png") as picture:
        assert picture.format == "PNG"
        assert picture.height > 4 * 32


def test_the_first_batch_is_described(trained: tuple[Path, dict[str, Any]]) -> None:
    found = json.loads((trained[0] / "first_batch.json").read_text())
    slots = found["tensors"]["slot_BS"]
    assert (slots["shape"], slots["type"]) == ([8, 7], "int64")
    assert (slots["least"], slots["most"]) == (0, found["distinct_items"])
    items = found["tensors"]["items.item_I"]
    assert 1 <= items["least"] <= items["most"] <= 30
    assert 0 < found["padding_share"] < 1
    assert found["text_only_items"] <= 1


def test_the_best_checkpoint_gives_the_validation_metrics_of_the_log(
    shop: Any, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run_dir = shutil.copytree(trained[0], tmp_path / "run")  # evaluating adds files to a run
    found = evaluate_run(shop.home, run_dir, EvaluateOptions(split="valid", gallery_users=0))
    assert found["model"]["hr@10"] == trained[1]["best_hr@10"]
    assert found["epoch"] == trained[1]["best_epoch"]


def test_checkpoints_hold_no_frozen_tensor(trained: tuple[Path, dict[str, Any]]) -> None:
    tensors, _ = read_tensors(trained[0] / BEST, made_by="")
    assert any(name.startswith("text.blocks.1.") for name in tensors)
    assert not [name for name in tensors if ".stem." in name or ".blocks.0.a" in name[:14]]


def test_patience_ends_a_run_that_no_longer_gains(shop: Any, tmp_path: Path) -> None:
    still = recipe(shop, lr=1e-12, encoder_lr=1e-12, epochs=50, patience=2)
    result = train(shop.home, tmp_path / "still", still)
    assert (result["ended"], result["best_epoch"], result["epochs"]) == ("patience", 1, 3)
    assert read_header(tmp_path / "still" / BEST, made_by="")["step"] == 3


def test_without_a_limit_of_epochs_patience_alone_ends_a_run(shop: Any, tmp_path: Path) -> None:
    still = recipe(shop, lr=1e-12, encoder_lr=1e-12, epochs=0, patience=2)
    result = train(shop.home, tmp_path / "still", still)
    assert (result["ended"], result["epochs"]) == ("patience", 3)


def test_limits_of_steps_end_with_an_evaluation(shop: Any, tmp_path: Path) -> None:
    result = train(shop.home, tmp_path / "limited", recipe(shop, max_steps=4))
    assert (result["ended"], result["steps"], result["epochs"]) == ("max_steps", 4, 1)
    records = curves.read_log(tmp_path / "limited" / "log.jsonl")
    assert [r["step"] for r in records if r["kind"] == "evaluation"] == [3, 4]


def test_what_is_computed_again_trains_the_same_weights(shop: Any, tmp_path: Path) -> None:
    found = []
    for recompute in (False, True):
        run_dir = tmp_path / f"{recompute}"
        train(shop.home, run_dir, recipe(shop, recompute=recompute, max_steps=4))
        found.append(read_tensors(run_dir / LAST, made_by="")[0])
    assert all(torch.equal(found[0][name], tensor) for name, tensor in found[1].items())


def test_a_batch_in_parts_has_the_mean_of_their_gradients(shop: Any, tmp_path: Path) -> None:
    options = recipe(shop, micro_batches=3, max_steps=1)
    model = dataclasses.replace(shop.options, dropout=0.0)
    one = trainer.Trainer(tmp_path, data_of(shop), model, options.train)
    length = one.model.max_length
    (batch, *_) = train_batches(one.data, seed=0, epoch=0, batch_users=8, max_length=length)
    one.model.text.eval()  # the only dropout that is left
    literal = [one.model(part, torch.Generator()) for part in batch.split(3)]
    torch.stack([each["loss"] for each in literal]).mean().backward()
    expected = {n: p.grad.clone() for n, p in one.model.named_parameters() if p.grad is not None}
    one._step(batch)
    assert len(expected) > 20
    for name, parameter in one.model.named_parameters():
        if name in expected:
            assert torch.allclose(parameter.grad, expected[name], atol=1e-6), name


def test_training_everything_stores_no_activations_and_all_tensors(
    shop: Any, tmp_path: Path
) -> None:
    every = shop.with_options(
        text=dataclasses.replace(shop.options.text, train_blocks="all"),
        vision=dataclasses.replace(shop.options.vision, train_blocks="all"),
    )
    options = dataclasses.replace(recipe(shop, max_steps=3), model=every)
    shutil.rmtree(shop.home.activations("hm"), ignore_errors=True)
    train(shop.home, tmp_path / "every", options)
    assert not shop.home.activations("hm").exists()
    tensors, _ = read_tensors(tmp_path / "every" / BEST, made_by="")
    assert "text.stem.word_embeddings.weight" in tensors
    model, shards, _ = load_run(shop.home, tmp_path / "every")
    evaluate_run(shop.home, tmp_path / "every", EvaluateOptions())
    whole = {n: t for n, t in model.named_parameters() if n.startswith(("text.", "vision."))}
    assert whole.keys() <= tensors.keys()
    assert shards.n_items > 0


def test_bf16_on_the_cpu_gives_finite_losses_and_ranks(shop: Any, tmp_path: Path) -> None:
    result = train(shop.home, tmp_path / "bf16", recipe(shop, precision="bf16", epochs=1))
    assert result["best_hr@10"] is not None
    records = curves.read_log(tmp_path / "bf16" / "log.jsonl")
    assert all(np.isfinite(record["loss"]) for record in records if record["kind"] == "step")
    tensors, _ = read_tensors(tmp_path / "bf16" / BEST, made_by="")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_weights_that_are_no_numbers_are_not_saved(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(run: trainer.Trainer, batch: Any) -> None:
        real(run, batch)
        if run.state.step == 3:  # the last of the first epoch
            with torch.no_grad():
                run.model.user_encoder.norm.weight.fill_(torch.nan)

    real = trainer.Trainer._step
    monkeypatch.setattr(trainer.Trainer, "_step", poison)
    with pytest.raises(PmmError, match=r"step 3 left 1 of \d+ weights without a number"):
        train(shop.home, tmp_path / "run", recipe(shop, eval_every=2))
    assert not (tmp_path / "run" / LAST).exists()


def test_a_full_disk_ends_a_run_with_one_message(shop: Any, tmp_path: Path) -> None:
    train(shop.home, tmp_path / "run", recipe(shop, epochs=1))
    (tmp_path / "run" / "log.jsonl").unlink()
    (tmp_path / "run" / "log.jsonl").symlink_to("/dev/full")
    before = (tmp_path / "run" / LAST).read_bytes()
    with pytest.raises(StorageError, match="is full"):
        train(shop.home, tmp_path / "run", recipe(shop, epochs=2), existing="resume")
    assert (tmp_path / "run" / LAST).read_bytes() == before


def test_a_loss_that_is_no_number_ends_the_run_with_its_step(shop: Any, tmp_path: Path) -> None:
    wild = recipe(shop, lr=1e30, encoder_lr=1e30, epochs=5, log_every=1)
    with pytest.raises(PmmError, match=r"step \d+ (is|left) .*lower learning rate"):
        train(shop.home, tmp_path / "wild", wild)


def test_a_folder_with_a_run_is_only_touched_on_request(shop: Any, tmp_path: Path) -> None:
    short = recipe(shop, epochs=1)
    train(shop.home, tmp_path / "run", short)
    before = (tmp_path / "run" / LAST).read_bytes()
    with pytest.raises(InputError, match="--resume to go on with it, --overwrite"):
        train(shop.home, tmp_path / "run", short)
    with pytest.raises(RecipeError, match=r"train.lr was 0.002, is 0.5"):
        train(shop.home, tmp_path / "run", recipe(shop, epochs=1, lr=0.5), existing="resume")
    assert (tmp_path / "run" / LAST).read_bytes() == before
    (tmp_path / "run" / "metrics.json").write_text("{}")
    train(shop.home, tmp_path / "run", recipe(shop, epochs=1, lr=0.5), existing="overwrite")
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert (tmp_path / "run" / LAST).read_bytes() != before


def test_an_encoder_that_does_not_read_the_shards_tokens_is_refused(
    shop: Any, tmp_path: Path
) -> None:
    texts = ["quite another tokenizer", "with other words"] * 9
    text, _ = save_small_encoders(tmp_path / "other", texts, seed=1)
    other = shop.with_options(text=TextSpec(encoder=str(text), train_blocks=1))
    with pytest.raises(InputError, match=r"hold tokens of 'text'.*pmm shard --target HM "):
        train(shop.home, tmp_path / "run", Recipe(target="hm", model=other))


def test_encoders_have_a_rate_of_their_own_and_no_decay(shop: Any) -> None:
    options = TrainOptions(lr=3e-3, encoder_lr=1e-5, weight_decay=0.2)
    groups = {
        each["name"]: each for each in make_optimiser(Pmmrec(shop.options), options).param_groups
    }
    rates = {name: (each["lr"], each["weight_decay"]) for name, each in groups.items()}
    assert rates == {
        **dict.fromkeys(("text", "vision"), (1e-5, 0)),
        **{"rest": (3e-3, 0.2), "norms": (3e-3, 0)},
    }


def test_options_out_of_range_are_named_together_for_a_training() -> None:
    with pytest.raises(ValueError, match="batch_users must be at least 2; lr must be at least 0"):
        TrainOptions(batch_users=1, lr=-1.0)
    with pytest.raises(ValueError, match="batch_users must be at least twice micro_batches"):
        TrainOptions(batch_users=8, micro_batches=5)
    with pytest.raises(ValueError, match="max_steps must be at least 0; encoder_lr must be finite"):
        TrainOptions(max_steps=-1, encoder_lr=float("nan"))
    with pytest.raises(ValueError, match='schedule = "linear" ends at the last epoch'):
        TrainOptions(epochs=0, schedule="linear")
    with pytest.raises(ValueError, match="the run would never end"):
        TrainOptions(epochs=0, patience=0)


def test_a_folder_that_holds_something_else_is_refused(shop: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for existing in ("refuse", "resume", "overwrite"):
        with pytest.raises(InputError, match="holds files but no run"):
            train(shop.home, tmp_path, recipe(shop), existing=existing)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_two_processes_cannot_train_into_one_folder(shop: Any, tmp_path: Path) -> None:
    with (
        run_folder.claim(tmp_path / "run"),
        pytest.raises(StorageError, match="another pmm process trains into"),
    ):
        train(shop.home, tmp_path / "run", recipe(shop))


def test_a_finished_run_can_be_resumed_for_more_epochs(shop: Any, tmp_path: Path) -> None:
    train(shop.home, tmp_path / "run", recipe(shop, epochs=1))
    same = train(shop.home, tmp_path / "run", recipe(shop, epochs=1), existing="resume")
    assert (same["ended"], same["steps"]) == ("epochs", 3)
    more = train(shop.home, tmp_path / "run", recipe(shop, epochs=2), existing="resume")
    assert (more["ended"], more["steps"]) == ("epochs", 6)


def test_a_run_on_former_shards_cannot_be_resumed(shop: Any, tmp_path: Path) -> None:
    train(shop.home, tmp_path / "run", recipe(shop, epochs=1))
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**about, "shards": "former"}))
    (tmp_path / "run" / ".sums" / "run.json").unlink()
    with pytest.raises(StaleArtefact, match="was trained on shards former"):
        train(shop.home, tmp_path / "run", recipe(shop, epochs=2), existing="resume")


def test_a_run_without_an_improvement_at_all_still_has_curves(tmp_path: Path) -> None:
    curves.draw([], tmp_path / "empty.png", title="nothing yet")
    with Image.open(tmp_path / "empty.png") as picture:
        assert picture.size == (1320, 504)


@pytest.fixture
def finished(shop: Any, tmp_path: Path) -> Path:
    train(shop.home, tmp_path / "run", recipe(shop, epochs=1))
    return tmp_path / "run"


def test_a_refused_run_replaces_nothing(shop: Any, finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    nowhere = shop.with_options(vision=VisionSpec(encoder=str(finished / "nowhere")))
    with pytest.raises(InputError, match="no such folder"):
        train(shop.home, finished, Recipe(target="hm", model=nowhere), existing="overwrite")
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_tower_for_pictures_of_another_size_is_refused_at_once(shop: Any, tmp_path: Path) -> None:
    sizes = SmallSizes(width=32, blocks=2, heads=1, picture=64, patch=32)
    _, tower = save_small_encoders(tmp_path / "other", ["a text"], seed=1, sizes=sizes)
    other = shop.with_options(vision=VisionSpec(encoder=str(tower), train_blocks=1))
    with pytest.raises(InputError, match=r"pictures of \(64, 64\), the shards of HM hold 32x32"):
        train(shop.home, tmp_path / "run", Recipe(target="hm", model=other))
    assert [path.name for path in (tmp_path / "run").iterdir()] in ([], [".lock"])


def test_texts_longer_than_the_encoder_reads_are_refused_at_once(
    shop_maker: ModuleType, tmp_path: Path
) -> None:
    shop = shop_maker.open_shop(tmp_path, n_items=12, n_users=8)
    config = Path(shop.options.text.encoder) / "config.json"
    short = json.loads(config.read_text()) | {"max_position_embeddings": 7}
    config.write_text(json.dumps(short))
    seeded = TextSpec(encoder=shop.options.text.encoder, train_blocks=1, random_seed=1)
    model = shop.with_options(text=seeded)
    with pytest.raises(InputError, match=r"texts of up to \d+ tokens.* reads 5 at most.*--max-tok"):
        train(shop.home, tmp_path / "run", Recipe(target="hm", model=model))


def test_too_few_users_are_refused_before_anything_is_written(
    shop_maker: ModuleType, tmp_path: Path
) -> None:
    shop = shop_maker.open_shop(tmp_path, n_items=12, n_users=1)
    with pytest.raises(InputError, match="found 1 users with two training items or more"):
        train(shop.home, tmp_path / "run", recipe(shop))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_log_that_was_cut_off_inside_a_line_goes_on_with_whole_ones(
    shop: Any, finished: Path
) -> None:
    whole = (finished / "log.jsonl").read_bytes()
    (finished / "log.jsonl").write_bytes(whole[:-20])
    train(shop.home, finished, recipe(shop, epochs=2), existing="resume")
    kept = whole.splitlines(keepends=True)[:-1]
    lines = (finished / "log.jsonl").read_bytes().splitlines(keepends=True)
    assert lines[: len(kept)] == kept
    assert {"step", "evaluation"} <= {json.loads(each)["kind"] for each in lines[len(kept) :]}


def test_better_weights_remove_the_metrics_of_the_former(shop: Any, tmp_path: Path) -> None:
    train(shop.home, tmp_path / "run", recipe(shop, epochs=1))
    evaluate_run(shop.home, tmp_path / "run")
    train(shop.home, tmp_path / "run", recipe(shop, epochs=8, patience=0), existing="resume")
    assert read_header(tmp_path / "run" / BEST, made_by="")["step"] > 3
    names = ("metrics.json", "ranks.parquet", "gallery.png")
    assert not [name for name in names if (tmp_path / "run" / name).exists()]


def test_a_damaged_run_json_is_named(shop: Any, finished: Path) -> None:
    (finished / "run.json").write_text('{"comm')
    with pytest.raises(BrokenArtefact, match=r"run.json has other content .*--overwrite"):
        train(shop.home, finished, recipe(shop, epochs=2), existing="resume")


def test_encoders_named_from_the_working_folder_are_found_from_anywhere(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shop.options.text.encoder)
    monkeypatch.chdir(whole.parent)
    near = shop.with_options(text=TextSpec(encoder=whole.name, train_blocks=1))
    options = TrainOptions(epochs=1, batch_users=8)
    train(shop.home, tmp_path / "run", Recipe(target="hm", model=near, train=options))
    monkeypatch.chdir(tmp_path)
    assert load_run(shop.home, tmp_path / "run")[0].options.text.encoder == str(whole)


def test_shards_without_any_picture_train_and_evaluate(
    shop_maker: ModuleType, tmp_path: Path
) -> None:
    shop = shop_maker.open_shop(tmp_path, n_items=12, n_users=8)
    for picture in (tmp_path / "pictures").iterdir():
        picture.write_bytes(b"no picture")
    shop_maker.write_shards(
        shop.home,
        "HM",
        shop_maker.ShardOptions(
            text_encoder=shop.options.text.encoder, picture_size=32, allow_no_pictures=True
        ),
    )
    result = train(shop.home, tmp_path / "run", recipe(shop, epochs=2))
    assert not Shards.of(shop.home, "HM").has_picture.any()
    assert (result["ended"], result["steps"]) == ("epochs", 2)
    assert evaluate_run(shop.home, tmp_path / "run")["model"]["users"] == 8


def test_a_folder_that_cannot_be_written_is_named() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as root:
        run_dir = Path(root) / "run"
        run_dir.mkdir(mode=0o555)
        Path(root).chmod(0o755)
        if user == 0:  # who may write everywhere
            os.seteuid(65534)
        try:
            with (
                pytest.raises(StorageError, match=r"/\.run\.lock cannot be written"),
                run_folder.claim(run_dir),
            ):
                pass
        finally:
            os.seteuid(user)


def test_a_profile_tells_all_of_a_steps_time_and_changes_nothing(
    shop_maker: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pmm")
    shop = shop_maker.open_shop(tmp_path)
    options = TrainOptions(epochs=30, batch_users=4, patience=0, eval_every=30)
    recipe = Recipe(target="HM", model=shop.options, train=options)
    train(shop.home, tmp_path / "plain", recipe)
    assert "ms a step" not in caplog.text
    train(shop.home, tmp_path / "profiled", recipe, profile=True)
    said = "\n".join(caplog.messages)
    table = [line for line in said.splitlines() if line[-3:-2] == "."]
    share = {line[:26].rstrip(): float(line.split()[-1]) for line in table}
    inside = [each for name, each in share.items() if name.startswith("  ")]
    assert sum(inside) == pytest.approx(share["forward"], abs=0.1)
    outside = ("waiting for data", "forward", "backward", "update", "between the steps")
    assert sum(share[name] for name in outside) == pytest.approx(100, abs=0.1)
    assert min(share.values()) >= 0
    assert {"  text, trained blocks", "  fusion", "  user encoder"} <= share.keys()
    one, other = ((tmp_path / run / "log.jsonl").read_text() for run in ("plain", "profiled"))
    losses = [[json.loads(line).get("loss") for line in text.splitlines()] for text in (one, other)]
    assert losses[0] == losses[1]
