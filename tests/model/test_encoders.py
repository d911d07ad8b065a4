"""Cut encoders: trunk and top together are the library's own encoder, and only the top trains."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, RobertaConfig, XLMRobertaConfig

from pmm.errors import InputError
from pmm.model.encoders.open_clip_tower import vision_plan
from pmm.model.encoders.packing import Packing
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.encoders.vision_encoder import TRUNK_PICTURES, load_vision
from pmm.model.text_encoders.load_text import load_text
from pmm.shards import hub

SIZE = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZE |= {"intermediate_size": 128, "vocab_size": 100}
TOKENS = torch.tensor([[0, 7, 8, 9, 10, 2], [0, 11, 12, 2, 1, 1], [0, 2, 1, 1, 1, 1]])
FAMILIES = [
    BertConfig(**SIZE, pad_token_id=1),
    RobertaConfig(**SIZE),
    XLMRobertaConfig(**SIZE, type_vocab_size=1),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda c: c.model_type)
def test_text_trunk_and_top_equal_the_librarys_forward(config, tmp_path: Path) -> None:
    theirs = AutoModel.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_text(TextSpec(encoder=str(tmp_path), train_blocks=2)).eval()
    mask = TOKENS != 1
    expected = theirs(input_ids=TOKENS, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(ours(TOKENS, mask)[mask], expected[mask], atol=1e-5)
    packing = Packing.of_mask(mask)
    found = ours.top(ours.packed_trunk(TOKENS, mask, packing), packing)
    assert torch.allclose(found, expected[mask], atol=1e-5)


def test_a_text_without_tokens_has_no_rows(small: tuple[Path, Path]) -> None:
    encoder = load_text(TextSpec(encoder=str(small[0]))).eval()
    mask = TOKENS != 1
    mask[1] = False
    packing = Packing.of_mask(mask)
    found = encoder.top(encoder.packed_trunk(TOKENS, mask, packing), packing)
    alone = encoder(TOKENS[[0, 2]], mask[[0, 2]])[mask[[0, 2]]]
    assert torch.allclose(found, alone, atol=1e-5)
    nothing = Packing.of_mask(torch.zeros(2, 6, dtype=torch.bool))
    hidden = encoder.packed_trunk(TOKENS[:2], torch.zeros(2, 6, dtype=torch.bool), nothing)
    assert encoder.top(hidden, nothing).shape == (0, encoder.width)


def test_padding_a_text_further_changes_nothing(small: tuple[Path, Path]) -> None:
    encoder = load_text(TextSpec(encoder=str(small[0]))).eval()
    mask = TOKENS != 1
    wide = torch.nn.functional.pad(TOKENS, (0, 3), value=1)
    found = encoder(wide, wide != 1)[:, :6]
    assert torch.allclose(found[mask], encoder(TOKENS, mask)[mask], atol=1e-5)


def edited(folder: Path, into: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a vision tower's folder with another config."""
    shutil.copytree(folder, into)
    path = into / "open_clip_config.json"
    read = json.loads(path.read_text())
    edit(read["model_cfg"])
    path.write_text(json.dumps(read))
    return into


@pytest.mark.parametrize(("cut", "quick"), [(0, False), (1, True), (3, False)])
def test_vision_trunk_and_top_equal_open_clips_residual_stream(
    small, tmp_path: Path, cut: int, quick: bool
) -> None:
    folder = edited(small[1], tmp_path / "tower", lambda c: c.update(quick_gelu=quick))
    theirs = open_clip.create_model(f"local-dir:{folder}").visual.eval()
    ours = load_vision(VisionSpec(encoder=str(folder), train_blocks=3 - cut)).eval()
    picture = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    mean, std = (torch.tensor(x)[:, None, None] for x in (theirs.image_mean, theirs.image_std))
    pixels = (picture / 255 - mean) / std
    expected = theirs.forward_intermediates(pixels, indices=1, normalize_intermediates=False)
    patches = expected["image_intermediates"][0].flatten(2).transpose(1, 2)
    found = ours.top(ours.trunk(picture))
    assert torch.allclose(found[:, 1:], patches, atol=1e-5)
    pooled = theirs.ln_post(found)[:, 0] @ theirs.proj
    assert torch.allclose(pooled, theirs(pixels), atol=1e-5)


