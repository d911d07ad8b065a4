"""Datasets of the video platforms in any layout: found, read into tables, made into targets.

Text is the title alone (paper IV-A: "titles" for Bili and Kwai). Each dataset has tables of its own
and is a target of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa

from pmm.advice import command
from pmm.errors import InputError
from pmm.flags import Flag
from pmm.ingest.download.raw_guide import missing_raw
from pmm.ingest.pictures.lmdb_pictures import Extracted, extract, forget_other_states, store_keys
from pmm.ingest.pictures.picture_folder import PictureFolder
from pmm.ingest.readers.histories import sniff_histories, stream_histories
from pmm.ingest.readers.pairs import detect_pairs, stream_pairs
from pmm.ingest.readers.text import clean_text
from pmm.ingest.readers.titles import Titles, read_title_lines, read_title_table
from pmm.ingest.sources.source_request import PlatformRequest
from pmm.ingest.sources.video import microlens, ninerec
from pmm.ingest.sources.video import pmmrec_code as pmmrec_files
from pmm.ingest.sources.video.dataset_files import DatasetFiles, IncompleteDataset, walk
from pmm.ingest.sources.video.ninerec import Language
from pmm.ingest.tables.interactions import Cleaner
from pmm.ingest.tables.item_rows import ItemRows
from pmm.ingest.tables.source_tables import RawSource, Reading, write_tables
from pmm.ingest.targets.k_core import NothingLeft
from pmm.ingest.targets.rules import Rule
from pmm.ingest.targets.target_tables import IngestOptions, write_targets
from pmm.storage.artefact import Digests
from pmm.storage.home import Home

_SHOWN = 5
"""Datasets of other names that an error names at most."""
_HISTORIES = ("_users.tsv", "_behaviour.tsv", "_pairs.tsv")


@dataclass(frozen=True, kw_only=True)
class VideoFiles:
    """Where a video platform's raw files are, and what is read of them."""

    raw: Path | None = None
    """The folder; None = raw/<source> in the home folder."""
    language: Language = "zh"
    """Of the titles, where the files have both."""
    encoding: str | None = None
    """Of the delimited files that are neither ASCII nor begin with a byte-order mark; None = as
    detected."""


@dataclass(frozen=True, kw_only=True)
class VideoRequest(PlatformRequest):
    """What `pmm ingest` can be asked of a video platform."""

    language: Annotated[Language, Flag(group="data")] = "zh"
    """Of the titles, where the files have both."""


@dataclass(frozen=True, kw_only=True)
class ItemTags:
    """What stands in an item's `categories`, by which a target's rule chooses its items."""

    kind: str
    """What it is, for the card."""
    of: Callable[[str, str], Sequence[str]]
    """(item id, clean title) -> entries."""
    inputs: Mapping[str, str]
    """Files that decide -> sha256."""
    notes: Mapping[str, Any]
    """For the card."""


NO_TAGS = ItemTags(kind="none", of=lambda _item, _title: (), inputs={}, notes={})


@dataclass(frozen=True, kw_only=True)
class DatasetTargets:
    """One dataset, and the targets that are made of it."""

    name: str
    """As its tables are named: "Bili Food"."""
    rules: Mapping[str, Rule | None]
    item_tags: ItemTags = NO_TAGS


