"""results.jsonl: one row a finished run, with all that somebody needs to make it again."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pmm.errors import BrokenArtefact
from pmm.paper.experiment import Experiment
from pmm.paper.running.command_processes import CommandEnd
from pmm.paper.running.run_files import folder_bytes, log_records, sha256
from pmm.storage.artefact import storage_errors
from pmm.storage.home import Home
from pmm.storage.json_files import JSON_ERRORS, parse_json, read_json
from pmm.version import __version__

ROWS = "paper/results.jsonl"
FLOORS = ("popularity", "item kNN", "random")
"""What of an evaluation needs no training."""


class ResultRows:
    """The rows of a home folder, the last of each run."""

    def __init__(self, home: Home) -> None:
        """Read them; a line that a kill cut off at the end is left out.

        Raises:
            BrokenArtefact: a line is no row.
        """
        self.path = home.root / ROWS
        self.of: dict[str, dict[str, Any]] = {}
        content = self.path.read_bytes() if self.path.exists() else b""
        lines = content.split(b"\n")
        self._whole = len(content) - len(lines[-1])
        for number, line in enumerate(lines[:-1], start=1):
            try:
                row = parse_json(line)
                self.of[str(row["run"])] = row
            except JSON_ERRORS as error:
                raise BrokenArtefact(
                    f"{self.path}:{number} is no row ({error}): delete the line, and its run is "
                    "evaluated again"
                ) from error

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row behind the others; StorageError where that fails."""
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(self._whole)
                file.seek(self._whole)
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                self._whole = file.tell()
        self.of[str(row["run"])] = dict(row)

    def fits(self, name: str, data: Mapping[str, str]) -> bool:
        """Whether a run has its row, of the data that is there now."""
        return name in self.of and self.of[name]["data"] == dict(data)


def made_row(
    home: Home,
    experiment: Experiment,
    data: Mapping[str, str],
    told: Mapping[str, Any],
    trained: CommandEnd,
) -> dict[str, Any]:
    """The row of a run that is trained and, if it has a dataset of its own, evaluated.

    Args:
        home: where the run is.
        experiment: what was asked for.
        data: dataset -> digest, of all that decided it.
        told: the commands and what was measured of the evaluation.
        trained: how the training ended.

    Raises:
        BrokenArtefact: run.json or metrics.json cannot be read.
    """
    name = experiment.name(home)
    folder, again = home.run(name), "Run the same command again"
    about = read_json(folder / "run.json", again=again)
    row: dict[str, Any] = {"run": name, "stage": experiment.stage, "seed": experiment.seed}
    row |= {"model": experiment.model, "dataset": experiment.dataset, "data": dict(data)}
    row |= {"items": dict(experiment.values).get("model.items", "")}
    row |= {"commit": commit(), "pmm": __version__, "hardware": about["hardware"]}
    row |= {"objectives": experiment.objectives or "", "preset": experiment.preset or ""}
    row |= {"modality": experiment.modality or "", "transfer": experiment.transfer or ""}
    row |= {"seconds": round(trained.seconds, 1), "cpu_seconds": round(trained.cpu_seconds, 1)}
    row |= {"peak_bytes": trained.peak_bytes, "run_bytes": folder_bytes(folder), **told}
    row |= {"parameters": about["parameters"], **_steps(folder)}
    row["ranks"] = {path.name: sha256(path) for path in sorted(folder.glob("ranks*.parquet"))}
    if experiment.dataset:
        found = read_json(folder / "metrics.json", again=again, needs=["model"])
        row["metrics"] = _metrics(found)
        row["floors"] = {who: _plain(found[who]) for who in FLOORS if who in found}
    return row


def _steps(folder: Path) -> dict[str, Any]:
    """Steps, epochs and validation by epoch, from the log."""
    records = log_records(folder / "log.jsonl")
    steps = [each["step"] for each in records if "step" in each]
    valid = [
        [each["epoch"], round(float(each["hr@10"]), 6)]
        for each in records
        if each.get("kind") == "evaluation"
    ]
    return {"steps": max(steps, default=0), "valid": valid}


def _metrics(found: Mapping[str, Any]) -> dict[str, Any]:
    """Figures without a share of popularity, with the chosen one, and of cold items."""
    measured: dict[str, Any] = {"none": _plain(found["model"])}
    for name, mix in found.get("popularity_mix", {}).items():
        measured[name] = {"alpha": mix["alpha"], **_plain(mix)} if name != "none" else _plain(mix)
    for part, rankings in found.get("cold_start", {}).items():
        if isinstance(rankings, dict):
            measured[f"cold, {part}"] = _plain(rankings["model"])
    return measured


def _plain(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a summary without its parts."""
    return {n: v for n, v in summary.items() if isinstance(v, int | float) and n != "kappa"}


def commit() -> str:
    """The short commit of the checkout that runs, with a + where files differ; else the version."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude", "*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return f"pmm {__version__}"
    return found.stdout.strip()
