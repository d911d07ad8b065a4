"""Artefacts: directories that are whole or absent, and know what they were made from.

An artefact is written under a temporary name beside its place, synced and renamed; `manifest.json`
is written last, so its presence means that the artefact is complete. A stage that is killed leaves
the artefact that was there before, and its finished pieces wait in the temporary directory for the
next try with the same inputs and options.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pmm.errors import BrokenArtefact, InputError, MissingArtefact, StaleArtefact, StorageError
from pmm.storage.atomic import TEMPORARY
from pmm.storage.atomic import atomic_file as atomic_file
from pmm.storage.atomic import sync as _sync
from pmm.storage.json_files import JSON_ERRORS, parse_json, told
from pmm.storage.newer import refuse_newer
from pmm.storage.regular_file import NotRegular, OutsideFolder, open_below, open_regular
from pmm.storage.snapshot import Snapshot
from pmm.storage.verify import faults, faults_by_size, in_words
from pmm.version import __version__

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CHECKSUM = "checksum"
"""Entry of manifest.json: sha256 of all others. Those of before have none."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artefact is and was made from; holds nothing that varies between equal runs."""

    kind: str
    version: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, dict[str, Any]]
    """File below the artefact -> {"sha256": hex, "bytes": size}."""
    counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Built:
    """An artefact in its place; `fresh` says whether it was written now or found unchanged."""

    place: Path
    manifest: Manifest
    fresh: bool
    seen: Snapshot = field(init=False)
    """Its state, for whoever reads it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", snapshot(self.place, self.manifest.kind))


def fingerprint(config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The identity of an artefact: sha256 of its config, its inputs and the program's version."""
    return _sha256_json({"config": config, "inputs": inputs, "version": __version__})


def build(
    place: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    write: Callable[[Path], dict[str, int]],
    force: bool = False,
    wait: bool = False,
    still: Callable[[], None] | None = None,
) -> Built:
    """Make an artefact, unless the one in its place was made from the same inputs and config.

    Args:
        place: the artefact's directory.
        kind: what it is ("tables", "target", "shards").
        config: the options it depends on (JSON values).
        inputs: name -> fingerprint of what it is made from.
        write: fills a directory with the files and returns row counts. After a kill it is called
            with the same directory again and keeps the pieces that are there, so each piece must
            be written through `atomic_file`.
        force: write even where nothing changed.
        wait: until another process that writes it has ended; then there is mostly nothing to do.
        still: called when all is written, before it is put in its place: raises where an input has
            changed since it was read.

    Raises:
        StorageError: the place cannot be written, the disk is full, or another process writes it.
    """
    mark = fingerprint({"kind": kind, **config}, inputs)
    with storage_errors(place), _locked(place, wait=wait):
        _recover(place)
        found = _manifest_to_replace(place)
        same = found if found and found.fingerprint == mark and not force else None
        damaged = faults(place, same.files) if same else {}
        if same and not damaged:
            logger.debug("%s is there already, made from the same", place)
            return Built(place=place, manifest=same, fresh=False)
        _require_expected(place, mark)
        draft = _draft(place, mark)
        if same:
            logger.warning("%s is damaged: %s. It is made again", place, in_words(damaged))
            _keep_pieces(place, draft, same.files.keys() - damaged.keys())
        counts = _written(draft, write)
        made = Manifest(
            kind=kind,
            version=__version__,
            fingerprint=mark,
            config=json.loads(_canonical(config)),
            inputs=dict(inputs),
            files=_sealed_files(draft),
            counts=dict(counts),
        )
        if still is not None:
            still()
        with atomic_file(draft / MANIFEST) as temporary:
            write_json(temporary, {**asdict(made), CHECKSUM: _sha256_json(asdict(made))})
        _swap(draft, place)
        logger.debug("%s is written", place)
        return Built(place=place, manifest=made, fresh=True)