class DatasetIndex:
    """The datasets below a raw folder, by the names that a source gives them."""

    def __init__(
        self, source: str, raw: Path, name_of: Callable[[str], str | None], called: str
    ) -> None:
        """Search a folder.

        Args:
            source: as it is typed: "bili", "kwai".
            raw: the folder.
            name_of: a dataset's name as its files say -> the target's name; None = of another
                source.
            called: how the names of the source's datasets begin, for errors.

        Raises:
            InputError: the folder is missing or a file.
        """
        self.source, self.raw, self._called = source, raw, called
        self._foreign: list[DatasetFiles | IncompleteDataset] = []
        if raw.is_file():
            raise InputError(f"--raw {raw} is a file; expected is the folder that holds the files")
        if not raw.exists():
            raise missing_raw(source, raw)
        self._known: dict[str, list[DatasetFiles]] = {}
        self._incomplete: dict[str, list[str]] = {}
        for found in find_datasets(raw):
            name = name_of(found.name)
            if name is None:
                self._foreign.append(found)
                continue
            if isinstance(found, DatasetFiles):
                self._known.setdefault(name, []).append(found)
            else:
                self._incomplete.setdefault(name, []).append(found.missing)

    def has(self, name: str) -> bool:
        """Whether a dataset is there; where it is there more than once, `get` refuses to choose."""
        return name in self._known

    def require_any(self, names: Iterable[str], of: Iterable[str]) -> None:
        """Require at least one of the datasets.

        Raises:
            InputError: none is; the message says what is missing of those in `of`.
        """
        if not any(self.has(name) for name in names):
            lack = self.missing(dict.fromkeys(of))
            raise missing_raw(self.source, self.raw, lack, self._hints())

    def missing(self, names: Iterable[str]) -> list[str]:
        """The missing files of datasets of which some are there."""
        return [missing for name in names for missing in self._incomplete.get(name, [])]

    def _hints(self) -> list[str]:
        """What the files of a dataset may be called, and which are there under other names."""
        hints = [f"In the names of files below, <D> and <M> begin with {self._called}."]
        for found in self._foreign[:_SHOWN]:
            if isinstance(found, IncompleteDataset):
                hints.append(f'  "{found.name}" does not, and lacks {found.missing}')
                continue
            made = command(
                "ingest",
                "csv",
                name=found.name,
                interactions=found.interactions,
                items=found.titles[0],
            )
            hints.append(
                f'  "{found.name}" does not. Rename its files, or read them as a dataset of its '
                f"own: {made}"
            )
        return hints

    def get(self, name: str) -> DatasetFiles:
        """A dataset.

        Raises:
            InputError: it is not there, not complete, or there more than once.
        """
        found = self._known.get(name, [])
        if not found:
            lack = self.missing([name]) or [f'files of "{name}"']
            raise missing_raw(self.source, self.raw, lack, self._hints())
        if len(found) > 1:
            lines = "\n".join(f"  {each.interactions.parent} ({each.name})" for each in found)
            raise InputError(
                f'several datasets could be "{name}":\n{lines}\n'
                "Name the folder of one of them with --raw"
            )
        return found[0]


def find_datasets(raw: Path) -> Iterator[DatasetFiles | IncompleteDataset]:
    """All datasets of any layout in a folder or at most three levels below it."""
    for listing in walk(raw):
        yield from ninerec.find(listing)
        yield from pmmrec_files.find(listing)
        yield from microlens.find(listing)


def ingest_datasets(
    home: Home,
    index: DatasetIndex,
    datasets: Sequence[DatasetTargets],
    files: VideoFiles,
    asked: Sequence[str],
    options: IngestOptions,
) -> list[dict[str, Any]]:
    """Write the tables and targets of several datasets; the targets' cards.

    A dataset that is not there, has no pictures where they are needed, or of which the options
    leave nothing, is left out if nothing of it was asked for by name: its targets' cards say why.

    Args:
        home: where artefacts live.
        index: the datasets that are there.
        datasets: those that are wanted, and the targets of each.
        files: the language of the titles, and the encoding of all tables.
        asked: targets that were named, as they are written; empty = all.
        options: see there.

    Raises:
        InputError: a dataset that was asked for is missing or has no pictures, one that is there
            cannot be used, or nothing is left of any.
    """
    # Without names, "all that is there" is asked for: a folder with one of four datasets is fine,
    # and what is left out says why in its card. A dataset that is there and cannot be used is a
    # fault, but must not cost the others; it is raised only where nothing at all could be written.
    cards: list[dict[str, Any]] = []
    faults: list[InputError] = []
    for plan in datasets:
        wanted = [name for name in plan.rules if name in asked]
        if asked and not wanted:
            continue
        why = "" if asked else _reason_to_leave_out(index, plan, options)
        if not why:
            dataset = index.get(plan.name)
            try:
                cards += _ingest_dataset(home, dataset, plan, files, wanted, options)
                continue
            except NothingLeft as error:
                if asked:
                    raise
                why = str(error)
        if index.has(plan.name):
            faults.append(InputError(f"{plan.name}: {why.removeprefix(f'{plan.name}: ')}"))
        cards += [{"target": name, "left_out": why} for name in plan.rules]
    if faults and all("left_out" in card for card in cards):
        raise faults[0]
    return cards


