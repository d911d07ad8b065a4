"""Which encoders a model has, and how much of each trains; nothing here loads one."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

TrainBlocks: TypeAlias = int | Literal["all"]


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """Which text encoder, and how much of it trains."""

    encoder: str = "xlm-roberta-base"
    """Hub name or folder. The folder has `config.json` and weights."""
    train_blocks: TrainBlocks = 2
    """Top blocks of each encoder that train; 0 freezes it, "all" trains everything, the embeddings
    too."""
    random_seed: int | None = None
    """None: pre-trained weights are required. A number: random weights drawn from this seed."""


@dataclass(frozen=True, kw_only=True)
class VisionSpec:
    """Which vision tower, how much of it trains, and what it is shown."""

    encoder: str = "ViT-B-32"
    """A name or a folder of open_clip, transformers or timm. open_clip's name ("ViT-B-32"), a hub
    name ("facebook/dinov2-small"), "timm:NAME", or a folder with config and weights."""
    pretrained: str = "openai"
    """open_clip's tag of the weights; used for its names alone."""
    train_blocks: TrainBlocks = 2
    """Number of blocks at the top that train; 0 freezes the whole tower, "all" trains its
    embeddings too."""
    random_seed: int | None = None
    """None: pre-trained weights are required. A number: random weights drawn from this seed."""
    image_norm: Literal["encoder", "half"] = "encoder"
    """Mean and deviation of the pixels: the checkpoint's, or 0.5 as the published code (R39)."""
