"""All that a run is made of: a TOML file in its folder."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pmm.data.order import Mixing
from pmm.model import registry
from pmm.model.model_entry import Stage, Transfer
from pmm.model.protocol import ModelOptions
from pmm.runs.train_options import TrainOptions
from pmm.storage.home import expanded
from pmm.storage.toml import NAMED, Named


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


def _default_model() -> ModelOptions:
    return registry.entry(registry.DEFAULT_MODEL).options()


_MODEL = Named(
    names=lambda: list(registry.models()),
    kind=lambda name: registry.entry(name).options,
    default=registry.DEFAULT_MODEL,
)


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
    model: ModelOptions = field(default_factory=_default_model, metadata={NAMED: _MODEL})
    """Of the class that the registry has for its `name`; PMMRec's where none is said."""
    train: TrainOptions = field(default_factory=TrainOptions)

    @property
    def names(self) -> tuple[str, ...]:
        """What it is trained on: the sources, or the one target."""
        return self.sources if self.stage == "pretrain" else (self.target,)

    def __post_init__(self) -> None:
        if self.stage != "scratch" and not registry.entry(self.model.name).transfers:
            raise ValueError(why_scratch_only(self.model.name, self.stage))
        if self.stage == "pretrain" and self.model.of_one_target:
            raise ValueError(
                f"model.{' and model.'.join(self.model.of_one_target)} keeps something of each "
                "single item of one target, and pre-training is for others: leave it out here, "
                "and set it in fine-tuning"
            )


def why_scratch_only(name: str, stage: str) -> str:
    """Why a model of which nothing can be transferred is trained on one target only."""
    why = f"{name} has no part that means anything on other data"
    if registry.entry(name).knows_by.startswith("ids"):
        why = (
            f"{name} knows items by their numbers, which mean other items on other data, so "
            "nothing of it carries over"
        )
    return f"{why}: it cannot be trained in --stage {stage}, only in --stage scratch"


def with_whole_paths(recipe: Recipe) -> Recipe:
    """The recipe with encoders in folders named from the root: a run is evaluated from anywhere."""
    whole = {
        side: replace(spec, encoder=_whole_path(spec.encoder))
        for side, spec in encoder_specs(recipe.model).items()
    }
    return replace(recipe, model=replace(recipe.model, **whole)) if whole else recipe


def encoder_specs(model: ModelOptions) -> dict[str, Any]:
    """The `TextSpec` and `VisionSpec` that a model's options hold, by the field's name."""
    held = {each.name for each in fields(model)}
    return {side: getattr(model, side) for side in ("text", "vision") if side in held}


def _whole_path(encoder: str) -> str:
    path = expanded(Path(encoder.removeprefix("local-dir:")))
    return str(path.resolve()) if path.is_dir() else encoder
