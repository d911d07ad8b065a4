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
    for top in range(4) if side == 32 and kind in ("vit", "dinov3", "rope-by-block") else (2,):
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


@pytest.mark.parametrize(
    ("whole", "family"),
    [
        (
            hf.CLIPConfig(text_config=SIZE | {"vocab_size": 20}, vision_config=SIDED),
            "clip_vision_model",
        ),
        (
            hf.SiglipConfig(text_config=SIZE | {"vocab_size": 20}, vision_config=SIDED),
            "siglip_vision_model",
        ),
        (
            hf.Siglip2Config(
                text_config=SIZE | {"vocab_size": 20}, vision_config=SIZE | {"num_patches": 16}
            ),
            "siglip2_vision_model",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_of_a_model_of_texts_and_pictures_the_vision_tower_is_read(
    whole: Any, family: str, tmp_path: Path
) -> None:
    theirs = drawn(hf.AutoModel.from_config(whole))
    ours = load_vision(VisionSpec(encoder=str(saved(theirs, tmp_path)))).eval()
    vision: Any = theirs.vision_model
    assert vision.config.model_type == family
    with torch.no_grad():
        expected = of_library(vision, pictures()).last_hidden_state
        assert torch.allclose(ours.whole(ours.trunk(pictures())), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "side"),
    [
        ({}, 32),  # of the config
        ({"size": 48}, 48),
        ({"size": {"height": 40, "width": 40}}, 40),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}, 56),
        ({"size": {"shortest_edge": 64}, "crop_size": 56, "do_center_crop": False}, 64),
    ],
)
def test_the_size_of_pictures_is_that_of_the_checkpoints_processor(
    said: dict[str, Any], side: int, tmp_path: Path
) -> None:
    folder = saved(drawn(hf.AutoModel.from_config(CONFIGS["dinov2"])), tmp_path, **said)
    ours = load_vision(VisionSpec(encoder=str(folder)))
    assert ours.picture_size == ours.own_size == (side, side)
    assert ours.tokens == 1 + (side // 8) ** 2


def test_the_size_of_siglip_2_is_that_of_its_patches(tmp_path: Path) -> None:
    said = {"max_num_patches": 36, "patch_size": 8}
    folder = saved(drawn(hf.AutoModel.from_config(CONFIGS["siglip2"])), tmp_path, **said)
    assert load_vision(VisionSpec(encoder=str(folder))).picture_size == (48, 48)


def test_pixels_are_normalised_as_the_checkpoint_says(tmp_path: Path) -> None:
    model = hf.AutoModel.from_config(CONFIGS["vit"])
    folder = saved(model, tmp_path / "vit")
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)

    def of_white(**spec: Any) -> list[float]:
        found = load_vision(VisionSpec(encoder=str(folder), **spec)).normalise(white)
        return [round(each, 4) for each in found.flatten().tolist()]

    assert of_white() == [3.0, 2.0, 1.3333]
    assert of_white(image_norm="half") == [1.0, 1.0, 1.0]
    saved(model, folder, do_normalize=False)
    assert of_white() == [1.0, 1.0, 1.0]
    timm_folder("vit", tmp_path / "timm")
    folder = tmp_path / "timm"
    assert of_white() == [3.0, 2.0, 1.3333]


def test_a_checkpoint_that_does_not_say_how_pixels_are_normalised_is_refused(
    tmp_path: Path,
) -> None:
    folder = saved(hf.AutoModel.from_config(CONFIGS["vit"]), tmp_path)
    for content in (None, "{}", '{"image_mean": [0.5, 0.5], "image_std": 1}', "[]", "{"):
        (folder / "preprocessor_config.json").unlink()
        if content is not None:
            (folder / "preprocessor_config.json").write_text(content)
        else:
            with pytest.raises(InputError, match=r'image_norm = "half"'):
                load_vision(VisionSpec(encoder=str(folder)))
            assert load_vision(VisionSpec(encoder=str(folder), image_norm="half")).width == 32
            (folder / "preprocessor_config.json").touch()
            continue
        with pytest.raises(InputError, match="preprocessor_config"):
            load_vision(VisionSpec(encoder=str(folder)))


def with_config(folder: Path, **config: Any) -> VisionSpec:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return VisionSpec(encoder=str(folder), random_seed=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert"}, r"family 'bert', which is no vision Transformer .*dinov2"),
        ({"model_type": "resnet"}, r"family 'resnet', which is no vision Transformer"),
        ({"model_type": "convnext"}, r"family 'convnext', which is no vision Transformer"),
        ({"model_type": "swin"}, r"family 'swin', which is no vision Transformer"),
        ({"model_type": "nobody-knows"}, r"cannot be used"),
        ({"architecture": "resnet18"}, r"resnet18 is no plain vision Transformer"),
        ({"architecture": "convnext_atto"}, r"convnext_atto is no plain vision Transformer"),
        ({"architecture": "swin_tiny_patch4_window7_224"}, r"is no plain vision Transformer"),
        ({"architecture": "vit_tiny_patch17_224"}, r"timm has no model .*did you mean"),
        ({"hidden_size": 32}, r'neither "model_type" .* nor "architecture"'),
    ],
)
def test_what_is_no_vision_transformer_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load_vision(with_config(tmp_path, **config))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_tiny_patch16_22", r'did you mean "vit_tiny_patch16_224'),
        ("vit_tiny_patch16_224", r'did you mean "timm:vit_tiny_patch16_224"'),
        ("timm:resnet18", r"resnet18 is no plain vision Transformer"),
        ("some/folder/of-mine", r"no such folder"),
    ],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_a_name_of_no_vision_transformer_is_refused(
    name: str, message: str, seed: int | None
) -> None:
    with pytest.raises(InputError, match=message):  # before anything is asked of the network
        load_vision(VisionSpec(encoder=name, random_seed=seed))


