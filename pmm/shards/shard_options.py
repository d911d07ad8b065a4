"""How a target becomes shards: options, without anything that computes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pmm.errors import InputError
from pmm.flags import Flag

MAX_PIXELS = 120_000_000
"""Largest picture that is decoded: above the 108 megapixels of phones. Takes 1 GiB or so."""

MOST_PIXELS = 4096
"""Largest side of the pictures in shards; published vision towers take 1,536 at most."""


@dataclass(frozen=True, kw_only=True)
class EncoderPair:
    """Public encoders that are chosen together, by their names on the model hub."""

    text: str
    vision: str


NamedEncoders = Literal["small"]
ENCODERS: dict[NamedEncoders, EncoderPair] = {
    # 23 and 22 million parameters, both under Apache-2.0: two cores take 5,000 items through them
    # in ten minutes (docs/how-to/choose-encoders.md).
    "small": EncoderPair(
        text="sentence-transformers/all-MiniLM-L6-v2", vision="facebook/dinov2-small"
    )
}
"""By the word that chooses them."""


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """How a target becomes shards. How many processes write them leaves no trace in the bytes."""

    text_encoder: Annotated[str, Flag(group="model")] = "xlm-roberta-base"
    """Whose tokenizer: a name on the model hub, or a local folder."""
    max_tokens: Annotated[int, Flag(group="model")] = 50
    """Sub-word tokens of a text at most, the special ones included (paper: 50 words)."""
    text_prefix: Annotated[str, Flag(group="model")] = ""
    """Put before every text, as "passage: ": encoders trained with a prefix (E5) want theirs."""
    picture_size: Annotated[int, Flag(group="data", name="--size")] = 224
    """Side of the square pictures in pixels, as the vision tower wants them."""
    jpeg_quality: Annotated[int, Flag(group="data")] = 90
    """Of the pictures, 1 to 100."""
    max_pixels: int = MAX_PIXELS
    """Larger pictures are taken for decompression bombs: their items become text-only."""
    items_per_shard: int = 1000
    """About 16 MB a tar at quality 90."""
    pictures: Annotated[Path | None, Flag(group="data")] = None
    """The folder of raw pictures, if it is no longer where the target's card says."""
    allow_no_pictures: Annotated[bool, Flag(group="data")] = False
    """Accept a target of which not a single picture can be read."""
    no_content: Annotated[bool, Flag(group="data")] = False
    """Neither texts nor pictures, so no tokenizer is needed: for models on item ids."""
    workers: Annotated[int | None, Flag(group="output", shown="all cores")] = None
    """Processes; as many as there are cores by default."""

    def __post_init__(self) -> None:
        low = [
            f"{name} is {value}, the least is {least}"
            for name, value, least in (
                ("--size", self.picture_size, 8),
                ("max_pixels", self.max_pixels, 1),
                ("items_per_shard", self.items_per_shard, 1),
                ("workers", 1 if self.workers is None else self.workers, 1),
            )
            if value < least
        ]
        if self.picture_size > MOST_PIXELS:
            low.append(f"--size is {self.picture_size}, the most is {MOST_PIXELS:,}")
        if not 1 <= self.jpeg_quality <= 100:
            low.append(f"jpeg_quality is {self.jpeg_quality}, it goes from 1 to 100")
        if self.no_content:
            names = {"picture_size": "size"}
            given = [
                f"--{names.get(name, name).replace('_', '-')}"
                for name in (
                    "text_encoder",
                    "max_tokens",
                    "text_prefix",
                    "pictures",
                    "picture_size",
                )
                if getattr(self, name) != getattr(type(self), name)
            ]
            if given:
                low.append(f"--no-content reads no text and no picture: leave out {given[0]}")
        if low:
            raise InputError("; ".join(low))


@dataclass(frozen=True, kw_only=True)
class ShardRequest(ShardOptions):
    """What `pmm shard` can be asked: a target, and how it becomes shards."""

    target: Annotated[str, Flag(group="data")]
    """A dataset by name, as "HM Shoes"."""
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""
    encoders: Annotated[NamedEncoders | None, Flag(group="model")] = None
    """Encoders by one word, here the tokenizer of the text encoder; "small": MiniLM and
    DINOv2-small, for machines without a GPU."""
    force: Annotated[bool, Flag(group="output")] = False
    """Write again though nothing changed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoders is not None:
            if self.no_content:
                raise InputError("--no-content reads no text and no picture: leave out --encoders")
            if self.text_encoder == ShardOptions.text_encoder:
                object.__setattr__(self, "text_encoder", ENCODERS[self.encoders].text)
