"""The folder of a run: whose it is, what it was started with, and its log.

A folder belongs to one recipe. It is continued on request, replaced on request, and otherwise never
touched; two processes cannot train into it at once.
"""

import json
import os
import platform
import re
import shlex
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from pmm.cpu_cores import cores
from pmm.errors import BrokenArtefact, InputError
from pmm.storage.artefact import exclusive, storage_errors, write_json
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


@contextmanager
def claim(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder for this process.

    Raises:
        StorageError: another process trains into it, or it cannot be written.
    """
    with storage_errors(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    taken = f"another pmm process trains into {run_dir}; wait for it, or choose another --name"
    with exclusive(run_dir / ".lock", taken):
        yield


def settle(run_dir: Path, existing: Existing) -> bool:
    """Whether the run goes on from what the folder holds; nothing is touched yet (see `clear`).

    Raises:
        InputError: the folder holds a run and nothing was said about it, or holds something else.
    """
    names = {path.name for path in run_dir.iterdir()} - {".lock", SEALS}
    if not names:
        return False
    if RUN not in names and not names <= {RECIPE, f".tmp-{RUN}", f".tmp-{RECIPE}"}:
        raise InputError(f"{run_dir} holds files but no run of pmm; choose another --name")
    if existing == "resume":
        return RUN in names
    if existing == "overwrite":
        return False
    raise InputError(
        f"{run_dir} holds a run already. Add --resume to go on with it, --overwrite to replace it, "
        "or choose another --name"
    )


def clear(run_dir: Path) -> None:
    """Empty a claimed run's folder, for a run that replaces it.

    Raises:
        StorageError: it cannot be written.
    """
    with storage_errors(run_dir):
        for path in run_dir.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()


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
