"""A run that was stopped anywhere and resumed is the run that was not stopped, bit by bit."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pmm.data.training_set import TrainingSet
from pmm.errors import PmmError, RecipeError
from pmm.runs.checkpoint import LAST
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.train import trainer
from pmm.train.train_run import memory_errors, train

TIMES = {"crc32", "users_per_s", "waiting", "seconds"}


def recipe(shop: Any, **changes: Any) -> Recipe:
    """Four epochs of three steps, checkpoints every second step, learning rates that move."""
    usual = {"epochs": 4, "batch_users": 8, "lr": 2e-3, "encoder_lr": 1e-3}
    usual |= {"warmup_steps": 3, "schedule": "linear"}
    options = TrainOptions(**{**usual, "log_every": 1, "save_every": 2, **changes})
    return Recipe(target="HM", model=shop.options, train=options)


@pytest.fixture(scope="module")
def whole(shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    train(shop.home, run_dir, recipe(shop))
    return run_dir


def log(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_equal_runs(one: Path, other: Path) -> None:
    for name in (BEST, LAST):
        tensors, about = read_tensors(one / name, made_by="")
        others, about_other = read_tensors(other / name, made_by="")
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, others[key]), f"{name}: {key}"
        for key in ("seconds", "log_bytes"):  # times differ, and so does their length in the log
            about.get("state", {}).pop(key, None)
            about_other.get("state", {}).pop(key, None)
        assert about == about_other
    assert log(one) == log(other)


def stop_before(step: int, how: Callable[[], None]) -> Callable[..., None]:
    """A step function that is cut off once."""
    real, done = trainer.Trainer._step, []

    def cut(self: trainer.Trainer, batch: Any) -> None:
        if self.state.step == step and not done:
            done.append(step)
            how()
        real(self, batch)

    return cut


class Killed(BaseException):
    """Nothing in the program catches this."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize("step", [0, 1, 2, 3, 4, 6, 8, 11])
def test_a_killed_run_resumes_to_the_same_bits_for_content(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", stop_before(step, kill))
        with pytest.raises(Killed):
            train(shop.home, tmp_path / "run", recipe(shop))
    torch.manual_seed(step)  # the state of the generator is no part of a run
    train(shop.home, tmp_path / "run", recipe(shop), existing="resume")
    assert_equal_runs(tmp_path / "run", whole)


def test_a_run_killed_twice_in_one_epoch_and_while_it_saves_resumes_to_the_same_bits(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.save_state

    def cut_off(run_dir: Path, *rest: Any, **named: Any) -> None:
        (run_dir / "checkpoint").mkdir(exist_ok=True)
        (run_dir / "checkpoint" / ".tmp-last.safetensors").write_bytes(b"half of it")
        real(run_dir, *rest, **named) if rest[2].step < 8 else kill()

    for step, existing in ((4, "refuse"), (5, "resume")):
        with monkeypatch.context() as patch:
            patch.setattr(trainer.Trainer, "_step", stop_before(step, kill))
            with pytest.raises(Killed):
                train(shop.home, tmp_path / "run", recipe(shop), existing=existing)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_state", cut_off)
        with pytest.raises(Killed):
            train(shop.home, tmp_path / "run", recipe(shop), existing="resume")
    train(shop.home, tmp_path / "run", recipe(shop), existing="resume")
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.parametrize("step", [0, 2, 4])
def test_ctrl_c_saves_after_the_step_in_hand(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def press() -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", stop_before(step, press))
        stopped = train(shop.home, tmp_path / "run", recipe(shop))
    assert (stopped["ended"], stopped["steps"]) == ("interrupted", step + 1)
    assert signal.getsignal(signal.SIGINT) is before
    train(shop.home, tmp_path / "run", recipe(shop), existing="resume")
    assert_equal_runs(tmp_path / "run", whole)


def test_ctrl_c_during_an_evaluation_evaluates_again_on_resume(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate_mixes", press)
        stopped = train(shop.home, tmp_path / "run", recipe(shop))
    assert (stopped["ended"], stopped["steps"]) == ("interrupted", 3)
    assert not [record for record in log(tmp_path / "run") if record["kind"] == "evaluation"]
    train(shop.home, tmp_path / "run", recipe(shop), existing="resume")
    assert_equal_runs(tmp_path / "run", whole)


def test_the_loss_scaler_of_fp16_is_part_of_the_state(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = recipe(shop, precision="fp16", epochs=2)
    train(shop.home, tmp_path / "whole", half)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", stop_before(5, kill))
        with pytest.raises(Killed):
            train(shop.home, tmp_path / "run", half)
    train(shop.home, tmp_path / "run", half, existing="resume")
    _, about = read_tensors(tmp_path / "run" / LAST, made_by="")
    assert about["state"]["scaler"]["scale"] > 1
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


CHILD = """
import sys
from pathlib import Path
from pmm.storage.home import Home
from pmm.storage.toml import read_recipe, resolve
from pmm.train.train_run import (train)
from pmm.runs.recipe import (Recipe)
recipe = resolve(Recipe, read_recipe(Path(sys.argv[3])))
train(Home(Path(sys.argv[1])), Path(sys.argv[2]), recipe)
"""


def test_a_process_that_is_killed_outright_resumes_to_the_same_bits(
    shop: Any, whole: Path, tmp_path: Path
) -> None:
    run_dir, named = tmp_path / "run", whole / "recipe.toml"
    arguments = [str(shop.home.root), str(run_dir), str(named)]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (run_dir / LAST).exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.001)
    child.kill()
    child.wait()
    assert (run_dir / LAST).exists()
    train(shop.home, run_dir, recipe(shop), existing="resume")
    assert_equal_runs(run_dir, whole)


def test_ctrl_c_while_the_best_weights_are_saved_counts_the_evaluation_once(
    shop: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.save_weights

    def press(*rest: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        real(*rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_weights", press)
        stopped = train(shop.home, tmp_path / "run", recipe(shop))
    assert (stopped["ended"], stopped["steps"]) == ("interrupted", 3)
    train(shop.home, tmp_path / "run", recipe(shop), existing="resume")
    assert_equal_runs(tmp_path / "run", whole)


def test_a_full_accelerator_is_told_with_a_smaller_batch() -> None:
    with pytest.raises(PmmError, match="--batch-users 32"), memory_errors(64):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_more_epochs_are_refused_where_the_learning_rate_falls_towards_the_last(
    shop: Any, whole: Path
) -> None:
    with pytest.raises(RecipeError, match=r"train\.epochs was 4, is 5"):
        train(shop.home, whole, recipe(shop, epochs=5), existing="resume")


def test_the_learning_rates_of_all_groups_rise_and_fall(shop: Any, tmp_path: Path) -> None:
    options = recipe(shop).train
    data = TrainingSet([shop.shards()])
    made = trainer.Trainer(tmp_path, data, shop.options, options)
    seen = []
    for _ in range(12):
        made._step(data.collate(data.rows(np.arange(8), seed=0, epoch=0, length=7)))
        seen.append([group["lr"] for group in made.optimiser.param_groups])
    encoder, rest = seen[3][0], seen[3][-1]
    assert (encoder, rest) == (1e-3, 2e-3)
    assert seen[0] == pytest.approx([each / 4 for each in seen[3]])
    assert seen[11] == pytest.approx([each / 9 for each in seen[3]])
