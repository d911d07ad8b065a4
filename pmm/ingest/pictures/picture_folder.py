"""Pictures in a folder: found once, by walking it, then looked up by item id or relative path."""

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path

from pmm.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class PictureFolder:
    """The pictures below a folder. Nothing outside the folder can be found through it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        try:
            if not stat.S_ISDIR(folder.stat().st_mode):
                raise InputError(f"{folder} is a file; expected is a folder of pictures")
            self.paths = sorted(_walk(self.folder, ""))
        except OSError as error:
            raise InputError(
                f"the folder of pictures {error.filename} cannot be read ({error.strerror})"
            ) from error
        self._known = set(self.paths)
        self._by_stem: dict[str, str] = {}
        self._shared: set[str] = set()
        for path in self.paths:
            stem = _stem(path)
            if self._by_stem.setdefault(stem, path) != path:
                self._shared.add(stem)

    def of_item(self, item_id: str) -> str | None:
        """The picture whose file name without suffix is the item id (the first path if several)."""
        return self._by_stem.get(item_id)

    def at(self, path: str) -> str | None:
        """The picture that a file names: by its relative path, else by its file name alone.

        By the name alone only where one picture has it: with `7/front.jpg` missing,
        `8/front.jpg` is another item's.
        """
        plain = posixpath.normpath(path.strip().replace("\\", "/"))
        if plain in self._known:
            return plain
        stem = _stem(plain)
        return None if stem in self._shared else self._by_stem.get(stem)

    def digest(self) -> str:
        """sha256 of the list of paths: the tables depend on which pictures there are."""
        listing = "\n".join(self.paths)
        return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def _walk(folder: Path, below: str) -> Iterator[str]:
    """Relative paths of all pictures; one directory read a folder, no look at single files.

    Names that are no text (undecodable bytes, control characters) cannot name an item's picture.
    """
    with os.scandir(folder / below) as entries:
        for entry in entries:
            path = below + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder, path + "/")
            elif entry.name.lower().endswith(SUFFIXES) and entry.name.isprintable():
                yield path
