"""What is read of a run's folder: its log, and the digests and sizes of its files."""

import hashlib
from pathlib import Path
from typing import Any

from pmm.errors import BrokenArtefact
from pmm.storage.json_files import JSON_ERRORS, parse_json


def log_records(path: Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl; a line that was cut off at the end is left out.

    Raises:
        BrokenArtefact: a line is no record.
    """
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        return [parse_json(line) for line in lines]
    except JSON_ERRORS as error:
        raise BrokenArtefact(f"{path} holds a line that is no record ({error})") from error


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_bytes(folder: Path) -> int:
    """How much a folder's files take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
