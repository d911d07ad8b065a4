"""Epoch 0 and the test items by epoch: recorded for curves, and chosen by in nothing."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.runs.checkpoint import LAST
from pmm.runs.folder import Log
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.train import trainer
from pmm.train.curves import _draw_ranking
from pmm.train.train_run import train
from pmm.tune.search import _ndcg

TIMES = {"crc32", "users_per_s", "waiting", "seconds"}
BOTH = {"eval_start": True, "eval_test": True}


def recipe(shop: Any, **changes: Any) -> Recipe:
    usual = {"epochs": 3, "batch_users": 8, "lr": 2e-3, "encoder_lr": 1e-3, "log_every": 1}
    options = TrainOptions(**{**usual, "save_every": 2, "patience": 2, **changes})
    return Recipe(target="HM", model=shop.options, train=options)


def log(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def evaluations(run_dir: Path) -> list[dict[str, Any]]:
    return [each for each in log(run_dir) if each["kind"] == "evaluation"]


def weights(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return read_tensors(run_dir / name, made_by="")[0]


@pytest.fixture(scope="module")
def recorded(shop: Any) -> Path:
    run_dir = shop.home.run("recorded")
    train(shop.home, run_dir, recipe(shop, **BOTH))
    return run_dir


def test_nothing_but_the_record_depends_on_them(shop: Any, recorded: Path, tmp_path: Path) -> None:
    train(shop.home, tmp_path / "plain", recipe(shop))
    for name in (BEST, LAST):
        one, other = weights(recorded, name), weights(tmp_path / "plain", name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    plain, without = log(tmp_path / "plain"), []
    for each in log(recorded):
        if each.get("epoch") != 0:
            without.append({k: v for k, v in each.items() if not k.startswith("test_")})
    assert without == plain
    assert not any(key.startswith("test_") for each in plain for key in each)


def test_test_items_that_would_choose_another_epoch_choose_nothing(
    shop: Any, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test items are made to look perfect at first, and ever worse."""
    rank_all, said = trainer.Trainer._rank, list[float]()

    def spoil(self: trainer.Trainer, asked: Any) -> Any:
        found = rank_all(self, asked)
        for (options, _), summaries in zip(asked, found, strict=True):
            if options.split == "test":
                said.append(1.0 - 0.1 * len(said))
                summaries[0] |= {"hr@10": said[-1], "ndcg@10": said[-1]}
        return found

    monkeypatch.setattr(trainer.Trainer, "_rank", spoil)
    train(shop.home, tmp_path / "spoilt", recipe(shop, **BOTH))
    assert [each["test_hr@10"] for each in evaluations(tmp_path / "spoilt")] == said
    assert len(said) == 4
    one, other = weights(recorded, BEST), weights(tmp_path / "spoilt", BEST)
    assert all(torch.equal(one[key], other[key]) for key in one)
    best = [each["best"] for each in evaluations(recorded)]
    assert [each["best"] for each in evaluations(tmp_path / "spoilt")] == best


def test_epoch_zero_is_that_of_the_weights_before_any_step(
    shop: Any, recorded: Path, tmp_path: Path
) -> None:
    first, *later = evaluations(recorded)
    assert (first["epoch"], first["step"], first["best"], first["waited"]) == (0, 0, None, 0)
    assert [each["epoch"] for each in later] == [1, 2, 3]
    train(shop.home, tmp_path / "still", recipe(shop, epochs=1, lr=0.0, encoder_lr=0.0, **BOTH))
    measured = ("hr@10", "ndcg@10", "hr@50", "cold_hr@10", "test_hr@10", "test_ndcg@50")
    start, end = evaluations(tmp_path / "still")
    for name in measured:  # weights that never move
        assert start[name] == end[name] == first[name]
    assert first["ndcg@10"] != later[-1]["ndcg@10"]


def test_the_test_items_are_ranked_as_the_saved_model_ranks_them(shop: Any, recorded: Path) -> None:
    header = read_tensors(recorded / BEST, made_by="")[1]
    at_best = next(e for e in evaluations(recorded) if e["epoch"] == header["epoch"])
    found = evaluate_run(shop.home, recorded, EvaluateOptions(gallery_users=0))["model"]
    for name in ("hr@10", "ndcg@10", "ndcg@50"):
        assert at_best[f"test_{name}"] == pytest.approx(found[name], abs=1e-6)


def test_epoch_zero_is_neither_marked_as_the_best_nor_a_trials_result(tmp_path: Path) -> None:
    """It had the same HR@10 as the best, or a better one, and its weights are not kept."""
    usual = {"kind": "evaluation", "popularity_hr@10": 0.1}
    records = [
        usual | {"step": 0, "epoch": 0, "hr@10": 0.5, "ndcg@10": 0.4},
        usual | {"step": 9, "epoch": 1, "hr@10": 0.5, "ndcg@10": 0.3},
    ]
    log_file = Log(tmp_path / "log.jsonl", 0)
    for each in records:
        log_file.write(each)
    log_file.close()
    assert _ndcg(tmp_path, 0.5) == 0.3
    for found, wanted in ((records, [(1, 50.0)]), (records[:1], [])):
        axes = Figure().subplots()
        _draw_ranking(axes, found)
        assert [each.xy for each in axes.texts] == wanted


def killed_before(step: int) -> Callable[..., None]:
    real = trainer.Trainer._step

    def cut(self: trainer.Trainer, batch: Any) -> None:
        if self.state.step == step:
            raise KilledRun
        real(self, batch)

    return cut


class KilledRun(BaseException):
    """Nothing in the program catches this."""


@pytest.mark.parametrize("step", [0, 1, 4])
def test_a_killed_run_resumes_to_the_same_log_and_bits(
    shop: Any, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", killed_before(step))
        with pytest.raises(KilledRun):
            train(shop.home, tmp_path / "run", recipe(shop, **BOTH))
    torch.manual_seed(step)
    train(shop.home, tmp_path / "run", recipe(shop, **BOTH), existing="resume")
    assert log(tmp_path / "run") == log(recorded)
    for name in (BEST, LAST):
        one, other = weights(recorded, name), weights(tmp_path / "run", name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_ctrl_c_during_the_evaluation_at_the_start_has_it_done_on_resume(
    shop: Any, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate_mixes", press)
        stopped = train(shop.home, tmp_path / "run", recipe(shop, **BOTH))
    assert (stopped["ended"], stopped["steps"]) == ("interrupted", 0)
    assert evaluations(tmp_path / "run") == []
    train(shop.home, tmp_path / "run", recipe(shop, **BOTH), existing="resume")
    assert log(tmp_path / "run") == log(recorded)
