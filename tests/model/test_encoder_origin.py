"""The licence and the source of an encoder, as its files tell them."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from pmm.errors import InputError
from pmm.model.encoders.encoder_origin import origin_of
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.shards import hub

CARD = "---\nlicense: {}\ntags:\n- vision\n---\n\n# An encoder\n"


def copied(folder: Path, place: Path, card: str | None) -> Path:
    shutil.copytree(folder, place)
    if card is not None:
        (place / "README.md").write_text(card)
    return place


def test_a_licence_is_read_from_the_model_card_of_either_encoder(small, tmp_path: Path) -> None:
    text = copied(small[0], tmp_path / "text", CARD.format("mit"))
    vision = copied(small[1], tmp_path / "vision", CARD.format("apache-2.0"))
    assert origin_of(TextSpec(encoder=str(text))).as_record() == {
        "source": str(text),
        "library": "transformers",
        "license": "mit",
    }
    assert origin_of(VisionSpec(encoder=str(vision))).as_record() == {
        "source": str(vision),
        "library": "open_clip",
        "license": "apache-2.0",
    }


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (None, "unknown"),
        ("# No head at all\n", "unknown"),
        ("---\ntags:\n- a\n---\n", "unknown"),
        ("---\nlicense: [mit\n---\n", "unknown"),
        ("---\n- license\n---\n", "unknown"),
        ('---\nlicense: "mit\\u001b[31m"\n---\n', "unknown"),
        ("---\nlicense: " + "x" * 2000 + "\n---\n", "unknown"),
        (CARD.format("mit") + "x" * (2 << 20), "unknown"),
        (
            "---\nlicense: other\nlicense_name: dinov3\nlicense_link: https://x.y/l\n---\n",
            "other (dinov3 https://x.y/l)",
        ),
    ],
)
def test_a_card_that_says_nothing_leaves_the_licence_unknown(
    small, tmp_path: Path, card: str | None, said: str
) -> None:
    folder = copied(small[1], tmp_path / "vision", card)
    assert origin_of(VisionSpec(encoder=str(folder))).license == said


def test_a_config_may_say_the_licence_where_no_card_does(small, tmp_path: Path) -> None:
    folder = copied(small[0], tmp_path / "text", None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "license": "cc-by-4.0"}))
    assert origin_of(TextSpec(encoder=str(folder))).license == "cc-by-4.0"
    assert origin_of(TextSpec(encoder=str(small[0]))).license == "unknown"


def test_random_weights_are_nobodys(small, tmp_path: Path) -> None:
    folder = copied(small[0], tmp_path / "text", CARD.format("mit"))
    found = origin_of(TextSpec(encoder=str(folder), random_seed=0))
    assert found.license == "none (random weights)"


def test_names_of_libraries_say_what_they_know() -> None:
    named = origin_of(VisionSpec(encoder="timm:vit_small_patch14_dinov2", random_seed=0))
    assert (named.library, named.source) == ("timm", "timm:vit_small_patch14_dinov2")
    clip = origin_of(VisionSpec(encoder="ViT-B-32", pretrained="openai"))
    assert (clip.library, clip.source) == ("open_clip", "ViT-B-32 (openai)")


def in_cache(folder: Path, cache: Path, repository: str) -> None:
    """A repository as the hub's client keeps what it has fetched."""
    place = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)


def test_a_repository_of_the_hub_is_read_as_a_folder(small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = copied(small[1], tmp_path / "vision", CARD.format("mit"))
    in_cache(folder, tmp_path / "cache", "somebody/tower")
    for name in ("somebody/tower", "hf-hub:somebody/tower"):
        assert origin_of(VisionSpec(encoder=name)).license == "mit"
    found = hub.hub_folder("somebody/tower", ("open_clip*.safetensors",), option="--vision-encoder")
    assert next(found.glob("*.safetensors"), None) is not None
    with pytest.raises(InputError):
        hub.hub_folder("somebody/tower", ("none*.bin",), option="--vision-encoder")