def _reason_to_leave_out(index: DatasetIndex, plan: DatasetTargets, options: IngestOptions) -> str:
    """Why a dataset that was not asked for by name is left out; "" where it is not."""
    if not index.has(plan.name):
        missing = "; ".join(index.missing([plan.name]))
        return f"missing: {missing}" if missing else f"no files of {plan.name} below {index.raw}"
    return _missing_pictures(index.get(plan.name), options)


def _missing_pictures(dataset: DatasetFiles, options: IngestOptions) -> str:
    if dataset.pictures is not None or options.missing_image != "drop":
        return ""
    place, stem = dataset.interactions.parent, dataset.name
    return (
        f"{place} has no pictures of {stem}: expected is a folder {stem}_cover, {stem}_covers or "
        f"{stem}_items_images with <item id>.jpg (archives unpacked), or the store "
        f"{stem}_items_images.lmdb. To go on with the titles alone: --missing-image text-only"
    )


def _ingest_dataset(
    home: Home,
    dataset: DatasetFiles,
    plan: DatasetTargets,
    files: VideoFiles,
    wanted: Sequence[str],
    options: IngestOptions,
) -> list[dict[str, Any]]:
    missing = _missing_pictures(dataset, options)
    if missing:
        raise InputError(f"{plan.name}: {missing}")
    pictures = PictureSource(home, plan.name, dataset)
    tables = write_tables(home, dataset_raw(home, plan, dataset, pictures, files))
    # Only now: tables made before name the earlier pictures until they have been replaced.
    pictures.tidy()
    try:
        return write_targets(home, tables, plan.rules, (), wanted, options)
    except InputError as error:
        # The message names the target already, or it is of several targets and only one of them is
        # meant; else the dataset's name goes before it, for a folder may hold four.
        named = str(error).startswith(tuple(f"{name}:" for name in plan.rules))
        if named or (len(plan.rules) > 1 and not isinstance(error, NothingLeft)):
            raise
        raise type(error)(f"{plan.name}: {error}") from error


class PictureSource:
    """The pictures of a dataset, in a folder or a store."""

    def __init__(self, home: Home, name: str, dataset: DatasetFiles) -> None:
        """Find them; those in a store are first written out.

        Raises:
            InputError: the folder or the store cannot be read.
        """
        place = dataset.pictures
        self.folder: PictureFolder | None = None
        self._store: Extracted | None = None
        self.notes: dict[str, Any] = {"layout": "none"}
        if place is None:
            return
        if place.name.lower().endswith(".lmdb"):
            # Written out once: shards and galleries read single files, and a pickled store is read
            # by a process of its own (`pmm.ingest.pictures.lmdb_pictures`).
            self._store = extract(home, name, place)
            self.folder = PictureFolder(self._store.folder)
            self.notes = {"layout": "LMDB", "name": place.name, "outcomes": self._store.outcomes}
        else:
            self.folder = PictureFolder(place)
            self.notes = {"layout": "folder", "name": place.name}

    def of_item(self, item_id: str) -> str | None:
        """The path of an item's picture below `folder`."""
        if self.folder is None:
            return None
        if self._store is None:
            return self.folder.of_item(item_id)
        # The published script wrote ids as numbers: "v007" stands under "7" in the store.
        found = (self.folder.of_item(key) for key in store_keys(item_id))
        return next((path for path in found if path is not None), None)

    def file_notes(self, items: pa.Table) -> dict[str, Any]:
        """What a user should know of the files in a folder; those of a store are our own."""
        return self.folder.notes(items) if self.folder and self._store is None else {}

    def tidy(self) -> None:
        """Remove what was written out of earlier states of the store."""
        if self._store is not None:
            forget_other_states(self._store)


