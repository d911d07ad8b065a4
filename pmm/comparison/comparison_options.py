"""What a comparison of many runs, a table and overlaid curves can be asked."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pmm.errors import InputError, nearest
from pmm.evaluate.evaluate_options import RankedPart
from pmm.evaluate.report import MEASURES
from pmm.flags import Flag
from pmm.shards.kinds import Split
from pmm.storage.home import Home, expanded, place_of_run

PARTS = {
    "all": "",
    "warm": "warm items",
    "cold": "cold items",
    "new": "items new to the user",
    "cold-cuts": "cold cuts, held out",
    "cold-cuts-all": "cold cuts, all",
}
"""Whose questions a column counts -> what stands above it."""
SHARES = {"none": "", "chosen": "chosen alpha", "balanced": "balanced alpha"}
"""Share of popularity that a column ranks with -> what stands above it; "none" is alpha 0."""


@dataclass(frozen=True, kw_only=True)
class CompareManyRequest:
    """What `pmm compare` can be asked."""

    runs: Annotated[tuple[Path, ...], Flag(argument=True, metavar="RUN")] = field(kw_only=False)
    """Runs' folders, or their names; the first is what the others are held against."""
    against: Annotated[Path | None, Flag(group="data", metavar="RUN", shown="the first run")] = None
    """The run that all others are held against."""
    split: Annotated[RankedPart, Flag(group="data")] = "test"
    """Which of their evaluations; cold: the held-out cuts."""
    target: Annotated[str | None, Flag(group="data")] = None
    """What they ranked, if not what they were trained on."""
    metrics: Annotated[
        tuple[str, ...],
        Flag(group="data", commas=True, metavar="NAME,...", shown="of many runs hr@10,ndcg@10"),
    ] = ()
    """Which metrics are shown, as hr@10,ndcg@20."""
    seed: Annotated[int, Flag(group="output")] = 0
    """Of the bootstrap's draws."""
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""

    def __post_init__(self) -> None:
        require_known("--metrics", self.metrics, MEASURES)


@dataclass(frozen=True, kw_only=True)
class TableRequest:
    """What `pmm table` can be asked."""

    runs: Annotated[tuple[Path, ...], Flag(argument=True, metavar="RUN")] = field(kw_only=False)
    """Runs' folders, or their names; those that differ in their seed alone share a row."""
    metrics: Annotated[
        tuple[str, ...], Flag(group="data", commas=True, metavar="NAME,...", shown="hr@10,ndcg@10")
    ] = ("hr@10", "ndcg@10")
    """Columns: metrics, as hr@10,ndcg@20."""
    on: Annotated[
        tuple[str, ...], Flag(group="data", commas=True, metavar="PART,...", shown="all")
    ] = ("all",)
    """Columns of each metric: all, warm, cold, new, cold-cuts, cold-cuts-all."""
    popularity: Annotated[
        tuple[str, ...], Flag(group="data", commas=True, metavar="SHARE,...", shown="none")
    ] = ("none",)
    """Columns of each of these: none (alpha 0), chosen, balanced."""
    split: Annotated[Split, Flag(group="data")] = "test"
    """Which of their evaluations."""
    target: Annotated[str | None, Flag(group="data", shown="each run's own")] = None
    """What they ranked, if not what they were trained on."""
    apart: Annotated[bool, Flag(name="--every-seed")] = False
    """A row for each run, seeds apart."""
    to: Annotated[Path | None, Flag(metavar="FILE", shown="the terminal")] = None
    """A .md, .csv or .html file to write; one that is there is replaced."""
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""

    def __post_init__(self) -> None:
        for name, kept in (("metrics", ("hr@10", "ndcg@10")), ("on", ("all",))):
            if not getattr(self, name):  # a command line that does not say
                object.__setattr__(self, name, kept)
        if not self.popularity:
            object.__setattr__(self, "popularity", ("none",))
        require_known("--metrics", self.metrics, MEASURES)
        require_known("--on", self.on, PARTS)
        require_known("--popularity", self.popularity, SHARES)
        if self.to is not None:
            require_ending(self.to, (".md", ".csv", ".html"))


@dataclass(frozen=True, kw_only=True)
class CurvesRequest:
    """What `pmm curves` can be asked."""

    runs: Annotated[tuple[Path, ...], Flag(argument=True, metavar="RUN")] = field(kw_only=False)
    """Runs' folders, or their names."""
    to: Annotated[Path, Flag(metavar="FILE")]
    """A .png, .svg or .csv file to write; one that is there is replaced."""
    metric: Annotated[str, Flag(group="data")] = "hr@10"
    """What is drawn by epoch; a .csv has all metrics."""
    test: Annotated[bool, Flag(group="data", name="--test/--no-test")] = True
    """Also draw the test items of runs that recorded them (train.eval_test)."""
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""

    def __post_init__(self) -> None:
        require_known("--metric", (self.metric,), MEASURES)
        require_ending(self.to, (".png", ".svg", ".csv"))


def require_known(option: str, given: Sequence[str], known: Collection[str]) -> None:
    """Refuse a value that an option does not have.

    Raises:
        InputError: names the option and the nearest value.
    """
    for each in given:
        if each not in known:
            raise InputError(f"{option} {each}: {nearest(each, known)}")


def require_ending(path: Path, endings: Sequence[str]) -> None:
    """Refuse a file of a kind that is not written.

    Raises:
        InputError: names the kinds.
    """
    if path.suffix.lower() not in endings:
        raise InputError(f"--to {path}: the file's name must end in {', '.join(endings)}")


def file_to_write(path: Path) -> Path:
    """The file that `--to` names, judged before anything is computed.

    Raises:
        InputError: it is a folder, or its folder is not there.
    """
    place = expanded(path).absolute()
    if place.is_dir():
        raise InputError(f"--to {path} is a folder: name the file")
    if not place.parent.is_dir():
        raise InputError(f"--to {path}: there is no folder {place.parent}")
    return place


def named_runs(home: Path | None, runs: Sequence[Path]) -> dict[str, tuple[Home, Path]]:
    """What each run is called beside the others -> its home and its folder, in their order.

    Raises:
        InputError: a run is named twice, or several begin as it is called.
    """
    places = [place_of_run(home, each) for each in runs]
    names = [place.name for _, place in places]
    found: dict[str, tuple[Home, Path]] = {}
    seen: set[Path] = set()
    for (at, place), name in zip(places, names, strict=True):
        if place.resolve() in seen:
            raise InputError(f"the run {place} is named twice")
        seen.add(place.resolve())
        found[name if names.count(name) == 1 else str(place)] = (at, place)
    return found
