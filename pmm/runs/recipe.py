"""All that a run is made of: a TOML file in its folder."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from pmm.data.order import Mixing
from pmm.model.pmmrec.pmmrec import PmmrecOptions
from pmm.model.registry import ModelOptions, knows_ids
from pmm.runs.train_options import Stage, TrainOptions, Transfer


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a fine-tuning starts."""

    run: str
    """The folder of the pre-trained run."""
    transfer: Transfer = "full"


CHANGEABLE = frozenset(
    {"epochs", "patience", "max_steps", "max_minutes", "log_every", "save_every", "ahead"}
    | {"trackers"}
)
"""Training options that a resumed run may change: they do not touch what a step does."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a run is made of; saved as recipe.toml in its folder."""

    stage: Stage = "scratch"
    target: str = ""
    """What it is trained on, from scratch or in fine-tuning."""
    sources: tuple[str, ...] = ()
    """What it is trained on in pre-training."""
    mixing: Mixing = "proportional"
    """How users of several sources come into a batch, see `pmm.data.training_set`."""
    start: Start | None = None
    """What a fine-tuning takes over."""
    model: ModelOptions = field(default_factory=PmmrecOptions)
    train: TrainOptions = field(default_factory=TrainOptions)

    @property
    def names(self) -> tuple[str, ...]:
        """What it is trained on: the sources, or the one target."""
        return self.sources if self.stage == "pretrain" else (self.target,)

    def __post_init__(self) -> None:
        if knows_ids(self.model) and self.stage != "scratch":
            raise ValueError(why_scratch_only(self.model.name, self.stage))


def why_scratch_only(name: str, stage: str) -> str:
    """Why a model on item ids is trained on one target only."""
    return (
        f"{name} knows items by their numbers, which mean other items on other data, so nothing of "
        f"it carries over: it cannot be trained in --stage {stage}, only in --stage scratch"
    )


def with_whole_paths(recipe: Recipe) -> Recipe:
    """The recipe with encoders in folders named from the root: a run is evaluated from anywhere."""
    model = recipe.model
    text = replace(model.text, encoder=_whole_path(model.text.encoder))
    vision = replace(model.vision, encoder=_whole_path(model.vision.encoder))
    return replace(recipe, model=replace(model, text=text, vision=vision))


def _whole_path(encoder: str) -> str:
    path = Path(encoder.removeprefix("local-dir:")).expanduser()
    return str(path.resolve()) if path.is_dir() else encoder
