"""What a transfer gave or cost is told beside the same training from scratch, good or bad."""

import dataclasses
import math
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pmm.cli import main
from pmm.evaluate.compare import Difference
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.evaluate.transfer_gain import (
    find_scratch,
    independent_difference,
    told,
    told_after_training,
    verdict,
)
from pmm.inspect import describe
from pmm.runs.loading import saved_recipe
from pmm.runs.recipe import Recipe
from pmm.runs.request import TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_header, read_tensors, write_tensors
from pmm.storage.home import Home
from pmm.storage.schemas import RANKS, read_table, write_table
from pmm.storage.seal import SEALS
from pmm.train.train_run import train

TRAIN = TrainOptions(epochs=1, batch_users=8, lr=2e-3, patience=5)
SHORT = EvaluateOptions(gallery_users=0)


@pytest.fixture(scope="module")
def made(shop_maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A pre-trained run, a transfer of it, and the same training from scratch; evaluated."""
    shop = shop_maker.open_shop(tmp_path_factory.mktemp("shop"), n_items=20, n_users=16)
    shop.add_target("Kwai", n_items=14, n_users=30)
    home: Home = shop.home
    pre = Recipe(stage="pretrain", sources=("HM",), model=shop.options, train=TRAIN)
    train(home, home.run("pre"), pre)
    request = TrainRequest(
        stage="finetune", target="Kwai", start=home.run("pre"), home=home.root, epochs=1
    )
    found = resolve_run(home, home.run("moved"), request, {})
    moved = dataclasses.replace(found, train=TRAIN)
    train(home, home.run("moved"), moved)
    # As somebody trains who says nothing: the width is the encoder's, the patience the default.
    options = dataclasses.replace(moved.model, width=0)
    alone = dataclasses.replace(TRAIN, patience=10)
    train(home, home.run("alone"), Recipe(target="Kwai", model=options, train=alone))
    return home


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    shutil.copytree(made.root, tmp_path / "home")
    return Home(tmp_path / "home")


def change(home: Home, name: str, as_: str, **changes: Any) -> None:
    """One more run from scratch, whose recipe says something else."""
    shutil.copytree(home.run(name), home.run(as_))
    path = home.run(as_) / "recipe.toml"
    text = path.read_text()
    for key, (before, after) in changes.items():
        assert f"{key} = {before}\n" in text
        text = text.replace(f"{key} = {before}\n", f"{key} = {after}\n")
    path.write_text(text)
    (home.run(as_) / SEALS / path.name).unlink(missing_ok=True)
    saved_recipe(home.run(as_))  # which is whole, or it would be passed by for that


def found(home: Home) -> Any:
    run = home.run("moved")
    return find_scratch(run, saved_recipe(run))


def test_the_run_from_scratch_is_found_by_its_recipe(home: Home) -> None:
    scratch = found(home)
    assert scratch.run_dir.name == "alone"
    assert scratch.differs == ("patience 10, here 5",)
    assert str(scratch) == "alone (there patience 10, here 5)"


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": ("0.002", "0.001")},
        {"batch_users": ("8", "16")},
        {"user_blocks": ("1", "2")},
        {"width": ("0", "64")},
        {"negatives": ('"batch"', '"source"')},
        {"target": ('"Kwai"', '"HM"')},
    ],
)
def test_a_run_of_another_recipe_is_none(home: Home, changes: Any) -> None:
    change(home, "alone", "other", **changes)
    shutil.rmtree(home.run("alone"))
    assert found(home) is None


def test_runs_of_other_shards_damaged_or_without_weights_are_none(home: Home) -> None:
    run = home.run("alone")
    about = (run / "run.json").read_text()
    (run / "run.json").write_text(about.replace('"shards": "', '"shards": "0'))
    assert found(home) is None
    (run / "run.json").write_text(about)
    assert found(home) is not None
    (run / BEST).unlink()
    assert found(home) is None
    (run / "recipe.toml").write_text("no recipe")
    assert found(home) is None


def test_of_several_the_one_that_differs_least_counts(home: Home) -> None:
    change(home, "alone", "longer", epochs=("1", "9"))
    change(home, "alone", "aseed", seed=("0", "3"), patience=("10", "5"))
    change(home, "alone", "same", patience=("10", "5"))
    assert (found(home).run_dir.name, found(home).differs) == ("same", ())
    shutil.rmtree(home.run("same"))
    assert found(home).run_dir.name == "alone"
    shutil.rmtree(home.run("alone"))
    assert found(home).run_dir.name == "longer", "another seed is the last resort"


def put_rank(home: Home, name: str, rank: Callable[[np.ndarray], np.ndarray]) -> None:
    """Ranks as they might have been."""
    path = home.run(name) / "ranks.parquet"
    table = read_table(path, RANKS)
    ranks = pa.array(rank(table["user"].to_numpy()).astype(np.int32))
    table = table.set_column(table.schema.names.index("rank"), "rank", ranks)
    shutil.rmtree(path.parent / SEALS)
    write_table(path, table, RANKS)


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (1, 11, "HR@10 0.00 from scratch, 100.00 transferred: +100.00 (95% interval +100.00 .. "),
        (11, 1, "HR@10 100.00 from scratch, 0.00 transferred: -100.00 (95% interval -100.00 .. "),
        (1, 1, "HR@10 100.00 from scratch, 100.00 transferred: +0.00 (95% interval +0.00 .. "),
    ],
)
def test_better_and_worse_are_told_with_their_interval(
    home: Home, now: int, before: int, said: str
) -> None:
    for name, rank in (("moved", now), ("alone", before)):
        evaluate_run(home, home.run(name), SHORT)
        put_rank(home, name, lambda user, rank=rank: np.full(len(user), rank))
    lines = told(home.run("moved"))
    assert lines[0] == (
        "moved, full transfer from pre, against alone (there patience 10, here 5) from scratch:"
    )
    assert lines[1].startswith(f"  test items: {said}")
    words = {1: "the transfer helped", -1: "NEGATIVE TRANSFER, scratch is better"}
    sign = int(np.sign(before - now))
    assert lines[1].endswith(words.get(sign, "equal to scratch, but within chance"))
    assert "NDCG@10" in lines[2]
    assert "\n".join(lines) in describe(home.run("moved"))
    assert told(home.run("alone")) == told(home.run("pre")) == []


def test_parts_that_only_one_was_evaluated_on_name_the_command(home: Home) -> None:
    assert (
        told(home.run("moved"))[1] == f"  not evaluated yet. Run: pmm evaluate {home.run('moved')}"
    )
    evaluate_run(home, home.run("moved"), dataclasses.replace(SHORT, cold=True))
    evaluate_run(home, home.run("alone"), SHORT)
    lines = told(home.run("moved"))
    assert [line.split(":")[0] for line in lines[1:]] == [
        *("  test items", "  test items", "  cold cuts, held out")
    ]
    assert lines[-1].endswith(f"Run: pmm evaluate {home.run('alone')} --cold")


def test_after_training_the_validation_items_are_compared(home: Home) -> None:
    run, other = home.run("moved"), home.run("alone")
    now = read_header(run / BEST, made_by="")["valid_hr@10"]
    for before in (now, 1.0, 0.0):
        tensors, about = read_tensors(other / BEST, made_by="")
        write_tensors(other / BEST, tensors, {**about, "valid_hr@10": before})
        heading, line = told_after_training(home, run)
        assert heading.startswith("moved, full transfer from pre, against alone")
        assert f"HR@10 {100 * before:.2f} from scratch, {100 * now:.2f} transferred" in line
        assert f": {100 * (now - before):+.2f} (95% interval " in line
    assert told_after_training(home, other) == []


def test_without_a_run_from_scratch_the_command_is_told_and_makes_it(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home.run("alone"))
    (line,) = told_after_training(home, home.run("moved"))
    assert told(home.run("moved")) == [line]
    assert line.startswith("what the transfer gave or cost is not known: no run from scratch")
    command = shlex.split(line.partition("Run: ")[2])
    assert command[:3] == ["pmm", "train", "--stage"]
    with pytest.raises(SystemExit) as ended:
        main(command[1:])
    assert ended.value.code == 0
    made = saved_recipe(home.run("moved-scratch"))
    assert (made.stage, made.start, made.train) == ("scratch", None, TRAIN)
    scratch = found(home)
    assert (scratch.run_dir.name, scratch.differs) == ("moved-scratch", ())
    # And the commands that train and evaluate a transfer say what it gave.
    capsys.readouterr()
    moved = home.run("moved")
    start = saved_recipe(moved).start
    assert start is not None
    options = ["--from", start.run, "--recipe", str(moved / "recipe.toml"), "--resume"]
    for typed in (
        ["train", "--stage", "finetune", "--target", "Kwai", "--name", "moved", *options],
        ["evaluate", str(moved)],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*typed, "--home", str(home.root)])
        assert ended.value.code == 0
        assert "against moved-scratch from scratch:" in capsys.readouterr().out


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.5, 0.4), (1.0, 1.0), (0.1, 0.9)])
def test_the_interval_of_two_shares_covers_the_difference_as_often_as_it_says(
    shares: tuple[float, float],
) -> None:
    """Draws of hits with known chances: the interval holds the true difference in 95%."""
    rng, n = np.random.default_rng(0), 200
    hits = rng.binomial(n, shares, size=(2000, 2)) / n
    held = 0
    for one, two in hits.tolist():
        each = independent_difference("hr@10", one, two, questions=n)
        held += each.low <= shares[1] - shares[0] <= each.high
    assert held / 2000 >= 0.93
    widest = independent_difference("hr@10", 0.5, 0.5, questions=n)
    assert widest.high == pytest.approx(1.96 * math.sqrt(0.5 / (n + 2)), rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.03, "the transfer helped"),
        (-0.01, 0.03, "above scratch, but within chance"),
        (-0.03, 0.01, "below scratch, but within chance"),
        (-0.03, -0.01, "NEGATIVE TRANSFER, "),
    ],
)
def test_what_an_interval_means_is_said_in_words(low: float, high: float, said: str) -> None:
    second = 0.5 + (low + high) / 2
    each = Difference(name="hr@10", first=0.5, second=second, low=low, high=high)
    assert verdict(each).startswith(said)