def _written(draft: Path, write: Callable[[Path], dict[str, int]]) -> dict[str, int]:
    """What `write` counts; where it fails before it has written anything, no draft is left."""
    try:
        return write(draft)
    except BaseException:
        if not any(draft.iterdir()):
            draft.rmdir()
        raise


def snapshot(place: Path, what: str, again: str = "the same command") -> Snapshot:
    """The state of an artefact, to be taken before anything of it is read.

    Args:
        place: the artefact's directory.
        what: it is, for the message.
        again: the command to run where it changes meanwhile.
    """
    return Snapshot(place / MANIFEST, f"{what} ({place})", again)


_EXPECTED: ContextVar[Mapping[Path, str] | None] = ContextVar("expected", default=None)


@contextmanager
def rebuilding(expected: Mapping[Path, str]) -> Iterator[None]:
    """Inside, `build` writes these places only, and each only as it was.

    Args:
        expected: place -> fingerprint.
    """
    token = _EXPECTED.set({place.absolute(): mark for place, mark in expected.items()})
    try:
        yield
    finally:
        _EXPECTED.reset(token)


def _require_expected(place: Path, mark: str) -> None:
    expected = _EXPECTED.get()
    if expected is not None and expected.get(place.absolute()) != mark:
        raise StaleArtefact(f"{place} would be made from other inputs or options than it was")


def open_artefact(place: Path, *, kind: str, made_by: str, verify: bool = False) -> Manifest:
    """The manifest of a whole artefact.

    Args:
        place: the artefact's directory.
        kind: what it must be.
        made_by: the command that makes it, for the error.
        verify: also compare the sha256 of every file (sizes are always compared).

    Raises:
        MissingArtefact: it is not there.
        BrokenArtefact: its files do not match its manifest, or it is of another kind.
    """
    if not place.exists() and _old(place).exists():
        with storage_errors(place), _locked(place):
            _recover(place)
    found = _manifest(place, made_by)
    if found is None:
        raise MissingArtefact(f"{place} is not there. Run: {made_by}")
    if found.kind != kind:
        raise BrokenArtefact(f"{place} holds {found.kind}, expected {kind}. Run: {made_by}")
    if verify:
        wrong = faults(place, found.files, remember=False)
    else:
        wrong = faults_by_size(place, found.files, found.files)
    if wrong:
        raise BrokenArtefact(f"{place} is damaged: {in_words(wrong)}. Run: {made_by}")
    return found


def read_manifest(place: Path) -> Manifest | None:
    """The manifest of an artefact whose files are not looked at; None: there is none.

    Raises:
        BrokenArtefact: it is damaged itself.
    """
    return _manifest(place)


def require_input(
    place: Path, manifest: Manifest, name: str, expected: str, *, made_by: str
) -> None:
    """Refuse an artefact that was made from another state of one of its inputs.

    Raises:
        StaleArtefact: the input's fingerprint has changed since.
    """
    had = manifest.inputs.get(name, "nothing")
    if had != expected:
        raise StaleArtefact(
            f"{place} was made from {name} {had[:8]}, but {name} is now {expected[:8]}. "
            f"Run: {made_by}"
        )


