"""Stopped anywhere, `pmm paper run` goes on; what has its row is not done again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pmm.errors import BrokenArtefact
from pmm.paper.experiment import Experiment
from pmm.paper.running.campaign import Campaign
from pmm.paper.running.result_rows import ResultRows
from pmm.storage.home import Home

LONG = 30
"""Epochs: some seconds of steps, so that a signal comes in the middle."""
ASKED = ("table3", "--models", "gru4rec")


def rows(home: Home) -> list[dict[str, Any]]:
    path = home.root / "paper" / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def begun(runs: Path, seconds: float = 120) -> Path:
    """The folder of the one run, once it has its first checkpoint."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for found in runs.glob("*/checkpoint"):
            if not found.parent.name.startswith("."):
                return found.parent
        time.sleep(0.02)
    raise AssertionError("no training has begun")


@pytest.fixture
def home(paper_home: Home, tmp_path: Path) -> Home:
    """The data of the other tests, and no runs."""
    for name in ("shards", "targets", "tables", "encoders"):
        (tmp_path / name).symlink_to(paper_home.root / name)
    return Home(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_training_goes_on_where_it_was(home: Home, pmm: Any, number: int) -> None:
    options = ["--home", home.root, "--set", "model.width=16", "--set", "train.save_every=1"]
    # Endless until it is stopped: the length is part of a run's name.
    words = [*ASKED, *options, "--epochs", LONG, "--set", "train.patience=0"]
    command = [sys.executable, "-m", "pmm", "paper", "run", *map(str, words)]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as running:
        run = begun(home.root / "runs")
        os.killpg(running.pid, number)
        status = running.wait(60)
    assert status == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert rows(home) == []
    before = (run / "log.jsonl").read_bytes().count(b"evaluation")
    settled(run)
    pmm("paper", "run", *words)
    (row,) = rows(home)
    assert len(row["valid"]) == LONG
    assert before < LONG
    assert "--resume" in (home.root / "paper" / "logs" / f"{run.name}.txt").read_text() or before


def settled(run: Path) -> None:
    """Wait until the process that trained, whose parent is gone, has stopped by itself."""
    ends, size = time.monotonic() + 30, -1
    while time.monotonic() < ends:
        now = (run / "log.jsonl").stat().st_size
        if now == size:
            return
        size = now
        time.sleep(1)
    raise AssertionError("the training goes on though its parent was killed")


def test_a_run_with_its_row_is_not_done_again_and_one_on_other_data_is(
    home: Home, paper_home: Home, pmm: Any, small: list[str]
) -> None:
    at = small.index(str(paper_home.root))
    words = [*ASKED, *small[:at], str(home.root), *small[at + 1 :]]
    pmm("paper", "run", *words)
    (first,) = rows(home)
    told = pmm("paper", "run", *words)
    assert len(rows(home)) == 1
    assert "All runs are there." in told.stdout
    path = home.root / "paper" / "results.jsonl"
    changed = json.dumps({**first, "data": {"HM": "of before"}})
    path.write_text(changed + "\n" + '{"run": "cut off by a k')
    begun = home.root / "paper" / "begun" / f"{first['run']}.json"
    begun.write_text('{"HM": "of before"}')
    report = pmm("paper", "report", *words).stdout
    assert "Left out, as the data have changed since" in report
    pmm("paper", "run", *words)
    assert len(rows(home)) == 2
    assert rows(home)[-1]["data"] == first["data"]


def test_time_that_is_up_stops_between_runs_and_says_how_to_go_on(home: Home, pmm: Any) -> None:
    words = ["table3", "--models", "gru4rec", "--home", home.root, "--max-minutes", 0.0001]
    told = pmm("paper", "run", *words).stdout
    assert "Time is up. Go on: pmm paper run table3" in told


def test_a_command_that_fails_is_told_with_its_log(home: Home, pmm: Any) -> None:
    words = ["table3", "--models", "gru4rec", "--home", home.root, "--set", "model.width=-1"]
    told = pmm("paper", "run", *words, status=1).stderr
    assert "failed: see" in told
    log = Path(told.split("failed: see ")[1].splitlines()[0])
    assert "width" in log.read_text()


def test_a_start_that_fails_keeps_what_needs_it_from_beginning(home: Home) -> None:
    start = Experiment(stage="pretrain", sources=("HM",))
    after = Experiment(stage="finetune", dataset="HM Shoes", start=start, transfer="full")
    named = {each.name(home): each for each in (start, after)}
    campaign = Campaign(home, named)
    waiting, busy = list(named)[1:], list[Any]()
    campaign._hand_out(waiting, [object()], busy)  # type: ignore[list-item]
    assert (waiting, busy) == (list(named)[1:], [])


def test_a_damaged_row_is_told_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "paper" / "results.jsonl"
    path.parent.mkdir()
    path.write_text('{"run": "a", "data": {}}\nnonsense\n')
    with pytest.raises(BrokenArtefact, match=r"results.jsonl:2 is no row"):
        ResultRows(Home(tmp_path))
