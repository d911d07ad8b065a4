"""Many runs against one, and all of them against the strongest floor, user by user.

Every difference that is shown is a test, and Holm's correction is over all of them: a mark says
"beyond noise" though many were looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pmm.advice import command
from pmm.comparison.comparison_options import CompareManyRequest, named_runs
from pmm.comparison.floors import Floor, floors_of, strongest_line
from pmm.errors import InputError
from pmm.evaluate.compare import Difference, compare_ranks, read_ranks, require_same_questions
from pmm.evaluate.evaluate_options import RankedPart
from pmm.runs.loading import targets_of
from pmm.statistics.holm import holm
from pmm.statistics.paired import DRAWS
from pmm.storage.home import Home, slug
from pmm.text_table import text_table

NOISE = 0.05
"""A difference whose p-value is below it, once corrected, is beyond noise."""
USUAL = ("hr@10", "ndcg@10")
"""Metrics that are shown of many runs."""

_PARTS: dict[RankedPart, str] = {
    "test": "test items",
    "valid": "validation items",
    "cold": "cold cuts, held out,",
    "cold-all": "cold cuts, all,",
}

Runs = Mapping[str, tuple[Home, Path]]


@dataclass(frozen=True, kw_only=True)
class Against:
    """Runs against one ranking of the same questions; p-values are corrected."""

    reference: str
    rates: Mapping[str, float]
    """Metric -> what the reference reaches, a fraction."""
    rows: Mapping[str, Sequence[Difference]]
    """Name of a run -> its difference in each metric; without p and interval where the ranks of
    the reference cannot be had."""


@dataclass(frozen=True, kw_only=True)
class OneTarget:
    """The runs on one target."""

    target: str
    users: int
    runs: Against
    floors: Sequence[Floor]
    """The strongest first."""
    floor: Against | None
    """All runs against the strongest floor; None where that is the reference, or there is none."""


def compare_many(request: CompareManyRequest) -> list[OneTarget]:
    """The comparison that a request asks for, a part for each target.

    Raises:
        InputError: fewer than two runs, one of them twice, or one that nothing can be held against;
            they ranked different splits. MissingArtefact: one has not been evaluated.
    """
    asked = [*([request.against] if request.against else []), *request.runs]
    places = [place.resolve() for _, place in named_runs(request.home, asked[:1]).values()]
    if request.against is not None:  # it may be among the runs, too
        again = named_runs(request.home, request.runs)
        kept = [at for (_, at) in again.values() if at.resolve() not in places]
        asked = [request.against, *kept]
    runs = named_runs(request.home, asked)
    if len(runs) < 2:
        raise InputError("a comparison needs at least two runs")
    groups = _by_target(runs, request)
    if request.against is not None and len(groups) > 1:
        names = ", ".join(groups)
        raise InputError(
            f"the runs are on several targets ({names}), and --against is on one of them: compare "
            "those of each target by themselves, or leave --against out, and the first run of each "
            "target is the reference of that target"
        )
    return _corrected([_one_target(name, each, request) for name, each in groups.items()])


def _by_target(runs: Runs, request: CompareManyRequest) -> dict[str, Runs]:
    groups: dict[str, dict[str, tuple[Home, Path]]] = {}
    names: dict[str, str] = {}
    for name, (home, place) in runs.items():
        target = request.target or ", ".join(targets_of(place))
        key = ", ".join(slug(each) for each in target.split(", "))
        groups.setdefault(names.setdefault(key, target), {})[name] = (home, place)
    alone = {target: next(iter(each)) for target, each in groups.items() if len(each) < 2}
    if alone:
        target, name = next(iter(alone.items()))
        others = ", ".join(each for each in groups if each != target)
        raise InputError(
            f"{name} is the only run on {target}, the others are on {others}: runs are compared on "
            f"the same users. Name another run on {target}, leave {name} out, or show them beside "
            f"one another: {command('table', *runs, home=request.home)}"
        )
    return dict(groups)


def _one_target(target: str, runs: Runs, request: CompareManyRequest) -> OneTarget:
    tables = {
        name: read_ranks(place, request.split, request.target) for name, (_, place) in runs.items()
    }
    reference, *others = tables
    for name in others:
        places = runs[reference][1], runs[name][1]
        require_same_questions(*places, tables[reference], tables[name])
    floors = floors_of(runs, tables, request.split, request.target)
    metrics = request.metrics or USUAL
    strongest = floors[0] if floors else None
    held = None
    if strongest and strongest.run != reference:
        rest = {name: table for name, table in tables.items() if name != strongest.run}
        held = _against_floor(strongest, rest, metrics, request.seed)
    return OneTarget(
        target=target,
        users=len(tables[reference]["user"].unique()),
        runs=_against(
            reference,
            tables[reference]["rank"].to_numpy(),
            {name: tables[name] for name in others},
            metrics,
            request.seed,
        ),
        floors=floors,
        floor=held,
    )


def _against(
    reference: str,
    rank_Q: Any,
    tables: Mapping[str, pa.Table],
    metrics: Sequence[str],
    seed: int,
) -> Against:
    rows = {}
    rates: dict[str, float] = {}
    for name, table in tables.items():
        found = {
            each.name: each
            for each in compare_ranks(
                rank_Q, table["rank"].to_numpy(), user_Q=table["user"].to_numpy(), seed=seed
            )
        }
        rows[name] = [found[metric] for metric in metrics]
        rates = {metric: found[metric].first for metric in metrics}
    return Against(reference=reference, rates=rates, rows=rows)


def _against_floor(
    floor: Floor, tables: Mapping[str, pa.Table], metrics: Sequence[str], seed: int
) -> Against:
    if floor.rank_Q is not None:
        return _against(floor.run or floor.name, floor.rank_Q, tables, metrics, seed)
    rows = {}
    for name, table in tables.items():
        rank_Q = table["rank"].to_numpy()
        found = {each.name: each.second for each in compare_ranks(rank_Q, rank_Q, draws=1)}
        rows[name] = [
            Difference(
                name=metric,
                first=floor.rates[metric],
                second=found[metric],
                low=float("nan"),
                high=float("nan"),
            )
            for metric in metrics
        ]
    rates = {metric: floor.rates[metric] for metric in metrics}
    return Against(reference=floor.name, rates=rates, rows=rows)


def _corrected(found: list[OneTarget]) -> list[OneTarget]:
    """The same with Holm's p-values over all differences that have one."""
    every = [
        each
        for part in found
        for held in (part.runs, part.floor)
        for row in (held.rows.values() if held else ())
        for each in row
        if each.p is not None
    ]
    adjusted = dict(zip(map(id, every), holm([each.p or 0.0 for each in every]), strict=True))

    def correct(held: Against) -> Against:
        rows = {
            name: [replace(each, p=adjusted.get(id(each))) for each in row]
            for name, row in held.rows.items()
        }
        return replace(held, rows=rows)

    return [
        replace(part, runs=correct(part.runs), floor=part.floor and correct(part.floor))
        for part in found
    ]


