"""What was read belongs to one state of a folder: remembered at the start, compared at the end.

An artefact is replaced as a whole, by renames, and while it is being read nothing keeps another
process from replacing it: a lock that a reader holds would make an ingest wait for days of
training, and is worth little on network folders. So a reader remembers which state it has opened.
What it reads and then finds in the same state is of that state, since no state ever comes back.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pmm.errors import StaleArtefact

Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Snapshot:
    """The state of a folder when this was made."""

    marker: Path
    """A file that is replaced whenever the folder is, such as manifest.json."""
    what: str
    """For the message: 'the target "HM"'."""
    again: str = "the same command"
    """What to run where it has changed."""
    stamp: Stamp | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamp", stamp_of(self.marker))

    def has_changed(self) -> bool:
        """Whether it is in another state now."""
        return stamp_of(self.marker) != self.stamp

    def require_unchanged(self) -> None:
        """Refuse what was read of it, where it is in another state now.

        Raises:
            StaleArtefact: another process has replaced it.
        """
        if self.has_changed():
            raise self._error()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is read in the block is of this state, or the block fails.

        Raises:
            StaleArtefact: another process has replaced it, be it that the block ended well, or that
                it failed (over files that are gone, for instance).
        """
        try:
            yield
        except Exception as error:
            if self.has_changed():
                raise self._error() from error
            raise
        self.require_unchanged()

    def _error(self) -> StaleArtefact:
        return StaleArtefact(
            f"{self.what} changed while it was read: another pmm process has written it anew. "
            f"Nothing of the mixture was kept; run {self.again} again"
        )


def stamp_of(path: Path) -> Stamp | None:
    """What differs between a file and any that takes its place; None where there is none."""
    # Opened, not only looked up: network file systems ask their server then, and only then.
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        found = os.fstat(handle)
    finally:
        os.close(handle)
    # The inode's number comes back soon, and a copy may carry the time of its original; the time of
    # the inode's own change cannot be set.
    return (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)
