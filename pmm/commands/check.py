"""`pmm check`: all of a home verified, and made again where it can be."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.flags import Flag
from pmm.storage.home import resolve_home


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """What `pmm check` can be asked."""

    folder: Annotated[Path | None, Flag(argument=True)] = field(default=None, kw_only=False)
    """The home folder; $PMM_HOME or ./pmm-data by default."""
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """The same as an option."""
    repair: Annotated[bool, Flag(group="output")] = False
    """Make again what is damaged and can be made from what is whole."""


def run(request: CheckRequest) -> None:
    """Verify all that is in a home.

    Reads tables, targets, shards, activations, runs, searches and downloaded pictures, and says
    what is damaged, stale or unfinished, and what to run. Exit status 1: something is damaged.
    """
    from pmm.check.check_home import check_and_repair, check_home, require_all_whole
    from pmm.check.finding import findings_table

    home = resolve_home(request.folder or request.home)
    done: list[str] = []
    if request.repair:
        found, done = check_and_repair(home)
    else:
        found = check_home(home)
    print("\n".join([*done, findings_table(home, found)]))
    require_all_whole(found)


def command() -> GroupedCommand:
    """The command."""
    return make_command("check", CheckRequest, run, example="pmm check pmm-data --repair")
