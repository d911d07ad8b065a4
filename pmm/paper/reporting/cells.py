"""The numbers of a report's cells, from the files that the cells name alone: no torch, no training.

A cell is a JSON object: what it is about, the files that hold its ranks (or a card, or a log), and
under "found" what was computed of them. The report computes it, `pmm paper verify` does so again.

Shape legend: U users, S seeds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmm.errors import BrokenArtefact
from pmm.paper.running.run_files import log_records, sha256
from pmm.statistics.holm import holm
from pmm.statistics.over_seeds import over_seeds
from pmm.statistics.paired import wilcoxon
from pmm.statistics.values import gains, hits
from pmm.storage.schemas import RANKS, read_table

LEVEL = 0.05
"""A difference is beyond noise where its corrected p-value is below."""

KIND = "report of the paper's tables"
"""What the facts of a report say that they are."""

CellFacts = dict[str, Any]
ByUser = tuple[NDArray[Any], NDArray[Any]]
"""Users [U], and what each adds to a metric, the mean of his questions [U]."""


class CellFiles:
    """The files of cells, each read once."""

    def __init__(self, root: Path) -> None:
        """Args: root: the home folder that paths begin at."""
        self.root = root
        self.digest_of = cache(self._digest)
        self._ranks_of = cache(self._ranks)
        self.by_user = cache(self._by_user)

    def _digest(self, path: str) -> str:
        """sha256 of a file; "" where it is not there."""
        whole = self.root / path
        return sha256(whole) if whole.is_file() else ""

    def _ranks(self, path: str) -> tuple[NDArray[Any], NDArray[Any]]:
        table = read_table(self.root / path, RANKS, ["user", "rank"])
        return table["user"].to_numpy(), table["rank"].to_numpy()

    def _by_user(self, path: str, metric: str) -> ByUser:
        """Of a file of ranks; errors as `read_table`."""
        user_Q, rank_Q = self._ranks_of(path)
        user_U, index_Q = np.unique(user_Q, return_inverse=True)
        sums_U = np.bincount(index_Q, weights=gained(rank_Q, metric))
        return user_U, sums_U / np.bincount(index_Q)

    def mean(self, path: str, metric: str) -> float:
        """HR or NDCG of all questions of a file of ranks."""
        return float(gained(self._ranks_of(path)[1], metric).mean())

    def card(self, path: str) -> dict[str, Any]:
        """The statistics of a target's card; BrokenArtefact where it has none."""
        try:
            found: dict[str, Any] = json.loads((self.root / path).read_bytes())["statistics"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BrokenArtefact(f"{self.root / path} is no card of a target ({error})") from error
        return found

    def curve(self, path: str) -> list[list[float | None]]:
        """Epoch, HR@10 on the validation items and, if recorded, on the test items."""
        return [
            [each["epoch"], each["hr@10"], each.get("test_hr@10")]
            for each in log_records(self.root / path)
            if each.get("kind") == "evaluation"
        ]


def gained(rank_Q: NDArray[Any], metric: str) -> NDArray[Any]:
    """What each question adds to "hr@10", "ndcg@50" and so on.

    >>> gained(np.array([1, 30]), "hr@10").tolist()
    [1.0, 0.0]
    """
    kind, _, k = metric.partition("@")
    return (hits if kind == "hr" else gains)(rank_Q, int(k))


def fill(table: dict[str, Any], files: CellFiles) -> None:
    """Put "found" into each cell of a table: values of the seeds, mean, interval, difference from
    the paper, test against its column, and whether it is the best of its row beyond noise.

    Raises:
        BrokenArtefact, SchemaError: a file cannot be read.
    """
    cells: list[CellFacts] = table["cells"]
    for cell in cells:
        values = [_value(table["kind"], cell, each["path"], files) for each in cell["files"]]
        cell["found"] = _summary(table["kind"], cell, values)
    if table["kind"] != "ranks":
        return
    at = {(cell["dataset"], cell["metric"], cell["column"]): cell for cell in cells}
    tests = list(_tests(table, at, files))
    corrected = holm([test["p"] for _, test in tests])
    for (rivals, test), p in zip(tests, corrected, strict=True):
        test["holm"] = p
        if rivals is not None:
            best, second = rivals
            agree = _seeds_agree(best["found"], second["found"])
            best["found"]["bold"] = p < LEVEL and agree
    table["improvements"] = list(_improvements(table, at))


def _value(kind: str, cell: CellFacts, path: str, files: CellFiles) -> float:
    """One seed's, as a fraction; of Table II as the card has it."""
    if kind == "statistics":
        return float(files.card(path)[cell["column"]])
    if kind == "curves":
        return max((float(point[1] or 0) for point in files.curve(path)), default=0.0)
    return files.mean(path, cell["metric"])


def _summary(kind: str, cell: CellFacts, values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {}
    spread, scale = over_seeds(values), 1 if kind == "statistics" else 100
    found: dict[str, Any] = {"values": list(values), "mean": spread.mean, "half": spread.half}
    if cell["paper"] is not None:
        difference = scale * spread.mean - cell["paper"]
        relative = kind == "statistics" and cell["paper"]
        found["difference"] = 100 * difference / cell["paper"] if relative else difference
    return found


Tests = Iterator[tuple[tuple[CellFacts, CellFacts] | None, dict[str, Any]]]


def _tests(table: Mapping[str, Any], at: Mapping[Any, CellFacts], files: CellFiles) -> Tests:
    """Each cell against its column, and of each row the best against the second.

    Yields:
        the best and the second of a row (None: the other kind of test), and the test, which is in
        the cell's "found" already and lacks the correction.
    """
    for cell in table["cells"]:
        other = at.get((cell["dataset"], cell["metric"], cell["against"]))
        if cell["found"] and other and other["found"]:
            test = paired(other, cell, files)
            if test is not None:
                cell["found"]["test"] = test
                yield None, test
    for ranked in _ranked_apart(table):
        for dataset in table["datasets"]:
            for metric in table["metrics"]:
                row = [at[dataset, metric, name] for name in ranked]
                row = [cell for cell in row if cell["found"]]
                row.sort(key=lambda cell: -cell["found"]["mean"])
                if len(row) > 1 and (test := paired(row[1], row[0], files)) is not None:
                    row[0]["found"]["lead"] = test
                    yield (row[0], row[1]), test


def _ranked_apart(table: Mapping[str, Any]) -> list[list[str]]:
    """The columns by what they rank: the best is one of those that answer the same questions."""
    found: dict[str, list[str]] = {}
    for column in table["columns"]:
        found.setdefault(column["ranked"], []).append(column["key"])
    return list(found.values())


def paired(first: CellFacts, second: CellFacts, files: CellFiles) -> dict[str, Any] | None:
    """Wilcoxon's test over users of two cells, each user's mean over the seeds.

    None where they did not rank the same users.
    """
    sides = []
    for cell in (first, second):
        each = [files.by_user(one["path"], cell["metric"]) for one in cell["files"]]
        if any(not np.array_equal(users, each[0][0]) for users, _ in each):
            return None
        sides.append((each[0][0], np.mean([value_U for _, value_U in each], axis=0)))
    (user_U, one_U), (other_U, two_U) = sides
    if not len(user_U) or not np.array_equal(user_U, other_U):
        return None
    test = wilcoxon(one_U, two_U)
    return {"difference": test.difference, "low": test.low, "high": test.high, "p": test.p}


def _seeds_agree(best: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether chance between trainings leaves the lead: with several seeds of both, the interval of
    the seeds' differences is above 0; of one seed nothing is known."""
    pairs = list(zip(best["values"], second["values"], strict=False))
    spread = over_seeds([one - other for one, other in pairs])
    return spread.half is None or spread.mean - spread.half > 0


def _improvements(
    table: Mapping[str, Any], at: Mapping[Any, CellFacts]
) -> Iterator[dict[str, Any]]:
    """By how many per cent of it ours is above the best of the others, as the paper tells it."""
    if not table["ours"]:
        return
    for dataset in table["datasets"]:
        for metric in table["metrics"]:
            ours = at[dataset, metric, table["ours"]]["found"]
            others = [
                at[dataset, metric, column["key"]]["found"]
                for column in table["columns"]
                if column["key"] in table["rivals"]
            ]
            best = max((each["mean"] for each in others if each), default=0.0)
            value = 100 * (ours["mean"] - best) / best if ours and best else None
            printed = table["printed_improvements"].get(f"{dataset}|{metric}")
            yield {"dataset": dataset, "metric": metric, "ours": value, "paper": printed}


def curve_of(cell: Mapping[str, Any], files: CellFiles) -> list[list[float | None]]:
    """Epoch, validation and test HR@10 of a cell's seeds, the mean where there are several."""
    at: dict[float, list[list[float | None]]] = {}
    for each in cell["files"]:
        for epoch, valid, test in files.curve(each["path"]):
            at.setdefault(float(epoch or 0), []).append([valid, test])
    points: list[list[float | None]] = []
    for epoch, seeds in sorted(at.items()):
        if len(seeds) == len(cell["files"]):
            sides = [
                [value for value in side if value is not None] for side in zip(*seeds, strict=True)
            ]
            means = [sum(side) / len(side) if side else None for side in sides]
            points.append([epoch, *means])
    return points
