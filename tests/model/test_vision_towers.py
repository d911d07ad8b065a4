"""Vision towers of transformers and timm: each is its library's own forward pass, cut anywhere."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as hf
from safetensors.torch import save_file
from torch import Tensor, nn

from pmm.errors import InputError
from pmm.model.encoders.specs import VisionSpec
from pmm.model.encoders.vision_encoder import VisionEncoder, load_vision
from pmm.model.features.frozen_vectors import picture_vectors_trunk
from pmm.shards.hub import quiet_libraries

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PIXELS = {"image_mean": MEAN, "image_std": STD}
SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZE |= {"intermediate_size": 64, "patch_size": 8}
SIDED = SIZE | {"image_size": 32}
CONFIGS = {
    "vit": hf.ViTConfig(**SIDED),
    "deit": hf.DeiTConfig(**SIDED),
    "beit": hf.BeitConfig(**SIDED, use_relative_position_bias=True),
    "beit-shared": hf.BeitConfig(**SIDED, use_shared_relative_position_bias=True),
    "dinov2": hf.Dinov2Config(**SIDED, mlp_ratio=2),
    "dinov2-registers": hf.Dinov2WithRegistersConfig(**SIDED, mlp_ratio=2, num_register_tokens=4),
    "dinov3": hf.DINOv3ViTConfig(**SIDED, num_register_tokens=4),
    "dinov3-plain": hf.DINOv3ViTConfig(**SIDED, num_register_tokens=0),
    "ijepa": hf.IJepaConfig(**SIDED),
    "vit-msn": hf.ViTMSNConfig(**SIDED),
    "clip": hf.CLIPVisionConfig(**SIDED),
    "siglip": hf.SiglipVisionConfig(**SIDED),
    "siglip-headless": hf.SiglipVisionConfig(**SIDED, vision_use_head=False),
    "siglip2": hf.Siglip2VisionConfig(**SIZE, num_patches=16),
}
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", SMALL),
    "deit-distilled": ("deit_tiny_distilled_patch16_224", SMALL),
    "registers": ("vit_small_patch14_reg4_dinov2", SMALL),
    "siglip": ("vit_base_patch16_siglip_224", SMALL),
    "mean-pooled": ("vit_base_patch16_clip_224", SMALL | {"global_pool": "avg"}),
    "registers-alone": ("vit_betwixt_patch16_reg4_gap_256", SMALL),
    "eva": ("eva02_tiny_patch14_224", SMALL),
    "dinov3": ("vit_small_patch16_dinov3", SMALL),
    "beit": ("beit_base_patch16_224", SMALL),
    "rope-by-block": ("vit_small_patch16_rope_mixed_224", SMALL),
}


def drawn(model: nn.Module) -> nn.Module:
    """Weights of a size at which mistakes show: those of libraries start near zero."""
    torch.manual_seed(0)
    for name, each in model.named_parameters():
        if each.dim() > 1 or "lambda" in name or "gamma" in name:
            nn.init.normal_(each, std=0.3)
    return model.eval()


def saved(model: Any, folder: Path, **pixels: Any) -> Path:
    with quiet_libraries():
        model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS | pixels))
    return folder


def pixels_of(picture: Tensor) -> Tensor:
    """In the encoder's own order of rounding; what it is to be has a test of its own."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return picture * (1 / (255 * std)) + -mean / std


def pictures(side: int = 32, count: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    shape = (count, 3, side, side)
    return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)


