"""What an audit can be asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pmm.advice import command
from pmm.errors import InputError
from pmm.flags import Flag

FORMS = (".md", ".txt", ".json")
"""Of the file that an audit is written to: two of text, one for programs."""


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """How a target is audited."""

    draws: Annotated[int, Flag(group="data")] = 10
    """How often the order of rows of the same time is drawn anew."""
    seed: Annotated[int, Flag(group="data")] = 0
    """Of these draws, and of the bootstrap."""
    examples: Annotated[int, Flag(group="output")] = 5
    """Pairs of near-duplicates that are named, of texts and of pictures."""

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("seed", 0), ("examples", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class AuditRequest(AuditOptions):
    """What `pmm audit` can be asked: a target, and how it is audited."""

    target: Annotated[str, Flag(argument=True)] = field(kw_only=False)
    """Name of a dataset that was ingested."""
    run: Annotated[Path | None, Flag(group="model")] = None
    """An evaluated run, whose ranks are compared with those of popularity and item kNN."""
    to: Annotated[Path | None, Flag(group="output", metavar="FILE")] = None
    """Also write it to a file: audit.json for programs, audit.md for people."""
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.to is None:
            return
        place = self.to.expanduser().absolute()
        if place.suffix.lower() not in FORMS or place.is_dir():
            again = command("audit", self.target, to="audit.md")
            raise InputError(
                f"--to {self.to}: name a file that ends in {', '.join(FORMS[:-1])} or "
                f"{FORMS[-1]}. Run: {again}"
            )
        if not place.parent.is_dir():
            raise InputError(f"--to {self.to}: there is no folder {place.parent}")
