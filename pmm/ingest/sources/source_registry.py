"""The sources that `pmm ingest` reads, by name; a source's module is imported when it is used.

To add one, write a module with a request, the dataclass of what it can be asked, and a function of
it, declare both as a `SourceEntry`, and name the module here (`docs/how-to/add-a-source.md`).
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pmm.advice import said_options
from pmm.errors import InputError, nearest
from pmm.ingest.download.raw_guide import MissingRaw
from pmm.ingest.sources.source_request import SourceRequest
from pmm.storage.made_by import remember


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """A source: what it can be asked, and what reads it."""

    request: type[Any]
    """A dataclass that derives from `SourceRequest`; its flags are the command's options."""
    ingest: Callable[[Any], list[dict[str, Any]]]
    """Reads the raw files that a request names into tables and targets; returns the targets' cards.

    Its docstring is the help of `pmm ingest NAME`.
    """
    example: str
    """A command, with which that help ends."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    says: str
    """One line, for the list of sources."""
    where: str | SourceEntry
    """The module whose `SOURCE` it is, or the entry itself."""


_SOURCES: dict[str, _Place] = {
    name: _Place(says=says, where=f"pmm.ingest.sources.{module}")
    for name, module, says in (
        (
            "amazon",
            "amazon.amazon",
            "Amazon reviews of 2018 or 2023: reviews or ratings, metadata.",
        ),
        ("hm", "hm", "H&M's Kaggle files: transactions_train.csv, articles.csv, images/."),
        ("bili", "video.bili", "Bilibili, as in NineRec or in the paper's own code."),
        ("kwai", "video.kwai", "Kuaishou, as in NineRec, MicroLens or the paper's own code."),
        ("csv", "csv_presets", "Any user-item-time table."),
    )
}


def source_names() -> list[str]:
    """The names of all sources, in the order of help."""
    return list(_SOURCES)


def says(name: str) -> str:
    """One line on a source."""
    return _SOURCES[name].says


def find_source(name: str) -> SourceEntry:
    """A source by its name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if name not in _SOURCES:
        raise InputError(f'unknown source "{name}": {nearest(name, _SOURCES)}')
    where = _SOURCES[name].where
    if isinstance(where, SourceEntry):
        return where
    found = importlib.import_module(where).SOURCE
    assert isinstance(found, SourceEntry)
    return found


def ingest_from(name: str, request: SourceRequest) -> list[dict[str, Any]]:
    """Read a source's raw files as asked, and remember what was asked; returns the targets' cards.

    Raises:
        InputError: an unknown source, or raw files that cannot be used.
    """
    home, said = request.place(), said_options(request, leave_out=["home"])
    try:
        cards = find_source(name).ingest(request)
    except MissingRaw as error:
        raise error.asked_with({**said, "home": home.option}) from error
    for card in cards:
        if "left_out" not in card:
            remember(home, home.target(card["target"]), "ingest", name, **said)
    return cards


def register(name: str, entry: SourceEntry, *, says: str) -> None:
    """Add a source from outside the package; `pmm ingest NAME` and `pmm.ingest(NAME)` know it then.

    Args:
        name: of the command.
        entry: what it can be asked, and what reads it.
        says: one line, for the list of sources.

    Raises:
        InputError: there is a source of that name.
        TypeError: the request does not derive from `SourceRequest`.
    """
    if name in _SOURCES:
        raise InputError(f'there is a source "{name}" already: give this one another name')
    if not issubclass(entry.request, SourceRequest):
        raise TypeError(f"{entry.request.__name__} does not derive from SourceRequest")
    _SOURCES[name] = _Place(says=says, where=entry)


def unregister(name: str) -> None:
    """Forget a source that was registered; the package's own stay."""
    if isinstance(_SOURCES[name].where, SourceEntry):
        del _SOURCES[name]
