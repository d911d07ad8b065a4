"""Signals in any command: one message, the right status, and advice that leads on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pmm.cli import main
from pmm.evaluate.evaluation import evaluate_run
from pmm.model.baselines.sasrec import SasrecOptions
from pmm.runs.recipe import Recipe
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_header
from pmm.train import train_run, trainer
from pmm.train.train_run import train


def send(number: int) -> Any:
    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    return stop


def ended(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(each) for each in words])
    return int(left.value.code or 0)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("words", "inside"),
    [
        (("shard", "--target", "HM"), "pmm.shards.write.write_shards"),
        (("cache", "--target", "HM"), "pmm.train.train_run.store_as_asked"),
        (("evaluate", "x"), "pmm.evaluate.evaluation.evaluate_as_asked"),
        (("inspect", "x"), "pmm.inspect.describe"),
        (("train", "--target", "HM"), "pmm.train.train_run.train_as_asked"),
        (("tune", "--target", "HM", "--budget", "1"), "pmm.tune.search.tune_as_asked"),
    ],
)
def test_a_signal_is_one_message_and_its_own_status(
    shop: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
    words: tuple[str, ...],
    inside: str,
) -> None:
    former = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("PMM_HOME", str(shop.home.root))
    monkeypatch.setattr(inside, send(number))
    assert ended(*words) == status
    said = capsys.readouterr()
    assert said.err == "Stopped. Run the same command to go on.\n"
    assert said.out == ""
    assert signal.getsignal(signal.SIGTERM) is former


def test_sigterm_in_a_process_of_its_own(tmp_path: Path) -> None:
    program = (
        "import os, signal, pmm.inspect\n"
        "pmm.inspect.describe = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from pmm.cli import main\n"
        "main(['inspect', '.'])"
    )
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert child.returncode == 143
    assert child.stderr == "Stopped. Run the same command to go on.\n"


def ids(shop: Any, name: str, **changes: Any) -> tuple[Any, Path, Recipe]:
    options = {"epochs": 3, "batch_users": 8, "lr": 1e-2, "encoder_lr": 1e-2, "patience": 0}
    model = SasrecOptions(width=8, max_length=4, user_blocks=1)
    recipe = Recipe(target="HM", model=model, train=TrainOptions(**{**options, **changes}))
    return shop.home, shop.home.run(name), recipe


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("twice", [False, True])
def test_a_stopped_training_says_to_resume_and_does(
    shop: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
    twice: bool,
) -> None:
    words = ["train", "--target", "HM", "--model", "sasrec", "--epochs", "2"]
    words += ["--name", f"twice {twice} {number}", "--home", str(shop.home.root)]
    real = trainer.Trainer._step

    def step(self: Any, batch: Any) -> None:
        real(self, batch)
        for _ in range(1 + twice):
            signal.raise_signal(number)

    monkeypatch.setattr(sys, "argv", ["pmm", *words, "--overwrite"])
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", step)
        assert ended(*words, "--overwrite") == status
    said = capsys.readouterr()
    told = said.err if twice else said.out
    assert "Run the same command" not in said.err
    (line,) = [each for each in told.splitlines() if "Go on" in each]
    assert "--overwrite" not in line
    assert line.endswith("--resume")
    assert ended(*words) == 1  # what the old advice was
    assert ended(*words, "--resume") == 0


def test_a_second_ctrl_c_in_a_search_goes_on_without_overwrite(
    shop: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")

    def twice(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    words = ["tune", "--target", "HM", "--model", "sasrec", "--budget", "1", "--epochs", "1"]
    words += ["--home", str(shop.home.root), "--overwrite"]
    monkeypatch.setattr(sys, "argv", ["pmm", *words])
    monkeypatch.setattr(trainer.Trainer, "_step", twice)
    assert ended(*words) == 130
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "Go on" in each]
    assert "--overwrite" not in line


@pytest.mark.parametrize("patience", [0, 1])
def test_a_lost_best_checkpoint_is_written_again_and_the_run_stays_over(
    shop: Any, caplog: pytest.LogCaptureFixture, patience: int
) -> None:
    home, run_dir, recipe = ids(
        shop, f"lost-{patience}", patience=patience, epochs=40 * patience or 2
    )
    first = train(home, run_dir, recipe)
    (run_dir / BEST).unlink()
    again = train(home, run_dir, recipe, existing="resume")
    assert "is gone" in caplog.text
    assert (again["ended"], again["steps"]) == (first["ended"], first["steps"])
    assert read_header(run_dir / BEST, made_by="")["valid_hr@10"] == again["best_hr@10"]
    assert evaluate_run(home, run_dir, device="cpu")["step"] == first["steps"]
    caplog.clear()
    third = train(home, run_dir, recipe, existing="resume")
    assert (third["steps"], third["best_hr@10"]) == (first["steps"], again["best_hr@10"])
    assert "is gone" not in caplog.text


def test_an_output_that_is_full_is_one_message(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    (tmp_path / "a.json").write_text('{"a": [' + "1, " * 20_000 + "1]}")
    for words in (["--version"], ["--help"], ["inspect", "a.json"]):
        with full.open("w") as output:
            child = subprocess.run(
                [sys.executable, "-m", "pmm", *words],
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                cwd=tmp_path,
            )
        assert child.returncode == 1, words
        (line,) = child.stderr.splitlines()
        assert line.startswith("Error: the output cannot be written (No space left on device)")


def test_a_reader_that_has_enough_is_no_error_to_tell(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [' + "1, " * 50_000 + "1]}")
    command = f"{sys.executable} -m pmm inspect a.json | head -1"
    child = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (child.stdout, child.stderr) == ("a.json\n", "")


def test_signs_that_the_output_lacks_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"title": "鞋 Café"}', encoding="utf-8")
    child = subprocess.run(
        [sys.executable, "-m", "pmm", "inspect", "a.json"],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert (child.returncode, child.stderr) == (0, b"")
    assert '"title": "? Café"'.encode("cp1252") in child.stdout


def test_an_unwritable_current_folder_costs_the_sheet_alone(
    shop: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pmm.shards import contact_sheet

    def denied(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path.with_name(".tmp-x")))

    place = shop.home.shards("HM")
    monkeypatch.setattr(contact_sheet, "sheet_of_shards", lambda _place, path: denied(path))
    assert ended("inspect", place) == 0
    said = capsys.readouterr().out
    assert "offsets.parquet" in said
    assert "no contact sheet" in said.splitlines()[-1]
    assert ended("inspect", place, "--sheet", shop.home.root) == 1
    assert "is a folder" in capsys.readouterr().err
    assert ended("inspect", place, "--sheet", shop.home.root / "sheet.png") == 1
    assert capsys.readouterr().err.startswith("Error: --sheet ")


def test_the_shards_that_a_search_was_begun_on_are_the_only_ones_that_do(shop: Any) -> None:
    home, run_dir, recipe = ids(shop, "made-on")
    with pytest.raises(train_run.StaleArtefact, match="changed: they were 01234567"):
        train(home, run_dir, recipe, made_on="0123456789")
    assert not run_dir.exists()
