"""What `pmm export` can be asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pmm.errors import InputError
from pmm.flags import Flag
from pmm.storage.home import Home, place_of_run

TEST_USERS = 10_000


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What a bundle holds beside the model and its items."""

    onnx: Annotated[bool, Flag(group="output")] = False
    """Add the user encoder and the item encoders as ONNX, by which `onnxruntime` serves without
    torch."""
    pictures: Annotated[bool, Flag(group="output", name="--pictures/--no-pictures")] = True
    """Hold the items' small pictures, as the shards have them."""
    test_users: Annotated[int, Flag(group="output")] = TEST_USERS
    """Users of the test with their histories, spread over all of them, by which a server checks
    itself; 0 holds none."""

    def __post_init__(self) -> None:
        if self.test_users < 0:
            raise InputError(f"test_users must be at least 0, found {self.test_users}")


@dataclass(frozen=True, kw_only=True)
class ExportRequest(BundleOptions):
    """What `pmm export` can be asked: a run, and where its bundle goes."""

    run: Annotated[Path, Flag(argument=True)] = field(kw_only=False)
    """Folder of a run, or its name."""
    to: Annotated[Path, Flag(group="output", metavar="DIR")]
    """The bundle's folder."""
    target: Annotated[str | None, Flag(group="data", shown="its own")] = None
    """Another dataset, whose items it answers with, without training."""
    overwrite: Annotated[bool, Flag(group="output")] = False
    """Replace a bundle that is there."""
    push_to: Annotated[str | None, Flag(group="output", metavar="OWNER/NAME")] = None
    """Upload it to this repository of the model hub, a private one where it is not there yet."""
    device: Annotated[str, Flag(group="training")] = "auto"
    """auto, cpu, cuda, cuda:1, mps: where the items are encoded."""
    home: Annotated[Path | None, Flag(group="output", shown="that of the run")] = None
    """Folder of all artefacts."""

    def place(self) -> tuple[Home, Path]:
        """The home folder and the run's folder."""
        return place_of_run(self.home, self.run)
