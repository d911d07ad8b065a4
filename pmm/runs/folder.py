"""The folder of a run: whose it is, what it was started with, and its log.

A folder belongs to one recipe. It is continued on request, replaced on request, and otherwise never
touched; two processes cannot train into it at once.
"""

import glob
import json
import os
import platform
import re
import shlex
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch

from pmm.errors import BrokenArtefact, InputError
from pmm.machine import cores
from pmm.storage.artefact import exclusive, storage_errors, write_json
from pmm.storage.atomic import TEMPORARY, is_left_behind, temporary_name
from pmm.storage.json_files import JSON_ERRORS, parse_json, read_json, told
from pmm.storage.seal import SEALS, require_sealed, sealed_file
from pmm.version import __version__

_CRC32 = "crc32"
_ENDS_IN_A_CHECKSUM = re.compile(rb'": "[0-9a-f]{8}"\}$')
RECIPE, RUN, LOG = "recipe.toml", "run.json", "log.jsonl"

Existing = Literal["refuse", "resume", "overwrite"]
"""What to do with a folder that holds a run already."""


class Log:
    """log.jsonl: one JSON record a line, written through at once."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        """Open for appending; what stands behind the first keep_bytes is cut off.

        So is a line without an end, which a damaged file may have: the next would be glued to it.
        """
        keep = len(whole_lines(path, keep_bytes))
        self._file = path.open("ab")
        if self._file.tell() > keep:
            self._file.truncate(keep)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record, with the CRC-32 of the rest as its last entry."""
        text = json.dumps(record).encode()
        checked = json.dumps({**record, _CRC32: f"{zlib.crc32(text):08x}"})
        self._file.write(f"{checked}\n".encode())
        self._file.flush()

    @property
    def bytes(self) -> int:
        """Length of the file."""
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_records(path: Path, content: bytes) -> list[dict[str, Any]]:
    """The records of a `Log`, without their checksums; an unfinished last line is left out.

    Args:
        path: of the file, for the error.
        content: of the file, or its beginning.

    Raises:
        BrokenArtefact: a line is no JSON object, or not the one that was written.
    """
    records = []
    *lines, _ = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            checksum = record.pop(_CRC32, None)  # of before: none
            if checksum is None and _ENDS_IN_A_CHECKSUM.search(line):
                raise ValueError("its checksum has another name")
            if checksum not in (None, f"{zlib.crc32(json.dumps(record).encode()):08x}"):
                raise ValueError("it has other content than it was written with")
        except JSON_ERRORS as error:
            raise BrokenArtefact(
                f"{path}:{number} is damaged ({told(error)}). To go on without these records, move "
                f"the file away: mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"
            ) from error
        records.append(record)
    return records


def whole_lines(path: Path, keep_bytes: int) -> bytes:
    """The whole lines among a file's first bytes; none where there is no such file."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        found = file.read(keep_bytes)
    return found[: found.rfind(b"\n") + 1]


_PARTS = (
    *("recipe.toml", "run.json", "log.jsonl", "curves.png", "transfer.json", "trackers.json"),
    *("checkpoint", "first_batch.*", "metrics*.json", "ranks*.parquet", "gallery*.png"),
    *("events.out.tfevents.*", "wandb", SEALS),
)
"""Patterns of all that a run's folder may hold: nothing else is ever replaced."""
_OURS = (".lock", SEALS, f"{TEMPORARY}*")
"""What may lie in a folder that holds no run."""


