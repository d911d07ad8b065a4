"""Frozen vectors: those of the libraries' own models, stored once, and what is fitted on them."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from pmm.errors import BrokenArtefact, InputError
from pmm.model.encoders.specs import VisionSpec
from pmm.model.encoders.vision_encoder import load_open_clip_whole
from pmm.model.features.frozen_vectors import (
    EmbeddingTower,
    FrozenVectors,
    frozen_vectors,
    picture_vectors_trunk,
    standardise,
    text_vectors_trunk,
    whiten,
)
from pmm.model.features.trunks import trunks_of, with_activations
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.shards import activations
from pmm.shards.activations import place_of, write_activations
from pmm.shards.read import Shards


@pytest.fixture
def shop(shop_maker: ModuleType, tmp_path: Path) -> Any:
    return shop_maker.open_shop(tmp_path)


def vectors(shop: Any, storage: str = "fp32", **changes: Any) -> FrozenVectors:
    specs = {"text": shop.options.text, "vision": shop.options.vision, **changes}
    return frozen_vectors(shop.shards(), storage=storage, **specs)


def literal_text(shop: Any, shards: Shards) -> Tensor:
    """Each text alone through the library's model: the mean of its last hidden states."""
    model = AutoModel.from_pretrained(shop.options.text.encoder).eval()
    found = torch.zeros(shards.n_items, model.config.hidden_size)
    for row, tokens in enumerate(shards.tokens[k] for k in range(shards.n_items)):
        if shards.has_text[row + 1]:
            with torch.no_grad():
                hidden = model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None])
            found[row] = hidden.last_hidden_state[0].mean(0)
    return found


def literal_pictures(shop: Any, shards: Shards) -> Tensor:
    """Each picture alone through open_clip's model, with the pixel statistics of its folder."""
    folder = Path(shop.options.vision.encoder)
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    pixels = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    mean, std = torch.tensor(pixels["mean"]), torch.tensor(pixels["std"])
    found = torch.zeros(shards.n_items, model.visual.output_dim)
    for item in np.flatnonzero(shards.has_picture).tolist():
        picture = torch.from_numpy(shards.picture(item).copy())
        with torch.no_grad():
            one = model.encode_image(((picture / 255 - mean) / std).permute(2, 0, 1)[None])
        found[item - 1] = one[0]
    return found


def test_vectors_are_those_of_the_libraries_models(shop: Any) -> None:
    found, shards = vectors(shop), shop.shards()
    # the libraries take one item at a time, so that a sum may differ in its last bits
    torch.testing.assert_close(found.text_ND, literal_text(shop, shards), atol=1e-5, rtol=1e-5)
    pictures = literal_pictures(shop, shards)
    torch.testing.assert_close(found.picture_ND, pictures, atol=1e-5, rtol=1e-5)


def test_half_precision_keeps_three_digits(shop: Any) -> None:
    exact, half = vectors(shop), vectors(shop, "fp16")
    for name in ("text_ND", "picture_ND"):
        one, other = getattr(exact, name), getattr(half, name)
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2.0**-10, atol=1e-6)


def test_an_item_without_a_modality_has_zeros_there(shop: Any) -> None:
    found = vectors(shop)
    assert (~found.has_picture_N).nonzero().flatten().tolist() == [3]
    assert (~found.has_text_N).nonzero().flatten().tolist() == [4]
    assert found.text_ND is not None
    assert found.picture_ND is not None
    assert (found.picture_ND == 0).all(1).nonzero().flatten().tolist() == [3]
    assert (found.text_ND == 0).all(1).nonzero().flatten().tolist() == [4]


def test_a_modality_that_is_not_asked_for_is_not_computed(shop: Any) -> None:
    found = vectors(shop, vision=None)
    assert found.picture_ND is None
    assert found.has_picture_N.sum() == 29
    folders = [path.name[:5] for path in shop.home.activations("HM").iterdir() if path.is_dir()]
    assert folders == ["text-"]


def test_a_target_without_pictures_has_zeros_for_all(shop: Any) -> None:
    bare = shop.add_target("Bare", n_items=5, n_users=4, pictures=False)
    found = frozen_vectors(bare, text=None, vision=shop.options.vision)
    assert found.picture_ND is not None
    assert found.picture_ND.shape == (5, 32)
    assert not found.picture_ND.any()


