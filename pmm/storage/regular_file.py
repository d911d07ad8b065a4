"""Opening files of which only a name is known: what is no regular file is never waited for.

A pipe without a writer blocks whoever opens it, and a device such as /dev/zero never ends. What a
name stands for may change between a look and the opening, so the opened file itself is judged.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path, PurePath

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LINK = {errno.ELOOP, errno.EMLINK}
"""What systems answer where a link is met that was not to be followed."""
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotRegular(OSError):
    """A folder, a pipe, a socket or a device."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "it is no plain file", str(path))


class OutsideFolder(OSError):
    """A name or a link that leads out of the folder which a file must lie in."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EPERM, "it lies outside the folder", str(path))


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; links are followed.

    Raises:
        NotRegular: it is a folder, a pipe or a device.
        OSError: it cannot be opened.
    """
    return _judged(os.open(path, _READ), path)


def open_below(folder: Path, relative: str) -> BufferedReader:
    """Open a file below a folder for reading, as `open_regular`.

    A linked folder on the way belongs to the folder: whoever put the link there gave what lies
    behind it. A file that is itself a link must lead to one that lies below the folder too, or
    below a linked folder on its way.

    Raises:
        OutsideFolder: `relative` is absolute or climbs, or the file is a link that leads out.
        NotRegular, OSError: as `open_regular`.
    """
    path = folder / relative
    if ".." in PurePath(relative).parts or PurePath(relative).is_absolute() or "\0" in relative:
        raise OutsideFolder(path)
    try:
        handle = os.open(path, _READ | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in _LINK:
            raise
        handle = _open_link(folder, path)
    return _judged(handle, path)


def _judged(handle: int, path: Path) -> BufferedReader:
    """The opened file, if it is one."""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotRegular(path)
    return os.fdopen(handle, "rb")


def _open_link(folder: Path, path: Path) -> int:
    """Open what a linked file leads to, if that lies below the folder."""
    real = os.path.realpath(path, strict=True)
    above = (each for each in path.parents if each == folder or folder in each.parents)
    if not any(Path(real).is_relative_to(os.path.realpath(each)) for each in above):
        raise OutsideFolder(path)
    # The path was free of links a moment ago. Following none now, it cannot have been changed into
    # one that leads elsewhere.
    top, *folders, name = Path(real).parts
    at = os.open(top, _FOLDER)
    try:
        for each in folders:
            below = os.open(each, _FOLDER, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, _READ | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)