def test_a_model_of_timm_is_had_by_its_name() -> None:
    ours = load_vision(VisionSpec(encoder="timm:test_vit", random_seed=0))
    again = load_vision(VisionSpec(encoder="timm:test_vit", random_seed=0))
    assert all(
        torch.equal(one, other)
        for one, other in zip(ours.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert ours.picture_size == (160, 160)


ABSURD = [
    ("vit", {"hidden_size": 10**9, "intermediate_size": 10**9}, "GiB of weights|makes no encoder"),
    ("vit", {"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000; expected"),
    ("vit", {"image_size": 10**7}, "asks for pictures of"),
    ("vit", {"image_size": 4096, "patch_size": 1}, "tokens; expected"),
    ("vit", {"patch_size": 0}, "asks for pictures of"),
    ("vit", {"image_size": "large"}, "cannot be used|asks for pictures of"),
    ("vit", {"num_attention_heads": 0}, "makes no encoder"),
    ("dinov3", {"num_register_tokens": 10**12}, "GiB of weights"),
    ("dinov2", {"hidden_size": -5}, "makes no encoder"),
]


@pytest.mark.parametrize(("family", "changes", "message"), ABSURD)
def test_a_tower_of_absurd_size_is_refused_before_anything_is_allocated(
    family: str,
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("allocated")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    monkeypatch.setattr("pmm.model.encoders.transformers_tower.AutoModel.from_pretrained", refuse)
    config = CONFIGS[family].to_dict() | changes
    with pytest.raises(InputError, match=message):
        load_vision(with_config(tmp_path, **config))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dim": 10**9}, "GiB of weights|makes no encoder"),
        ({"depth": 10**6}, "layers = 1000000; expected"),
        ({"img_size": 10**7, "patch_size": 1}, "tokens; expected"),
        ({"nonsense": 1}, "makes no encoder"),
    ],
)
def test_a_tower_of_timm_of_absurd_size_is_refused_before_anything_is_allocated(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("allocated")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    spec = with_config(tmp_path, architecture="vit_tiny_patch16_224", model_args=arguments)
    with pytest.raises(InputError, match=message):
        load_vision(spec)


def test_a_config_that_asks_for_more_than_its_weights_hold_is_refused(tmp_path: Path) -> None:
    folder = saved(hf.AutoModel.from_config(CONFIGS["vit"]), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 10**7}))
    with pytest.raises(InputError, match="parameters, but they have"):
        load_vision(VisionSpec(encoder=str(folder)))


def test_a_processor_that_asks_for_absurd_pictures_is_refused(tmp_path: Path) -> None:
    folder = saved(hf.AutoModel.from_config(CONFIGS["dinov3"]), tmp_path, size=10**6)
    with pytest.raises(InputError, match="asks for pictures of"):
        load_vision(VisionSpec(encoder=str(folder)))


@pytest.mark.parametrize("side", [30, 36, 0])
def test_a_size_that_fills_no_patches_is_refused(side: int, tmp_path: Path) -> None:
    ours = a_tower(tmp_path, "dinov2")
    assert not ours.takes(side)
    with pytest.raises(InputError, match=rf"the shards hold {side}x{side}"):
        ours.fit(side)


def test_weights_of_transformers_that_lack_tensors_are_refused(tmp_path: Path) -> None:
    folder = saved(hf.AutoModel.from_config(CONFIGS["dinov2"]), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(InputError, match=r"lack \d+ tensors"):
        load_vision(VisionSpec(encoder=str(folder)))
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match="random_seed"):
        load_vision(VisionSpec(encoder=str(folder)))


def test_a_released_trunk_leaves_the_top_with_its_positions(tmp_path: Path) -> None:
    ours = a_tower(tmp_path, "dinov3", train_blocks=1).eval()
    hidden = ours.trunk(pictures())
    before = ours.top(hidden)
    ours.release_trunk()
    assert torch.equal(ours.top(hidden), before)


def test_a_recomputed_top_keeps_its_positions_and_gradients(tmp_path: Path) -> None:
    ours = a_tower(tmp_path, "dinov3", train_blocks=2).train()
    found = []
    for recompute in (False, True):
        ours.recompute = recompute
        ours.zero_grad()
        ours(pictures()).square().sum().backward()
        found.append([each.grad.clone() for each in ours.parameters() if each.grad is not None])
    assert len(found[0]) == len(ours.trained_names())
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_same_weights_with_another_activation_have_other_places(tmp_path: Path) -> None:
    folder = saved(drawn(hf.AutoModel.from_config(CONFIGS["vit"])), tmp_path)
    spec = VisionSpec(encoder=str(folder))
    before = picture_vectors_trunk(spec).about
    config = json.loads((folder / "config.json").read_text())
    said = {"transformers_version": "6.0", "architectures": ["Another"]}
    (folder / "config.json").write_text(json.dumps(config | said))
    assert picture_vectors_trunk(spec).about == before
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "quick_gelu"}))
    assert picture_vectors_trunk(spec).about != before
