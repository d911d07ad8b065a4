"""Any runs in one table: seeds share a row, and the best is marked where no other comes near.

Two questions are kept apart. Whether one row is better than another on these users is asked of the
users, in pairs, each with the mean over the seeds of what the runs reached for him (bootstrap,
Holm's correction over the whole table). How much the result moves from seed to seed is the
interval beside the mean (Student's t).
"""

import csv
import html
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from pmm.comparison.comparison_options import TableRequest, file_to_write, named_runs
from pmm.comparison.run_columns import Column, EvaluatedRun, Questions, columns_of
from pmm.errors import PmmError
from pmm.runs.loading import saved_recipe
from pmm.runs.recipe import Recipe
from pmm.statistics.holm import holm
from pmm.statistics.over_seeds import Spread, interval_text, over_seeds
from pmm.statistics.paired import bootstrap
from pmm.storage.artefact import atomic_file, storage_errors
from pmm.storage.home import slug
from pmm.text_table import text_table

NOISE = 0.05
SAME_RESULT = (
    *("device", "ahead", "log_every", "save_every", "trackers", "cache", "recompute"),
    *("eval_start", "eval_test"),
)
"""Training options that do not tell two results apart."""


@dataclass(frozen=True)
class TableRow:
    """Runs that differ in their seed alone."""

    name: str
    runs: Sequence[EvaluatedRun]
    target: str
    cells: Sequence[Spread | None]
    """A column's value over the seeds; None where not every seed has one."""


@dataclass(frozen=True)
class RunsTable:
    """Rows of runs, in the order in which they were named."""

    columns: Sequence[Column]
    rows: Sequence[TableRow]
    best: frozenset[tuple[int, int]]
    """Row and column of what is better than all others on its target, beyond noise."""
    tests: int
    """Differences that Holm's correction is over."""


def table_as_asked(request: TableRequest) -> str:
    """The table that a request asks for, or a line on the file that it was written to.

    Raises:
        InputError: a run is named twice, or the file cannot be one.
        MissingArtefact: a run has not been evaluated. StorageError: the file cannot be written.
    """
    place = file_to_write(request.to) if request.to else None
    table = make_table(request)
    if place is None:
        return terminal_text(table)
    write = {".md": markdown_text, ".csv": csv_text, ".html": html_text}[place.suffix.lower()]
    with storage_errors(place, "--to"), atomic_file(place) as temporary:
        temporary.write_text(write(table), encoding="utf-8")
    return f"{request.to}: {len(table.rows)} rows, {len(table.columns)} columns"


def make_table(request: TableRequest) -> RunsTable:
    """The rows of a request's runs; errors as `table_as_asked`."""
    runs = [
        EvaluatedRun(name, place, request.split, request.target)
        for name, (_, place) in named_runs(request.home, request.runs).items()
    ]
    columns = columns_of(request)
    groups = [[each] for each in runs] if request.apart else _by_all_but_seed(runs)
    rows = [
        TableRow(
            name=common_name([each.name for each in group]),
            runs=group,
            target=group[0].target,
            cells=[_cell(group, column) for column in columns],
        )
        for group in groups
    ]
    best, tests = _best(rows, columns)
    return RunsTable(columns=columns, rows=rows, best=best, tests=tests)


def _by_all_but_seed(runs: Sequence[EvaluatedRun]) -> list[list[EvaluatedRun]]:
    """Runs of one recipe on the same data, with other seeds; a seed that comes again stands in a
    row of its own."""
    groups: dict[str, list[EvaluatedRun]] = {}
    for each in runs:
        key, again = repr((_without_seed(each.recipe), each.target, each.shards)), 0
        while any(
            other.recipe.train.seed == each.recipe.train.seed
            for other in groups.get(f"{key} {again}", [])
        ):
            again += 1
        groups.setdefault(f"{key} {again}", []).append(each)
    return list(groups.values())


def _without_seed(recipe: Recipe, depth: int = 3) -> object:
    """What decides a run but its seed; of a fine-tuning nor that of the run it started from."""
    values = asdict(recipe)
    for name in ("seed", *SAME_RESULT):
        del values["train"][name]
    if recipe.start is not None and depth:
        try:
            start: object = _without_seed(saved_recipe(Path(recipe.start.run)), depth - 1)
        except PmmError:  # gone since: then its place tells it apart
            start = recipe.start.run
        values["start"] = (start, recipe.start.transfer)
    return sorted(values.items())


def common_name(names: Sequence[str]) -> str:
    """What runs of several seeds are called together.

    >>> common_name(["sasrec-seed0", "sasrec-seed1"]), common_name(["shoes-s1", "shoes-s12"])
    ('sasrec', 'shoes')
    >>> common_name(["a", "b"]), common_name(["alone-1"]), common_name(["shoes1", "shoes2"])
    ('a, b', 'alone-1', 'shoes')
    """
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    begin = "".join(letters[0] for letters in alike)
    return re.sub(r"[-_.](seed|s)?[-_.]?\d*$", "", begin) or ", ".join(names)


def _cell(group: Sequence[EvaluatedRun], column: Column) -> Spread | None:
    values = [each.rate(column) for each in group]
    some = [each for each in values if each is not None]
    return over_seeds(some) if len(some) == len(values) else None


