"""SHA256SUMS: every file of a bundle with its sha256, as `sha256sum --check` reads it."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pmm.bundle.layout import AGAIN, EXPORT, HEADER, SUMS
from pmm.errors import BrokenArtefact, MissingArtefact
from pmm.storage.regular_file import NotRegular, OutsideFolder, open_below
from pmm.storage.verify import sha256_of

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9._/-]{0,200})")
MOST_FILES, LARGEST = 1_000, 1 << 20
"""Far more than any bundle has."""


def write_sums(folder: Path) -> None:
    """Sum all files that are there; nothing may be written behind it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / SUMS).write_text("".join(lines), encoding="ascii")


def verified_files(folder: Path) -> frozenset[str]:
    """The files of a bundle, each of which is as it was written.

    What lies beside them is not looked at, and never read.

    Raises:
        MissingArtefact: there is no bundle.
        BrokenArtefact: a file is missing or has other content, or a name leads out of the folder.
    """
    if not (folder / SUMS).is_file() or not (folder / HEADER).is_file():
        raise MissingArtefact(
            f"{folder} is no bundle: it has no {SUMS} and {HEADER}. Give the folder of one, or "
            f"make one of a run: {EXPORT}"
        )
    expected = _listed(folder)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        wrong = list(pool.map(lambda pair: _fault(folder, *pair), expected.items()))
    told = [each for each in wrong if each]
    if told:
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        raise BrokenArtefact(f"{folder} is damaged: {', '.join(told[:5])}{more}. {AGAIN}")
    return frozenset(expected)


def _listed(folder: Path) -> dict[str, str]:
    """Name -> sha256."""
    path = folder / SUMS
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too long")
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise BrokenArtefact(f"{path} cannot be read ({error}). {AGAIN}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        name = match[2] if match else ""
        if not match or ".." in PurePosixPath(name).parts or "//" in name or name in found:
            raise BrokenArtefact(
                f"{path}: line {number} is no sum of a file in the bundle. {AGAIN}"
            )
        found[name] = match[1]
    if len(found) > MOST_FILES or HEADER not in found:
        raise BrokenArtefact(f"{path} does not list the files of a bundle. {AGAIN}")
    return found


def _fault(folder: Path, name: str, expected: str) -> str:
    """What is wrong with a file; "" where it is whole."""
    try:
        with open_below(folder, name) as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == expected
        return "" if same else f"{name} has other content"
    except FileNotFoundError:
        return f"{name} is missing"
    except (NotRegular, OutsideFolder) as error:
        return f"{name}: {error.strerror}"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
