"""MoRec++: PMMRec with another fusion, against its formulas over the encoders' whole output."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import XLMRobertaConfig

from pmm.data.batch import Batch
from pmm.errors import InputError, RecipeError
from pmm.evaluate.catalogue import embed_catalogue
from pmm.model.baselines.morec import MorecOptions
from pmm.model.encoders.specs import TextSpec, VisionSpec
from pmm.model.features.trunks import with_activations
from pmm.model.pmmrec.fusion import MergeFusion
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions, Weights
from pmm.runs.transfer import parts_of
from pmm.shards.items import Items
from pmm.storage.toml import resolve
from pmm.train.optimiser import parameter_groups

VECTORS = ["concat", "sum", "film", "gated"]
FUSIONS = [*VECTORS, "co_attention"]


def as_morec(fusion: str = "concat", **changes: object) -> dict[str, object]:
    """What MoRec++ changes in PMMRec's defaults, and more."""
    own, plain = vars(MorecOptions(fusion=fusion)), vars(PmmrecOptions())
    return {**{name: own[name] for name in own if own[name] != plain[name]}, **changes}


def without(items: Items, **missing: list[int]) -> Items:
    """The same items, some of them without text or without picture."""
    text, picture = items.has_text_I.clone(), items.has_picture_I.clone()
    text[missing.get("text", [])] = False
    picture[missing.get("picture", [])] = False
    return dataclasses.replace(items, has_text_I=text, has_picture_I=picture)


def stirred(model: Pmmrec) -> Pmmrec:
    """In eval mode, with biases that are not zero."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("projection.bias"):
                tensor.normal_(std=0.3)
    return model.eval()


def gelu(x: Tensor) -> Tensor:
    return x * (1 + (x / 2**0.5).erf()) / 2


def affine(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def item_alone(items: Items, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """Its tokens without padding, their mask, and its picture."""
    kept = items.token_mask_IT[row]
    token_1T = items.token_IT[row][kept][None]
    return token_1T, torch.ones_like(token_1T, dtype=torch.bool), items.picture_I3HW[row][None]


def literal_sides(
    model: Pmmrec,
    items: Items,
    row: int,
    pool: str = "cls",
    activation: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """The vectors of a text and of a picture by themselves; zeros for the one that is not there."""
    token, mask, picture = item_alone(items, row)
    found = []
    for has, hidden_KD, projection in (
        (items.has_text_I, model.text(token, mask)[0], model.text_projection),
        (items.has_picture_I, model.vision(picture)[0], model.vision_projection),
    ):
        pooled_D = hidden_KD[0] if pool == "cls" else hidden_KD.mean(0)
        found.append((activation or gelu)(affine(projection, pooled_D)) * has[row])
    return tuple(found)


def literal_item(model: Pmmrec, items: Items, row: int, **sides: Any) -> Tensor:
    """One item's vector by the formula of its fusion of vectors."""
    t, v = literal_sides(model, items, row, **sides)
    layer = dict(model.fusion.layers)
    match model.options.fusion:
        case "sum":
            return affine(layer["text"], t) + affine(layer["picture"], v)
        case "concat":
            return affine(layer["out"], torch.cat([t, v]))
        case "film":
            both = affine(layer["text"], t)
            return affine(layer["out"], both[: len(v)] * v + both[len(v) :])
    gate = 1 / (1 + (-affine(layer["text"], t)).exp())
    return affine(layer["out"], gate * affine(layer["picture"], v))


# What an item's vector is.


