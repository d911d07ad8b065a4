"""The rows of a comparison of encoders: what one is, where they stand, and the table of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pmm.errors import BrokenArtefact
from pmm.runs.folder import read_records
from pmm.storage.artefact import atomic_file, storage_errors
from pmm.text_table import text_table

ROWS, TABLE = "encoders.jsonl", "encoders.parquet"
"""Below `comparisons/<target>/`: a record for each encoder that was timed and each run, written
through at once; and the runs as a table."""

_TEXTS = ("modality", "text", "vision", "run", "key", "hardware")
_NUMBERS = (
    *("valid_hr@10", "hr@10", "ndcg@10", "alpha", "hr@10_chosen", "ndcg@10_chosen"),
    *("cold_hr@10", "cold_ndcg@10", "vectors_seconds", "train_seconds"),
)
_COUNTS = ("seed", "parameters", "parameter_bytes", "width", "cold_cuts")
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in _TEXTS),
        *(pa.field(name, pa.int64()) for name in _COUNTS),
        *(pa.field(name, pa.float64()) for name in _NUMBERS),
        pa.field("vectors_timed_whole", pa.bool_(), nullable=False),
    ]
)
"""Of the table: a run a row. Metrics are shares; what there is nothing of is null."""
_OF_ENCODER = {"side", "encoder", "mark", "items", "device", "seconds", "whole", "width"}
_OF_ENCODER |= {"parameters", "parameter_bytes"}


def read_comparison(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is known of encoders, and the rows.

    Raises:
        BrokenArtefact: a record is none of a comparison.
    """
    encoders, rows = list[dict[str, Any]](), list[dict[str, Any]]()
    if not path.is_file():
        return encoders, rows
    for number, record in enumerate(read_records(path, path.read_bytes()), start=1):
        kind, needed = record.pop("kind", None), set(SCHEMA.names)
        if kind == "encoder" and record.keys() >= _OF_ENCODER:
            encoders.append(record)
        elif kind == "row" and record.keys() == needed:
            rows.append(record)
        else:
            raise BrokenArtefact(
                f"{path}:{number} is no record of a comparison. Delete the file and run the same "
                "command again: runs that are whole are not trained anew"
            )
    return encoders, rows


def write_comparison(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as a table, the best first.

    Raises:
        StorageError: the folder cannot be written, or the disk is full.
    """
    table = pa.Table.from_pylist([dict(each) for each in best_first(rows)], schema=SCHEMA)
    with storage_errors(path), atomic_file(path) as temporary:
        pq.write_table(table, temporary)


def best_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """By the mean of the validation items' HR@10 over seeds; runs of one choice stay together."""
    groups = _by_choice(rows)
    means = {choice: _mean(group, "valid_hr@10") or 0.0 for choice, group in groups.items()}
    order = sorted(groups, key=lambda choice: (-means[choice], choice))
    return [row for choice in order for row in sorted(groups[choice], key=lambda r: r["seed"])]


def encoders_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each choice of encoders, the best first, means over seeds; metrics times 100.

    Seconds of vectors with a "~" are those of some items, scaled up.
    """
    several = max((len(group) for group in _by_choice(rows).values()), default=1) > 1
    header = ["encoders", *(["seeds"] if several else []), "valid HR@10"]
    header += ["HR@10", "NDCG@10", "alpha", "HR@10, chosen", "NDCG@10, chosen", "HR@10, cold"]
    header += ["vectors s", "training s", "parameters, M", "MB", "width"]
    lines = []
    for (modality, text, vision), group in _by_choice(best_first(rows)).items():
        sides = [Path(each).name for each in (text, vision) if each]
        metrics = [_percent(group, name) for name in ("valid_hr@10", "hr@10", "ndcg@10")]
        metrics.append(_mean(group, "alpha"))
        chosen = ("hr@10_chosen", "ndcg@10_chosen", "cold_hr@10")
        metrics += [_percent(group, name) for name in chosen]
        whole = all(row["vectors_timed_whole"] for row in group)
        seconds = f"{'' if whole else '~'}{_mean(group, 'vectors_seconds') or 0:,.1f}"
        first = group[0]
        line: list[object] = [f"{modality}: {' + '.join(sides)}"]
        line += [len(group)] if several else []
        line += [*metrics, seconds, _mean(group, "train_seconds")]
        line += [first["parameters"] / 1e6, first["parameter_bytes"] / 1e6, first["width"]]
        lines.append(line)
    return text_table(header, lines)


_Choice = tuple[str, str, str]


def _by_choice(rows: Sequence[Mapping[str, Any]]) -> dict[_Choice, list[Mapping[str, Any]]]:
    """Modality and encoders -> runs that differ in their seeds."""
    found: dict[_Choice, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["modality"], row["text"] or "", row["vision"] or ""), []).append(row)
    return found


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return fmean(values) if values else None


def _percent(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    mean = _mean(rows, name)
    return None if mean is None else 100 * mean
