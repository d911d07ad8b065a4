"""Where an encoder comes from and under which licence, as far as its files say."""

from dataclasses import asdict, dataclass

import open_clip
import timm

from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.encoders.tower_source import TowerSource, tower_source
from pmm.shards.hub import UNKNOWN, cached_card, license_in, local_folder


@dataclass(frozen=True, kw_only=True)
class EncoderOrigin:
    """What a run and its model card say of an encoder."""

    source: str
    """The name or folder that was asked for, with open_clip's tag of the weights."""
    library: str
    """Which reads it."""
    license: str
    """As the model card beside the weights says it; "unknown" where none does."""

    def as_record(self) -> dict[str, str]:
        """For run.json."""
        return asdict(self)


def origin_of(spec: TextSpec | VisionSpec) -> EncoderOrigin:
    """The origin of an encoder that was loaded already; nothing is fetched for it.

    Random weights are nobody's: their licence is "none (random weights)".

    Raises:
        InputError: the encoder is not there.
    """
    match spec:
        case TextSpec():
            folder, library = local_folder(spec.encoder), "transformers"
            source = spec.encoder
            found = license_in(folder) if folder else license_in(cached_card(spec.encoder))
        case VisionSpec():
            where = tower_source(spec)
            library, named = where.library, where.folder is None and where.library == "open_clip"
            source = f"{spec.encoder} ({spec.pretrained})" if named else spec.encoder
            found = license_in(where.folder) if where.folder else _of_names(spec, where)
    if spec.random_seed is not None:
        found = "none (random weights)"
    return EncoderOrigin(source=source, library=library, license=found)


def _of_names(spec: VisionSpec, where: TowerSource) -> str:
    """The licence of what a library finds by a name of its own."""
    if where.library == "timm":
        config = timm.get_pretrained_cfg(where.architecture)
        return str(getattr(config, "license", None) or UNKNOWN)
    tag = open_clip.get_pretrained_cfg(spec.encoder, spec.pretrained) or {}
    repository = str(tag.get("hf_hub", "")).rstrip("/")
    return license_in(cached_card(repository)) if repository else UNKNOWN
