"""Pictures in a folder: found once, by walking it, then looked up by item id or relative path."""

import functools
import hashlib
import heapq
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.ids import as_number, nfc

_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "jpg"),
    ".png": "zlib",
    ".webp": "webp",
    ".avif": "avif",
    ".jp2": "jpg_2000",
    **dict.fromkeys((".gif", ".bmp", ".tif", ".tiff"), ""),
}
"""Suffix -> what Pillow must have been built with to decode such a file; "" = nothing."""
_FIRST = (".jpg", ".jpeg", ".png", ".webp")
"""Of several pictures of an item, one of these goes before those of other suffixes."""
_EXAMPLES = 3
_MOST_TURNS = 40
"""Links on the way to a file, as the system allows."""


@functools.cache
def suffixes() -> tuple[str, ...]:
    """The suffixes of the pictures that this Pillow decodes; those of others are not looked for."""
    from PIL import features

    built_with = features.get_supported()
    return tuple(suffix for suffix, part in _FORMATS.items() if not part or part in built_with)


class PictureFolder:
    """The pictures below a folder and below the folders that are linked in it.

    Each folder is read once, by its own name rather than by that of a link to it, so links may go
    in circles; one to a folder that holds this one is not followed. Names and ids are compared in
    NFC. Of several pictures of one name the first counts, JPEG, PNG and WebP before other formats.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        walk = _Walk(self.folder)
        try:
            if not stat.S_ISDIR(folder.stat().st_mode):
                raise InputError(f"{folder} is a file; expected is a folder of pictures")
            walk.run()
        except OSError as error:
            raise InputError(
                f"the folder of pictures {error.filename} cannot be read ({error.strerror})"
            ) from error
        self.paths = sorted(walk.paths)
        self._walk = walk
        self._known: dict[str, str] = {}
        self._by_stem: dict[str, str] = {}
        self._several: set[str] = set()
        self._chosen: set[str] = set()
        """Those of them that an item's picture was taken from."""
        self._apart: set[str] = set()
        """Stems of pictures in more than one folder."""
        for path in sorted(self.paths, key=lambda each: not each.lower().endswith(_FIRST)):
            self._known.setdefault(nfc(path), path)
            stem = nfc(_stem(path))
            first = self._by_stem.setdefault(stem, path)
            if first != path:
                self._several.add(stem)
                if posixpath.dirname(first) != posixpath.dirname(path):
                    self._apart.add(stem)

    def of_item(self, item_id: str) -> str | None:
        """The picture whose file name without suffix is the item id (the first path if several)."""
        stem = nfc(item_id)
        if stem in self._several:
            self._chosen.add(stem)
        return self._by_stem.get(stem)

    def at(self, path: str) -> str | None:
        """The picture that a file names: by its relative path, else by its file name alone.

        By the name alone only where the pictures of one folder have it: with `7/front.jpg` missing,
        `8/front.jpg` is another item's.
        """
        plain = nfc(posixpath.normpath(path.strip().replace("\\", "/")))
        named = self._known.get(plain) or self._known.get(self._without_links(plain))
        if named is not None:
            return named
        stem = _stem(plain)
        found = None if stem in self._apart else self._by_stem.get(stem)
        if found is None:
            return None
        same_suffix = posixpath.join(nfc(posixpath.dirname(found)), posixpath.basename(plain))
        return self._known.get(same_suffix, found)

    def _without_links(self, path: str) -> str:
        """A path as the walk went it, where links lead to a folder that has another name too."""
        for _ in range(_MOST_TURNS):
            cuts = [at for at, sign in enumerate(path) if sign == "/"]
            cut = next((at for at in cuts if path[:at] in self._walk.links), None)
            if cut is None:
                break
            path = posixpath.join(self._walk.links[path[:cut]], path[cut + 1 :])
        return path

    def digest(self) -> str:
        """sha256 of the list of paths: the tables depend on which pictures there are."""
        listing = "\n".join(self.paths)
        return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()

    def notes(self, items: pa.Table) -> dict[str, Any]:
        """What a user should know of these files, for the card; empty where nothing is odd.

        Args:
            items: with `item_id` and the `image` that was found for it.
        """
        ids = items["item_id"].combine_chunks()
        found: dict[str, Any] = {
            "linked folders": self._walk.followed,
            "several pictures": len(self._chosen),
        }
        lacking = ids.filter(pc.is_null(items["image"].combine_chunks()))
        if len(lacking):
            kinds = self._walk.other_kinds.most_common(10)
            found |= {"other kinds": dict(kinds), **self._alike(ids, lacking)}
        return {name: value for name, value in found.items() if value}

    def _alike(self, ids: pa.Array, lacking: pa.Array) -> dict[str, Any]:
        """Items without a picture that have one but for how a spreadsheet writes numbers."""
        stems = pa.array([each for each in self._by_stem if each.isascii()], pa.string())
        stems = stems.filter(pc.invert(pc.is_in(stems, value_set=ids)))
        at = pc.index_in(as_number(lacking), value_set=as_number(stems))
        which = pc.is_valid(at)
        items = lacking.filter(which).slice(0, _EXAMPLES).to_pylist()
        paths = [self._by_stem[each] for each in stems.take(at.filter(which)).to_pylist()]
        return {"alike": len(paths), "alike, e.g.": dict(zip(items, paths, strict=False))}


