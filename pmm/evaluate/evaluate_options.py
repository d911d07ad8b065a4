"""What an evaluation can be asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pmm.errors import InputError
from pmm.evaluate.popularity_mix import KAPPA, PopularityMix
from pmm.flags import Flag
from pmm.shards.kinds import Split
from pmm.storage.home import Home, place_of_run

RankedPart = Literal["test", "valid", "cold", "cold-all"]
"""What is ranked: a split, or the cold cuts, those held out or all."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How a run is evaluated."""

    split: Annotated[Split, Flag(group="data")] = "test"
    """Which item is asked for: the last of each user, or the second last."""
    keep_history: Annotated[bool, Flag(group="data")] = False
    """Rank the items that a user has had already, too."""
    seed: Annotated[int, Flag(group="output")] = 0
    """Of the chance reference and of the users in the gallery."""
    cold: Annotated[bool, Flag(group="data")] = False
    """Also rank the cuts that end on a cold item (paper IV-A; R47)."""
    neighbours: Annotated[bool, Flag(group="data")] = False
    """Also rank by neighbours, without training: items that share users, and items whose frozen
    vectors are near (of the modalities that the model reads; not for a model on ids alone)."""
    popularity_alpha: Annotated[float | None, Flag(group="data", shown="the run's own")] = None
    """Share of popularity in the second ranking, times log(count) beside the logits; negative
    prefers rare items. Without it the one that the run's validation items chose, if they did."""
    popularity_kappa: Annotated[float | None, Flag(group="data", shown="the run's own")] = None
    """Occurrences added to those of each item before their logarithm is taken."""
    gallery_users: int = 6
    """Users shown in gallery.png; 0 draws none."""
    items_per_chunk: int = 64
    """Items encoded together; on a CPU 64 take 15% less time an item than 256."""
    users_per_chunk: int = 1024
    """Users ranked together."""

    def __post_init__(self) -> None:
        least = {"seed": 0, "gallery_users": 0, "items_per_chunk": 1, "users_per_chunk": 1}
        low = [
            f"{name} must be at least {n}" for name, n in least.items() if getattr(self, name) < n
        ]
        try:
            PopularityMix(
                alpha=self.popularity_alpha or 0.0,
                kappa=KAPPA if self.popularity_kappa is None else self.popularity_kappa,
            )
        except ValueError as error:
            low.append(str(error))
        if low:
            raise InputError("; ".join(low))


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(EvaluateOptions):
    """What `pmm evaluate` can be asked: a run, and how it is evaluated."""

    run: Annotated[Path, Flag(argument=True)] = field(kw_only=False)
    """Folder of a run, or its name."""
    target: Annotated[str | None, Flag(group="data", shown="its own")] = None
    """Another dataset, ranked without training."""
    device: Annotated[str, Flag(group="training")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    home: Annotated[Path | None, Flag(group="output", shown="that of the run")] = None
    """Folder of all artefacts."""

    def place(self) -> tuple[Home, Path]:
        """The home folder and the run's folder."""
        return place_of_run(self.home, self.run)


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What `pmm compare` can be asked."""

    first: Annotated[Path, Flag(argument=True)] = field(kw_only=False)
    """A run's folder, or its name."""
    second: Annotated[Path, Flag(argument=True)] = field(kw_only=False)
    """Another one, of the same target."""
    split: Annotated[RankedPart, Flag(group="data")] = "test"
    """Which of their evaluations; cold: the held-out cuts."""
    target: Annotated[str | None, Flag(group="data")] = None
    """What they ranked, if not what they were trained on."""
    seed: Annotated[int, Flag(group="output")] = 0
    """Of the bootstrap's draws."""
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""
