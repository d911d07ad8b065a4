"""The comparison on real H&M data: what is run, what is not run again, and the table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import SYSTEMS
from benchmarks.hm_systems import COLUMNS, SEEDS, Systems, figures, options_of, table
from pmm.storage.home import Home

TRIALS = [
    {"hr@10": 0.1, "run": "one"},
    {"hr@10": 0.3, "run": "two"},
    {"hr@10": None, "run": "three"},
    {"hr@10": 0.9, "run": "beyond the budget"},
]


def measured(hits: float, cold: float = 0.0) -> dict[str, Any]:
    """As metrics.json has it."""
    values = {"hr@10": hits, "ndcg@10": hits / 2}
    whole = {**values, "new": values, "buckets": [{"train_count": "0", **values}]}
    cuts = {"model": {"hr@10": cold}, "popularity": {"hr@10": 0.0}}
    found = {"model": whole, "popularity": whole, "step": 7, "epoch": 3}
    return {**found, "cold_start": {"held_out": cuts, "all": cuts}}


@pytest.fixture
def systems(tmp_path: Path) -> Systems:
    return Systems(home=Home(tmp_path), path=tmp_path / "rows.jsonl", text_encoder=Path("texts"))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands, which only leave what is read of them."""
    commands: list[list[str]] = []

    def command(self: Systems, _: str, arguments: Sequence[str]) -> None:
        commands.append(list(arguments))
        if arguments[0] == "tune":
            folder = self.home.tuning("HM") / "sasrec"
            folder.mkdir(parents=True)
            lines = "".join(json.dumps(trial) + "\n" for trial in TRIALS)
            (folder / "trials.jsonl").write_text(lines)
        if arguments[0] == "evaluate":
            Path(arguments[1]).mkdir(parents=True, exist_ok=True)
            (Path(arguments[1]) / "metrics.json").write_text(json.dumps(measured(0.25, 0.125)))

    monkeypatch.setattr(Systems, "_pmm", command)
    return commands


def test_the_best_trial_is_the_first_seed_and_the_others_have_its_options(
    systems: Systems, ran: list[list[str]]
) -> None:
    systems.chain("sasrec")
    assert [command[0] for command in ran] == ["tune", "evaluate", *["train", "evaluate"] * 5]
    assert ran[1][1] == str(systems.home.run("two"))
    best = str(systems.home.tuning("HM") / "sasrec" / "best.toml")
    trained = [command for command in ran if command[0] == "train"]
    assert all(best in command for command in trained)
    assert ["model.loss=full" in command for command in trained] == [False] * 2 + [True] * 3
    assert [row["seed"] for row in systems.rows()] == [*SEEDS, *SEEDS]
    assert systems.rows()[0]["trials"] == TRIALS[:3]


def test_a_row_that_is_there_is_not_made_again(systems: Systems, ran: list[list[str]]) -> None:
    systems.chain("sasrec")
    rows = systems.rows()
    systems.path.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:2], *rows[3:]]))
    systems.home.run("sasrec-2").mkdir(exist_ok=True)
    del ran[:]
    systems.chain("sasrec")
    assert [command[0] for command in ran] == ["train", "evaluate"]
    assert "--resume" in ran[0]
    assert len(systems.rows()) == 2 * len(SEEDS)


@pytest.mark.parametrize("model", SYSTEMS)
def test_only_systems_that_read_content_are_given_an_encoder(model: str) -> None:
    reads = model not in ("sasrec", "gru4rec", "nextitnet")
    assert ("--text-encoder" in options_of(model, Path("texts"))) == reads


def test_the_figures_of_each_column_come_from_their_place() -> None:
    found = figures(measured(0.25, 0.125))
    assert found["model"] == [0.25, 0.125, 0.25, 0.25, 0.125, 0.125]
    assert found["popularity"][-2:] == [0.0, 0.0]


def test_the_table_has_the_best_first_and_what_is_above_pmmrec_in_bold() -> None:
    n = len(COLUMNS)
    rows: list[dict[str, Any]] = [
        {"model": "pmmrec", "figures": {"model": [0.2] * n, "popularity": [0.01] * n}},
        {"model": "pmmrec", "figures": {"model": [0.3] * n, "popularity": [0.01] * n}},
        {"model": "vqrec", "figures": {"model": [0.4, 0.1, *[0.25] * (n - 2)]}},
        {"model": "fdsa", "variant": "full softmax", "figures": {"model": [0.005] * n}},
    ]
    lines = table(rows).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| VQ-Rec",
        "| PMMRec",
        "| popularity",
        "| FDSA, full softmax",
    ]
    assert lines[2].split(" | ")[1:4] == ["**40.00 (1)**", "10.00 (1)", "25.00 (1)"]
    assert lines[4].split(" | ")[1] == "1.00"
