"""All objectives of pre-training in one model: what they add up to, where their gradients go."""

import collections
import dataclasses

import pytest
import torch

from pmm.data.batch import Batch
from pmm.model.losses.contrastive import robust_contrast
from pmm.model.losses.noised_items import CorruptionOptions
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import ALL_OBJECTIVES, Weights, preset

HARD = CorruptionOptions(shuffle=0.6, replace=0.3)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_every_trained_tensor_gets_a_gradient(build, batch: Batch, name: str) -> None:
    own = {"text", "vision", "max_length", "weights", "corruption"}
    options = {key: value for key, value in vars(preset(name)).items() if key not in own}
    model = build(weights=ALL_OBJECTIVES, corruption=HARD, **options).train()
    model.loss(batch, chance())["loss"].backward()
    for tensor_name, tensor in model.named_parameters():
        if tensor.requires_grad:
            assert tensor.grad is not None, tensor_name
            assert tensor_name.endswith("key.bias") or tensor.grad.abs().max() > 1e-7, tensor_name
        else:
            assert tensor.grad is None, tensor_name


def test_the_loss_is_the_weighted_sum_of_its_parts(build, batch: Batch) -> None:
    weights = Weights(dap=0.5, nicl=2.0, nid=3.0, rcl=0.25)
    found = build(weights=weights).eval().loss(batch, chance())
    parts = {name: found[name].item() for name in ("dap", "nicl", "nid", "rcl")}
    expected = sum(getattr(weights, name) * value for name, value in parts.items())
    assert found["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert not any(found[name].requires_grad for name in parts)


def test_an_objective_without_weight_is_not_computed(build, batch: Batch) -> None:
    assert set(build().eval().loss(batch)) == {"loss", "dap"}
    only_nicl = build(weights=Weights(dap=0.0, nicl=1.0)).eval()
    assert set(only_nicl.loss(batch)) == {"loss", "nicl"}
    assert only_nicl.detector is None


@pytest.mark.parametrize(("last_item", "times"), [(False, 2), (True, 3)])
def test_only_the_user_encoder_runs_more_than_once(
    build, batch: Batch, last_item: bool, times: int
) -> None:
    corruption = CorruptionOptions(last_item=last_item)
    model = build(weights=ALL_OBJECTIVES, corruption=corruption).eval()
    runs = collections.Counter[str]()
    for name in ("text.blocks.2", "vision.blocks.2", "fusion", "user_encoder"):
        model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: runs.update([name]) or None
        )
    model.loss(batch, chance())
    assert runs == {"text.blocks.2": 1, "vision.blocks.2": 1, "fusion": 1, "user_encoder": times}


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_nicl_aligns_the_vectors_that_a_single_modality_would_use(
    build, batch: Batch, pool: str
) -> None:
    model = build(weights=Weights(nicl=1.0), modality_pool=pool).eval()
    parts = model.item_parts(batch.items, apart=True)
    for modality, found in (("text", parts.text_ID), ("vision", parts.picture_ID)):
        alone = build(modality=modality, modality_pool=pool).eval()
        alone.load_state_dict(model.state_dict(), strict=False)
        assert torch.equal(alone.encode_items(batch.items), found)


@pytest.mark.parametrize("last_item", [False, True])
def test_rcl_compares_what_was_corrupted_with_the_same_items_uncorrupted(
    build, batch: Batch, last_item: bool
) -> None:
    plain = CorruptionOptions(shuffle=0.0, replace=0.0, last_item=last_item)
    model = build(weights=Weights(rcl=1.0), corruption=plain).eval()
    slots = batch.slot_BS[:, 1:] if last_item else batch.slot_BS[:, :-1]
    items = torch.nn.functional.pad(model.encode_items(batch.items), (0, 0, 1, 0))
    hidden = model.encode_users(items[slots], slots > 0)
    expected = robust_contrast(hidden, hidden, slots > 0, model.options.rcl)
    torch.testing.assert_close(model.loss(batch, chance())["rcl"], expected.detach())


def test_corruption_without_a_generator_is_refused(build, batch: Batch) -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        build(weights=Weights(nid=1.0)).loss(batch)


def test_the_corruption_does_not_touch_what_the_other_objectives_see(build, batch: Batch) -> None:
    plain = build(weights=Weights(nicl=1.0)).eval().loss(batch)
    whole = build(weights=ALL_OBJECTIVES).eval().loss(batch, chance())
    assert torch.equal(plain["dap"], whole["dap"])
    assert torch.equal(plain["nicl"], whole["nicl"])


def test_items_without_a_modality_leave_all_losses_finite(build, batch: Batch) -> None:
    items = dataclasses.replace(
        batch.items,
        has_text_I=torch.arange(len(batch.items.item_I)) % 3 > 0,
        has_picture_I=torch.arange(len(batch.items.item_I)) % 2 > 0,
    )
    model: Pmmrec = build(weights=ALL_OBJECTIVES).train()
    found = model.loss(dataclasses.replace(batch, items=items), chance())
    found["loss"].backward()
    assert all(torch.isfinite(each) for each in found.values())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(each).all() for each in gradients)


@pytest.mark.parametrize(
    "slots",
    [
        [[0, 0, 1, 2, 3, 4], [0, 0, 0, 5, 2, 6], [0, 0, 0, 0, 7, 5]],
        [[1, 2, 3, 4, 5, 6]],
        [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 2, 3]],
        [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]],
    ],
    ids=["repeats", "one user", "short sequences", "one item"],
)
@pytest.mark.parametrize("name", ["default", "paper"])
def test_bfloat16_gives_no_nan(build, batch: Batch, name: str, slots: list[list[int]]) -> None:
    items = dataclasses.replace(
        batch.items, has_text_I=torch.arange(7) != 2, has_picture_I=torch.arange(7) % 3 != 1
    )
    own = {"text", "vision", "max_length", "weights"}
    options = {key: value for key, value in vars(preset(name)).items() if key not in own}
    model: Pmmrec = build(weights=ALL_OBJECTIVES, **options).train()
    with torch.autocast("cpu", torch.bfloat16):
        case = dataclasses.replace(batch, items=items, slot_BS=torch.tensor(slots))
        found = model.loss(case, chance())
    found["loss"].backward()
    assert all(torch.isfinite(each) for each in found.values())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(each).all() for each in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_changes_no_loss_by_more_than_its_rounding(
    build, batch: Batch, dtype: torch.dtype
) -> None:
    model = build(weights=ALL_OBJECTIVES).eval()
    exact = model.loss(batch, chance())
    with torch.autocast("cpu", dtype):
        rough = model.loss(batch, chance())
    for name, value in exact.items():
        # Logits of norm 8 vectors lose up to 2**-8 of their size in bfloat16.
        assert rough[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.1), name


def test_a_few_steps_of_all_objectives_learn(build, batch: Batch) -> None:
    model = build(weights=ALL_OBJECTIVES, dropout=0.0, corruption=HARD).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        found = model.loss(batch, chance())
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        losses.append({name: value.item() for name, value in found.items()})
    assert losses[-1]["dap"] < 0.3 * losses[0]["dap"]
    assert losses[-1]["nid"] < 0.3 * losses[0]["nid"]
    assert losses[-1]["nicl"] < losses[0]["nicl"]
