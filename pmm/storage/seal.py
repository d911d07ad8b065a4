"""Single files that know their content: beside them, in `.sums/`, stands their sha256.

For what is replaced file by file, as in a run's folder; an artefact has a manifest instead. Of a
file without a seal, as runs of before have, nothing is said.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pmm.errors import BrokenArtefact
from pmm.storage.atomic import atomic_file, atomic_files
from pmm.storage.verify import sha256_of

SEALS = ".sums"
"""The folder of the seals, beside the files that they are of."""


@contextmanager
def sealed_file(path: Path) -> Iterator[Path]:
    """As `atomic_file`, and the file is sealed.

    A kill leaves the file before or the new one, and a seal that fits both.
    """
    with atomic_file(path) as temporary:
        yield temporary
        digest = sha256_of(temporary)
        _write(path, [*_whole_before(path), digest])
    _write(path, [digest])


@contextmanager
def sealed_files(*, before: Callable[[], None] | None = None) -> Iterator[Callable[[Path], Path]]:
    """As `atomic_files`, and each file is sealed."""
    written: dict[Path, Path] = {}

    def seal() -> None:
        if before is not None:
            before()
        for path, temporary in written.items():
            _write(path, [*_whole_before(path), sha256_of(temporary)])

    with atomic_files(before=seal) as temporary_of:

        def asked(path: Path) -> Path:
            written[path] = temporary_of(path)
            return written[path]

        yield asked
    for path in written:
        _write(path, [sha256_of(path)])


def _whole_before(path: Path) -> list[str]:
    """The digest of what is replaced: until then both fit. A damaged one is not sealed anew."""
    return [sha256_of(path)] if path.is_file() and not is_damaged(path) else []


def is_damaged(path: Path) -> bool:
    """Whether a file has other content than it was sealed with; OSError: it cannot be read."""
    digests = sealed_digests(path)
    return bool(digests) and sha256_of(path) not in digests


def require_sealed(path: Path, *, again: str) -> None:
    """Refuse a file that has other content than it was sealed with; a missing one is not looked at.

    Args:
        path: of the file.
        again: what makes it anew, as a sentence ("Run: pmm evaluate runs/first").

    Raises:
        BrokenArtefact: it is damaged, or somebody changed it.
    """
    if path.is_file() and is_damaged(path):
        raise BrokenArtefact(
            f"{path} has other content than it was written with. {again} (or, if you changed it on "
            f"purpose, delete {seal_of(path)})"
        )


def seal_of(path: Path) -> Path:
    """Where a file's seal stands."""
    return path.parent / SEALS / path.name


def sealed_digests(path: Path) -> list[str]:
    """The sha256 that a file may have; none where it has no seal, or one that is damaged itself."""
    try:
        lines = [line.split(" ") for line in seal_of(path).read_text("ascii").splitlines()]
    except (OSError, ValueError):
        return []
    return [line[0] for line in lines if len(line) == 2 and line[1] == _check(line[0])]


def _write(path: Path, digests: list[str]) -> None:
    seal_of(path).parent.mkdir(exist_ok=True)
    with atomic_file(seal_of(path)) as temporary:
        temporary.write_text("".join(f"{each} {_check(each)}\n" for each in digests), "ascii")


def _check(digest: str) -> str:
    """By which a damaged seal is told from a damaged file."""
    return hashlib.sha256(digest.encode()).hexdigest()[:8]
