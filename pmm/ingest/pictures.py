"""Pictures in a folder: found once, by walking it, then looked up by item id or relative path."""

import hashlib
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from pmm.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Pictures:
    """The pictures below a folder. Nothing outside the folder can be found through it."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder of pictures")
        self.folder = folder.absolute()
        try:
            self.paths = sorted(_walk(self.folder, ""))
        except OSError as error:
            raise InputError(f"{error.filename} cannot be read ({error.strerror})") from error
        self._known = set(self.paths)
        self._by_stem: dict[str, str] = {}
        for path in self.paths:
            self._by_stem.setdefault(posixpath.splitext(posixpath.basename(path))[0], path)

    def of_item(self, item_id: str) -> str | None:
        """The picture whose file name without suffix is the item id (the first path if several)."""
        return self._by_stem.get(item_id)

    def at(self, path: str) -> str | None:
        """The picture that a file names: by its relative path, else by its file name alone."""
        plain = posixpath.normpath(path.strip().replace("\\", "/"))
        if plain in self._known:
            return plain
        return self._by_stem.get(posixpath.splitext(posixpath.basename(plain))[0])

    def digest(self) -> str:
        """sha256 of the list of paths: the tables depend on which pictures there are."""
        listing = "\n".join(self.paths)
        return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()


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