def describe_pictures(notes: Mapping[str, Any]) -> list[str]:
    """`PictureFolder.notes` as sentences without a full stop.

    >>> describe_pictures({"other kinds": {".svg": 2}})
    ['beside the pictures lie 2 files of other kinds (.svg 2), which are not looked at']
    """
    said = []
    if notes.get("linked folders"):
        said.append(
            f"{notes['linked folders']:,} linked folders among the pictures lead out of their "
            "folder and were followed"
        )
    if notes.get("several pictures"):
        said.append(
            f"{notes['several pictures']:,} items have several pictures; the first was taken, "
            "JPEG, PNG and WebP before others"
        )
    if notes.get("other kinds"):
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in notes["other kinds"].items())
        said.append(
            f"beside the pictures lie {sum(notes['other kinds'].values()):,} files of other kinds "
            f"({kinds}), which are not looked at"
        )
    if notes.get("alike"):
        pairs = ", ".join(f"{item!r} and {path}" for item, path in notes["alike, e.g."].items())
        said.append(
            f"{notes['alike']:,} items without a picture may have one: a name differs only as a "
            f"spreadsheet writes numbers, by leading zeros or .0 ({pairs}). It was not taken: "
            "rename the pictures, or write the ids as text"
        )
    return said


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


class _Walk:
    """One directory read a folder, no look at single files.

    Names that are no text (undecodable bytes, control characters) cannot name an item's picture.
    """

    def __init__(self, folder: Path) -> None:
        self.paths: list[str] = []
        """Relative, of all pictures."""
        self.other_kinds: Counter[str] = Counter()
        """Suffix -> files that are no pictures by their suffix."""
        self.links: dict[str, str] = {}
        """Folder that was met again -> the path under which it was read. Both in NFC."""
        self.followed = 0
        """Links that led to folders outside."""
        self._folder = folder
        self._read: dict[tuple[int, int], str] = {}
        self._above: set[tuple[int, int]] = set()
        self._linked: list[str] = []

    def run(self) -> None:
        """Read all folders. OSError where one cannot be read."""
        self._above = {_identity(each) for each in self._folder.resolve().parents}
        self._below([""])
        while self._linked:  # only now, so that a folder inside is read by its own name
            if self._below([heapq.heappop(self._linked)]):
                self.followed += 1

    def _below(self, waiting: list[str]) -> bool:
        """Read a folder and all real ones below it; whether it had not been read before."""
        fresh = False
        while waiting:
            path = waiting.pop()
            identity = _identity(self._folder / path)
            if identity in self._read:
                self.links[nfc(path)] = nfc(self._read[identity])
            elif identity not in self._above:
                self._read[identity] = path
                waiting += self._entries(path)
                fresh = True
        return fresh

    def _entries(self, folder: str) -> Iterable[str]:
        """Note a folder's files and links; returns its folders."""
        below = []
        with os.scandir(self._folder / folder) as entries:
            for entry in entries:
                path = posixpath.join(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    below.append(path)
                elif entry.is_symlink() and _is_folder(entry):
                    heapq.heappush(self._linked, path)
                elif not entry.name.isprintable():
                    self.other_kinds["names that are no text"] += 1
                elif entry.name.lower().endswith(suffixes()):
                    self.paths.append(path)
                elif not entry.name.startswith("."):
                    self.other_kinds[_kind(entry.name)] += 1
        return below


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _kind(name: str) -> str:
    suffix = posixpath.splitext(name)[1].lower()
    return suffix if 1 < len(suffix) <= 8 else "no suffix"