def test_half_normalisation_maps_pixels_to_minus_one_to_one(small: tuple[Path, Path]) -> None:
    tower = load_vision(VisionSpec(encoder=str(small[1]), image_norm="half"))
    pixels = tower.normalise(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    assert torch.allclose(pixels[:, 0, 0, 0], torch.tensor([-1.0, 1.0]))


def test_openai_weights_get_the_sigmoid_gelu_and_others_the_exact_one() -> None:
    openai = vision_plan(VisionSpec(encoder="ViT-B-32", pretrained="openai"))
    laion = vision_plan(VisionSpec(encoder="ViT-B-32", pretrained="laion2b_s34b_b79k"))
    with torch.device("meta"):
        activations = [type(p.build().transformer.resblocks[0].mlp.gelu) for p in (openai, laion)]
    assert activations == [open_clip.transformer.QuickGELU, torch.nn.GELU]


def test_only_the_blocks_above_the_cut_train(small: tuple[Path, Path]) -> None:
    text = load_text(TextSpec(encoder=str(small[0]), train_blocks=1))
    vision = load_vision(VisionSpec(encoder=str(small[1]), train_blocks=1))
    assert {n[:9] for n in text.trained_names()} == {"blocks.2."}
    assert {n[:9] for n in vision.trained_names()} == {"blocks.2."}
    assert (len(text.trained_names()), len(vision.trained_names())) == (16, 12)


def test_train_leaves_the_trunk_in_eval_mode_and_its_dropout_off(small) -> None:
    encoder = load_text(TextSpec(encoder=str(small[0]), train_blocks=2)).train()
    mask = TOKENS != 1
    hidden = encoder.trunk(TOKENS, mask)
    assert not hidden.requires_grad
    assert torch.equal(hidden, encoder.trunk(TOKENS, mask))
    packing = Packing.of_mask(mask)
    first, second = (encoder.top(packing.pack(hidden), packing) for _ in range(2))
    assert not torch.equal(first, second)
    assert [block.training for block in encoder.blocks] == [False, True, True]


def test_no_trained_block_gives_the_trunks_output(small: tuple[Path, Path]) -> None:
    encoder = load_text(TextSpec(encoder=str(small[0]), train_blocks=0)).train()
    mask = TOKENS != 1
    assert encoder.trained_names() == []
    assert torch.equal(encoder(TOKENS, mask)[mask], encoder.trunk(TOKENS, mask)[mask])


def test_a_released_trunk_leaves_the_top_as_it_was(small: tuple[Path, Path]) -> None:
    text = load_text(TextSpec(encoder=str(small[0]), train_blocks=1)).eval()
    vision = load_vision(VisionSpec(encoder=str(small[1]), train_blocks=1)).eval()
    packing = Packing.of_mask(TOKENS != 1)
    hidden = torch.randn(len(packing), 64), torch.randn(2, 50, 64)
    before = text.top(hidden[0], packing), vision.top(hidden[1])
    for encoder in (text, vision):
        names = encoder.trained_names()
        encoder.release_trunk()
        assert [name for name, _ in encoder.named_parameters()] == names
    assert torch.equal(text.top(hidden[0], packing), before[0])
    assert torch.equal(vision.top(hidden[1]), before[1])


def test_all_trains_the_embeddings_too(small: tuple[Path, Path]) -> None:
    text = load_text(TextSpec(encoder=str(small[0]), train_blocks="all")).train()
    vision = load_vision(VisionSpec(encoder=str(small[1]), train_blocks="all")).train()
    picture = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    (text(TOKENS, TOKENS != 1).square().sum() + vision(picture).square().sum()).backward()
    for encoder in (text, vision):
        assert encoder.trained_names() == [name for name, _ in encoder.named_parameters()]
        assert all(each.grad is not None for each in encoder.parameters())
    assert text.stem.dropout.training


def test_what_is_computed_again_has_the_same_gradients(small: tuple[Path, Path]) -> None:
    encoder = load_text(TextSpec(encoder=str(small[0]), train_blocks=2)).train()
    found = []
    for recompute in (False, True):
        encoder.recompute = recompute
        encoder.zero_grad()
        torch.manual_seed(0)
        encoder(TOKENS, TOKENS != 1).square().sum().backward()
        found.append([each.grad.clone() for each in encoder.blocks[1:].parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("blocks", [-1, 4])
def test_a_cut_outside_the_encoder_is_refused(small: tuple[Path, Path], blocks: int) -> None:
    with pytest.raises(InputError, match="the encoder has 3 blocks"):
        load_text(TextSpec(encoder=str(small[0]), train_blocks=blocks))


def test_a_folder_without_weights_needs_a_seed(small, tmp_path: Path) -> None:
    shutil.copy(small[0] / "config.json", tmp_path)
    shutil.copy(small[1] / "open_clip_config.json", tmp_path)
    for load, spec in ((load_text, TextSpec), (load_vision, VisionSpec)):
        with pytest.raises(InputError, match="random_seed"):
            load(spec(encoder=str(tmp_path)))


def test_the_seed_alone_decides_random_weights(small, tmp_path: Path) -> None:
    shutil.copy(small[0] / "config.json", tmp_path)
    shutil.copy(small[1] / "open_clip_config.json", tmp_path)
    for load, spec in ((load_text, TextSpec), (load_vision, VisionSpec)):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first, again, other = (
            load(spec(encoder=str(tmp_path), random_seed=seed)).blocks[2].state_dict()
            for seed in (1, 1, 2)
        )
        assert all(torch.equal(first[k], again[k]) for k in first)
        assert not all(torch.equal(first[k], other[k]) for k in first)
        assert torch.equal(state, torch.get_rng_state())


def test_a_relative_folder_is_found(small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small[0].parent)
    assert load_text(TextSpec(encoder="text")).width == 64
    assert load_vision(VisionSpec(encoder="./vision")).width == 64


def test_a_dead_network_is_reported_at_once_with_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(InputError, match=r"cannot be reached .* give its folder"):
        load_text(TextSpec(encoder="nobody/has-this-encoder"))
    with pytest.raises(InputError, match="cannot be reached"):
        hub.cached_or_downloaded(
            "no/where", raise_not_found, name="ViT-B-32 (openai)", option="--vision-encoder"
        )
    assert time.monotonic() - start < 5


def raise_not_found(_local: bool) -> None:
    raise FileNotFoundError


def test_names_and_folders_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_text(TextSpec(encoder=str(tmp_path / "none")))
    with pytest.raises(InputError, match=r"no config\.json"):
        load_text(TextSpec(encoder=str(tmp_path)))
    with pytest.raises(InputError, match=r"no open_clip_config\.json"):
        load_vision(VisionSpec(encoder=str(tmp_path)))
    with pytest.raises(InputError, match=r'did you mean "ViT-B-32"'):
        load_vision(VisionSpec(encoder="ViT-B32"))
    with pytest.raises(InputError, match='did you mean "openai"'):
        load_vision(VisionSpec(pretrained="openia"))


def test_configs_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for name in ("config.json", "open_clip_config.json"):
        (tmp_path / name).write_text("{ no json")
    for load, spec in ((load_text, TextSpec), (load_vision, VisionSpec)):
        with pytest.raises(InputError):
            load(spec(encoder=str(tmp_path), random_seed=0))


def test_many_pictures_give_what_few_give(small: tuple[Path, Path]) -> None:
    tower = load_vision(VisionSpec(encoder=str(small[1]))).eval()
    picture = torch.randint(0, 256, (TRUNK_PICTURES + 2, 3, 224, 224), dtype=torch.uint8)
    assert torch.allclose(tower.trunk(picture)[-1:], tower.trunk(picture[-1:]), atol=1e-5)


def test_weights_that_lack_tensors_are_refused(small, tmp_path: Path) -> None:
    text = Path(shutil.copytree(small[0], tmp_path / "text"))
    config = (text / "config.json").read_text()
    deeper = config.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4')
    (text / "config.json").write_text(deeper)
    with pytest.raises(InputError, match="lack 16 tensors"):
        load_text(TextSpec(encoder=str(text)))
    vision = edited(small[1], tmp_path / "vision", lambda c: c["vision_cfg"].update(layers=4))
    with pytest.raises(InputError, match="lack 12 tensors"):
        load_vision(VisionSpec(encoder=str(vision)))


def test_weights_of_another_shape_are_refused(small, tmp_path: Path) -> None:
    text = Path(shutil.copytree(small[0], tmp_path / "text"))
    config = (text / "config.json").read_text()
    wider = config.replace('"intermediate_size": 256', '"intermediate_size": 128')
    (text / "config.json").write_text(wider)
    with pytest.raises(InputError, match="weights"):
        load_text(TextSpec(encoder=str(text)))
    vision = edited(small[1], tmp_path / "vision", lambda c: c["vision_cfg"].update(mlp_ratio=2))
    with pytest.raises(InputError, match="do not fit its config"):
        load_vision(VisionSpec(encoder=str(vision)))


def test_a_broken_weights_file_is_refused(small, tmp_path: Path) -> None:
    for kind, load, spec in (("text", load_text, TextSpec), ("vision", load_vision, VisionSpec)):
        shutil.copytree(small[kind == "vision"], tmp_path / kind)
        path = next((tmp_path / kind).glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(InputError, match="cannot be read"):
            load(spec(encoder=str(tmp_path / kind)))


def test_encoders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match="'gpt2'"):
        load_text(TextSpec(encoder=str(tmp_path), random_seed=0))
    with pytest.raises(InputError, match="no plain vision Transformer"):
        load_vision(VisionSpec(encoder="RN50", pretrained="openai", random_seed=0))


def test_pictures_of_another_size_are_refused_for_an_encoder(small: tuple[Path, Path]) -> None:
    tower = load_vision(VisionSpec(encoder=str(small[1])))
    with pytest.raises(InputError, match=r"\(224, 224\).*\(89, 89\)"):
        tower.trunk(torch.zeros(1, 3, 89, 89, dtype=torch.uint8))


def test_a_real_pretrained_encoder_knows_which_texts_are_alike(minilm: Path) -> None:
    encoder = load_text(TextSpec(encoder=str(minilm))).eval()
    assert (encoder.width, len(encoder.blocks), encoder.cut) == (384, 6, 4)
    texts = ["a warm winter jacket", "coat for cold weather", "quarterly tax report"]
    read = AutoTokenizer.from_pretrained(str(minilm))(texts, padding=True, return_tensors="pt")
    mask = read["attention_mask"].bool()
    with torch.no_grad():
        hidden = encoder(read["input_ids"], mask)
    mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    alike, other = torch.cosine_similarity(mean[:1], mean[1:])
    assert alike > 0.5 > 0.2 > other
