"""Stored activations: cached = uncached, made once, never used when they are not the trunk's."""

import dataclasses
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, PretrainedConfig

from pmm.data.training_set import TrainingSet
from pmm.errors import BrokenArtefact
from pmm.evaluate.catalogue import embed_catalogue
from pmm.model.features.trunks import trunks_of, with_activations
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.text_encoders.bert_text import BERT_FAMILIES
from pmm.model.text_encoders.library_text import LAYOUTS
from pmm.shards import activations
from pmm.shards.activations import place_of, write_activations


@pytest.fixture
def shop(shop_maker, tmp_path):
    return shop_maker.open_shop(tmp_path)


def make(shop, *, text: int = 1, vision: int = 1, **changes) -> Pmmrec:
    options = shop.with_options(
        text=dataclasses.replace(shop.options.text, train_blocks=text),
        vision=dataclasses.replace(shop.options.vision, train_blocks=vision),
        dropout=0.0,
        **changes,
    )
    torch.manual_seed(0)
    return Pmmrec(options).eval()


def losses_and_gradients(model: Pmmrec, shards, steps: int = 20) -> list[torch.Tensor]:
    """The losses of some steps of plain descent, and the gradients of the last one."""
    data = TrainingSet([shards])
    found = []
    for step in range(steps):
        model.zero_grad()
        rows = data.rows(np.arange(4) + step, seed=0, epoch=0, length=model.max_length + 1)
        loss = model.loss(data.collate(rows))["loss"]
        loss.backward()
        found.append(loss.detach().clone())
        with torch.no_grad():
            for each in model.parameters():
                if each.grad is not None:
                    each -= 0.01 * each.grad
    return [*found, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_training_on_stored_activations_is_training_without_them(shop, blocks):
    shards = shop.shards()
    stored = with_activations(shards, make(shop), None, write=False)
    assert stored.items(np.arange(1, 4)).text_hidden_ITD is None
    stored = with_activations(shards, make(shop, text=blocks, vision=blocks), "fp32", write=True)
    plain = losses_and_gradients(make(shop, text=blocks, vision=blocks), shards)
    cached = losses_and_gradients(make(shop, text=blocks, vision=blocks), stored)
    assert stored.items(np.arange(1, 4)).picture_I3HW.numel() == 0
    assert len(plain) == len(cached) > 20
    for one, other in zip(plain, cached, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)  # other batches in the trunk


def text_config(family: str, vocabulary: int) -> PretrainedConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "vocab_size": vocabulary, "pad_token_id": 1}
    sizes |= {"num_key_value_heads": 2, "head_dim": 16}  # of decoders
    return AutoConfig.for_model(family, **sizes)


