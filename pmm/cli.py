"""The command line: its commands in the order in which data flows, and errors as exit status.

A command's module is imported when the command is used, so that help answers at once.
"""

import errno
import importlib
import sys
from typing import Annotated, Any, NoReturn

import typer

from pmm.commands.from_request import LazyGroup
from pmm.commands.printed import OUTPUT_LOST, flush_output, printable_output, refuse_output
from pmm.errors import PmmError
from pmm.messages import configure_logging
from pmm.terminal import escaped_output
from pmm.train.interrupt import exit_status, terminated_as_by_ctrl_c
from pmm.version import __version__

COMMANDS = {
    "ingest": "Filter and split a raw dataset.",
    "shard": "Pictures to 224x224, texts to tokens, shards.",
    "cache": "What the frozen parts of the encoders make of each item, computed once.",
    "train": "Train a model on shards.",
    "tune": "Search a model's hyper-parameters; the same budget for every model.",
    "encoders": "Which encoders of texts and pictures suit a target.",
    "evaluate": "Rank the whole catalogue for every user.",
    "compare": "The differences of runs, beyond noise or not.",
    "table": "Any runs in one table.",
    "curves": "Any runs' curves in one picture.",
    "paper": "The paper's tables: what they need, running it, a report, checking it.",
    "recommend": "The best items for many users, into a Parquet file.",
    "export": "A run as one folder that stands alone, to serve or to pass on.",
    "serve": "A run behind HTTP: recommendations, new items, a page.",
    "gallery": "A run as one HTML file to look at.",
    "report": "Runs as one page: tables, curves, best and worst users, data, recipes.",
    "inspect": "Show any artefact, run or file.",
    "audit": "What leaks in a target, before anybody believes a number.",
    "check": "Verify all that is in a home, and make damaged things again.",
    "demo": "The whole way on the embedded world.",
    "world": "The embedded world as raw files.",
}
"""Name -> one line on it, in the order of the data flow; `pmm/commands/` has a module of each."""
ANSWERING = ("recommend", "export", "serve", "gallery")
"""Those whose module stands in `pmm/commands/answering/`."""
REPORTING = ("report", "table", "curves", "audit", "paper")
"""Those whose module stands in `pmm/commands/reporting/`."""
_ROOMS = dict.fromkeys(ANSWERING, "answering") | dict.fromkeys(REPORTING, "reporting")


class _InOrderOfFlow(LazyGroup):
    """The commands of `pmm`."""

    def lines(self) -> dict[str, str]:
        return COMMANDS

    def make(self, name: str) -> Any:
        room = f"pmm.commands.{_ROOMS[name]}" if name in _ROOMS else "pmm.commands"
        return importlib.import_module(f"{room}.{name}").command()


app = typer.Typer(
    name="pmm",
    cls=_InOrderOfFlow,
    help="Recommenders that know items by their text and picture: from raw dumps to ranked items.",
    epilog="Example: pmm demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line.

    Exit status: 0 done, 1 the user's input is at fault, 2 usage, 130 Ctrl-C, 143 SIGTERM.
    """
    printable_output()
    with escaped_output():
        try:
            with terminated_as_by_ctrl_c():
                _run(arguments)
        finally:
            flush_output()


def _run(arguments: list[str] | None) -> NoReturn:
    try:
        app(args=arguments)
    except PmmError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:  # of any path that a user typed; whatever else fails is told as a bug
        if error.filename is None and error.errno in OUTPUT_LOST:
            refuse_output(error)
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"Error: {error.filename} cannot be used ({error.strerror})", file=sys.stderr)
        raise SystemExit(1) from None
    except SystemExit as ended:  # typer turns Ctrl-C into one
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):
            print("Stopped. Run the same command to go on.", file=sys.stderr)
            raise SystemExit(exit_status()) from None
        raise
    raise SystemExit(0)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pmm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell all that happens, with times.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Tell warnings and errors only.")
    ] = False,
) -> None:
    del version
    configure_logging(verbose, quiet)
