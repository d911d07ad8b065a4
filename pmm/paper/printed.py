"""The paper's printed figures, to stand beside ours: `printed.txt`, and Table II of the ingest."""

from functools import cache
from pathlib import Path

from pmm.ingest.targets.paper_table_two import TABLE_II

SOURCE = "arXiv 2312.09602v1 (ICDE 2024)"
STATISTICS = ("users", "items", "actions", "average_length", "sparsity_per_cent")
"""The columns of Table II, by the names that a target's card has."""

Printed = dict[tuple[str, str, str], float]
"""(dataset, metric, column) -> the figure; per cent, but for the counts of Table II."""


@cache
def printed(table: str) -> Printed:
    """The figures of a table of the paper; empty where it has none.

    >>> printed("table3")["Bili", "hr@10", "PMMRec"], printed("table2")["HM", "hr@10", "users"]
    (5.49, 200000.0)
    """
    if table == "table2":
        return {
            (dataset, "hr@10", name): float(value)
            for dataset, values in TABLE_II.items()
            for name, value in zip(STATISTICS, values, strict=True)
        }
    return _sections().get(table, {})


@cache
def _sections() -> dict[str, Printed]:
    """Table -> its figures, from the file."""
    found: dict[str, Printed] = {}
    columns: list[str] = []
    text = Path(__file__).with_name("printed.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("["):
            section, columns = found.setdefault(line.strip("[]"), {}), []
        elif line and not line.startswith("#"):
            parts = [part.strip() for part in line.split(" | ")]
            if not columns:
                columns = parts
                continue
            dataset, metric, figures = parts
            for column, figure in zip(columns, figures.split(), strict=True):
                section[dataset, metric, column] = float(figure)
    return found
