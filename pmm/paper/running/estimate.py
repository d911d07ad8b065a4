"""How long what is missing would take, how much memory and disk: from rows, else measured steps.

A step of a fine-tuning is that of a training from scratch, so one kind of run stands for both.
"""

import json
import logging
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pmm.paper.experiment import Experiment
from pmm.paper.running.campaign import Campaign
from pmm.paper.running.command_processes import Worker
from pmm.paper.running.run_files import folder_bytes, log_records
from pmm.runs.train_options import TrainOptions
from pmm.shards.kinds import Modality
from pmm.storage.home import Home
from pmm.storage.json_files import JSON_ERRORS, parse_json

logger = logging.getLogger(__name__)

STEPS = 5
"""That are measured; the first, which waits for everything, does not count."""
_LONGEST = 600.0
"""Seconds after which a measurement is given up."""
MeasuredCost = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of the runs that are missing."""

    seconds: float
    """Of training, one after the other, if early stopping ended none; without evaluations."""
    peak_bytes: int
    """Of the largest single run."""
    disk_bytes: int
    by_kind: tuple[tuple[str, int, float, str], ...]
    """Kind, runs, seconds of them all, where that is known from."""
    unknown: tuple[str, ...]
    """Kinds that nothing is known of."""


def estimate(campaign: Campaign, *, measure: bool) -> Estimate:
    """What the missing runs of a campaign would take.

    Args:
        campaign: with its rows.
        measure: whether to train a few steps of each kind that nothing is known of.

    Raises:
        MissingArtefact, BrokenArtefact: a dataset cannot be read.
    """
    missing = [campaign.experiments[name] for name in campaign.missing]
    known = _from_rows(campaign.rows.of.values()) | _held(campaign.home)
    kinds = {each.kind: each for each in missing}
    to_measure = [each for kind, each in kinds.items() if measure and kind not in known]
    if to_measure:
        known |= _all_measured(campaign, to_measure)
    by_kind = dict[str, tuple[int, float, str]]()
    for each in missing:
        if (what := known.get(each.kind)) is not None:
            takes = campaign.users_of(each) * _epochs(each) / what["users_per_s"]
            count, before, _ = by_kind.get(each.kind, (0, 0.0, ""))
            by_kind[each.kind] = (count + 1, before + takes, what["from"])
    return Estimate(
        seconds=sum(takes for _, takes, _ in by_kind.values()),
        peak_bytes=max((known[kind]["peak_bytes"] for kind in by_kind), default=0),
        disk_bytes=sum(n * known[kind]["run_bytes"] for kind, (n, _, _) in by_kind.items()),
        by_kind=tuple((kind, *each) for kind, each in by_kind.items()),
        unknown=tuple(sorted(kinds.keys() - known.keys())),
    )


def _from_rows(rows: Any) -> dict[str, MeasuredCost]:
    """Kind -> what its last row says."""
    found: dict[str, MeasuredCost] = {}
    for row in rows:
        epochs = row["valid"][-1][0] if row.get("valid") else 0
        if epochs and row.get("users") and row["seconds"]:
            speed = {"users_per_s": row["users"] * epochs / row["seconds"], "from": "a run"}
            sizes = {key: row[key] for key in ("peak_bytes", "run_bytes")}
            found[row["kind"]] = {**speed, **sizes}
    return found


def _held(home: Home) -> dict[str, MeasuredCost]:
    """Kind -> what was measured before."""
    path = home.root / "paper" / "measured.jsonl"
    found: dict[str, MeasuredCost] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            row = parse_json(line)
            found[row["kind"]] = row
        except JSON_ERRORS:  # cut off by a kill: measured again
            continue
    return found


def _all_measured(campaign: Campaign, experiments: Sequence[Experiment]) -> dict[str, MeasuredCost]:
    """Kind -> what a few steps of it took; those that failed are left out."""
    worker, found = Worker(), dict[str, MeasuredCost]()
    try:
        for experiment in experiments:
            measured = _measure(campaign, experiment, worker)
            if measured is not None:
                found[experiment.kind] = measured
    finally:
        worker.close()
    return found


def _epochs(experiment: Experiment) -> int:
    return int(dict(experiment.values).get("train.epochs", TrainOptions.epochs)) or 1


def _measure(campaign: Campaign, experiment: Experiment, worker: Worker) -> MeasuredCost | None:
    """Train a few steps of a kind of run, remember how long they took, remove what was trained.

    None where that fails: running it will say why.
    """
    home, kind = campaign.home, experiment.kind
    how: dict[str, Any] = {"train.log_every": 1, "train.cache": "off", "train.trackers": []}
    alone = replace(experiment, values=(*experiment.values, *how.items()))
    if experiment.stage == "finetune":
        taken = experiment.transfer
        modality: Modality | None = taken if taken in ("text", "vision") else None
        alone = replace(alone, stage="scratch", start=None, transfer=None, modality=modality)
    name = f"estimate-{alone.digest(home)}"
    words = alone.training(home)
    words[words.index("--name") + 1] = name
    words += ["--overwrite", "--home", str(home.root)]
    words += ["--device", campaign.device] if campaign.device else []
    logger.info("measuring a few steps of: %s", kind)
    try:
        worker.begin(words, home.root / "paper" / "logs" / f"{name}.txt")
        _wait_for_steps(worker, home.run(name) / "log.jsonl")
        if not worker.pipe.poll():
            worker.interrupt()
        peak = worker.ended().peak_bytes
        speeds = _speeds(home.run(name) / "log.jsonl")
        size = folder_bytes(home.run(name))
    finally:
        shutil.rmtree(home.run(name), ignore_errors=True)
    if not speeds:
        return None
    found = {"kind": kind, "users_per_s": statistics.median(speeds[1:] or speeds)}
    found |= {"peak_bytes": peak, "run_bytes": size, "from": f"{len(speeds)} steps"}
    with (home.root / "paper" / "measured.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(found) + "\n")
    return found


def _wait_for_steps(worker: Worker, log: Path) -> None:
    """Until there are enough, or the training has ended by itself, or it takes too long."""
    ends = time.monotonic() + _LONGEST
    while time.monotonic() < ends and not worker.pipe.poll(0.1):
        if log.exists() and log.read_bytes().count(b'"kind": "step"') > STEPS:
            return


def _speeds(log: Path) -> list[float]:
    """Users a second of each step."""
    records = log_records(log) if log.exists() else []
    return [each["users_per_s"] for each in records if each.get("users_per_s")]


def estimate_lines(found: Estimate) -> Sequence[str]:
    """What a person reads of it."""
    lines = [
        f"  {kind}: {runs} run{'s'[: runs != 1]}, {_time(seconds)} (from {source})"
        for kind, runs, seconds, source in found.by_kind
    ]
    if found.unknown:
        lines.append(f"  nothing is known of: {'; '.join(found.unknown)}")
    if found.by_kind:
        lines.append(
            f"Training takes {_time(found.seconds)} at most, one after the other (early stopping "
            f"ends most runs before; evaluations come on top), {found.peak_bytes / 2**30:.1f} GiB "
            f"of memory a run, {found.disk_bytes / 2**20:,.0f} MiB of disk."
        )
    return lines


def _time(seconds: float) -> str:
    """Seconds, or hours from ten minutes on.

    >>> _time(90), _time(7300)
    ('90 s', '2.0 h')
    """
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 3600:,.1f} h"
