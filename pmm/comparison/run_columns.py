"""What a table can show of a run: a metric, of which questions, with which share of popularity."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from pmm.advice import command
from pmm.comparison.comparison_options import PARTS, SHARES, TableRequest
from pmm.errors import BrokenArtefact, MissingArtefact
from pmm.evaluate.compare import read_ranks, require_one_target
from pmm.evaluate.evaluate_options import RankedPart
from pmm.evaluate.evaluation import ranks_file
from pmm.evaluate.metrics import COLD_BELOW
from pmm.runs.folder import shards_of
from pmm.runs.loading import saved_recipe, targets_of
from pmm.runs.recipe import Recipe
from pmm.statistics.values import gains, hits
from pmm.storage.json_files import JSON_ERRORS, parse_json
from pmm.storage.schemas import RANKS, read_table
from pmm.storage.seal import require_sealed


@dataclass(frozen=True)
class Column:
    """One column of numbers."""

    metric: str
    on: str
    """A key of `PARTS`."""
    popularity: str
    """A key of `SHARES`."""

    def __str__(self) -> str:
        about = [each for each in (PARTS[self.on], SHARES[self.popularity]) if each]
        return ", ".join([self.metric.upper(), *about])


def columns_of(request: TableRequest) -> list[Column]:
    """The columns that a request asks for: each metric of each part by each share."""
    return [
        Column(metric, on, popularity)
        for on, popularity, metric in product(request.on, request.popularity, request.metrics)
    ]


@dataclass(frozen=True)
class Questions:
    """What each question adds to a column, and whose it is."""

    value_Q: NDArray[Any]
    user_Q: NDArray[Any]
    item_Q: NDArray[Any]
    """The true next items: two runs answered the same questions where users and these are equal."""


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with what `pmm evaluate` wrote into its folder.

    Raises (of every property and method):
        MissingArtefact: that is not there. BrokenArtefact: it is damaged.
        InputError: it was trained on several sources, and none is named.
    """

    name: str
    place: Path
    split: RankedPart
    asked: str | None
    """Which dataset it ranked; None = its own."""

    @cached_property
    def recipe(self) -> Recipe:
        """What it was made of."""
        return saved_recipe(self.place)

    @cached_property
    def target(self) -> str:
        """What it ranked."""
        return self.asked or ", ".join(targets_of(self.place))

    @cached_property
    def shards(self) -> str:
        """The fingerprint of what it was trained on."""
        return shards_of(self.place)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds."""
        ranks = ranks_file(self.place, self.split, self.asked)
        path = self.place / f"metrics{ranks.removeprefix('ranks').removesuffix('.parquet')}.json"
        if not path.is_file():
            require_one_target(self.place, self.asked)
            raise MissingArtefact(f"{path} is not there. Run: {self._again()}")
        require_sealed(path, again=f"Run: {self._again()}")
        try:
            return parse_json(path.read_bytes())
        except JSON_ERRORS as error:
            raise BrokenArtefact(f"{path} is damaged. Run: {self._again()}") from error

    def _again(self, **options: Any) -> str:
        split = "valid" if self.split == "valid" else None
        return command("evaluate", self.place.absolute(), split=split, target=self.asked, **options)

    def rate(self, column: Column) -> float | None:
        """A column's value, a fraction; None where the run has none (it chose no share, no cold
        items).

        Raises:
            MissingArtefact: it was evaluated without the cold cuts.
        """
        return _rate(self._summary(column), column.metric)

    def _summary(self, column: Column) -> Mapping[str, Any] | None:
        if column.on in ("cold-cuts", "cold-cuts-all") and "cold_start" not in self.metrics:
            raise MissingArtefact(
                f"{self.name} was evaluated without the cold cuts. Run: {self._again(cold=True)}"
            )
        found = self.metrics["model"]
        if column.popularity != "none":
            found = self.metrics.get("popularity_mix", {}).get(column.popularity)
            if found is None:
                return None
        match column.on, column.popularity:
            case "all", _:
                return found  # type: ignore[no-any-return]
            case "cold-cuts", "none":
                return self.metrics["cold_start"]["held_out"]["model"]  # type: ignore[no-any-return]
            case "cold-cuts-all", "none":
                return self.metrics["cold_start"]["all"]["model"]  # type: ignore[no-any-return]
            case "cold-cuts", _:
                return found.get("cold_cuts")  # type: ignore[no-any-return]
            case "warm", "none":
                value_Q = self._values(column)
                return (
                    {column.metric: float(value_Q.value_Q.mean())} if len(value_Q.value_Q) else {}
                )
        return found.get(column.on)  # type: ignore[no-any-return]

    def questions(self, column: Column) -> Questions | None:
        """What each question adds to a column; None where the ranks were not kept."""
        try:
            return self._values(column)
        except MissingArtefact:
            return None

    def _values(self, column: Column) -> Questions:
        table = self._ranks(column)
        if column.on in ("warm", "cold"):
            cold_Q = table["train_count"].to_numpy() < COLD_BELOW
            table = table.filter(pa.array(cold_Q if column.on == "cold" else ~cold_Q))
        kind, _, k = column.metric.partition("@")
        rank_Q = table["rank"].to_numpy()
        value_Q = hits(rank_Q, int(k)) if kind == "hr" else gains(rank_Q, int(k))
        user_Q, item_Q = (table[name].to_numpy() for name in ("user", "target"))
        return Questions(value_Q, user_Q, item_Q)

    def _ranks(self, column: Column) -> pa.Table:
        cuts: dict[str, RankedPart] = {"cold-cuts": "cold", "cold-cuts-all": "cold-all"}
        part = cuts.get(column.on, self.split)
        if column.popularity == "none" and column.on != "new":
            return read_ranks(self.place, part, self.asked)
        name = ranks_file(self.place, part, self.asked)
        path = self.place / name.replace("ranks", f"ranks-{column.popularity}", 1)
        if column.on in (*cuts, "new") or not path.is_file():
            raise MissingArtefact(f"{path} is not there. Run: {self._again()}")
        require_sealed(path, again=f"Run: {self._again()}")
        return read_table(path, RANKS)


def _rate(summary: Mapping[str, Any] | None, metric: str) -> float | None:
    return None if summary is None or metric not in summary else float(summary[metric])
