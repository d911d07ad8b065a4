"""A training watched in TensorBoard, Weights & Biases and MLflow."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pmm.errors import InputError
from pmm.evaluate.evaluation import evaluate_run
from pmm.runs import trackers
from pmm.runs.recipe import Recipe
from pmm.runs.trackers import require_trackers, scalars_of
from pmm.runs.train_options import TrainOptions
from pmm.train.train_run import train

OPTIONS = TrainOptions(epochs=2, batch_users=10, log_every=1, save_every=2, patience=0)


@pytest.fixture(scope="module")
def shop(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return shop_maker.open_shop(tmp_path_factory.mktemp("shop"))


def run(shop: Any, place: Path, *, existing: Any = "refuse", **changed: Any) -> list[dict]:
    options = dataclasses.replace(OPTIONS, **changed)
    train(
        shop.home, place, Recipe(target="HM", model=shop.options, train=options), existing=existing
    )
    return [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]


def shown(place: Path) -> tuple[dict[str, list[tuple[int, float]]], list[str]]:
    """The points by tag, and the tags of pictures, as TensorBoard reads the folder."""
    found = EventAccumulator(str(place), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    tags = found.Tags()
    points = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags["scalars"]}
    return points, tags["images"]


def logged(records: list[dict]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in scalars_of(record).items():
            found.setdefault(name, []).append((record["step"], pytest.approx(value)))  # float32
    return found


def without_rates(points: dict[str, Any]) -> dict[str, Any]:
    return {tag: each for tag, each in points.items() if not tag.startswith("lr/")}


def test_tensorboard_shows_what_the_log_holds_and_the_first_batch(
    shop: Any, tmp_path: Path
) -> None:
    records = run(shop, tmp_path / "one")
    points, pictures = shown(tmp_path / "one")
    assert {"train/loss", "valid/hr_at_10", "speed/users_per_s"} <= points.keys()
    assert without_rates(points) == logged(records)
    assert len(points["lr/rest"]) == len(points["train/loss"])
    assert pictures == ["first_batch"]


def test_no_tracker_changes_the_weights_or_the_log(shop: Any, tmp_path: Path) -> None:
    varies = ("users_per_s", "waiting", "seconds", "crc32")
    logs = [
        [
            {name: value for name, value in record.items() if name not in varies}
            for record in run(shop, tmp_path / name, trackers=names)
        ]
        for name, names in (("with", ("tensorboard",)), ("without", ()))
    ]
    assert logs[0] == logs[1]
    best = [
        (tmp_path / n / "checkpoint/best.safetensors").read_bytes() for n in ("with", "without")
    ]
    assert best[0] == best[1]
    assert not list((tmp_path / "without").glob("events.*"))


@pytest.mark.parametrize("steps", [1, 3, 4, 5])
def test_a_killed_run_that_is_resumed_shows_each_point_once(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    place = tmp_path / "run"
    picture = trackers.TrackedLog.write

    def killed(log: Any, record: dict, *beside: Any) -> None:
        picture(log, record, *beside)
        if record["step"] == steps:
            raise RuntimeError("killed")

    monkeypatch.setattr(trackers.TrackedLog, "write", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(shop, place)
    monkeypatch.undo()
    records = run(shop, place, existing="resume")
    points, pictures = shown(place)
    assert without_rates(points) == logged(records)
    assert pictures == ["first_batch"]


def test_overwriting_a_run_leaves_none_of_its_points(shop: Any, tmp_path: Path) -> None:
    run(shop, tmp_path / "run")
    records = run(shop, tmp_path / "run", existing="overwrite", epochs=1)
    assert without_rates(shown(tmp_path / "run")[0]) == logged(records)


def test_an_evaluation_shows_its_gallery_and_metrics_once(shop: Any, tmp_path: Path) -> None:
    place = tmp_path / "run"
    run(shop, place)
    for _ in range(2):
        metrics = evaluate_run(shop.home, place)["model"]
    points, pictures = shown(place)
    assert pictures == ["first_batch", "gallery/test"]
    assert [value for _, value in points["test/hr_at_10"]] == [pytest.approx(metrics["hr@10"])]
    run(shop, place, existing="overwrite")
    assert shown(place)[1] == ["first_batch"]


def test_trackers_may_change_on_resume(shop: Any, tmp_path: Path) -> None:
    run(shop, tmp_path / "run", epochs=1, trackers=())
    run(shop, tmp_path / "run", existing="resume")
    assert shown(tmp_path / "run")[0]["train/loss"]


def test_a_tracker_that_is_not_installed_is_refused_with_the_command(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name != "tensorboard" else name)
    with pytest.raises(
        InputError, match=r"asks for wandb, mlflow, .* pip install wandb mlflow-skinny"
    ):
        run(shop, tmp_path / "run", trackers=("tensorboard", "wandb", "mlflow"))
    assert not (tmp_path / "run").exists()
    require_trackers(("tensorboard",))


class Calls(list[Any]):
    def record(self, name: str) -> Callable[..., None]:
        return lambda *args, **named: self.append((name, args, named))


def test_weights_and_biases_is_given_what_the_log_holds(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a module that records the calls; the test below has the real one where it is there."""
    calls, asked = Calls(), []
    made = SimpleNamespace(log=calls.record("log"), finish=calls.record("finish"))
    fake: Any = ModuleType("wandb")
    fake.Image = lambda path: path
    fake.init = lambda **named: asked.append(named) or made
    fake.__spec__ = SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    records = run(shop, tmp_path / "run", trackers=("wandb",), epochs=1)
    records += run(shop, tmp_path / "run", trackers=("wandb",), existing="resume")[len(records) :]
    assert [(each["resume"], each["name"]) for each in asked] == [("allow", "run")] * 2
    assert asked[0]["id"] == asked[1]["id"]
    assert asked[0]["config"]["train"]["epochs"] == 1
    given = [(args[0], named["step"]) for name, args, named in calls if name == "log"]
    assert given[0] == ({"first_batch": str(tmp_path / "run" / "first_batch.png")}, 0)
    assert [step for _, step in given[1:]] == [record["step"] for record in records]
    assert given[1][0].items() >= scalars_of(records[0]).items()
    assert sum(name == "finish" for name, *_ in calls) == 2


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_itself_takes_a_run_offline(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(shop, tmp_path / "run", trackers=("wandb",), epochs=1)
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1


@pytest.mark.filterwarnings("ignore")
def test_mlflow_holds_each_point_once_over_a_resume(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run(shop, tmp_path / "run", trackers=("mlflow",), epochs=1)
    records = run(shop, tmp_path / "run", trackers=("mlflow",), existing="resume")
    key = json.loads((tmp_path / "run" / "trackers.json").read_text())["mlflow"]
    client = tracking.MlflowClient()
    losses = [(each.step, each.value) for each in client.get_metric_history(key, "train/loss")]
    assert losses == logged(records)["train/loss"]
    assert client.get_run(key).data.params["train.batch_users"] == "10"
    assert [each.path for each in client.list_artifacts(key)] == ["first_batch.png"]
    assert client.get_run(key).info.status == "FINISHED"


def test_a_tracker_that_does_not_start_is_told_without_a_traceback(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake: Any = ModuleType("wandb")
    fake.init = lambda **_: 1 / 0
    fake.__spec__ = SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(InputError, match=r"train.trackers: wandb does not start \(division"):
        run(shop, tmp_path / "run", trackers=("tensorboard", "wandb"))
