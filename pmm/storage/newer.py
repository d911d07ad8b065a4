"""What a newer version of the program wrote: said, not guessed at."""

import json
import re
from pathlib import Path

from pmm.errors import StaleArtefact
from pmm.version import __version__


def is_newer(version: object) -> bool:
    """Whether a version is above this program's.

    >>> is_newer("99.0"), is_newer(__version__), is_newer("0.0.1"), is_newer(None)
    (True, False, False, False)
    """
    return _numbers(version) > _numbers(__version__)


def newer_version_in(path: Path, key: str = "version") -> str:
    """The version in a JSON file where it is a newer one; else, and of anything odd, nothing."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    version = found.get(key) if isinstance(found, dict) else None
    return str(version) if is_newer(version) else ""


def refuse_newer(place: Path, marker: str) -> None:
    """Refuse an artefact that a newer version made: its files may mean something else.

    Raises:
        StaleArtefact: names both versions.
    """
    version = newer_version_in(place / marker)
    if version:
        raise StaleArtefact(
            f"{place} was made by pmm {version}, this is pmm {__version__}, which may take it for "
            "something else. Update pmm (pip install -U pmmrec), give another --home, or delete "
            f"{place} to make it with this version"
        )


def _numbers(version: object) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> _numbers("1.10.2rc1"), _numbers("next"), _numbers("2.0.0") == _numbers("2")
    ((1, 10, 2), (), True)
    """
    found = re.match(r"\d+(\.\d+)*", version) if isinstance(version, str) else None
    numbers = [int(each) for each in found[0].split(".")] if found and len(found[0]) < 100 else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
