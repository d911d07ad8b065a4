"""Encoders compared on frozen vectors: what a row says, what is not done again, what is refused."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pmm.check.check_runs import check_comparisons
from pmm.cli import main
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.errors import BrokenArtefact, InputError
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model.encoders.specs import TextSpec
from pmm.model.text_encoders.load_text import load_text
from pmm.runs.loading import saved_recipe
from pmm.runs.request import EncodersRequest
from pmm.storage.home import Home
from pmm.train import trainer
from pmm.train.train_run import train
from pmm.tune import compare_encoders as module
from pmm.tune.compare_encoders import compare_as_asked
from pmm.tune.encoder_rows import encoders_table

SIZES = SmallSizes(width=32, blocks=2, heads=2, vocabulary=300, picture=32, patch=16)
SET = ("model.max_length=6", "model.width=16", "model.user_blocks=1", "train.lr=2e-3")
TIMES = {"vectors_seconds", "train_seconds", "vectors_timed_whole"}


@dataclasses.dataclass(frozen=True)
class Place:
    """A home, and encoders: the shop's own, and one of texts that splits words otherwise."""

    home: Home
    own: str
    other: str
    vision: str

    def asked(self, **changes: Any) -> EncodersRequest:
        usual = {"text_encoder": (self.own, self.other), "vision_encoder": (self.vision,)}
        usual |= {"target": "hm", "home": self.home.root, "set": SET, "epochs": 2, "batch_users": 8}
        return EncodersRequest(**{**usual, **changes})


@pytest.fixture
def place(shop: Any, tmp_path: Path) -> Place:
    for part in ("shards", "targets"):
        shutil.copytree(shop.home.root / part, tmp_path / "home" / part)
    words = ["article one sort two", "other words in another order"] * 4
    other, _ = save_small_encoders(tmp_path / "other", words, seed=2, sizes=SIZES)
    options = shop.options
    return Place(Home(tmp_path / "home"), options.text.encoder, str(other), options.vision.encoder)


def told(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found["rows"]]


def test_each_row_is_what_a_training_of_its_recipe_comes_to(place: Place, tmp_path: Path) -> None:
    found = compare_as_asked(place.asked(), command="as typed")
    rows = found["rows"]
    assert found["ended"] == "all"
    assert {(row["modality"], row["text"], row["vision"]) for row in rows} == {
        ("text", place.own, None),
        ("text", place.other, None),
        ("vision", None, place.vision),
        ("both", place.own, place.vision),
        ("both", place.other, place.vision),
    }
    assert len({row["key"] for row in rows}) == len(rows) == 5
    assert [row["valid_hr@10"] for row in rows] == sorted(
        (row["valid_hr@10"] for row in rows), reverse=True
    )
    for row in rows[:1]:
        recipe = saved_recipe(place.home.run(row["run"]))
        assert (recipe.model.items, recipe.train.epochs) == ("vectors", 2)  # type: ignore[attr-defined]
        again = train(place.home, tmp_path / row["run"], recipe)
        assert again["best_hr@10"] == row["valid_hr@10"]
        metrics = evaluate_run(place.home, tmp_path / row["run"], EvaluateOptions(cold=True))
        assert metrics["model"]["ndcg@10"] == row["ndcg@10"]
        assert metrics["popularity_mix"]["chosen"]["hr@10"] == row["hr@10_chosen"]
        assert metrics["cold_start"]["held_out"]["model"]["hr@10"] == row["cold_hr@10"]
    assert pq.read_table(found["table"]).to_pylist() == rows


def test_sizes_are_those_of_the_encoders_that_are_read(place: Place) -> None:
    found = compare_as_asked(place.asked(text_encoder=(place.own,), epochs=1))
    encoder = load_text(TextSpec(encoder=place.own, train_blocks=0))
    rows = {row["modality"]: row for row in found["rows"]}
    assert rows["text"]["parameters"] == sum(each.numel() for each in encoder.parameters())
    assert rows["text"]["parameter_bytes"] == 4 * rows["text"]["parameters"]
    assert rows["text"]["width"] == encoder.width
    for name in ("parameters", "width", "vectors_seconds"):
        assert rows["both"][name] == pytest.approx(rows["text"][name] + rows["vision"][name])
    for row in rows.values():  # a training's seconds are rounded to tenths, and this one is short
        assert row["vectors_seconds"] > 0
        assert 0 <= row["train_seconds"] < 600
        assert row["vectors_timed_whole"]