@contextmanager
def claim(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder for this process.

    Raises:
        StorageError: another process trains into it, or it cannot be written.
    """
    place = Path(os.path.realpath(run_dir))
    with storage_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    taken = f"another pmm process trains into {run_dir}; wait for it, or choose another --name"
    # The lock lies beside the folder, which is replaced as a whole.
    with exclusive(place.with_name(f".{place.name}.lock"), taken):
        with storage_errors(place):
            _recover(place)
            place.mkdir(exist_ok=True)
        yield


def settle(run_dir: Path, existing: Existing) -> bool:
    """Whether the run goes on from what the folder holds; nothing is touched yet (see `replaced`).

    Raises:
        InputError: the folder holds a run and nothing was said about it, or holds something else.
    """
    names = {path.name for path in run_dir.iterdir() if not _matches(path.name, _OURS)}
    if names <= {RECIPE}:  # killed before its run.json was there
        return False
    if RUN not in names:
        if not all(_matches(name, _PARTS) for name in names):
            raise InputError(f"{run_dir} holds files but no run of pmm; choose another --name")
        if existing != "overwrite":
            raise InputError(
                f"{run_dir} holds parts of a run, but no {RUN}, without which it cannot go on. Add "
                "--overwrite to replace them, or choose another --name"
            )
    if existing == "resume":
        return True
    if existing == "overwrite":
        return False
    raise InputError(
        f"{run_dir} holds a run already. Add --resume to go on with it, --overwrite to replace it, "
        "or choose another --name"
    )


def written_name(run_dir: Path) -> str | None:
    """A run's name as its maker wrote it; None where its run.json does not say."""
    try:
        name = parse_json((run_dir / RUN).read_bytes())["name"]
    except JSON_ERRORS:
        return None
    return name if isinstance(name, str) else None


def require_same_name(run_dir: Path, name: str) -> None:
    """Refuse a name that stands for another run's folder: "A-B" where "a b" is.

    Args:
        run_dir: the run's folder.
        name: as the user wrote it; empty = by what was asked, which names no two runs alike.

    Raises:
        InputError: names both.
    """
    held = written_name(run_dir)
    if name and held is not None and held != name:
        raise InputError(
            f'--name "{name}": {run_dir} holds the run "{held}", whose name comes to the same '
            f'folder. Say --name "{held}" if you mean that run, or choose another name'
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@contextmanager
def replaced(run_dir: Path) -> Iterator[None]:
    """Give a claimed run's folder to another run, whose run.json is written in the block.

    The former run is put aside by one rename. It vanishes when the block has ended well, and comes
    back when it fails or is cut off: at any moment the folder is the one run's or the other's.

    Raises:
        StorageError: the folder cannot be written, or the disk is full.
    """
    place = Path(os.path.realpath(run_dir))
    aside = place.with_name(f".{place.name}{_ASIDE}")
    with storage_errors(place):
        with evaluations_held(place):  # an evaluation that is being written is finished first
            place.rename(aside)
        try:
            place.mkdir()
            yield
        finally:
            _recover(place)


def clear(run_dir: Path) -> None:
    """Empty a claimed run's folder; cut off, it is empty at the next claim or as it was.

    Raises:
        StorageError: it cannot be written.
    """
    place = Path(os.path.realpath(run_dir))
    with storage_errors(place):
        gone = temporary_name(place)
        with evaluations_held(place):
            place.rename(gone)
        place.mkdir()
        shutil.rmtree(gone)


@contextmanager
def evaluations_held(run_dir: Path) -> Iterator[None]:
    """Wait for, and then hold, the right to write or drop the evaluations of a run.

    Raises:
        StorageError: the folder cannot be written.
    """
    place = Path(os.path.realpath(run_dir))
    with exclusive(place.with_name(f".{place.name}.evaluations.lock"), "", wait=True):
        yield


_ASIDE = ".replaced"


def _recover(place: Path) -> None:
    """Finish or undo a replacement that was cut off, and delete what a killed `clear` left."""
    aside = place.with_name(f".{place.name}{_ASIDE}")
    if aside.exists():
        if (place / RUN).exists():
            shutil.rmtree(aside)
        else:
            shutil.rmtree(place, ignore_errors=True)
            aside.rename(place)
    for left in place.parent.glob(f"{TEMPORARY}*-{glob.escape(place.name)}"):
        if left.is_dir() and is_left_behind(left) and left.name.split("-", 4)[-1] == place.name:
            shutil.rmtree(left)


def shards_of(run_dir: Path) -> str:
    """The fingerprint of the shards that a run was started on, from its run.json.

    Raises:
        BrokenArtefact: run.json cannot be read.
    """
    again = "The run cannot go on: train again with --overwrite, or choose another --name"
    require_sealed(run_dir / RUN, again=again)
    return str(read_json(run_dir / RUN, again=again, needs=["shards"])["shards"])


def describe(run_dir: Path, recipe: str, about: Mapping[str, Any]) -> None:
    """Write recipe.toml, then run.json: what the run was made from, by what, on what."""
    with storage_errors(run_dir):
        with sealed_file(run_dir / RECIPE) as temporary:
            temporary.write_text(recipe, encoding="utf-8")
        with sealed_file(run_dir / RUN) as temporary:
            write_json(temporary, {**about, "pmm": __version__, **_machine()})


def _machine() -> dict[str, Any]:
    graphics = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "accelerators": graphics,
        },
    }
