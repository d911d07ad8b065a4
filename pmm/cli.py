"""The command line: a command parses, calls one function and prints one result.

Heavy imports stand inside the commands, so that help answers at once.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pmm import __version__
from pmm.errors import InputError, PmmError
from pmm.home import Home, resolve_home

if TYPE_CHECKING:
    from pmm.artefact import Built
    from pmm.ingest.targets import IngestOptions

app = typer.Typer(
    name="pmm",
    help="Recommenders that know items by their text and picture: from raw dumps to ranked items.",
    epilog="Example: pmm demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ingest_app = typer.Typer(
    help="Filter and split a raw dataset: all targets of the source, or those of --target.",
    epilog="Example: pmm ingest hm --raw ~/hm",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(ingest_app, name="ingest")

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of all artefacts. [default: $PMM_HOME or ./pmm-data]"),
]
TargetOption = Annotated[str, typer.Option("--target", help='A dataset by name, as "HM Shoes".')]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Write again though nothing changed.")]


class Repeats(StrEnum):
    """What to do when a user meets an item again."""

    keep = "keep"
    first = "first"


class Split(StrEnum):
    """How sequences are cut into train, valid and test."""

    leave_one_out = "leave-one-out"
    temporal = "temporal"


class MissingImage(StrEnum):
    """What to do with items that have no picture."""

    drop = "drop"
    text_only = "text-only"


UserCore = Annotated[int, typer.Option(help="Least actions of a user; 0 switches it off.")]
ItemCore = Annotated[int, typer.Option(help="Least actions of an item; 0 switches it off.")]
RepeatsOption = Annotated[Repeats, typer.Option(help="Same user and item again: keep all or one.")]
UsersOption = Annotated[int | None, typer.Option(help="Sample this many users after the core.")]
SplitOption = Annotated[Split, typer.Option(help="Last two items of each user, or time points.")]
MissingOption = Annotated[MissingImage, typer.Option(help="Items without a picture.")]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line. Exit status: 0 done, 1 the user's input is at fault, 2 usage."""
    try:
        app(args=arguments)
    except PmmError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("Stopped. Run the same command to go on.", file=sys.stderr)
        raise SystemExit(130) from None
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
) -> None:
    del version


def _ingest_options(**values: Any) -> "IngestOptions":
    from pmm.ingest.targets import IngestOptions

    return IngestOptions(
        **{name: str(v) if isinstance(v, StrEnum) else v for name, v in values.items()}
    )