@contextmanager
def exclusive(path: Path, taken: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs; the system frees it when the process dies.

    Raises:
        StorageError: another process holds it and there is no waiting (`taken` is the message), or
            it cannot be written.
    """
    lock = FileLock(path)
    try:
        with storage_errors(path):
            lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise StorageError(taken) from error
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path, value: object) -> None:
    """Write JSON for readers and for comparison: sorted keys, two spaces, one final newline."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def storage_errors(place: Path, option: str = "--home") -> Iterator[None]:
    """Turn the operating system's complaints about a folder into errors a user can act on.

    Args:
        place: what is written.
        option: by which another folder is chosen.

    Raises:
        StorageError: the disk is full, or the folder that holds `place` cannot be written.
        InputError: some other file cannot be read.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                f"the disk that holds {place} is full ({error.strerror}). What was there before is "
                f"whole. Free some space, or choose another folder with {option}, and run the same "
                "command again (a training with --resume): finished pieces are kept"
            ) from error
        if error.errno not in _DENIED | {errno.ENOTDIR, errno.EEXIST, errno.ENOENT}:
            raise
        named = Path(error.filename) if error.filename else place
        if _is_beside(named, place):
            raise StorageError(
                f"{named} cannot be written ({error.strerror}). Choose another folder with {option}"
            ) from error
        raise InputError(f"{named} cannot be read ({error.strerror})") from error


class Digests:
    """sha256 of files by content, remembered by name, size and time of change.

    The memory lives below the home folder; deleting it only costs the time to read files again.
    """

    def __init__(self, home_root: Path) -> None:
        self._memory = home_root / ".digests"

    def file(self, path: Path) -> str:
        """sha256 of one file's content.

        Raises:
            InputError: the file cannot be read, or is no plain file.
        """
        return self.files(path.parent, [path.name], named=False)

    def files(
        self,
        root: Path,
        names: Sequence[str],
        *,
        named: bool = True,
        most_bytes: int | None = None,
    ) -> str:
        """sha256 over names and contents of files below a folder; a missing file counts as such.

        So does one that is no plain file or a link out of the folder, and of a file of more than
        `most_bytes` its size counts: they are never read.
        With `named=False` there is one file, it must be there, and only its content counts.
        """
        names = sorted(names)
        stamps = [_stamp(root / name) for name in names]
        listing = [(name, *stamp) for name, stamp in zip(names, stamps, strict=True)]
        key = _sha256_json([str(root.absolute()), named, listing])
        memo = self._memory / key
        if memo.is_file():
            return memo.read_text()
        with ThreadPoolExecutor(8) as pool:
            if named:
                sums = list(pool.map(lambda name: _below(root, name, most_bytes), names))
            else:
                sums = [_content(root / names[0], required=True)]
        digest = sums[0]
        if named:
            whole = hashlib.sha256()
            for name, each in zip(names, sums, strict=True):
                whole.update(f"{name}\0{each}\n".encode("utf-8", "surrogateescape"))
            digest = whole.hexdigest()
        # A file changed in the last seconds may change again within its time stamp's resolution.
        if time.time_ns() - max((stamp[1] for stamp in stamps), default=0) > 2_000_000_000:
            with storage_errors(memo):
                self._memory.mkdir(parents=True, exist_ok=True)
                with atomic_file(memo) as temporary:
                    temporary.write_text(digest)
        return digest


def _stamp(path: Path) -> tuple[int, int] | tuple[int, int, str]:
    """Size and time of change; of a link also where it leads, for that may alone have changed."""
    try:
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode):
            return (found.st_size, found.st_mtime_ns)
        linked = path.stat()
        return (linked.st_size, linked.st_mtime_ns, os.path.realpath(path))
    except OSError:
        return (-1, 0)


def _content(path: Path, *, required: bool) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if required:
            raise InputError(f"{path} cannot be read ({error.strerror})") from error
        return "missing"


def _below(root: Path, name: str, most_bytes: int | None) -> str:
    """sha256 of a file below a folder, or a word for why it is not read."""
    try:
        with open_below(root, name) as file:
            size = os.fstat(file.fileno()).st_size
            if most_bytes is not None and size > most_bytes:
                return f"{size} bytes"
            return hashlib.file_digest(file, "sha256").hexdigest()
    except NotRegular:
        return "no plain file"
    except OutsideFolder:
        return "outside the folder"
    except OSError:
        return "missing"


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _sha256_json(value: object) -> str:
    return hashlib.sha256(_canonical(value).encode("utf-8", "surrogateescape")).hexdigest()


def _manifest(place: Path, made_by: str = "the command that made it") -> Manifest | None:
    refuse_newer(place, MANIFEST)
    path = place / MANIFEST
    try:
        found = parse_json(path.read_bytes())
        checksum = found.pop(CHECKSUM, None)
        manifest = Manifest(**found)
        if checksum not in (None, _sha256_json(found)):
            raise ValueError("it has other content than it was written with")
        if why := _ill_typed(manifest):
            raise ValueError(why)
    except FileNotFoundError:
        return None
    except JSON_ERRORS as error:
        raise BrokenArtefact(f"{path} is damaged ({told(error)}). Run: {made_by}") from error
    return manifest


def _ill_typed(manifest: Manifest) -> str:
    """What no manifest of ours has; in one of before, without a checksum, a sign of damage."""
    texts = (manifest.kind, manifest.version, manifest.fingerprint, *manifest.inputs.values())
    if not isinstance(manifest.config, dict) or not all(isinstance(each, str) for each in texts):
        return "a name or fingerprint is no text"
    if not all(isinstance(each, int) for each in manifest.counts.values()):
        return "a count is no number"
    for name, entry in manifest.files.items():
        size, digest = entry["bytes"], entry["sha256"]
        if not (isinstance(size, int) and isinstance(digest, str)):
            return f"files: {name} has no size or no sha256"
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"files: {name} is not below the artefact"
    return ""


def _manifest_to_replace(place: Path) -> Manifest | None:
    """The manifest in the place of what is made anew; None: there is none that can be read."""
    try:
        return _manifest(place)
    except BrokenArtefact as error:
        logger.warning("%s", str(error).replace("Run: the command that made it", "Made again"))
        return None


def _keep_pieces(place: Path, draft: Path, names: Iterable[str]) -> None:
    """Give a draft the whole pieces of a damaged artefact that was made from the same.

    As second names: files of artefacts are replaced, never changed.
    """
    for name in names:
        piece = draft / name
        if not piece.exists():
            piece.parent.mkdir(parents=True, exist_ok=True)
            try:
                piece.hardlink_to(place / name)
            except OSError:  # a file system without hard links
                with atomic_file(piece) as temporary:
                    shutil.copyfile(place / name, temporary)


def _draft(place: Path, mark: str) -> Path:
    """The temporary directory for this fingerprint; drafts of other fingerprints are dropped."""
    draft = place.with_name(f".{place.name}.{mark[:16]}.partial")
    for other in place.parent.glob(f".{place.name}.*.partial"):
        if other != draft:
            shutil.rmtree(other)
    draft.mkdir(exist_ok=True)
    (draft / MANIFEST).unlink(missing_ok=True)
    return draft


def _sealed_files(draft: Path) -> dict[str, dict[str, Any]]:
    for leftover in draft.rglob(TEMPORARY + "*"):
        leftover.unlink()
    paths = sorted(path for path in draft.rglob("*") if path.is_file())
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(_seal, paths))
    return {
        path.relative_to(draft).as_posix(): {"sha256": digest, "bytes": path.stat().st_size}
        for path, digest in zip(paths, sums, strict=True)
    }


def _seal(path: Path) -> str:
    _sync(path)
    return _content(path, required=True)


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def _swap(draft: Path, place: Path) -> None:
    _sync(draft)
    if place.exists():
        place.rename(_old(place))
    draft.rename(place)
    _sync(place.parent)
    if _old(place).exists():
        shutil.rmtree(_old(place))


def _recover(place: Path) -> None:
    """Finish or undo a swap that was cut off between its two renames."""
    old = _old(place)
    if not old.exists():
        return
    if not place.exists():
        done = [d for d in place.parent.glob(f".{place.name}.*.partial") if (d / MANIFEST).exists()]
        (done[0] if done else old).rename(place)
    if old.exists():
        shutil.rmtree(old)


@contextmanager
def _locked(place: Path, *, wait: bool = False) -> Iterator[None]:
    place.parent.mkdir(parents=True, exist_ok=True)
    taken = f"{place} is being written by another pmm process; wait for it, or end it"
    with exclusive(place.with_name(f".{place.name}.lock"), taken, wait=wait):
        yield


def _is_beside(path: Path, place: Path) -> bool:
    """Whether a path belongs to the folder in which the artefact is being written."""
    return (
        path == place
        or place in path.parents
        or path.is_relative_to(place.parent)
        or (path in place.parents)
    )