@pytest.mark.parametrize("fusion", VECTORS)
@torch.no_grad()
def test_items_are_the_formula_over_class_tokens(build, items, fusion: str) -> None:
    model = stirred(build(**as_morec(fusion)))
    some = without(items(5), text=[1, 4], picture=[2, 4])
    expected = torch.stack([literal_item(model, some, row) for row in range(5)])
    torch.testing.assert_close(model.encode_items(some), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", VECTORS)
@torch.no_grad()
def test_as_the_published_repository_has_it_they_are_masked_means_without_a_gelu(
    build, items, fusion: str
) -> None:
    published = {"modality_pool": "mean", "modality_gelu": False}
    model = stirred(build(**{**as_morec(fusion), **published}))
    some = without(items(5), text=[1, 4], picture=[2, 4])
    sides = {"pool": "mean", "activation": lambda x: x}
    expected = torch.stack([literal_item(model, some, row, **sides) for row in range(5)])
    torch.testing.assert_close(model.encode_items(some), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_co_attention_reads_all_projected_tokens_of_both_sides(build, items) -> None:
    model = stirred(build(**as_morec("co_attention")))
    some = without(items(4), text=[1], picture=[2])
    for row in range(4):
        token, mask, picture = item_alone(some, row)
        text_1TD = affine(model.text_projection, model.text(token, mask))
        picture_1PD = affine(model.vision_projection, model.vision(picture))
        seen_1P = some.has_picture_I[row].expand(1, picture_1PD.shape[1])
        expected = model.fusion(text_1TD, picture_1PD, mask & some.has_text_I[row], seen_1P)
        found = model.encode_items(some)[row]
        torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pool", ["cls", "mean"])
@torch.no_grad()
def test_the_vectors_of_each_modality_are_those_that_are_fused(
    build, items, fusion: str, pool: str
) -> None:
    changes = as_morec(fusion, modality_pool=pool, name="pmmrec", weights=Weights(nicl=1.0))
    model, some = stirred(build(**changes)), without(items(4), text=[1], picture=[2])
    found = model.item_parts(some, apart=True)
    sides = [literal_sides(model, some, row, pool) for row in range(4)]
    for side, each_ID in enumerate((found.text_ID, found.picture_ID)):
        expected = torch.stack([both[side] for both in sides])
        torch.testing.assert_close(each_ID, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.item_ID, model.encode_items(some), atol=1e-6, rtol=1e-5)
    assert model.item_parts(some).text_ID is None


@pytest.mark.parametrize("fusion", ["concat", "co_attention"])
@pytest.mark.parametrize("modality", ["text", "vision"])
@torch.no_grad()
def test_one_modality_is_its_vector_and_builds_no_fusion(
    build, items, fusion: str, modality: str
) -> None:
    model = stirred(build(**as_morec(fusion, modality=modality)))
    both = stirred(build(**as_morec(fusion)))
    both.load_state_dict(model.state_dict(), strict=False)
    missing = {"text": "text", "vision": "picture"}[modality]
    some = without(items(4), **{missing: [1]})
    side = ("text", "vision").index(modality)
    expected = torch.stack([literal_sides(both, some, row)[side] for row in range(4)])
    torch.testing.assert_close(model.encode_items(some), expected, atol=1e-5, rtol=1e-4)
    assert model.fusion is None


@torch.no_grad()
def test_with_the_vision_projection_zeroed_concat_is_a_text_model_and_a_linear_layer(
    build, items
) -> None:
    model = stirred(build(**as_morec("concat")))
    model.vision_projection.weight.zero_()
    model.vision_projection.bias.zero_()
    text_only = build(**as_morec("concat", modality="text")).eval()
    shared = {n: t for n, t in model.state_dict().items() if n in text_only.state_dict()}
    text_only.load_state_dict(shared)
    out, some = model.fusion.layers["out"], items(5)
    expected = functional.linear(
        text_only.encode_items(some), out.weight[:, : model.width], out.bias
    )
    torch.testing.assert_close(model.encode_items(some), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("modality", ["both", "text", "vision"])
def test_only_class_tokens_are_projected_but_in_co_attention(build, items, modality: str) -> None:
    some, seen = without(items(5), text=[1], picture=[2, 3]), []
    for fusion in ("concat", "co_attention"):
        model = build(**as_morec(fusion, modality=modality)).eval()
        for projection in (model.text_projection, model.vision_projection):
            if projection is not None:
                projection.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        model.encode_items(some)
    words = int(some.token_mask_IT[some.has_text_I].sum())
    patches = 3 * (model.vision.tokens if model.vision is not None else 0)
    expected = {"both": [4, 3, words, patches], "text": [4, 4], "vision": [3, 3]}
    assert seen == expected[modality]


# Training.


@pytest.mark.parametrize("fusion", ["merge", *FUSIONS])
@pytest.mark.parametrize("modality", ["both", "text", "vision"])
def test_every_trained_tensor_gets_a_gradient_and_no_frozen_one_does_for_morec(
    build, batch: Batch, fusion: str, modality: str
) -> None:
    model = build(**as_morec(fusion, modality=modality)).train()
    model.loss(batch)["loss"].backward()
    for name, tensor in model.named_parameters():
        if tensor.requires_grad:
            assert tensor.grad is not None, name
            # a key bias shifts all scores of a query alike: its gradient is zero up to rounding
            assert name.endswith("key.bias") or tensor.grad.abs().max() > 1e-7, name
        else:
            assert tensor.grad is None, name


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_an_item_lacks_is_neither_read_nor_gets_a_gradient(build, items, fusion: str) -> None:
    model, some = stirred(build(**as_morec(fusion))), without(items(4), text=[1, 3], picture=[2, 3])
    other = dataclasses.replace(
        some,
        token_IT=torch.where(some.has_text_I[:, None], some.token_IT, 9),
        picture_I3HW=some.picture_I3HW.index_fill(0, torch.tensor([2, 3]), 200),
    )
    found = model.encode_items(some)
    assert torch.equal(found, model.encode_items(other))
    assert found.isfinite().all()
    for row, silent in ((1, "text"), (2, "vision")):
        model.zero_grad()
        model.encode_items(some)[row].square().sum().backward()
        for name, tensor in model.named_parameters():
            said = tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)
            if name.split(".")[0] in (silent, f"{silent}_projection"):
                assert not said, name
    assert model.text_projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("modality", ["both", "text", "vision"])
def test_batches_that_lack_a_modality_train_for_morec(
    build, batch: Batch, fusion: str, modality: str
) -> None:
    everything = list(range(7))
    for missing in ({"text": [0, 3]}, {"picture": everything}, {"text": everything}):
        model = build(**as_morec(fusion, modality=modality)).train()
        loss = model.loss(dataclasses.replace(batch, items=without(batch.items, **missing)))["loss"]
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_few_steps_learn_the_next_items_for_morec(build, batch: Batch, fusion: str) -> None:
    model = build(dropout=0.0, **as_morec(fusion)).train()
    optimiser = torch.optim.AdamW(parameter_groups(model, lr=2e-3, weight_decay=0.0))
    losses = []
    for _ in range(60):
        loss = model.loss(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("fusion", ["gated", "co_attention"])
def test_computing_again_changes_no_gradient(build, batch: Batch, fusion: str) -> None:
    gradients = []
    for recompute in (False, True):
        model = build(**as_morec(fusion)).train()
        model.recompute = recompute
        torch.manual_seed(0)
        model.loss(batch)["loss"].backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_bf16_autocast_gives_a_finite_loss_near_the_exact_one_for_morec(
    build, batch: Batch, fusion: str
) -> None:
    model = build(**as_morec(fusion)).eval()
    batch = dataclasses.replace(batch, items=without(batch.items, text=[1], picture=[2]))
    exact = model.loss(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_stored_activations_give_the_same_vectors_and_gradients(
    shop_maker, tmp_path, fusion: str
) -> None:
    shop = shop_maker.open_shop(tmp_path)
    torch.manual_seed(0)
    model = Pmmrec(shop.with_options(**as_morec(fusion))).eval()
    plain = shop.shards()
    stored = with_activations(plain, model, "fp32", write=True)
    exact, cached = (embed_catalogue(model, each).input_ND for each in (plain, stored))
    torch.testing.assert_close(exact, cached, atol=1e-5, rtol=1e-4)
    gradients = []
    for shards in (plain, stored):
        model.zero_grad()
        some = shards.items(np.arange(1, 9))
        assert (some.picture_hidden_IPD is None) == (shards is plain)
        model.encode_items(some).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


# What the model is made of.


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_trains_is_that_of_pmmrec_but_for_the_fusion(build, fusion: str) -> None:
    model, plain = build(**as_morec(fusion)), build()
    names, before = ({n for n in m.trained_names() if n[:7] != "fusion."} for m in (model, plain))
    assert names == before
    assert {n for n in model.state_dict() if n.startswith("fusion.")} == {
        f"fusion.{n}" for n, _ in model.fusion.named_parameters()
    }
    grouped = [
        id(p) for g in parameter_groups(model, lr=1e-4, weight_decay=0.1) for p in g["params"]
    ]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    held = {n.split(".")[0] for n in model.trained_names()}
    assert held == set(parts_of(model, "full"))


def test_concat_trains_44899584_parameters_at_true_size(tmp_path) -> None:
    XLMRobertaConfig(
        vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    ).save_pretrained(tmp_path)
    text = TextSpec(encoder=str(tmp_path), random_seed=0)
    users = {"user_encoder": "transformer", "user_blocks": 2, "user_positions": "absolute"}
    published = MorecOptions(**users, user_convolution=0)
    options = dataclasses.replace(published, text=text, vision=VisionSpec(random_seed=0))
    with torch.device("meta"):
        model = Pmmrec(options)
    sizes = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    encoders, projections, users = 4 * 7_087_872, 2 * 590_592, 14_186_496
    assert sum(sizes.values()) == encoders + projections + users + 2 * 768**2 + 768 == 44_899_584


def test_merge_is_pmmrec_without_auxiliary_objectives(build, batch: Batch) -> None:
    plain, same = build(modality_pool="cls").train(), build(**as_morec("merge")).train()
    assert isinstance(same.fusion, MergeFusion)
    assert list(plain.state_dict()) == list(same.state_dict())
    losses = []
    for model in (plain, same):
        torch.manual_seed(3)
        losses.append(model.loss(batch)["loss"])
        losses[-1].backward()
    assert torch.equal(*losses)
    for (name, one), other in zip(plain.named_parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other), name
        assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad), name


def test_the_options_of_morec() -> None:
    found = MorecOptions()
    assert (found.name, found.fusion, found.modality_pool) == ("morec", "concat", "cls")
    assert found.weights == Weights(dap=1.0, nicl=0.0, nid=0.0, rcl=0.0)
    plain = dataclasses.replace(MorecOptions(fusion="merge"), modality_pool="mean")
    assert {**vars(plain), "name": "pmmrec"} == vars(PmmrecOptions())
    assert resolve(MorecOptions, dataclasses.asdict(found)) == found


@pytest.mark.parametrize("objective", ["nicl", "nid", "rcl"])
def test_auxiliary_objectives_are_refused(objective: str) -> None:
    with pytest.raises(ValueError, match=f"MoRec.. has no objective {objective}: set weights"):
        MorecOptions(weights=Weights(**{objective: 1.0}))
    values = {"name": "morec", "weights": {objective: 1.0}}
    with pytest.raises(RecipeError, match=f"no objective {objective}"):
        resolve(MorecOptions, values)


def test_a_width_that_co_attention_cannot_cut_is_refused(build) -> None:
    with pytest.raises(InputError, match="width = 200 cannot be cut into 3 heads"):
        build(**as_morec("co_attention", width=200))


@pytest.mark.parametrize("fusion", ["merge", "co_attention"])
def test_fusions_with_attention_take_the_models_dropout(build, fusion: str) -> None:
    model = build(**as_morec(fusion, dropout=0.3))
    assert {m.p for m in model.fusion.modules() if isinstance(m, nn.Dropout)} == {0.3}
