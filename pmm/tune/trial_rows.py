"""The rows of a search, trials.jsonl: one JSON record a finished trial."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pmm.errors import BrokenArtefact
from pmm.runs.folder import Log, read_records
from pmm.storage.artefact import storage_errors
from pmm.storage.dotted_names import short_name, written
from pmm.text_table import text_table

_COLUMNS = {"number", "state", "parameters", "hr@10", "ndcg@10", "steps", "epochs", "seconds"}
_COLUMNS |= {"run", "hardware", "seen"}
"""What every row has; finished ones also best_epoch, failed ones also error."""


def open_rows(path: Path) -> Log:
    """Open for appending; a line that a kill cut off is dropped, its trial has a run to go on."""
    with storage_errors(path):
        return Log(path, path.stat().st_size if path.is_file() else 0)


def read_rows(path: Path, known: Collection[str]) -> list[dict[str, Any]]:
    """The finished trials.

    Args:
        path: of the rows.
        known: names of the parameters that the search has.

    Raises:
        BrokenArtefact: they are not those of this search, one after the other.
    """
    rows = read_records(path, path.read_bytes())
    for number, row in enumerate(rows, start=1):
        if not _is_row(row, number) or not row["parameters"].keys() <= set(known):
            raise BrokenArtefact(
                f"{path}:{number} is no row of trial {number}. Search again with --overwrite"
            )
    return rows


def _is_row(row: Mapping[str, Any], number: int) -> bool:
    """Whether a record has what every row has, of the right kinds."""
    if not row.keys() >= _COLUMNS or row["number"] != number:
        return False
    numbers = [row[name] for name in ("hr@10", "ndcg@10", "steps", "epochs")]
    finished = row["state"] == "finished"
    kinds = (int, float) if finished else (int, float, type(None))
    return (
        row["state"] in ("finished", "failed")
        and isinstance(row["parameters"], dict)
        and all(isinstance(each, kinds) for each in numbers)
    )


def best_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The finished row with the highest HR@10; of equal ones the first."""
    finished = [row for row in rows if row["state"] == "finished"]
    return max(finished, key=value_of, default=None)


def value_of(row: Mapping[str, Any]) -> float:
    """A row's validation HR@10, below 0 where it failed."""
    return -1.0 if row["hr@10"] is None else float(row["hr@10"])


def trials_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a search, the best first and failed ones last; metrics times 100.

    >>> row = {"number": 1, "state": "finished", "hr@10": 0.25, "ndcg@10": 0.125, "epochs": 3}
    >>> print(trials_table([{**row, "seconds": 9.5, "parameters": {"train.lr": 1e-3}}]))
    trial  HR@10  NDCG@10  epochs  seconds     lr
    1      25.00    12.50       3     9.50  0.001
    """
    paths = list(dict.fromkeys(path for row in rows for path in row["parameters"]))
    header = ["trial", "HR@10", "NDCG@10", "epochs", "seconds", *map(short_name, paths)]
    lines = []
    for row in sorted(rows, key=lambda each: -value_of(each)):
        metrics = [None if row[name] is None else 100 * row[name] for name in ("hr@10", "ndcg@10")]
        mark = "" if row["state"] == "finished" else " failed"
        said = [written(row["parameters"].get(path)) for path in paths]
        lines.append([f"{row['number']}{mark}", *metrics, row["epochs"], row["seconds"], *said])
    return text_table(header, lines)