@pytest.mark.parametrize("family", [*BERT_FAMILIES, *LAYOUTS, "quick_gelu"])
def test_it_holds_for_every_family_of_encoders(shop, tmp_path, family):
    text, vision = shop.options.text, shop.options.vision
    vocabulary = json.loads(Path(text.encoder, "config.json").read_text())["vocab_size"]
    if family == "quick_gelu":  # the towers of OpenAI's weights
        folder = shutil.copytree(vision.encoder, tmp_path / family)
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["quick_gelu"] = True
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        vision = dataclasses.replace(vision, encoder=str(folder))
    else:
        text_config(family, vocabulary).save_pretrained(tmp_path / family)
        text = dataclasses.replace(text, encoder=str(tmp_path / family), random_seed=2)
    small = {"text": text, "vision": vision}
    if family != "quick_gelu":
        small |= {"modality": "text"}
    options = shop.with_options(dropout=0.0, width=32, **small)
    shards, models = shop.shards(), []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Pmmrec(options).eval())
    stored = with_activations(shards, models[0], "fp32", write=True)
    plain, cached = (
        losses_and_gradients(model, each)
        for model, each in zip(models, (shards, stored), strict=True)
    )
    assert len(plain) == len(cached) > 20
    for one, other in zip(plain, cached, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_half_precision_moves_vectors_less_than_dropout_does(shop):
    model, shards = make(shop), shop.shards()
    exact = embed_catalogue(model, shards).input_ND
    half = embed_catalogue(model, with_activations(shards, model, "fp16", write=True)).input_ND
    noisy = Pmmrec(dataclasses.replace(model.options, dropout=0.1))
    noisy.load_state_dict(model.state_dict())
    noisy.train()
    with torch.no_grad():
        dropped = noisy.encode_items(shards.items(np.arange(1, shards.n_items + 1)))
    assert (half - exact).abs().mean() < 0.1 * (dropped - exact).abs().mean()


@pytest.mark.parametrize("modality", ["text", "vision"])
def test_a_model_of_one_modality_stores_and_reads_no_other(shop, modality):
    model, shards = make(shop, modality=modality), shop.shards()
    stored = with_activations(shards, model, "fp32", write=True)
    exact, cached = (embed_catalogue(model, each).input_ND for each in (shards, stored))
    assert torch.allclose(exact, cached, atol=1e-5)
    folders = [each.name for each in shop.home.activations("HM").iterdir() if each.is_dir()]
    assert [name.split("-")[0] for name in folders] == [modality]


def test_what_is_there_is_not_computed_again(shop, monkeypatch):
    model, shards = make(shop), shop.shards()
    with_activations(shards, model, "fp16", write=True)
    monkeypatch.setattr(activations, "_write_file", None)
    with_activations(shards, model, "fp16", write=True)


def test_finished_files_are_kept_after_a_kill_for_trunks(shop, monkeypatch):
    monkeypatch.setattr(activations, "ITEMS_A_FILE", 8)
    model, shards = make(shop), shop.shards()
    folder, trunk = shop.home.activations("HM"), trunks_of(model)[1]
    ran, calls = trunk.run, []

    def counting(items):
        calls.append(len(items.item_I))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ran(items)

    broken = dataclasses.replace(trunk, run=counting)
    with pytest.raises(KeyboardInterrupt):
        write_activations(folder, shards, broken)
    built = write_activations(folder, shards, broken)
    assert calls == [8, 8, 8, 8, 5]  # 29 of 30 items have a picture; the third file again
    other = write_activations(folder.with_name("other"), shards, trunk)
    assert built.manifest.files == other.manifest.files


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_mapped_files_and_memory_give_the_same_for_trunks(shop, monkeypatch, limit):
    monkeypatch.setattr(activations, "ITEMS_A_FILE", 8)
    monkeypatch.setattr(activations, "MOST_OF_MEMORY", limit)
    model, shards = make(shop), shop.shards()
    stored = with_activations(shards, model, "fp32", write=True)
    held = stored._held["vision"]
    assert held.tier == ("memory" if limit else "map")
    numbers = np.array([1, 4, 9, 30])  # item 4 has no picture
    found = held.gather(numbers)
    expected = model.vision.trunk(shards.items(numbers).picture_I3HW)
    assert torch.allclose(found[[0, 2, 3]], expected[[0, 2, 3]], atol=1e-5)
    assert not found[1].any()


def changes(shop):
    """What makes other activations: weights, cut, pixel statistics, type."""
    options = shop.options
    yield "weights", make(shop, modality="both")
    vision = dataclasses.replace(options.vision, random_seed=5)
    yield "vision weights", Pmmrec(shop.with_options(vision=vision))
    yield "cut", make(shop, text=2, vision=2)
    half = dataclasses.replace(options.vision, image_norm="half")
    yield "pixels", Pmmrec(shop.with_options(vision=half))


def test_another_trunk_cut_or_transform_never_meets_stored_activations(shop):
    shards, folder = shop.shards(), shop.home.activations("HM")
    places = {
        name: place_of(folder, trunks_of(model)[1], "fp16", shards) for name, model in changes(shop)
    }
    assert len(set(places.values())) == len(places)
    trunk = trunks_of(make(shop))[1]
    assert place_of(folder, trunk, "fp32", shards) not in places.values()
    assert place_of(folder, trunk, "fp16", shards) == places["weights"]


def test_other_shards_never_meet_stored_activations(shop):
    other = shop.add_target("Kwai", n_items=30, n_users=8)
    folder, trunk = shop.home.activations("HM"), trunks_of(make(shop))[0]
    assert place_of(folder, trunk, "fp16", shop.shards()) != place_of(folder, trunk, "fp16", other)


def test_activations_that_do_not_fit_are_refused(shop):
    model, shards = make(shop), shop.shards()
    with_activations(shards, model, "fp16", write=True)
    trunk = trunks_of(model)[1]
    place = place_of(shop.home.activations("HM"), trunk, "fp16", shards)
    np.save(place / "00000.npy", np.zeros((3, trunk.row), np.float16))
    with pytest.raises(BrokenArtefact, match=r"00000.npy has .* bytes, expected .* --repair"):
        with_activations(shards, model, None, write=False)
    shutil.rmtree(place)
    with_activations(shards, model, None, write=False)


def test_a_training_that_starts_while_another_one_stores_waits_for_it(shop):
    model, shards = make(shop), shop.shards()
    folder, trunk = shop.home.activations("HM"), trunks_of(model)[1]
    started, ran, calls = threading.Event(), trunk.run, []

    def slow(items):
        started.set()
        time.sleep(0.3)
        calls.append(len(items.item_I))
        return ran(items)

    broken = dataclasses.replace(trunk, run=slow)
    first = threading.Thread(target=write_activations, args=(folder, shards, broken))
    first.start()
    started.wait()
    assert not write_activations(folder, shards, broken).fresh
    first.join()
    assert calls == [29]
