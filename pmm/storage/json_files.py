"""JSON files read back: whatever is wrong with one is an error that names it, never a traceback."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pmm.errors import BrokenArtefact

JSON_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a JSON file and taking values out of it can raise: not there, not UTF-8, no JSON,
too deep, a key that is missing or of another kind."""


def read_json(path: Path, *, again: str, needs: Collection[str] = ()) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: of the file.
        again: what to do where it is damaged, as a sentence ("Run: pmm ingest hm").
        needs: keys that it must have.

    Raises:
        BrokenArtefact: it cannot be read, is no JSON object, or lacks a key.
    """
    try:
        found = parse_json(path.read_bytes())
        lacking = sorted(set(needs) - found.keys())
        if lacking:
            raise ValueError(f"lacks {', '.join(lacking)}")
    except JSON_ERRORS as error:
        raise BrokenArtefact(f"{path} cannot be read ({told(error)}). {again}") from error
    return found


def parse_json(content: bytes) -> dict[str, Any]:
    """The object in the bytes of a JSON file. ValueError where it is none."""
    found = json.loads(content.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def told(error: BaseException) -> str:
    """An error of `JSON_ERRORS` in words: the missing key, the system's complaint, or its text.

    >>> told(KeyError("bytes")), told(RecursionError("maximum depth"))
    ("lacks 'bytes'", 'too deep')
    """
    if isinstance(error, KeyError):
        return f"lacks {error}"
    if isinstance(error, RecursionError):
        return "too deep"
    return str(getattr(error, "strerror", None) or error)