def dataset_raw(
    home: Home,
    plan: DatasetTargets,
    dataset: DatasetFiles,
    pictures: PictureSource,
    files: VideoFiles,
) -> RawSource:
    """A dataset's files as `pmm.ingest.tables.source_tables.write_tables` takes them."""
    titles = dataset.titles[0]
    if dataset.layout == "MicroLens":
        titles = microlens.choose_titles(dataset.titles, files.language)
    folder = pictures.folder
    digests = Digests(home.root)
    return RawSource(
        name=plan.name,
        config={
            "layout": dataset.layout,
            "language": files.language,
            "categories": plan.item_tags.kind,
            "pictures": str(folder.folder) if folder else None,
            **({"encoding": files.encoding} if files.encoding else {}),
        },
        inputs={
            "interactions": digests.file(dataset.interactions),
            "titles": digests.file(titles),
            "images": folder.digest() if folder else "none",
            **plan.item_tags.inputs,
        },
        pictures=folder.folder if folder else None,
        read=lambda: _read(dataset, titles, pictures, plan.item_tags, files),
    )


def _read(
    dataset: DatasetFiles,
    path: Path,
    pictures: PictureSource,
    item_tags: ItemTags,
    files: VideoFiles,
) -> Reading:
    titles = _titles(dataset, path, files)
    items, item_counts = _items(titles, pictures, item_tags)
    drop_counts: Counter[str] = Counter()
    known = items["item_id"].combine_chunks()
    row_notes: dict[str, Any] = {}
    rows, layout = _interactions(
        dataset.interactions, known, drop_counts, row_notes, files.encoding
    )
    return Reading(
        items=items,
        item_counts=item_counts,
        interactions=rows,
        row_counts=drop_counts,
        picture_notes=pictures.file_notes(items),
        row_notes=row_notes,
        notes={
            "detected": {
                "dataset": {"name": dataset.name, "layout": dataset.layout},
                "interactions": layout,
                "items": {"file": path.name, **titles.notes},
                "pictures": pictures.notes,
                "categories": {"kind": item_tags.kind, **item_tags.notes},
            }
        },
    )


def _titles(dataset: DatasetFiles, path: Path, files: VideoFiles) -> Titles:
    match dataset.layout:
        case "NineRec":
            return ninerec.read_titles(path, files.language, files.encoding)
        case "PMMRec":
            return read_title_lines(path, encoding=files.encoding)
        case "MicroLens":
            return read_title_table(path, encoding=files.encoding)


def _items(
    titles: Titles, pictures: PictureSource, item_tags: ItemTags
) -> tuple[pa.Table, dict[str, Any]]:
    rows = ItemRows()
    rows.drop_counts = titles.drop_counts.copy()
    for item_id, title in titles.rows:
        text = clean_text(title)
        rows.add(item_id, text, pictures.of_item(item_id), item_tags.of(item_id, text))
    return rows.finish()


def _interactions(
    path: Path,
    known: pa.Array,
    drop_counts: Counter[str],
    row_notes: dict[str, Any],
    encoding: str | None,
) -> tuple[Iterator[pa.Table], dict[str, Any]]:
    """The interactions, and how the file is read; what is odd in it is known at their end."""
    if path.name.lower().removesuffix(".gz").endswith(_HISTORIES):
        dialect = sniff_histories(path, encoding=encoding)
        notes = {"file": path.name, **dialect.describe()}
        notes |= {"form": "histories", "time": "none: items in order"}
        cleaner = Cleaner(place=str(path), unit=None)
        lines = stream_histories(path, dialect, drop_counts, notes=notes)
        return cleaner.clean(lines, drop_counts), notes
    layout = detect_pairs(path, known, encoding=encoding)
    notes = {"file": path.name, "form": "pairs", **layout.describe()}
    cleaner = Cleaner(place=str(path), unit=layout.times)
    batches = stream_pairs(path, layout, drop_counts, notes)
    return cleaner.clean(batches, drop_counts, row_notes), notes
