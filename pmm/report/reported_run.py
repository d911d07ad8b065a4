"""What a report reads of a run's folder: recipe, run.json, log, metrics and ranks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pmm.advice import command
from pmm.errors import BrokenArtefact, MissingArtefact
from pmm.runs.folder import LOG, RUN, read_records
from pmm.runs.loading import saved_recipe
from pmm.shards.kinds import Split
from pmm.storage.dotted_names import flat
from pmm.storage.home import Home
from pmm.storage.json_files import read_json
from pmm.storage.schemas import RANKS, read_table
from pmm.storage.seal import require_sealed

NOT_OF_A_SYSTEM = frozenset(
    f"train.{name}" for name in ("seed", "device", "log_every", "save_every", "ahead", "trackers")
)
"""Values of a recipe in which the runs of one system may differ."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of a run: of its own target, or of another one."""

    target: str
    metrics: dict[str, Any]
    """The content of metrics.json."""
    ranks: dict[str, pa.Table]
    """"none" and, where there is one, "chosen": share of popularity -> schemas.RANKS."""

    @property
    def questions(self) -> str:
        """A digest of who was asked for what, among how many items."""
        ranks, digest = self.ranks["none"], hashlib.sha256(f"{self.metrics['items']}".encode())
        for name in ("user", "target", "train_count"):
            digest.update(ranks[name].to_numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """A finished run."""

    place: Path
    home: Home
    about: dict[str, Any]
    """The content of run.json; empty where there is none."""
    recipe: dict[str, Any]
    """Its values by names with dots."""
    log: Sequence[dict[str, Any]]
    evaluations: Sequence[Evaluation]

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.place.name

    @property
    def system(self) -> tuple[tuple[str, str], ...]:
        """What all seeds of one system share."""
        said = self.recipe.items()
        return tuple((name, repr(value)) for name, value in said if name not in NOT_OF_A_SYSTEM)


def read_runs(places: Sequence[tuple[Home, Path]], split: Split) -> list[ReportedRun]:
    """The runs of these folders, each once, in the order given.

    Raises:
        MissingArtefact: some are no runs, or have not been evaluated: with the command for each.
        BrokenArtefact: a file of one is damaged.
    """
    missing, found, seen = [], list[ReportedRun](), set[Path]()
    for home, place in places:
        if place.resolve() in seen:
            continue
        seen.add(place.resolve())
        recipe = flat(asdict(saved_recipe(place)))
        evaluations = list(_evaluations(place, split))
        if not evaluations:
            other = "valid" if split == "valid" else None
            again = command("evaluate", place.absolute(), split=other, home=home.option)
            items = f" on its {split} items" if list(place.glob("metrics*.json")) else ""
            missing.append(f"{place} has not been evaluated{items}. Run: {again}")
            continue
        run = ReportedRun(
            place=place,
            home=home,
            about=_about(place),
            recipe=recipe,
            log=_log(place),
            evaluations=evaluations,
        )
        found.append(run)
    if missing:
        raise MissingArtefact("\n".join(missing))
    return found


def _about(place: Path) -> dict[str, Any]:
    path = place / RUN
    if not path.is_file():
        return {}
    again = "To go on without it, move the file away"
    require_sealed(path, again=again)
    return read_json(path, again=again)


def _log(place: Path) -> list[dict[str, Any]]:
    path = place / LOG
    return read_records(path, path.read_bytes()) if path.is_file() else []


def _evaluations(place: Path, split: Split) -> Iterator[Evaluation]:
    """Those of a split: first of the run's own target, then of others by name."""
    for path in sorted(place.glob("metrics*.json"), key=lambda each: (len(each.name), each.name)):
        again = f"Run: {command('evaluate', place.absolute())}"
        require_sealed(path, again=again)
        metrics = read_json(path, again=again, needs=["split", "target", "model", "users", "items"])
        if metrics["split"] != split:
            continue
        suffix = path.stem.removeprefix("metrics")
        ranks = {"none": _ranks(place / f"ranks{suffix}.parquet", again)}
        digest = hashlib.sha256((place / f"ranks{suffix}.parquet").read_bytes()).hexdigest()
        if digest != metrics.get("ranks_sha256", digest):
            raise BrokenArtefact(
                f"{path} was made of other ranks than ranks{suffix}.parquet. {again}"
            )
        chosen = place / f"ranks-chosen{suffix}.parquet"
        if chosen.is_file() and "chosen" in metrics.get("popularity_mix", {}):
            ranks["chosen"] = _ranks(chosen, again)
        yield Evaluation(target=str(metrics["target"]), metrics=metrics, ranks=ranks)


def _ranks(path: Path, again: str) -> pa.Table:
    if not path.is_file():
        raise MissingArtefact(f"{path} is not there. {again}")
    require_sealed(path, again=again)
    return read_table(path, RANKS)
