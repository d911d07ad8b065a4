"""Rows of campaigns before `pmm paper`: claims.jsonl and hm_systems.jsonl, read and summed up.

They name their runs by hand and hold no digests of ranks, so they stand beside the tables, in none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pmm.errors import InputError
from pmm.statistics.over_seeds import interval_text, over_seeds
from pmm.storage.json_files import JSON_ERRORS, parse_json

_COLUMNS = ("hr@10", "ndcg@10", "chosen")


def former_rows(path: Path) -> list[list[str]]:
    """Dataset, run, seeds, HR@10, NDCG@10 and HR@10 with the chosen share, per cent with interval.

    A line a run of all its seeds, in the file's order; rows without figures (searches,
    pre-trainings) are left out.

    Raises:
        InputError: the file cannot be read, or has a line that is no row.
    """
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = parse_json(line)
            about, figures = _figures(row)
        except (*JSON_ERRORS, IndexError) as error:
            raise InputError(f"{path}:{number} is no row of a former campaign ({error})") from error
        if figures:
            found.setdefault(about, []).append(figures)
    return [
        [dataset, run, str(len(seeds)), *(_interval(seeds, column) for column in _COLUMNS)]
        for (dataset, run), seeds in found.items()
    ]


def _lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def _figures(row: Mapping[str, Any]) -> tuple[tuple[str, str], dict[str, float]]:
    """What a row is about, and its figures; none of a row that measured nothing."""
    if "run" in row:
        about = (str(row.get("target", "")), str(row["run"]))
        measured = dict(row.get("test", {}))
        chosen = row.get("mix", {}).get("chosen", {})
        measured |= {"chosen": chosen["hr@10"]} if "hr@10" in chosen else {}
    else:  # of hm_systems.jsonl, whose figures stand in the order of its columns
        about = ("HM", " ".join(filter(None, [row["model"], row.get("variant", "")])))
        figures = row["figures"]["model"]
        measured = {"hr@10": figures[0], "ndcg@10": figures[1]}
    return about, {name: float(measured[name]) for name in _COLUMNS if name in measured}


def _interval(seeds: list[dict[str, float]], column: str) -> str:
    values = [each[column] for each in seeds if column in each]
    if not values:
        return ""
    spread = over_seeds(values)
    return interval_text(spread.mean, spread.half, times=100)
