"""Files that a user names by an option: there, and plain, for they are read more than once."""

import stat
from pathlib import Path

from pmm.errors import InputError


def require_file(path: Path, option: str) -> None:
    """Refuse what is no plain file: a pipe gives its content only once, and may never end.

    Raises:
        InputError: it is missing, a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{option} {path} cannot be read ({error.strerror})") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{option} {path} is a folder; expected is one file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{option} {path} is no plain file: write what it gives to a file first")