def many_lines(found: Sequence[OneTarget], asked: RankedPart) -> list[str]:
    """A comparison in lines, metrics times 100.

    Args:
        found: what `compare_many` returns.
        asked: the part that was ranked.
    """
    lines, shown, left = list[str](), 0, False
    for part in found:
        lines += [f"{part.target}, {_PARTS[asked]} of {part.users:,} users", ""]
        lines += [_table(part.runs), ""]
        if part.floors:
            lines.append(strongest_line(part.floors))
        if part.floor:
            lines += ["", _table(part.floor), ""]
        elif part.floors:
            lines += ["It is the reference above.", ""]
        for held in (part.runs, part.floor):
            tests = [each for row in (held.rows.values() if held else ()) for each in row]
            shown += sum(each.p is not None for each in tests)
            left = left or any(each.p is None for each in tests)
    lines.append(
        f"*: beyond noise, p < {NOISE} after Holm's correction over the {shown} differences shown; "
        f"p and the 95% interval of each difference by {DRAWS:,} paired draws of users"
    )
    if left:
        lines.append("Without an interval: the shards of that target are not there to rank again")
    return lines


def _table(held: Against) -> str:
    header = ["against " + held.reference]
    for metric in held.rates:
        header += [metric.upper(), "difference", "", "95% interval", "p"]
    first: list[object] = [held.reference]
    for rate in held.rates.values():
        first += [100 * rate, None, "", None, None]
    rows = [first]
    for name, row in held.rows.items():
        cells: list[object] = [name]
        for each in row:
            known = each.p is not None
            interval = f"{100 * each.low:+.2f} .. {100 * each.high:+.2f}" if known else None
            cells += [100 * each.second, f"{100 * each.difference:+.2f}"]
            cells += [mark(each), interval, _told_p(each.p)]
        rows.append(cells)
    return text_table(header, rows)


def mark(found: Difference) -> str:
    """ "*" beyond noise, in either direction; empty within."""
    return "*" if found.p is not None and found.p < NOISE else ""


def _told_p(p: float | None) -> str | None:
    return None if p is None else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"
