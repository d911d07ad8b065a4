"""The sections of a report on what runs reach: metrics, curves, and where the hits come from."""

from collections.abc import Mapping, Sequence
from typing import Any

from pmm.evaluate.metrics import COLD_BELOW
from pmm.report.report_blocks import (
    Cell,
    Chart,
    DataTable,
    Line,
    Ordered,
    Point,
    Section,
    as_count,
)
from pmm.report.reported_run import Evaluation, ReportedRun
from pmm.report.slices import Classes, Sliced, slice_systems
from pmm.report.systems import MEASURES, System, measures_of, per_cent, picked, users_of
from pmm.statistics.over_seeds import Spread, interval_text

FLOORS = ("item kNN", "content kNN", "popularity", "random")
"""What metrics.json may hold beside the model."""
SHORT = 12
"""Rows of a table below a chart that are shown without being asked for."""
_UNIT = "Metrics are times 100, over the whole catalogue."
_SEEDS = "± is half the width of the 95% interval of the mean over seeds (Student's t)."
_HEADINGS = tuple(name.upper() for name in MEASURES)


def results(systems: Sequence[System]) -> Section:
    """All metrics of all runs, with each share of popularity, beside the floors."""
    rows: list[list[Cell]] = []
    for system in systems:
        for share in system.shares():
            found = picked(system, mixed, share)
            rows.append([system.name, system.alpha(share), system.seeds, users_of(found)])
            rows[-1] += measures_of(found)
    for floor in _floors(systems):
        found = picked(systems[0], _floor, floor)
        rows.append([floor, "", None, users_of(found), *measures_of(found)])
    about = _UNIT
    if any(system.seeds > 1 for system in systems):
        about += f" {_SEEDS}"
    about += (
        " Alpha is the share of popularity that is added to the scores: none, the one that the "
        "validation items chose, or the balanced one."
    )
    table = DataTable(
        title="All users", header=["System", "Share", "Seeds", "Users", *_HEADINGS], rows=rows
    )
    return Section("Results", [about, table])


def mixed(evaluation: Evaluation, share: str) -> Mapping[str, Any] | None:
    """The metrics with a share of popularity."""
    if share == "none":
        return evaluation.metrics["model"]  # type: ignore[no-any-return]
    return (evaluation.metrics.get("popularity_mix") or {}).get(share)


def _floor(evaluation: Evaluation, floor: str) -> Mapping[str, Any] | None:
    return evaluation.metrics.get(floor)


def _floors(systems: Sequence[System]) -> list[str]:
    """Those of the first system; the same users are asked of all, so they have the same."""
    return [name for name in FLOORS if name in systems[0].runs[0][1].metrics]


def curves(systems: Sequence[System]) -> Section:
    """Metrics by epoch, a line a run: of the validation items, and of test items where recorded."""
    charts: list[Chart] = []
    rows: list[list[Cell]] = []
    for before, what in (("", "validation items"), ("test_", "test items")):
        for measure in ("hr@10", "ndcg@10"):
            name, lines = measure.upper(), []
            for system in systems:
                for run, _ in system.runs:
                    points = _curve(run, f"{before}{measure}")
                    rows += [[run.name, f"{name}, {what}", as_count(x), y] for x, y in points]
                    told = [
                        Point(x=x, y=y, said=f"{run.name}: epoch {x:g}, {name} {y:.2f}")
                        for x, y in points
                    ]
                    if told:
                        lines.append(Line(name=run.name, points=told, style=system.style))
            if lines:
                about = {"x_label": "epoch", "y_label": f"{name}, per cent"}
                charts.append(Chart(title=f"{name} on the {what}", lines=lines, **about))
    if not charts:
        return Section("Metrics by epoch", ["The runs' logs hold no evaluation."])
    header = ["Run", "Metric", "Epoch", "Per cent"]
    numbers = DataTable(title="The numbers", header=header, rows=rows, folded=True)
    return Section("Metrics by epoch", [*charts, numbers])


def _curve(run: ReportedRun, name: str) -> list[tuple[float, float]]:
    """Epoch and per cent of each evaluation of a log that has the metric."""
    return [
        (float(each["epoch"]), 100 * float(each[name]))
        for each in run.log
        if each.get("kind") == "evaluation" and name in each
    ]


def warm_and_cold(systems: Sequence[System]) -> Section:
    """Targets seen in training apart from cold ones, and the cuts that end on a cold item."""
    rows: list[list[Cell]] = []

    def add(first: str, share: str, what: str, found: Sequence[Mapping[str, Any] | None]) -> None:
        if users_of(found):
            rows.append([first, share, what, users_of(found), *measures_of(found)])

    for system in systems:
        for share in system.shares():
            alpha = system.alpha(share)
            for what, pick in _PARTS.items():
                add(system.name, alpha, what, picked(system, pick, share))
    for floor in _floors(systems):
        add(floor, "", "cold", picked(systems[0], _floor_cold, floor))
        for name, what in (("held_out", "cold cuts, held out"), ("all", "cold cuts, all (paper)")):
            add(floor, "", what, picked(systems[0], _floor_cut, name, floor))
    about = (
        f"Cold: the true next item occurs fewer than {COLD_BELOW} times in the training part. Cold "
        "cuts: every place in a sequence that ends on such an item; of those held out, training "
        f"has seen nothing. {_UNIT}"
    )
    if not rows:
        return Section("Warm and cold items", [about, "No user of these has a cold next item."])
    header = ["System", "Share", "Targets", "Questions", *_HEADINGS]
    return Section(
        "Warm and cold items", [about, DataTable(title="By target", header=header, rows=rows)]
    )


def _cuts(evaluation: Evaluation, name: str) -> Mapping[str, Any]:
    return (evaluation.metrics.get("cold_start") or {}).get(name) or {}


