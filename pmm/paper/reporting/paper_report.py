"""`pmm paper report`: tables from the rows and ranks that are there; what is missing is empty."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pmm.errors import PmmError
from pmm.paper.paper_datasets import Datasets, digest
from pmm.paper.paper_request import PaperReportRequest, Ranking
from pmm.paper.printed import SOURCE, printed
from pmm.paper.reporting.cells import KIND, CellFiles, curve_of, fill
from pmm.paper.reporting.former_rows import former_rows
from pmm.paper.running.result_rows import FLOORS, ResultRows, commit
from pmm.paper.tables import FLOOR, PaperTable, TableColumn, asked_tables
from pmm.storage.home import Home
from pmm.version import __version__

_OF_RUN = ("seed", "commit", "data", "command", "evaluated", "hardware", "seconds", "cpu_seconds")


def make_report(home: Home, request: PaperReportRequest, command: str) -> dict[str, Any]:
    """All that a report says, as JSON; `pmm.paper.reporting.pages` writes it.

    Args:
        home: with the runs and their rows.
        request: which tables, as when they were run.
        command: as somebody typed it.

    Raises:
        as `asked_tables` and `fill`.
    """
    datasets, tables = asked_tables(home, request)
    rows, files = ResultRows(home), CellFiles(home.root)
    collected = _Collected(home, rows, request.ranking, files)
    made = [collected.table(table, request.seeds) for table in tables]
    for table in made:
        fill(table, files)
        if table["kind"] == "curves":
            _add_curves(table, files)
    return {
        "kind": KIND,
        "pmm": __version__,
        "commit": commit(),
        "command": command.replace(str(home.root), "HOME"),
        "paper": SOURCE,
        "seeds": request.seeds,
        "ranking": request.ranking,
        "tables": made,
        "runs": collected.runs,
        "floors": _floors(made, rows, datasets),
        "stale": sorted(collected.stale),
        "former": [{"name": path.name, "rows": former_rows(path)} for path in request.rows],
    }


class _Collected:
    """Cells with the files of their runs, and what the rows say of these runs."""

    def __init__(self, home: Home, rows: ResultRows, ranking: Ranking, files: CellFiles) -> None:
        self.home, self.rows, self.ranking, self.files = home, rows, ranking, files
        self.runs: dict[str, dict[str, Any]] = {}
        self.stale: set[str] = set()
        self._digests: dict[str, str] = {}

    def table(self, table: PaperTable, seeds: int) -> dict[str, Any]:
        """A table as JSON, its cells not filled yet."""
        theirs = printed(table.name)
        return {
            "name": table.name,
            "title": table.title,
            "caption": table.caption,
            "kind": table.kind,
            "datasets": list(table.datasets),
            "metrics": list(table.metrics),
            "columns": [_told(table, each) for each in table.columns],
            "missing": list(table.missing),
            "ours": table.ours,
            "rivals": list(table.rivals),
            "printed_improvements": {
                f"{dataset}|{metric}": value
                for (dataset, metric, column), value in theirs.items()
                if column == "Improv."
            },
            "cells": [
                {
                    "id": f"{table.name}-{row}-{k}",
                    "dataset": dataset,
                    "metric": metric,
                    "column": column.key,
                    "against": column.against,
                    "paper": theirs.get((dataset, metric, _printed_as(column))),
                    "files": self._files(table, column, dataset, seeds),
                }
                for row, (dataset, metric) in enumerate(
                    (dataset, metric) for dataset in table.datasets for metric in table.metrics
                )
                for k, column in enumerate(table.columns)
            ],
        }

    def _files(
        self, table: PaperTable, column: TableColumn, dataset: str, seeds: int
    ) -> list[dict[str, str]]:
        """Of each seed that has its row the file that the cell is computed from."""
        if table.kind == "statistics":
            card = (self.home.target(dataset) / "card.json").relative_to(self.home.root)
            mark = self.files.digest_of(str(card))
            return [{"run": "", "path": str(card), "sha256": mark}] if mark else []
        assert column.make is not None
        found = []
        for seed in range(seeds):
            experiment = column.make(dataset, seed)
            name = experiment.name(self.home)
            row = self.rows.of.get(name)
            if row is None:
                continue
            if row["data"] != {each: self._digest(each) for each in experiment.datasets}:
                self.stale.add(name)
                continue
            folder = self.home.run(name).relative_to(self.home.root)
            path = str(folder / self._name(table, column, row))
            if mark := self.files.digest_of(path):
                found.append({"run": name, "path": path, "sha256": mark})
                self.runs[name] = {key: row[key] for key in _OF_RUN if key in row}
        return found

    def _name(self, table: PaperTable, column: TableColumn, row: Mapping[str, Any]) -> str:
        if table.kind == "curves":
            return "log.jsonl"
        if column.ranked != "test":
            return f"ranks-{column.ranked}.parquet"
        chosen = self.ranking == "chosen" and "ranks-chosen.parquet" in row["ranks"]
        return "ranks-chosen.parquet" if chosen else "ranks.parquet"

    def _digest(self, dataset: str) -> str:
        """Of the shards now; "" where there are none any more."""
        if dataset not in self._digests:
            try:
                self._digests[dataset] = digest(self.home, dataset)
            except PmmError:
                self._digests[dataset] = ""
        return self._digests[dataset]


def _told(table: PaperTable, column: TableColumn) -> dict[str, str]:
    """A column as JSON."""
    some = column.make is not None and table.datasets
    model = column.make(table.datasets[0], 0).model if column.make and some else ""
    return {"key": column.key, "ranked": column.ranked, "model": model}


def _printed_as(column: TableColumn) -> str:
    return column.key if column.printed_as is None else column.printed_as


def _floors(
    tables: Sequence[Mapping[str, Any]], rows: ResultRows, datasets: Datasets
) -> list[dict[str, Any]]:
    """Of each dataset what needs no training, SASRec with full softmax, and the best of ours.

    The figures are HR@10 of the rows: the evaluation that measured a floor is named.
    """
    found: list[dict[str, Any]] = []
    for dataset in datasets.every:
        floors: dict[str, dict[str, Any]] = {}
        for name, row in rows.of.items():
            for who in FLOORS[:2]:
                if row["dataset"] == dataset and who in row.get("floors", {}):
                    floors[who] = {"hr@10": row["floors"][who]["hr@10"], "run": name}
        best: dict[str, Any] = {}
        for table, column, cell in _ranked_cells(tables, dataset):
            mean = cell["found"]["mean"]
            if column["key"] == FLOOR:
                floors[FLOOR] = {"hr@10": mean, "run": cell["files"][0]["run"]}
            elif column["model"] == "pmmrec" and mean > best.get("hr@10", -1):
                what = f"{table['title'].partition(':')[0]}, {column['key']}"
                best = {"hr@10": mean, "column": what}
        if floors:
            strongest = max(floors, key=lambda who: floors[who]["hr@10"])
            found.append(
                {"dataset": dataset, "floors": floors, "strongest": strongest, "best": best}
            )
    return found


def _ranked_cells(tables: Sequence[Mapping[str, Any]], dataset: str) -> Iterator[Any]:
    """Table, column and cell of all that ranks a dataset's test items, by HR@10."""
    for table in tables:
        columns = {column["key"]: column for column in table["columns"]}
        for cell in table["cells"]:
            column = columns[cell["column"]]
            about = (cell["dataset"], cell["metric"], column["ranked"]) == (
                dataset,
                "hr@10",
                "test",
            )
            if table["kind"] == "ranks" and about and cell["found"]:
                yield table, column, cell


def _add_curves(table: dict[str, Any], files: CellFiles) -> None:
    """The points of Fig. 3, each the mean of the seeds that reached it."""
    table["curves"] = [
        {"dataset": cell["dataset"], "column": cell["column"], "points": curve_of(cell, files)}
        for cell in table["cells"]
        if cell["files"]
    ]


def write_report(facts: Mapping[str, Any], to: Path) -> None:
    """Write .html, .md or .csv; errors as `pmm.storage.artefact.storage_errors`."""
    from pmm.paper.reporting import pages
    from pmm.storage.artefact import atomic_file, storage_errors

    text = {".html": pages.html_page, ".md": pages.markdown_page, ".csv": pages.csv_table}
    with storage_errors(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(to) as temporary:
            temporary.write_text(text[to.suffix](facts), encoding="utf-8")
