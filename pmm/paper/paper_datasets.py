"""Which sources and targets a home folder has for the paper's tables, and the digests of both."""

from dataclasses import dataclass

from pmm.advice import command
from pmm.errors import InputError, MissingArtefact
from pmm.storage.artefact import open_artefact
from pmm.storage.home import SOURCES, TARGETS, Home
from pmm.storage.json_files import read_json


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """What the tables are made on."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    unsharded: tuple[str, ...] = ()
    """Ingested, but without shards, so nothing can be trained on them."""

    @property
    def every(self) -> tuple[str, ...]:
        """Sources first."""
        return (*self.sources, *self.targets)


def find_datasets(home: Home, sources: tuple[str, ...], targets: tuple[str, ...]) -> Datasets:
    """Those that are named, or all that the home holds: of the paper's in its order, then others.

    Where nothing is named, the paper's four platforms are sources and everything else is a target.

    Raises:
        InputError: a name that nothing here has, or one twice. MissingArtefact: no shards of it, or
            there are no datasets at all.
    """
    here = {slugged.parent.name: slugged for slugged in home.root.glob("shards/*/index.json")}
    names = [str(read_json(path, again=_again(slug))["target"]) for slug, path in here.items()]
    order = [*SOURCES, *TARGETS]
    names.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    asked_sources = tuple(home.find_target(name) for name in sources)
    asked_targets = tuple(home.find_target(name) for name in targets)
    for each in (asked_sources, asked_targets):
        if len(set(each)) < len(each):
            raise InputError(f"named twice: {', '.join(each)}")
    absent = [name for name in (*asked_sources, *asked_targets) if name not in names]
    if absent:
        again = command("shard", target=absent[0], home=home.option)
        raise MissingArtefact(f"there are no shards of {', '.join(absent)}. Run: {again}")
    taken = asked_sources or tuple(name for name in names if name in SOURCES)
    rest = asked_targets or tuple(name for name in names if name not in (*SOURCES, *taken))
    if not (taken or rest):
        again = command("shard", target="NAME", home=home.option)
        raise MissingArtefact(f"{home.root} has no shards of any dataset NAME. Run: {again}")
    ingested = {path.parent.name for path in home.root.glob("targets/*/card.json")}
    return Datasets(sources=taken, targets=rest, unsharded=tuple(sorted(ingested - here.keys())))


def _again(slug: str) -> str:
    return command("shard", target=slug)


def digest(home: Home, dataset: str) -> str:
    """The fingerprint of a dataset's shards: another one is other data.

    Raises:
        MissingArtefact, BrokenArtefact: as `open_artefact`.
    """
    again = command("shard", target=dataset, home=home.option)
    return open_artefact(home.shards(dataset), kind="shards", made_by=again).fingerprint


def users_of(home: Home, dataset: str) -> int:
    """How many users a dataset's shards have; errors as `digest`."""
    again = command("shard", target=dataset, home=home.option)
    return open_artefact(home.shards(dataset), kind="shards", made_by=again).counts["users"]
