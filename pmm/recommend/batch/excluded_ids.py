"""Ids that are never recommended: as they are typed, or from files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.readers.columns import ALIASES, find_roles, fold
from pmm.ingest.readers.delimited import sniff, stream
from pmm.ingest.readers.encodings import find_encoding, read_blocks
from pmm.ingest.readers.ids import nfc


def read_excluded(given: Sequence[str]) -> tuple[str, ...]:
    """The ids that some words name, each once.

    Args:
        given: ids, or names of files: delimited text with a column item_id, or an id a line.

    Raises:
        InputError: a file is damaged, or holds no id.
    """
    found: dict[str, None] = {}
    for each in given:
        path = Path(each)
        ids = _of_file(path) if _is_file(path) else [each]
        found |= dict.fromkeys(nfc(item_id.strip()) for item_id in ids)
    found.pop("", None)
    return tuple(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # an id that is too long for a path, or holds a zero byte
        return False


def _of_file(path: Path) -> list[str]:
    ids = list(_column(path)) or list(_lines(path))
    if not any(each.strip() for each in ids):
        raise InputError(
            f"--exclude {path} holds no id: expected is an id a line, or a column item_id. (If an "
            f"item is called so, give the path of the file as ./{path.name} elsewhere.)"
        )
    return ids


def _column(path: Path) -> Iterator[str]:
    """The column of items, where the file has one among others."""
    try:
        dialect, head = sniff(path)
    except InputError:  # one column, or nothing: read as lines
        return
    at = find_roles(head[0], ["item"]).get("item")
    if at is None:
        return
    wanted = {"item_id": at}
    for batch in stream(path, dialect, wanted, header=True, drop_counts=Counter[str](), notes={}):
        yield from pc.unique(batch["item_id"].dictionary).to_pylist()


def _lines(path: Path) -> Iterator[str]:
    first = True
    for block in read_blocks(path, find_encoding(path).name):
        for line in block.data.decode().splitlines():
            if not (first and fold(line) in ALIASES["item"]):
                yield line.strip().strip('"')
            first = False
