"""The evaluations of any runs by epoch, over one another: a picture, or rows for a spreadsheet."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pmm.comparison.comparison_options import CurvesRequest, file_to_write, named_runs
from pmm.errors import InputError, MissingArtefact
from pmm.evaluate.report import MEASURES
from pmm.runs.folder import LOG
from pmm.runs.loading import command_to_train_again
from pmm.storage.artefact import atomic_file, storage_errors
from pmm.train.curves import draw_validation, read_log

_KINDS = {"valid": "", "valid, with popularity": "mixed_", "test": "test_"}
"""What an evaluation has of each metric -> how its entry begins."""


def overlay_as_asked(request: CurvesRequest) -> str:
    """Write what a request asks for; what was written, in a line.

    Raises:
        InputError: a run is named twice, or its log has no evaluation, or the file cannot be one.
        MissingArtefact: a run has no log. BrokenArtefact: a log is damaged.
        StorageError: the file cannot be written.
    """
    place = file_to_write(request.to)
    runs = {
        name: _evaluations(run) for name, (_, run) in named_runs(request.home, request.runs).items()
    }
    with storage_errors(place, "--to"):
        if place.suffix.lower() == ".csv":
            with atomic_file(place) as temporary:
                temporary.write_text(_rows(runs), encoding="utf-8")
        else:
            draw_validation(runs, place, title="", measure=request.metric, test=request.test)
    points = sum(map(len, runs.values()))
    return f"{request.to}: {len(runs)} runs, {points} evaluations"


def _evaluations(run: Path) -> list[dict[str, Any]]:
    again = f"Run: {command_to_train_again(run)}"
    if not (run / LOG).is_file():
        raise MissingArtefact(f"{run} has no {LOG}, so it has no curve. {again}")
    found = [each for each in read_log(run / LOG) if each["kind"] == "evaluation"]
    if not found:
        raise InputError(f"{run} has not been evaluated while it trained yet. {again}")
    return found


def _rows(runs: Mapping[str, list[dict[str, Any]]]) -> str:
    """A row for each run, epoch and kind of ranking; metrics are fractions."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "epoch", "step", "items", *MEASURES])
    for name, records in runs.items():
        for record in records:
            for kind, prefix in _KINDS.items():
                values = [record.get(f"{prefix}{measure}") for measure in MEASURES]
                if any(each is not None for each in values):
                    writer.writerow([name, record["epoch"], record.get("step"), kind, *values])
    return text.getvalue()