def _best(
    rows: Sequence[TableRow], columns: Sequence[Column]
) -> tuple[frozenset[tuple[int, int]], int]:
    """The marked cells, and how many differences were tested.

    In each column the best row of a target is held against every other one.
    """
    p_values, of_cell = list[float](), list[tuple[int, int]]()
    untested = set[tuple[int, int]]()
    for target in dict.fromkeys(slug_of(row.target) for row in rows):
        among = [k for k, row in enumerate(rows) if slug_of(row.target) == target]
        for c, column in enumerate(columns):
            means = {k: cell.mean for k in among if (cell := rows[k].cells[c]) is not None}
            if len(means) < 2:
                continue
            first = max(means, key=lambda k: means[k])
            of_best = _over_seeds(rows[first], column)
            for k in means.keys() - {first}:
                other = _over_seeds(rows[k], column)
                if of_best is None or other is None or not _same(of_best, other):
                    untested.add((first, c))
                    continue
                found = bootstrap(other.value_Q, of_best.value_Q, user_U=of_best.user_Q)
                p_values.append(found.p)
                of_cell.append((first, c))
    adjusted = holm(p_values)
    failed = {cell for cell, p in zip(of_cell, adjusted, strict=True) if p >= NOISE}
    return frozenset({*of_cell} - failed - untested), len(p_values)


def slug_of(target: str) -> str:
    """By what two targets are the same, of several sources too."""
    return ", ".join(slug(each) for each in target.split(", "))


def _over_seeds(row: TableRow, column: Column) -> Questions | None:
    """What each question adds, the mean of the seeds; None where a run does not tell."""
    found = [each.questions(column) for each in row.runs]
    first, some = found[0], [each for each in found if each is not None]
    if first is None or len(some) < len(found) or not all(_same(first, each) for each in some):
        return None
    if not len(first.value_Q):
        return None
    mean_Q = np.mean([each.value_Q for each in some], axis=0)
    return Questions(mean_Q, first.user_Q, first.item_Q)


def _same(one: Questions, other: Questions) -> bool:
    return np.array_equal(one.user_Q, other.user_Q) and np.array_equal(one.item_Q, other.item_Q)


# --- as text ----------------------------------------------------------------------------------


def terminal_text(table: RunsTable) -> str:
    """Aligned columns, with a note on what is marked."""
    header, rows = _cells(table, "{} *")
    return "\n".join([text_table(list(map(str, header)), rows), "", *notes(table)])


def markdown_text(table: RunsTable) -> str:
    """A table of Markdown, then the notes."""
    header, rows = _cells(table, "**{}**")
    marks = ["---", *["---:" if isinstance(each, Column) else "---" for each in header[1:]]]
    lines = [_bars(header), _bars(marks), *map(_bars, rows)]
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes(table))])


def _bars(cells: Sequence[object]) -> str:
    words = ("" if each is None else str(each).replace("|", "\\|") for each in cells)
    return f"| {' | '.join(words)} |"


def html_text(table: RunsTable) -> str:
    """A page that holds the table alone and fetches nothing."""
    header, rows = _cells(table, "<b>{}</b>")
    head = "".join(f"<th>{html.escape(str(each))}</th>" for each in header)
    texts = len(header) - len(table.columns)
    lines = []
    for row in rows:
        words = ["" if each is None else str(each) for each in row]
        cells = [f"<td>{html.escape(each)}</td>" for each in words[:texts]]
        cells += [f'<td class="n">{each}</td>' for each in words[texts:]]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    told = "".join(f"<p>{html.escape(note)}</p>" for note in notes(table))
    style = (
        "body{font:15px/1.4 system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
        "th,td{padding:.3em .8em;border-bottom:1px solid #ccc;text-align:left}"
        ".n{text-align:right;font-variant-numeric:tabular-nums}"
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Runs</title><style>{style}</style>\n<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>\n{told}\n</html>\n"
    )


def csv_text(table: RunsTable) -> str:
    """A row for each row, fractions: mean, half an interval, and whether it is marked."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    header = ["run", "target", "seeds"]
    for each in table.columns:
        header += [f"{each}", f"{each}, half interval", f"{each}, best beyond noise"]
    writer.writerow(header)
    for r, row in enumerate(table.rows):
        line: list[object] = [row.name, row.target, len(row.runs)]
        for c, cell in enumerate(row.cells):
            values = [None, None] if cell is None else [cell.mean, cell.half]
            line += [*values, int((r, c) in table.best)]
        writer.writerow(line)
    return text.getvalue()


def notes(table: RunsTable) -> list[str]:
    """What a reader must know of the numbers, in sentences."""
    found = ["Times 100."]
    if any(len(row.runs) > 1 for row in table.rows):
        found[0] += " Of several seeds: mean ± half a 95% interval over them (Student's t)."
    if table.tests:
        found.append(
            "Marked: better than every other row of its target, p < "
            f"{NOISE} by paired draws of users, Holm's correction over {table.tests} differences."
        )
    return found


def _cells(table: RunsTable, best: str) -> tuple[list[object], list[list[object]]]:
    """Header and rows; a target or a number of seeds only where they are not all the same."""
    targets = len({slug_of(row.target) for row in table.rows}) > 1
    seeds = any(len(row.runs) > 1 for row in table.rows)
    header: list[object] = ["run"]
    header += (["target"] if targets else []) + (["seeds"] if seeds else [])
    header += table.columns
    rows = []
    for r, row in enumerate(table.rows):
        line: list[object] = [row.name]
        line += ([row.target] if targets else []) + ([len(row.runs)] if seeds else [])
        for c, cell in enumerate(row.cells):
            text = cell_text(cell)
            line.append(best.format(text) if text and (r, c) in table.best else text)
        rows.append(line)
    return header, rows


def cell_text(cell: Spread | None) -> str | None:
    """Times 100.

    >>> cell_text(over_seeds([0.2, 0.3, 0.4])), cell_text(over_seeds([0.2])), cell_text(None)
    ('30.00 ± 24.84', '20.00', None)
    """
    return None if cell is None else interval_text(cell.mean, cell.half, times=100)
