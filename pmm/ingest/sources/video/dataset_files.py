"""Datasets in a folder, recognised by the names of their files; which folder has their pictures."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pmm.errors import InputError

DEPTH = 3
"""Levels of folders below the raw folder that are searched."""

Layout = Literal["NineRec", "PMMRec", "MicroLens"]

_CONTENT = re.compile(r"(covers?|images?|pictures?|videos?|audios?)$|\.lmdb$", re.IGNORECASE)
"""Folders of pictures and the like: many files, none of which is a dataset's table."""


@dataclass(frozen=True, kw_only=True)
class DatasetFiles:
    """The files of one dataset."""

    name: str
    """As its files are named: "Bili_Food", "bilibili_food", "MicroLens-50k"."""
    layout: Layout
    interactions: Path
    titles: tuple[Path, ...]
    """One, or one a language."""
    pictures: Path | None
    """A folder of pictures, or an LMDB store of them (a file or a folder)."""


@dataclass(frozen=True, kw_only=True)
class IncompleteDataset:
    """A dataset of which files are missing."""

    name: str
    missing: str
    """What is missing, and beside which file."""


class FolderListing:
    """The entries of one folder. Names are compared without regard to case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[str] = []
        self.folders: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda each: each.name):
                    match _kind(entry):
                        case "folder":
                            self.folders.append(entry.name)
                        case "file":
                            self.files.append(entry.name)
        except OSError as error:
            raise InputError(f"{folder} cannot be read ({error.strerror})") from error
        self._files = {name.lower(): name for name in reversed(self.files)}
        self._folders = {name.lower(): name for name in reversed(self.folders)}

    def stems(self, *endings: str) -> Iterator[tuple[str, str]]:
        """Files with one of these endings, plain or gz: what stands before it, and the name."""
        pattern = re.compile(rf"(.+?)(?:{'|'.join(map(re.escape, endings))})(\.gz)?", re.I)
        for name in self.files:
            match = pattern.fullmatch(name)
            if match and not (match[2] and name[: -len(match[2])].lower() in self._files):
                yield match[1], name

    def file(self, *names: str) -> Path | None:
        """The first of the names that is a file here, plain or gz."""
        return self.plain(*(each for name in names for each in (name, f"{name}.gz")))

    def plain(self, *names: str) -> Path | None:
        """The first of the names that is a file here."""
        for name in names:
            if name.lower() in self._files:
                return self.folder / self._files[name.lower()]
        return None

    def below(self, *names: str) -> Path | None:
        """The first of the names that is a folder here."""
        for name in names:
            if name.lower() in self._folders:
                return self.folder / self._folders[name.lower()]
        return None


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "other"]:
    """What an entry is; "other": pipes, whose reading may never end, and broken links."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link in a circle
        return "other"


def walk(raw: Path) -> Iterator[FolderListing]:
    """The raw folder and the folders at most `DEPTH` levels below it, each once.

    Folders of pictures are not entered.
    """
    seen: set[Path] = set()
    waiting = [(raw, 0)]
    while waiting:
        folder, level = waiting.pop(0)
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            listing = FolderListing(folder)
        except InputError:
            if not level:
                raise
            continue  # a folder that is not the user's, such as lost+found
        yield listing
        if level < DEPTH:
            waiting += [
                (folder / name, level + 1)
                for name in listing.folders
                if not name.startswith(".") and not _CONTENT.search(name)
            ]


def pictures_beside(listing: FolderListing, stem: str, *further: str, alone: bool) -> Path | None:
    """Where a dataset's pictures are: a folder before an LMDB store, its own names before others.

    Args:
        listing: the folder of the dataset's tables.
        stem: what its files' names begin with.
        further: names of folders of pictures that it shares with another dataset.
        alone: whether no other dataset is in the folder, so that `images/` and the like are its.
    """
    own = [
        f"{stem}{ending}"
        for ending in ("_cover", "_covers", "_items_images", "_item_images", "_images", "_pictures")
    ]
    plain = ("cover", "covers", "images", "image", "pictures", "items_images") if alone else ()
    stores = [f"{stem}{ending}.lmdb" for ending in ("_items_images", "_images", "_items", "")]
    return (
        listing.below(*own, f"Source_{stem}_cover", *further)
        or listing.below(*stores)
        or listing.plain(*stores)
        or listing.below(*plain)
    )
