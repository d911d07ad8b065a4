"""The commands of a page of the docs: found, and run as a reader would, one after the other."""

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pmm.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?^```bash\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Command:
    """A command of a page."""

    words: tuple[str, ...]
    not_run: str | None
    """Why it is not run, if it is not; its options are checked all the same."""


def commands_of(page: Path) -> list[Command]:
    """The commands in a page's blocks of bash, in order.

    A block below `<!-- not run: REASON -->` is not run.
    """
    found = []
    for block in FENCE.finditer(page.read_text(encoding="utf-8")):
        for line in block["text"].replace("\\\n", " ").split("\n"):
            words = shlex.split(line, comments=True)
            if words:
                found.append(Command(words=tuple(words), not_run=block["why"]))
    return found


def run_page(page: Path, folder: Path) -> str:
    """Run a page's commands in a folder; what they print.

    Raises:
        AssertionError: one that is no command of pmm, or that fails.
    """
    said = ""
    for command in commands_of(page):
        if command.not_run is None:
            said += run(command.words, folder)
    return said


def not_there(page: Path, folder: Path) -> list[str]:
    """The files of a home folder that a page names and that its commands have not made."""
    named = re.findall(r"\bpmm-data/[\w./-]+\w", page.read_text(encoding="utf-8"))
    return [name for name in named if not (folder / name).exists()]


def run(words: tuple[str, ...], folder: Path) -> str:
    """Run one command of pmm in a folder, in this process, as if it were typed."""
    assert words[0] == "pmm", f"only pmm can be run here: {shlex.join(words)}"
    printed = io.StringIO()
    with _typed(words, folder), contextlib.redirect_stdout(printed):
        try:
            main(list(words[1:]))
        except SystemExit as ended:
            status = ended.code
    assert status == 0, f"{shlex.join(words)}: exit {status}\n{printed.getvalue()}"
    return f"$ {shlex.join(words)}\n{printed.getvalue()}"


@contextlib.contextmanager
def _typed(words: tuple[str, ...], folder: Path) -> Iterator[None]:
    """In the folder, with the command as the program's arguments and no home set."""
    argv, place, home = sys.argv, Path.cwd(), os.environ.pop("PMM_HOME", None)
    sys.argv = list(words)
    os.chdir(folder)
    try:
        yield
    finally:
        sys.argv = argv
        os.chdir(place)
        if home is not None:
            os.environ["PMM_HOME"] = home