def in_patches(pixel: Tensor, patch: int) -> dict[str, Tensor]:
    """One patch after the other, each row by row, as SigLIP 2's processor cuts a picture."""
    count, _, height, width = pixel.shape
    rows = [
        pixel[:, :, y : y + patch, x : x + patch].permute(0, 2, 3, 1).reshape(count, -1)
        for y in range(0, height, patch)
        for x in range(0, width, patch)
    ]
    values = torch.stack(rows, 1)
    shape = torch.tensor([[height // patch, width // patch]] * count)
    return {
        "pixel_values": values,
        "pixel_attention_mask": torch.ones(values.shape[:2], dtype=torch.int64),
        "spatial_shapes": shape,
    }


def of_library(model: Any, picture: Tensor) -> Any:
    pixel = pixels_of(picture)
    if model.config.model_type == "siglip2_vision_model":
        return model(**in_patches(pixel, 8))
    more = {}
    if (
        pixel.shape[2] != 32
        and "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    ):
        more["interpolate_pos_encoding"] = True
    return model(pixel_values=pixel, **more)


@pytest.mark.parametrize("side", [32, 48])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_tower_of_transformers_is_the_librarys_own_at_every_cut_and_size(
    family: str, side: int, tmp_path: Path
) -> None:
    theirs = drawn(hf.AutoModel.from_config(CONFIGS[family]))
    folder = saved(theirs, tmp_path)
    picture = pictures(side)
    with torch.no_grad():
        expected = of_library(theirs, picture).last_hidden_state
        for top in range(4) if side == 32 else (2,):
            ours = load_vision(VisionSpec(encoder=str(folder), train_blocks=top)).eval()
            ours.fit(side)
            hidden = ours.trunk(picture)
            assert hidden.shape[1] == ours.trunk_tokens
            assert torch.allclose(ours.whole(hidden), expected, atol=1e-5)
    assert float(expected.std()) > 0.5


@pytest.mark.parametrize("side", [32, 48])
@pytest.mark.parametrize("kind", TIMM)
def test_a_tower_of_timm_is_the_librarys_own_at_every_cut_and_size(
    kind: str, side: int, tmp_path: Path
) -> None:
    theirs, folder = timm_folder(kind, tmp_path)
    picture = pictures(side)
    for top in range(4) if side == 32 else (2,):
        ours = load_vision(VisionSpec(encoder=str(folder), train_blocks=top)).eval()
        if side != 32 and not ours.takes(side):
            with pytest.raises(InputError, match=r"takes pictures of \(32, 32\)"):
                ours.fit(side)
            assert kind == "beit"
            return
        ours.fit(side)
        if side != 32:
            theirs.set_input_size((side, side))
        with torch.no_grad():
            expected = theirs.forward_features(pixels_of(picture))
            assert torch.allclose(ours.whole(ours.trunk(picture)), expected, atol=1e-5)
    assert float(expected.std()) > 0.3


def timm_folder(kind: str, folder: Path) -> tuple[Any, Path]:
    architecture, arguments = TIMM[kind]
    theirs = drawn(timm.create_model(architecture, num_classes=0, **arguments))
    config = {"input_size": (3, 32, 32), "mean": MEAN, "std": STD, "license": "mit"}
    read = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": config}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(read))
    save_file(theirs.state_dict(), folder / "model.safetensors")
    return theirs, folder


@pytest.mark.parametrize(
    ("family", "registers", "class_token"),
    [
        ("vit", 0, True),
        ("deit", 1, True),
        ("dinov2-registers", 4, True),
        ("dinov3", 4, True),
        ("siglip", 0, False),
        ("siglip2", 0, False),
        ("ijepa", 0, False),
    ],
)
def test_an_items_tokens_are_the_class_token_and_the_patches(
    family: str, registers: int, class_token: bool, tmp_path: Path
) -> None:
    theirs = drawn(hf.AutoModel.from_config(CONFIGS[family]))
    ours = load_vision(VisionSpec(encoder=str(saved(theirs, tmp_path)))).eval()
    with torch.no_grad():
        hidden = of_library(theirs, pictures()).last_hidden_state
        tokens = ours(pictures())
    patches = hidden[:, registers + class_token :]
    first = hidden[:, 0] if class_token else patches.mean(1)
    assert (ours.tokens, tokens.shape[1]) == (17, 17)
    assert torch.allclose(tokens[:, 0], first, atol=1e-5)
    assert torch.allclose(tokens[:, 1:], patches, atol=1e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_pictures_frozen_vector_is_the_librarys_own(
    family: str, items: Callable[..., Any], tmp_path: Path
) -> None:
    theirs = drawn(hf.AutoModel.from_config(CONFIGS[family]))
    trunk = picture_vectors_trunk(VisionSpec(encoder=str(saved(theirs, tmp_path))))
    few = dataclasses.replace(items(2), picture_I3HW=pictures())
    with torch.no_grad():
        found = of_library(theirs, pictures())
    without_pooler = {"vit", "deit", "vit-msn"}  # a layer that is published untrained
    if family in without_pooler:
        expected = found.last_hidden_state[:, 0]
    elif family in ("ijepa", "siglip-headless"):
        expected = found.last_hidden_state.mean(1)
    else:
        expected = found.pooler_output
    assert torch.allclose(trunk.run(few)[:, 0], expected, atol=1e-5)
    assert trunk.width == 32


@pytest.mark.parametrize("kind", TIMM)
def test_a_pictures_frozen_vector_by_timm_is_its_own(
    kind: str, items: Callable[..., Any], tmp_path: Path
) -> None:
    theirs, folder = timm_folder(kind, tmp_path)
    trunk = picture_vectors_trunk(VisionSpec(encoder=str(folder)))
    few = dataclasses.replace(items(2), picture_I3HW=pictures())
    with torch.no_grad():
        expected = theirs(pixels_of(pictures()))  # without a classifier it is the vector
    assert torch.allclose(trunk.run(few)[:, 0], expected, atol=1e-5)


def a_tower(tmp_path: Path, family: str, **spec: Any) -> VisionEncoder:
    folder = saved(drawn(hf.AutoModel.from_config(CONFIGS[family])), tmp_path / family)
    return load_vision(VisionSpec(encoder=str(folder), **spec))


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov3", "clip", "siglip", "siglip2"])
def test_a_gradient_reaches_the_top_and_nothing_else(family: str, tmp_path: Path) -> None:
    ours = a_tower(tmp_path, family, train_blocks=1).train()
    ours(pictures()).square().sum().backward()
    reached = {name for name, each in ours.named_parameters() if each.grad is not None}
    assert reached == set(ours.trained_names())
    assert {name.partition(".")[0] for name in reached} <= {"blocks", "norm"}
    assert any(name.startswith("blocks.2.") for name in reached)
    assert not any(name.startswith(("blocks.0.", "blocks.1.")) for name in reached)


@pytest.mark.parametrize("family", sorted(set(CONFIGS) - {"beit-shared"}))
def test_all_trains_every_weight_of_a_tower(family: str, tmp_path: Path) -> None:
    ours = a_tower(tmp_path, family, train_blocks="all").train()
    ours(pictures()).square().sum().backward()
    assert [n for n, each in ours.named_parameters() if each.grad is None] == []


def test_positions_that_train_with_the_embeddings_do_not_train_unseen(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set train_blocks to a number"):
        a_tower(tmp_path, "beit-shared", train_blocks="all")


def test_nothing_of_a_whole_frozen_tower_trains(tmp_path: Path) -> None:
    assert a_tower(tmp_path, "dinov2", train_blocks=0).trained_names() == []
