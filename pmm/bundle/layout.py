"""What a bundle holds: names of its files, and its header, `bundle.json`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pmm.advice import command
from pmm.errors import BrokenArtefact, PmmError, RecipeError, StaleArtefact
from pmm.recommend.item_reader import ContentReading
from pmm.shards.kinds import Side
from pmm.shards.tokens import Tokenizer
from pmm.storage.json_files import read_json
from pmm.storage.toml import resolve
from pmm.version import __version__

FORMAT = 1
"""Of the files below; a bundle of a later one is refused."""
HEADER = "bundle.json"
SUMS = "SHA256SUMS"
CARD = "README.md"
RECIPE = "recipe.toml"
METRICS = "metrics.json"
MODEL = "model.safetensors"
ITEMS = "items.parquet"
VECTORS = "items.safetensors"
PICTURES = "pictures.tar"
USERS = "users.parquet"
TOKENIZER = "tokenizer.json"
USER_GRAPH, ITEM_GRAPH = "onnx/user.onnx", "onnx/item.onnx"
SCALERS = "scalers.safetensors"
"""What was learned to scale the encoders' vectors by, where anything was."""
SIDES: tuple[Side, ...] = ("text", "vision")
NOT_ALWAYS = (METRICS, PICTURES, USERS, TOKENIZER, SCALERS, "encoders/*", "onnx/*")
"""What another bundle of the same place may have left there, as patterns."""

MOST_ITEMS, MOST_WIDTH = 1 << 30, 1 << 20
"""Far beyond any catalogue and any vector; more is damage, and no memory holds it."""
LARGEST_HEADER, LARGEST_TOKENIZER = 1 << 20, 1 << 28
"""Bytes: 1 MiB, and 256 MiB, ten times that of the largest published tokenizers."""
EXPORT = command("export", "RUN", to="DIR")
AGAIN = f"Get the bundle again, or make it anew: {EXPORT}"


def encoder_folder(side: Side) -> str:
    """Where the config of an encoder lies."""
    return f"encoders/{side}"


def encoder_weights(side: Side) -> str:
    """The tensors of a whole encoder, of models on frozen vectors."""
    return f"encoders/{side}/weights.safetensors"


def side_graph(side: Side) -> str:
    """The ONNX graph of an encoder."""
    return f"onnx/{side}.onnx"


@dataclass(frozen=True, kw_only=True)
class TokenizerHeader:
    """What is known of `tokenizer.json`."""

    name: str
    pad: int
    special: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class ReadingHeader:
    """How the content of new items is read (`pmm.recommend.item_reader.ContentReading`)."""

    tokenizer: TokenizerHeader | None = None
    max_tokens: int = 0
    prefix: str = ""
    picture_size: int = 0
    jpeg_quality: int = 0


@dataclass(frozen=True, kw_only=True)
class FeatureHeader:
    """Frozen vectors that the model reads of a modality."""

    side: Literal["text", "vision"]
    width: int
    digest: str
    """Of the encoder that made them."""

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MOST_WIDTH:
            raise ValueError(f"width = {self.width} is not from 1 to {MOST_WIDTH:,}")


@dataclass(frozen=True, kw_only=True)
class PopularityHeader:
    """The share of popularity that the validation items chose."""

    alpha: float
    kappa: float


@dataclass(frozen=True, kw_only=True)
class EncoderHeader:
    """Where an encoder came from, as `run.json` says it."""

    side: str
    library: str = "unknown"
    license: str = "unknown"
    source: str = "unknown"


