"""`pmm demo`: the whole way on the embedded world."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pmm.commands.from_request import GroupedCommand, make_command, typed_command
from pmm.flags import Flag
from pmm.storage.home import resolve_home
from pmm.world.platforms import Size


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """What `pmm demo` can be asked."""

    size: Annotated[Size, Flag(group="data")] = "demo"
    """How large the world is."""
    epochs: Annotated[int | None, Flag(group="training")] = None
    """Training epochs at most."""
    seed: Annotated[int, Flag(group="training")] = 0
    """Of the world and of the training."""
    home: Annotated[Path, Flag(group="output")] = Path("pmm-demo")
    """Folder of all artefacts."""


def run(request: DemoRequest) -> None:
    """The whole way on the embedded world.

    From raw files to recommendations, on a CPU, in minutes.
    """
    from pmm.demo import demo

    home = resolve_home(request.home)
    told = demo.run_demo(
        home,
        size=request.size,
        epochs=request.epochs,
        seed=request.seed,
        command=typed_command(),
    )
    print(told)


def command() -> GroupedCommand:
    """The command."""
    return make_command("demo", DemoRequest, run, example="pmm demo --home pmm-demo")
