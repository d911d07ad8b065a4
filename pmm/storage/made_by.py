"""Which command made an artefact, remembered below the home folder for the advice of messages.

An artefact itself holds nothing of the machine that made it; where its raw files and its encoder
lie stands here alone. Deleting the memory costs nothing but plainer advice.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from pmm.advice import command
from pmm.errors import PmmError
from pmm.storage.artefact import atomic_file, write_json
from pmm.storage.home import Home

FOLDER = ".commands"
"""Below the home folder."""


def remember(home: Home, place: Path, *words: str, **options: Any) -> None:
    """Remember the command that made an artefact, without its `--home`: a home can be moved.

    What cannot be written is not remembered; no stage fails of it.

    Args:
        home: that holds the artefact.
        place: the artefact's directory.
        words: as of `pmm.advice.command`.
        options: the same; values that JSON has.
    """
    memory = _memory(home, place)
    with contextlib.suppress(OSError, PmmError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(memory) as temporary:
            write_json(temporary, {"words": words, "options": options})


def command_that_made(home: Home, place: Path, **changes: object) -> str | None:
    """The command that made an artefact, with some options changed; None: nobody remembers.

    Args:
        home: that holds the artefact.
        place: its directory.
        changes: options by name, as of `pmm.advice.command`.
    """
    words, options = _remembered(home, place)
    first: dict[str, Any] = {name: options[name] for name in ("name", "target") if name in options}
    asked: dict[str, Any] = {**first, **options, **changes, "home": home.option}
    return command(*words, **asked) if words else None


def option_that_made(home: Home, place: Path, option: str) -> Any:
    """The value of an option of the command that made an artefact; None where nobody knows."""
    return _remembered(home, place)[1].get(option)


def _remembered(home: Home, place: Path) -> tuple[list[str], dict[str, Any]]:
    """The words and the options; none where they are not there, or not as they were written."""
    try:
        found = json.loads(_memory(home, place).read_text(encoding="utf-8"))
        words, options = found["words"], found["options"]
    except (OSError, ValueError, KeyError, TypeError):
        return [], {}
    whole = isinstance(words, list) and isinstance(options, dict)
    if not whole or not all(_is_plain(each) for each in (*words, *options, *options.values())):
        return [], {}
    return words, options


def _is_plain(value: object) -> bool:
    """Whether a part of a command is as `remember` wrote it; nothing that acts on a terminal."""
    if isinstance(value, list):
        return all(_is_plain(each) for each in value)
    if isinstance(value, str):
        return value.isprintable()
    return value is None or isinstance(value, bool | int | float)


def _memory(home: Home, place: Path) -> Path:
    return home.root / FOLDER / place.parent.name / f"{place.name}.json"