@dataclass(frozen=True, kw_only=True)
class BundleHeader:
    """All that a bundle says of itself beside its tables and tensors."""

    format: int
    pmm: str
    """Version of the program."""
    name: str
    """Of the run."""
    model: str
    """Its name in the registry."""
    target: str
    version: str
    """Of the weights; answers of two versions are not alike."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    max_length: int
    temperature: float
    by_product: bool
    cannot_add: str
    content: Literal["both", "text", "vision", "none"]
    """What of an item's content the model knows."""
    reads: Literal["both", "text", "vision", "none"]
    """What of it its own encoders read; "none": it reads vectors of whole encoders, or ids."""
    items: int
    input_width: int
    score_width: int
    pictures: int
    """How many items have one in `pictures.tar`."""
    users: int
    """Of `users.parquet`."""
    shards: str
    """Fingerprint of what the model was trained on."""
    reading: ReadingHeader | None = None
    """None: no item can be added."""
    features: tuple[FeatureHeader, ...] = ()
    tower_size: int = 0
    """Side of the pictures that the model's own vision tower is fitted to."""
    popularity: PopularityHeader | None = None
    encoders: tuple[EncoderHeader, ...] = ()
    onnx: bool = False
    """Whether there are ONNX graphs."""

    def __post_init__(self) -> None:
        least = {"items": 1, "input_width": 1, "score_width": 1, "max_length": 1}
        most = {"items": MOST_ITEMS, "max_length": 1 << 16, "pictures": self.items}
        most |= {"input_width": MOST_WIDTH, "score_width": MOST_WIDTH}
        for name in ("items", "input_width", "score_width", "max_length", "pictures", "users"):
            value, low, high = getattr(self, name), least.get(name, 0), most.get(name, 1 << 40)
            if not low <= value <= high:
                raise ValueError(f"{name} = {value} is not from {low} to {high:,}")

    def as_json(self) -> dict[str, Any]:
        """For `bundle.json`."""
        found: dict[str, Any] = _without_none(asdict(self))
        return found


def read_header(place: Path) -> BundleHeader:
    """The header of a bundle.

    Raises:
        BrokenArtefact: it is none, or says what no bundle says.
        StaleArtefact: a later version of the program wrote it.
    """
    path = place / HEADER
    if path.stat().st_size > LARGEST_HEADER:
        raise BrokenArtefact(f"{path} is larger than any header of a bundle. {AGAIN}")
    found = read_json(path, again=AGAIN, needs={"format", "pmm"})
    if not isinstance(found["format"], int) or found["format"] > FORMAT:
        raise StaleArtefact(
            f"{place} is a bundle of format {str(found['format'])[:20]}, made by pmm "
            f"{str(found['pmm'])[:20]}; this is pmm {__version__}, which reads {FORMAT}. Update "
            "pmm (pip install -U pmmrec)"
        )
    try:
        return resolve(BundleHeader, found, origin=str(path))
    except RecipeError as error:
        raise BrokenArtefact(f"{error}. {AGAIN}") from error


def require_unchanged(place: Path, header: BundleHeader) -> None:
    """Refuse to read on in a bundle that was replaced since it was opened.

    Raises:
        BrokenArtefact: another one stands there by now, or none.
    """
    try:
        same = read_header(place) == header
    except (OSError, PmmError):
        same = False
    if not same:
        raise BrokenArtefact(f"{place} was replaced since this model was loaded: load it again")


def header_of_reading(reading: ContentReading | None) -> ReadingHeader | None:
    """What the header says of how content is read; the tokenizer itself is a file."""
    if reading is None:
        return None
    made = reading.tokenizer
    told = None
    if made is not None:
        told = TokenizerHeader(
            name=made.name, pad=made.pad, special=made.special, vocabulary=made.vocabulary
        )
    return ReadingHeader(
        tokenizer=told,
        max_tokens=reading.max_tokens,
        prefix=reading.prefix,
        picture_size=reading.picture_size,
        jpeg_quality=reading.jpeg_quality,
    )


def reading_in(place: Path, header: BundleHeader) -> ContentReading:
    """The same read back.

    Raises:
        BrokenArtefact: the tokenizer is larger than any, or cannot be read, or the bundle was
            replaced.
    """
    require_unchanged(place, header)
    told = header.reading or ReadingHeader()
    tokenizer = None
    if told.tokenizer is not None:
        path = place / TOKENIZER
        try:
            if path.stat().st_size > LARGEST_TOKENIZER:
                raise ValueError("larger than any tokenizer")
            serialised = path.read_text(encoding="utf-8")
            json.loads(serialised)
        except (OSError, ValueError, RecursionError) as error:
            raise BrokenArtefact(f"{path} cannot be read ({error}). {AGAIN}") from error
        tokenizer = Tokenizer(local=False, serialised=serialised, **asdict(told.tokenizer))
    return ContentReading(
        tokenizer=tokenizer,
        max_tokens=told.max_tokens,
        prefix=told.prefix,
        picture_size=told.picture_size,
        jpeg_quality=told.jpeg_quality,
    )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_without_none(each) for each in value]
    return value
