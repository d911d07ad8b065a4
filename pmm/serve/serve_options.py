"""What `pmm serve` can be asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pmm.errors import InputError
from pmm.flags import Flag
from pmm.storage.home import Home, place_of_run, whole_path


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """A model, where it is called, and by whom."""

    run: Annotated[Path, Flag(argument=True)] = field(kw_only=False)
    """Folder of a run, or its name; or the folder of a bundle."""
    target: Annotated[str | None, Flag(group="data", shown="its own")] = None
    """Another dataset, whose items it answers with."""
    host: Annotated[str, Flag(group="output")] = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is every one of this machine."""
    port: Annotated[int, Flag(group="output")] = 8000
    """Port to listen at; 0 takes a free one."""
    token_file: Annotated[Path | None, Flag(group="output")] = None
    """File with a token a line: writing calls need one. Without it they are taken from this machine
    alone."""
    read_token: Annotated[bool, Flag(group="output")] = False
    """Reading calls need the token, too."""
    allow_origin: Annotated[tuple[str, ...], Flag(group="output")] = ()
    """Site whose scripts may call, as https://shop.example; repeatable."""
    data: Annotated[Path | None, Flag(group="output", shown="serving/NAME in the home")] = None
    """Folder of the items that are added while it runs."""
    models: Annotated[Path | None, Flag(group="output", shown="where the run is")] = None
    """Folder below which POST /models may load."""
    device: Annotated[str, Flag(group="training")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    onnx: Annotated[bool, Flag(group="training")] = False
    """Compute with the ONNX graphs of a bundle, without torch."""
    home: Annotated[Path | None, Flag(group="output", shown="that of the run")] = None
    """Folder of all artefacts."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise InputError(f"--port must be from 0 to 65535, found {self.port}")
        if self.read_token and self.token_file is None:
            raise InputError("--read-token needs the file of tokens: --token-file FILE")
        for origin in self.allow_origin:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or "/" in rest or "*" in rest:
                raise InputError(f"--allow-origin {origin}: write it as https://shop.example")

    def place(self) -> tuple[Home, Path]:
        """The home folder and the run's folder."""
        return place_of_run(self.home, self.run)

    def folder(self, home: Home, run: Path) -> Path:
        """Where live items are kept."""
        return whole_path(self.data) if self.data else home.root / "serving" / run.name

    def target_of(self, place: Path, run: Path) -> str | None:
        """Whose items a model answers with: `target` is for the run that was asked for, however
        its folder is spelled; None: its own."""
        return self.target if place.resolve() == run.resolve() else None

    def place_of(self, name: str, run: Path) -> Path:
        """What `POST /models` names -> its folder.

        Raises:
            InputError: it lies elsewhere than below `models`.
        """
        below = whole_path(self.models or run.absolute().parent).resolve()
        try:
            found = (below / name).resolve()
            if found == below or not found.is_relative_to(below):
                raise InputError(f"models are loaded from below {below} alone (--models)")
            if not found.is_dir():
                raise InputError("there is no folder of this name")
        except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, links in a circle
            raise InputError("no folder can have this name") from error
        return found
