"""What every model must beat: popularity, item kNN where it was evaluated, and SASRec.

The first two rank without training, so their ranks are made again from the shards and compared
user by user. Where the shards are gone, what `pmm evaluate` measured remains, without an interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pmm.arrays import Int32s
from pmm.errors import PmmError
from pmm.evaluate.cold import cold_cuts
from pmm.evaluate.evaluate_options import RankedPart
from pmm.evaluate.evaluation import questions, ranks_file
from pmm.evaluate.metrics import measure
from pmm.evaluate.neighbours import item_neighbours, rank_by_neighbours
from pmm.evaluate.popularity_and_chance import rank_by_popularity
from pmm.evaluate.ranking import Queries
from pmm.runs.loading import saved_recipe
from pmm.shards.read import Shards
from pmm.storage.home import Home
from pmm.storage.json_files import JSON_ERRORS, parse_json

POPULARITY, NEIGHBOURS = "popularity", "item kNN"


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A ranking that a model must beat."""

    name: str
    rates: Mapping[str, float]
    """Its metrics, fractions."""
    rank_Q: Int32s | None
    """Its ranks of the same questions; None where they cannot be had again."""
    run: str = ""
    """Which of the runs it is; empty of a floor without training."""


def floors_of(
    runs: Mapping[str, tuple[Home, Path]],
    tables: Mapping[str, pa.Table],
    asked: RankedPart,
    target: str | None,
) -> list[Floor]:
    """The floors of runs that ranked the same questions, the strongest by HR@10 first.

    Args:
        runs: name -> home and folder.
        tables: name -> the ranks of each.
        asked: which part they ranked.
        target: which dataset; None = each its own.
    """
    measured: dict[str, dict[str, Any]] = {}
    for _, place in runs.values():
        for name, summary in _measured(place, asked, target).items():
            measured.setdefault(name, summary)
    home, first = next(iter(runs.values()))
    table = next(iter(tables.values()))
    again = _ranked_again(home, first, table, asked, target, neighbours=NEIGHBOURS in measured)
    found = [_floor(name, again.get(name), measured.get(name, {})) for name in (*again, *measured)]
    unique = {each.name: each for each in reversed(found) if each.rates}
    for name, (_, place) in runs.items():
        if what := _sasrec(place):
            rank_Q = tables[name]["rank"].to_numpy()
            label = f"{name} ({what})"
            unique[label] = Floor(name=label, rates=measure(rank_Q), rank_Q=rank_Q, run=name)
    return sorted(unique.values(), key=lambda each: -each.rates["hr@10"])


def _floor(name: str, rank_Q: Int32s | None, summary: Mapping[str, Any]) -> Floor:
    rates = dict(summary) if rank_Q is None else measure(rank_Q)
    return Floor(name=name, rates=rates if "hr@10" in rates else {}, rank_Q=rank_Q)


def _measured(place: Path, asked: RankedPart, target: str | None) -> dict[str, dict[str, Any]]:
    """Popularity and item kNN as an evaluation of the run has them; of an older one maybe none."""
    try:
        metrics = _metrics(place, asked, target)
        if asked in ("cold", "cold-all"):
            metrics = metrics["cold_start"]["held_out" if asked == "cold" else "all"]
        return {name: metrics[name] for name in (POPULARITY, NEIGHBOURS) if name in metrics}
    except (*JSON_ERRORS, KeyError):
        return {}


def _metrics(place: Path, asked: RankedPart, target: str | None) -> dict[str, Any]:
    ranks = ranks_file(place, "valid" if asked == "valid" else "test", target)
    name = f"metrics{ranks.removeprefix('ranks').removesuffix('.parquet')}.json"
    return parse_json((place / name).read_bytes())


def _ranked_again(
    home: Home,
    place: Path,
    table: pa.Table,
    asked: RankedPart,
    target: str | None,
    *,
    neighbours: bool,
) -> dict[str, Int32s]:
    """The ranks of the floors by name; none where the shards are not those of the table."""
    try:
        name = target or saved_recipe(place).names[0]
        shards = Shards.of(home, home.find_target(name))
        queries = _queries(home, shards, asked)
        keep = bool(_metrics(place, asked, target)["keep_history"])
    except (PmmError, *JSON_ERRORS, KeyError):
        return {}
    same = len(queries) == table.num_rows and (
        (table["user"].to_numpy() == queries.user_U).all()
        and (table["target"].to_numpy() == queries.target_U).all()
    )
    if not same:
        return {}
    found = {POPULARITY: rank_by_popularity(shards.train_count[1:], queries, keep_history=keep)}
    if neighbours:
        near = item_neighbours(shards.sequences().train, shards.n_items)
        found[NEIGHBOURS] = rank_by_neighbours(near, queries, keep_history=keep)
    return found


def _queries(home: Home, shards: Shards, asked: RankedPart) -> Queries:
    if asked in ("test", "valid"):
        return questions(shards, "valid" if asked == "valid" else "test")
    cuts = cold_cuts(home, shards)
    if asked == "cold-all":
        return cuts.queries
    held = cuts.held_out_C.nonzero()[0]
    return Queries(
        user_U=cuts.queries.user_U[held],
        target_U=cuts.queries.target_U[held],
        history=cuts.queries.history.take(held),
    )


def _sasrec(place: Path) -> str:
    """What a run of SASRec is called; empty of any other."""
    try:
        recipe = saved_recipe(place)
    except PmmError:
        return ""
    if recipe.model.name != "sasrec":
        return ""
    loss = getattr(recipe.model, "loss", "")
    return "SASRec, full softmax" if loss == "full" else f"SASRec, loss {loss}"


def strongest_line(floors: Sequence[Floor]) -> str:
    """The floors in words, the strongest first."""
    strongest, *others = floors
    line = f"Strongest floor: {strongest.name}, HR@10 {100 * strongest.rates['hr@10']:.2f}"
    rest = ", ".join(f"{each.name} {100 * each.rates['hr@10']:.2f}" for each in others)
    return f"{line} ({rest})" if rest else line