def _floor_cold(evaluation: Evaluation, floor: str) -> Mapping[str, Any] | None:
    return evaluation.metrics[floor].get("cold")  # type: ignore[no-any-return]


def _floor_cut(evaluation: Evaluation, name: str, floor: str) -> Mapping[str, Any] | None:
    return _cuts(evaluation, name).get(floor)


def _warm(evaluation: Evaluation, share: str) -> Mapping[str, Any] | None:
    """Of metrics without shares of popularity: what is left of all users without the cold ones."""
    mix = (evaluation.metrics.get("popularity_mix") or {}).get(share)
    if mix is not None:
        return mix.get("warm")  # type: ignore[no-any-return]
    whole, cold = evaluation.metrics["model"], evaluation.metrics["model"]["cold"]
    users = whole["users"] - cold["users"]
    if not users:
        return None
    return {
        "users": users,
        **{
            name: (whole[name] * whole["users"] - cold.get(name, 0.0) * cold["users"]) / users
            for name in MEASURES
        },
    }


def _cold(evaluation: Evaluation, share: str) -> Mapping[str, Any] | None:
    return (mixed(evaluation, share) or {}).get("cold")


def _held_out(evaluation: Evaluation, share: str) -> Mapping[str, Any] | None:
    if share == "none":
        return _cuts(evaluation, "held_out").get("model")
    return (mixed(evaluation, share) or {}).get("cold_cuts")


def _all_cuts(evaluation: Evaluation, share: str) -> Mapping[str, Any] | None:
    return _cuts(evaluation, "all").get("model") if share == "none" else None


_PARTS = {
    "warm": _warm,
    "cold": _cold,
    "cold cuts, held out": _held_out,
    "cold cuts, all (paper)": _all_cuts,
}


def by_popularity(systems: Sequence[System], classes: Classes) -> Section:
    """Hits by how often the true next item occurs in the training part."""
    floors = [
        (floor, [_bucket(systems[0], floor, name) for name in classes])
        for floor in _floors(systems)
        if floor != "random"
    ]
    about = f"How often the true next item occurs in the training part. {_UNIT}"
    title = "By popularity of the next item"
    sliced = slice_systems(systems, classes)
    return _sliced_section(title, "Occurrences", about, sliced, floors)


def _bucket(system: System, floor: str, name: str) -> list[Mapping[str, Any] | None]:
    found = []
    for _, evaluation in system.runs:
        buckets = evaluation.metrics[floor].get("buckets", [])
        found.append(next((b for b in buckets if b["train_count"] == name and b["users"]), None))
    return found


def by_history(systems: Sequence[System], classes: Classes) -> Section:
    """Hits by how many items the user had before."""
    about = f"How many items the user had before the true next one. {_UNIT}"
    sliced = slice_systems(systems, classes)
    return _sliced_section("By length of the history", "Items before", about, sliced, [])


def new_and_repeated(systems: Sequence[System], classes: Classes) -> Section:
    """Users whose next item is new to them apart from those who had it before."""
    about = (
        "A target that the user had before is easy: the rest of the history is not ranked, so of "
        f"the items that look like it, it alone competes. {_UNIT}"
    )
    table = _slices_table("Next item", slice_systems(systems, classes), [])
    return Section("New and repeated targets", [about, table])


_Floor = tuple[str, list[list[Mapping[str, Any] | None]]]
"""Its name, and for each class what it reaches."""


def _sliced_section(
    title: str, what: str, about: str, sliced: Sequence[Sliced], floors: Sequence[_Floor]
) -> Section:
    names, lines = sliced[0].names, []
    for each in sliced:
        if each.share == "none":
            cells = [per_cent(found, "hr@10") for found in each.summaries]
            lines.append(_line(each.system.name, names, cells, each.users, each.system.style))
    for floor, summaries in floors:
        if floor == "popularity":
            cells = [per_cent(found, "hr@10") for found in summaries]
            lines.append(_line(floor, names, cells, [users_of(each) for each in summaries], -1))
    chart = Chart(
        title=f"HR@10 {title[0].lower()}{title[1:]}",
        x_label=what.lower(),
        y_label="HR@10, per cent",
        lines=lines,
        names=names,
    )
    return Section(title, [about, chart, _slices_table(what, sliced, floors)])


def _line(
    name: str,
    names: Sequence[str],
    cells: Sequence[Spread | None],
    users: Sequence[int | None],
    style: int,
) -> Line:
    points = []
    for x, (label, cell, n) in enumerate(zip(names, cells, users, strict=True)):
        if cell is not None:
            hits = interval_text(cell.mean, cell.half)
            said = f"{name}, {label}: HR@10 {hits}, {n:,} users"
            points.append(Point(x=x, y=cell.mean, half=cell.half, said=said))
    return Line(name=name, points=points, style=style)


def _slices_table(heading: str, sliced: Sequence[Sliced], floors: Sequence[_Floor]) -> DataTable:
    rows: list[list[Cell]] = []
    for each in sliced:
        alpha = each.system.alpha(each.share)
        found = zip(each.names, each.users, each.summaries, strict=True)
        for k, (name, users, summaries) in enumerate(found):
            if users:
                values = measures_of(summaries)
                rows.append([each.system.name, alpha, Ordered(name, k), users, *values])
    for floor, classes in floors:
        for k, (name, measured) in enumerate(zip(sliced[0].names, classes, strict=True)):
            if n := users_of(measured):
                rows.append([floor, "", Ordered(name, k), n, *measures_of(measured)])
    header = ["System", "Share", heading, "Users", *_HEADINGS]
    return DataTable(title="All metrics", header=header, rows=rows, folded=len(rows) > SHORT)