def test_what_was_compared_is_not_done_again_but_other_weights_or_options_are(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = place.asked(vision_encoder=(), text_encoder=(place.other,))
    (first,) = compare_as_asked(asked)["rows"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", None)
        assert compare_as_asked(asked)["rows"] == [first]
        assert compare_as_asked(dataclasses.replace(asked, device="cpu"))["rows"] == [first]
    (second,) = compare_as_asked(dataclasses.replace(asked, epochs=1))["rows"]
    assert second["key"] != first["key"]
    shutil.rmtree(place.other)
    words = ["article one sort two", "yet other words"] * 4
    save_small_encoders(tmp_path / "other", words, seed=3, sizes=SIZES)
    (third,) = compare_as_asked(asked)["rows"]
    assert third["key"] not in (first["key"], second["key"])
    assert len(pq.read_table(place.home.comparisons("hm") / "encoders.parquet")) == 3
    own = place.home.run("HM encoders mine")
    own.mkdir()
    (own / "kept").touch()
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", None)
        with pytest.raises(TypeError):
            compare_as_asked(dataclasses.replace(asked, overwrite=True))
    assert not (place.home.run(first["run"]) / "recipe.toml").exists()
    assert (own / "kept").exists()


def test_a_comparison_that_was_cut_off_comes_to_the_same_rows(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = place.asked(vision_encoder=(), seed=(0, 1))
    real, done = trainer.Trainer._step, list[bool]()

    def step(self: Any, batch: Any) -> None:
        done.append(True)
        if len(done) == 8:
            raise KeyboardInterrupt
        real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            compare_as_asked(asked)
    found = compare_as_asked(asked)
    assert [row["seed"] for row in found["rows"]] == [0, 1, 0, 1]
    shutil.rmtree(place.home.root / "runs")
    shutil.rmtree(place.home.comparisons("hm"))
    again = compare_as_asked(asked)
    assert told(again) == told(found)
    assert all(row["vectors_timed_whole"] for row in found["rows"])
    assert not any(row["vectors_timed_whole"] for row in again["rows"])  # they were there
    assert "~" in encoders_table(again["rows"])
    assert "~" not in encoders_table(found["rows"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modality": ("sound",)}, "--modality sound: there are text, vision, both"),
        ({"text_encoder": ("nowhere/at-all",)}, "nowhere/at-all"),
        ({"target": "hn"}, 'unknown target "hn"'),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_is_trained(
    place: Place, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        compare_as_asked(place.asked(**changes))
    assert not (place.home.root / "runs").exists()


def test_rows_of_something_else_are_refused(place: Place) -> None:
    folder = place.home.comparisons("hm")
    folder.mkdir(parents=True)
    (folder / "encoders.jsonl").write_text('{"kind": "row", "key": "a"}\n')
    with pytest.raises(BrokenArtefact, match=r"no record of a comparison.*Delete the file"):
        compare_as_asked(place.asked())


def test_the_command_prints_the_table_and_where_it_stands(
    place: Place, capsys: pytest.CaptureFixture[str], run_main: Callable[..., int]
) -> None:
    words = ["encoders", "compare", "--target", "HM", "--home", str(place.home.root)]
    words += ["--text-encoder", place.own, "--epochs", "1", "--batch-users", "8"]
    words += [word for each in SET for word in ("--set", each)]
    assert run_main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["encoders", "valid", "HR@10"]
    assert lines[1].startswith("text: text ")
    (finding,) = check_comparisons(place.home)
    assert (finding.kind, finding.state) == ("comparison", "whole")
    file = place.home.comparisons("hm") / "encoders.jsonl"
    file.write_text(file.read_text().replace('"width": 32', '"width": 33'))
    (finding,) = check_comparisons(place.home)
    assert finding.state == "damaged"
    assert "encoders.jsonl" in finding.why
    assert finding.run.startswith(f"rm {file} && pmm encoders compare --target hm")
    assert lines[-1] == f"Written to {place.home.comparisons('hm') / 'encoders.parquet'}"


@pytest.fixture
def run_main() -> Callable[..., int]:
    def call(words: list[str]) -> int:
        with pytest.raises(SystemExit) as ended:
            main(words)
        return int(ended.value.code or 0)

    return call
