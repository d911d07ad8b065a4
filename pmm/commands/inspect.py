"""`pmm inspect`: any artefact, run or file, shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.flags import Flag


@dataclass(frozen=True, kw_only=True)
class InspectRequest:
    """What `pmm inspect` can be asked."""

    path: Annotated[str, Flag(argument=True)]
    """An artefact, a run, one of their files; or the URL of shards."""
    rows: Annotated[int, Flag(group="output")] = 5
    """First rows of each table."""
    sheet: Annotated[Path | None, Flag(group="output")] = None
    """Where to draw the contact sheet of shards."""
    verify: Annotated[bool, Flag(group="output")] = False
    """Compare the content of every file."""


def run(request: InspectRequest) -> None:
    """Show any artefact, run or file.

    Manifest, card, first rows of tables, a contact sheet of the pictures in shards.
    """
    from pmm.inspect import describe

    print(describe(request.path, rows=request.rows, sheet=request.sheet, verify=request.verify))


def command() -> GroupedCommand:
    """The command."""
    return make_command("inspect", InspectRequest, run, example="pmm inspect pmm-data/shards/hm")
