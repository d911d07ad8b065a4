"""What a model says of itself in the registry: options, presets, search space, how it is built.

Nothing here loads torch; the types that do are for type checkers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pmm.arrays import Int64s
from pmm.model.search_space import Space
from pmm.shards.kinds import Modality

if TYPE_CHECKING:
    import torch

    from pmm.model.features.item_features import ItemFeatures
    from pmm.model.protocol import ModelOptions, Recommender
    from pmm.shards.read import Shards

Stage = Literal["scratch", "pretrain", "finetune"]
Transfer = Literal["full", "item", "user", "text", "vision"]
"""Which parts of a pre-trained run a fine-tuning takes over."""
Objectives = Literal["dap", "all"]
"""Next-item prediction alone, or the auxiliary objectives of pre-training too."""

DEFAULT = "default"
"""The preset where none is asked for; every model has it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A preset: a model's options, and how it trains where that is not as `TrainOptions` say."""

    options: "ModelOptions"
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What of a training request may change a model's options."""

    stage: Stage = "scratch"
    preset: str = DEFAULT
    objectives: Objectives | None = None
    """None: what the model has in that stage."""
    modality: Modality | None = None
    """None: what the options say."""
    epochs: int = 30
    """Of the training to come, at most; 0 has no limit."""


@dataclass(frozen=True, kw_only=True)
class BuildInputs:
    """What a model is built on, beside its options."""

    n_items: int
    """Of the catalogue, whose items are 1..n_items; a model on ids has a row for each."""
    features: "ItemFeatures | None" = None
    """Frozen vectors of the items, where the model reads any."""
    train_count: Int64s | None = None
    """int64 [n_items]: how often each item occurs in the training parts, where that is known."""
    fresh: bool = True
    """Whether it is trained from here. Else a checkpoint will replace all that it holds, so that
    nothing need be learned from the items (VQ-Rec's codes take minutes)."""


Build: TypeAlias = "Callable[[Any, BuildInputs], Recommender]"
ReadVectors: TypeAlias = (
    "Callable[[Any, Sequence[Shards], torch.device | str], ItemFeatures | None]"
)
OfRun: TypeAlias = Callable[[Any, Transfer, Callable[[], Mapping[str, Any]]], Any]


def _as_they_are(options: Any, *_: Any) -> Any:
    return options


def _as_preset_says(_: Any) -> dict[str, Any]:
    return {}


def _no_vectors(*_: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """All that the program has to know of a model before it builds one."""

    knows_by: str
    """What is known of an item, in words for errors: "ids", "frozen vectors"."""
    settings: Mapping[str, Settings]
    """Preset -> its values; `DEFAULT` is one of them. All have options of one class."""
    space: Space
    """What `pmm tune` searches; what the user gives is kept, and not searched."""
    build: Build
    """(options, inputs) -> a model with fresh weights, drawn from torch's generator."""
    read_vectors: ReadVectors = _no_vectors
    """(options, shards, device) -> the frozen vectors of the items, None where none are read."""
    transfers: Mapping[Transfer, tuple[str, ...]] = field(default_factory=dict)
    """Mode -> the parts (submodules) that it takes over. Empty: the model is trained from scratch
    only, as one that knows items by their numbers."""
    parts: "Callable[[Any], Mapping[Transfer, tuple[str, ...]]] | None" = None
    """Options -> `transfers` of a model of these, where they decide which parts there are."""
    at_stage: Callable[[Any, Asked], Any] = _as_they_are
    """(options, what is asked) -> the options of that stage."""
    of_run: OfRun = _as_they_are
    """(options of a pre-trained run, mode, its tensors on demand) -> where a fine-tuning starts."""
    training: Callable[[Any], Mapping[str, Any]] = _as_preset_says
    """Options -> how a model of these trains where neither its preset nor the user says."""
    objectives: tuple[Objectives, ...] = ()
    """Values of --objectives that it takes."""
    modalities: tuple[Modality, ...] = ()
    """Values of --modality that it takes."""

    def __post_init__(self) -> None:
        if DEFAULT not in self.settings:
            raise ValueError(f'an entry needs settings for the preset "{DEFAULT}"')
        kinds = {type(each.options).__name__ for each in self.settings.values()}
        if len(kinds) > 1:
            raise ValueError(f"presets of one model have options of one class, found {kinds}")

    @property
    def options(self) -> "type[ModelOptions]":
        """The class of its options."""
        return type(self.settings[DEFAULT].options)
