"""`pmm world`: the embedded world as raw files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pmm.advice import options_text
from pmm.commands.from_request import GroupedCommand, make_command
from pmm.errors import InputError
from pmm.flags import Flag
from pmm.world.generate import World
from pmm.world.platforms import Size


@dataclass(frozen=True, kw_only=True)
class WorldRequest:
    """What `pmm world` can be asked."""

    to: Annotated[Path | None, Flag(group="output")] = None
    """Folder for the raw files."""
    format: Annotated[Literal["amazon", "hm", "bili", "kwai", "csv"], Flag(group="data")] = "hm"
    """Raw format."""
    layout: Annotated[str | None, Flag(group="data", shown="the first")] = None
    """Which of a format's layouts, amazon: 2018, 2018-old, 2023; bili and kwai: ninerec,
    ninerec-user-first, pmmrec, pmmrec-lmdb; kwai also: microlens, microlens-crlf, microlens-tsv."""
    target: Annotated[str, Flag(group="data")] = "HM"
    """With --format csv: which source or target to write."""
    size: Annotated[Size, Flag(group="data")] = "demo"
    """How large the world is."""
    seed: Annotated[int, Flag(group="data")] = 0
    """Of everything in the world."""
    strays: Annotated[int, Flag(group="data")] = 0
    """Per cent of the interactions replaced by random ones."""
    describe: Annotated[bool, Flag(group="output")] = False
    """Print sizes, oracle and popularity of all sources and targets."""
    encoders: Annotated[Path | None, Flag(group="output")] = None
    """Folder for the world's small pre-trained encoders."""
    teach: Annotated[bool, Flag(group="output")] = False
    """Train these again instead of copying those of PMM."""

    def __post_init__(self) -> None:
        """Refuse to do nothing, and what does not go together.

        Raises:
            InputError: says what to give.
        """
        if self.to is None and not self.describe and self.encoders is None:
            raise InputError(
                "say where to write raw files (--to DIR) or --encoders DIR, or --describe"
            )
        if self.format == "csv" and self.layout is not None:
            raise InputError(
                f"--layout {self.layout}: --format csv has one layout only; leave it out"
            )


def run(request: WorldRequest) -> None:
    """The embedded world as raw files.

    With --describe: how hard it is, measured on all sources and targets.
    """
    from pmm.world.generate import generate

    if request.encoders is not None:
        _put_encoders(request.encoders, teach=request.teach)
    if request.to is None and not request.describe:
        return
    world = generate(request.size, request.seed, request.strays)
    if request.describe:
        _describe(world)
    if request.to is not None:
        _write(world, request, request.to)


def _put_encoders(folder: Path, *, teach: bool) -> None:
    from pmm.demo.public_encoders import put_public_encoders, teach_public_encoders

    (teach_public_encoders if teach else put_public_encoders)(folder)
    print(
        f"{folder}: to shard give {options_text(text_encoder=folder / 'text')}, to train "
        f"{options_text(recipe=folder / 'recipe.toml')}"
    )


def _describe(world: World) -> None:
    from pmm.text_table import text_table
    from pmm.world.describe import describe

    found = describe(world)
    names = max(map(list, found), key=len)  # a target in which nothing is left has fewer
    print("Sizes after a core of 5; what the oracles and the floors reach is HR@10.")
    print(text_table(names, [[row.get(name) for name in names] for row in found]))


def _write(world: World, request: WorldRequest, folder: Path) -> None:
    from pmm.world.formats.csv_writer import write_csv
    from pmm.world.formats.raw_formats import write_raw

    if request.format == "csv":
        wrote = {request.target: write_csv(world, request.target, folder)}
    else:
        wrote = write_raw(world, request.format, folder, request.layout)
    for name, counts in wrote.items():
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        print(f"{folder} ({name}): {told}")


def command() -> GroupedCommand:
    """The command."""
    example = "pmm world --format hm --size demo --to raw/hm"
    return make_command("world", WorldRequest, run, example=example)