def test_the_second_call_reads_what_the_first_one_stored(
    shop: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pmm")
    first = vectors(shop)
    assert "text encoder on HM: written, 0.0 MB, read from memory" in caplog.text
    caplog.clear()
    monkeypatch.setattr(activations, "_write_file", None)
    again = vectors(shop)
    assert caplog.text.count("on HM: found, ") == 2
    for name in ("text_ND", "picture_ND"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_the_blocks_that_a_model_trains_do_not_matter(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors(shop)
    monkeypatch.setattr(activations, "_write_file", None)
    for blocks in (0, 2, "all"):
        specs = {"text": shop.options.text, "vision": shop.options.vision}
        vectors(shop, **{k: dataclasses.replace(v, train_blocks=blocks) for k, v in specs.items()})


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_mapped_files_and_memory_give_the_same_for_frozen_vectors(
    shop: Any, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    whole = vectors(shop)
    monkeypatch.setattr(activations, "ITEMS_A_FILE", 8)
    monkeypatch.setattr(activations, "MOST_OF_MEMORY", limit)
    shutil.rmtree(shop.home.activations("HM"))
    parts = vectors(shop)
    for name in ("text_ND", "picture_ND"):
        # the files are smaller, so other items run together and last bits differ
        one, other = getattr(whole, name), getattr(parts, name)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def edited(folder: Path, into: Path, tensor: str) -> Path:
    """A copy of an encoder's folder where one tensor is a little different."""
    shutil.copytree(folder, into)
    (path,) = into.glob("*.safetensors")
    weights = load_file(path)
    (name,) = [each for each in weights if each.endswith(tensor)]
    save_file({**weights, name: weights[name] + 1e-4}, path, metadata={"format": "pt"})
    return into


@pytest.mark.parametrize("tensor", ["embeddings.word_embeddings.weight", "1.output.dense.bias"])
def test_other_text_weights_make_other_vectors(shop: Any, tmp_path: Path, tensor: str) -> None:
    folder = edited(Path(shop.options.text.encoder), tmp_path / "other", tensor)
    before = text_vectors_trunk(shop.options.text)
    after = text_vectors_trunk(dataclasses.replace(shop.options.text, encoder=str(folder)))
    shards, root = shop.shards(), shop.home.activations("HM")
    assert place_of(root, before, "fp16", shards) != place_of(root, after, "fp16", shards)


@pytest.mark.parametrize("tensor", ["visual.conv1.weight", "visual.proj", "visual.ln_post.bias"])
def test_other_picture_weights_make_other_vectors(shop: Any, tmp_path: Path, tensor: str) -> None:
    first = vectors(shop, text=None).picture_ND
    folder = edited(Path(shop.options.vision.encoder), tmp_path / "other", tensor)
    second = vectors(shop, text=None, vision=VisionSpec(encoder=str(folder))).picture_ND
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)


def test_pixel_statistics_and_the_kind_of_gelu_are_part_of_the_key(
    shop: Any, tmp_path: Path
) -> None:
    spec, shards, root = shop.options.vision, shop.shards(), shop.home.activations("HM")
    shutil.copytree(spec.encoder, tmp_path / "quick")
    path = tmp_path / "quick" / "open_clip_config.json"
    read = json.loads(path.read_text())
    read["model_cfg"]["quick_gelu"] = not read["model_cfg"].get("quick_gelu", False)
    path.write_text(json.dumps(read))
    specs = [
        spec,
        dataclasses.replace(spec, image_norm="half"),
        VisionSpec(encoder=str(path.parent)),
    ]
    trunks = [picture_vectors_trunk(each) for each in specs]
    assert len({place_of(root, trunk, "fp16", shards) for trunk in trunks}) == 3


def test_vectors_and_activations_of_a_whole_frozen_encoder_lie_apart(shop: Any) -> None:
    options = shop.with_options(
        text=dataclasses.replace(shop.options.text, train_blocks=0),
        vision=dataclasses.replace(shop.options.vision, train_blocks=0),
    )
    model, shards = Pmmrec(options), shop.shards()
    stored = with_activations(shards, model, "fp32", write=True)
    found = frozen_vectors(stored, text=options.text, vision=options.vision, storage="fp32")
    assert len(list(shop.home.activations("HM").glob("*/manifest.json"))) == 4
    assert found.text_ND is not None
    items = stored.items(np.array([1, 2]))
    mask = items.token_mask_IT[..., None]
    mean = (items.text_hidden_ITD * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(found.text_ND[:2], mean, atol=1e-5, rtol=1e-5)
    assert [trunk.tokens for trunk in trunks_of(model)] == [0, 5]


@pytest.mark.parametrize("side", ["text", "vision"])
def test_finished_files_are_kept_after_a_kill_for_frozen_vectors(
    shop: Any, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    monkeypatch.setattr(activations, "ITEMS_A_FILE", 8)
    shards, folder = shop.shards(), shop.home.activations("HM")
    if side == "text":
        trunk = text_vectors_trunk(shop.options.text)
    else:
        trunk = picture_vectors_trunk(shop.options.vision)
    ran, calls = trunk.run, []

    def counting(items: Any) -> Tensor:
        calls.append(len(items.item_I))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ran(items)

    broken = dataclasses.replace(trunk, run=counting)
    with pytest.raises(KeyboardInterrupt):
        write_activations(folder, shards, broken)
    built = write_activations(folder, shards, broken)
    assert calls == [8, 8, 8, 8, 5]  # 29 of 30 items have it; the third file again
    other = write_activations(folder.with_name("other"), shards, trunk)
    assert built.manifest.files == other.manifest.files
    assert built.manifest.counts == {"items": 29, "rows": 29}


def test_stored_vectors_that_do_not_fit_are_refused(shop: Any) -> None:
    vectors(shop, "fp16", vision=None)
    trunk = text_vectors_trunk(shop.options.text)
    place = place_of(shop.home.activations("HM"), trunk, "fp16", shop.shards())
    np.save(place / "00000.npy", np.zeros((3, trunk.row), np.float16))
    vectors(shop, "fp16", vision=None)  # whoever asks for them writes damaged ones again
    np.save(place / "00000.npy", np.zeros((3, trunk.row), np.float16))
    with pytest.raises(BrokenArtefact, match=r"00000.npy has .* bytes, expected .* --repair"):
        activations.Activations(place, shop.shards(), trunk, device=torch.device("cpu"))


def test_pictures_of_another_size_are_refused_for_frozen_vectors(
    shop: Any, small: tuple[Path, Path]
) -> None:
    with pytest.raises(InputError, match=r"takes pictures of .*224.*, the shards hold"):
        vectors(shop, text=None, vision=VisionSpec(encoder=str(small[1])))


def test_a_tower_without_projection_gives_its_normed_class_token(shop: Any) -> None:
    tower, mean, std = load_open_clip_whole(shop.options.vision)
    tower.proj = None
    embedder = EmbeddingTower(tower, mean, std).eval()
    picture = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found = embedder(picture)
    assert found.shape == (2, embedder.width)
    hidden = tower.transformer(
        tower._embeds(
            (picture / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        )
    )
    torch.testing.assert_close(found, tower.ln_post(hidden[:, 0]).detach(), atol=1e-5, rtol=1e-5)
    tower.pool_type = "none"
    with pytest.raises(InputError, match="no image embedding"):
        EmbeddingTower(tower, mean, std)


def skewed(rows: int = 400, width: int = 12) -> Tensor:
    """Vectors far from the origin, whose columns depend on one another."""
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(width, width, generator=draw)
    return 3 + torch.randn(rows, width, generator=draw) @ mixed


def test_whitening_gives_identity_covariance_on_the_fitted_rows_alone() -> None:
    x, rows = skewed(), torch.arange(300)
    mean, matrix = whiten(x, rows, eps=0.0)
    white = (x - mean) @ matrix
    # float32 vectors and a float32 matrix: a few last bits times the condition number
    torch.testing.assert_close(white[rows].T.cov(correction=0), torch.eye(12), atol=2e-3, rtol=0)
    torch.testing.assert_close(white[rows].mean(0), torch.zeros(12), atol=1e-3, rtol=0)
    changed = x.clone()
    changed[300:] = 1e6
    again_mean, again = whiten(changed, rows, eps=0.0)
    assert torch.equal(again_mean, mean)
    assert torch.equal(again, matrix)


def test_whitening_is_symmetric_and_leaves_white_vectors_where_they_are() -> None:
    x = skewed().double()
    everything = torch.ones(len(x), dtype=torch.bool)
    mean, matrix = whiten(x, everything, 0.0)
    torch.testing.assert_close(matrix, matrix.T)
    again_mean, again = whiten((x - mean) @ matrix, everything, 0.0)
    torch.testing.assert_close(again, torch.eye(12, dtype=torch.float64), atol=1e-8, rtol=0)
    assert again_mean.abs().max() < 1e-8


def test_fewer_rows_than_columns_need_an_eps_which_bounds_the_gain() -> None:
    x, rows = skewed(width=12), torch.arange(5)
    with pytest.raises(ValueError, match="5 vectors do not span all directions"):
        whiten(x, rows, 0.0)
    _, matrix = whiten(x, rows, 0.01)
    average = x[rows].double().var(0, correction=0).mean()
    largest = torch.linalg.eigvalsh(matrix.double()).max()
    assert largest == pytest.approx(float((0.01 * average).rsqrt()), rel=1e-3)


def test_standardised_rows_have_mean_zero_and_deviation_one() -> None:
    x, rows = skewed(), torch.arange(300)
    x[:, 3] = 0.1  # constant: its deviation is taken as 1
    mean, scale = standardise(x, rows)
    found = (x - mean) / scale
    expected = np.array([0.0 if k == 3 else 1.0 for k in range(12)])
    np.testing.assert_allclose(found[rows].double().std(0, correction=0), expected, atol=1e-4)
    np.testing.assert_allclose(found[rows].double().mean(0), np.zeros(12), atol=1e-5)
    assert scale[3] == 1


@pytest.mark.parametrize("fit", [standardise, whiten])
def test_nothing_to_fit_on_is_refused(fit: Any) -> None:
    with pytest.raises(ValueError, match="no vectors to fit on"):
        fit(skewed(), torch.zeros(400, dtype=torch.bool))
