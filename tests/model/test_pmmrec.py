"""The whole model on small encoders: what trains, what does not matter, what may be missing."""

import dataclasses
import operator

import pytest
import torch

from pmm.data.batch import Batch
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import preset
from pmm.shards.items import Items
from pmm.train.optimiser import parameter_groups

VARIANTS = [
    {},
    {"fusion_pool": "cls"},
    {"fusion_type_embedding": False, "dap_logq": "off", "dap_reject": "own_columns"},
    {"modality": "text"},
    {"modality": "vision"},
    {"modality": "text", "modality_pool": "cls"},
    {"width": 32, "dap_similarity": "cosine", "dap_tau": 0.1, "dap_logq": "corrected"},
]


def without(items: Items, **missing: list[int]) -> Items:
    """The same items, some of them without text or without picture."""
    text, picture = items.has_text_I.clone(), items.has_picture_I.clone()
    text[missing.get("text", [])] = False
    picture[missing.get("picture", [])] = False
    return dataclasses.replace(items, has_text_I=text, has_picture_I=picture)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_trained_tensor_gets_a_gradient_and_no_frozen_one_does_for_pmmrec(
    build, batch, changes
) -> None:
    model = build(**changes).train()
    model.loss(batch)["loss"].backward()
    for name, tensor in model.named_parameters():
        if tensor.requires_grad:
            assert tensor.grad is not None, name
            # a key bias shifts all scores of a query alike: its gradient is zero up to rounding
            assert name.endswith("key.bias") or tensor.grad.abs().max() > 1e-7, name
        else:
            assert tensor.grad is None, name


def test_names_of_what_trains(build) -> None:
    names = build(user_encoder="transformer", user_blocks=2).trained_names()
    encoders = {".".join(n.split(".")[:3]) for n in names if n.startswith(("text.", "vision."))}
    assert encoders == {"text.blocks.1", "text.blocks.2", "vision.blocks.1", "vision.blocks.2"}
    assert len([n for n in names if n.startswith("user_encoder.")]) == 28


def test_training_mode_keeps_the_trunks_in_eval_mode(build) -> None:
    model = build().eval().train()
    assert [b.training for b in model.text.blocks] == [False, True, True]
    assert [b.training for b in model.vision.blocks] == [False, True, True]
    assert not model.text.stem.dropout.training
    assert model.fusion.block.dropout.training


def test_items_encoded_once_equal_items_encoded_slot_by_slot(build, items) -> None:
    model, all_items = build().eval(), items(6)
    rows = torch.tensor([2, 0, 2, 5, 1, 0])
    with torch.no_grad():
        once = model.encode_items(all_items)[rows]
        by_slot = model.encode_items(all_items.map(lambda each: each[rows]))
    assert torch.allclose(once, by_slot, atol=1e-5)


def test_computing_again_changes_no_gradient_and_keeps_less(build, batch: Batch) -> None:
    gradients, kept = [], []
    for recompute in (False, True):
        model = build().train()
        model.recompute = recompute
        torch.manual_seed(0)
        saved: list[int] = []

        def count(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model.loss(batch)["loss"]
        loss.backward()
        kept.append(sum(saved))
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert kept[1] < 0.6 * kept[0]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_the_order_of_users_does_not_matter(build, batch: Batch) -> None:
    model = build().eval()
    turned = dataclasses.replace(batch, slot_BS=batch.slot_BS.flip(0))
    with torch.no_grad():
        first, second = model.loss(batch)["loss"], model.loss(turned)["loss"]
    assert torch.allclose(first, second, atol=1e-6)


def test_fewer_padding_slots_give_the_same_loss(build, batch: Batch) -> None:
    model = build().eval()
    narrow = dataclasses.replace(batch, slot_BS=batch.slot_BS[:, 2:])
    with torch.no_grad():
        first, second = model.loss(batch)["loss"], model.loss(narrow)["loss"]
    assert torch.allclose(first, second, atol=1e-5)


def test_an_item_has_the_same_vector_in_any_company(build, items) -> None:
    model, all_items = build().eval(), without(items(5), text=[1], picture=[2])
    with torch.no_grad():
        together = model.encode_items(all_items)
        for row in range(5):
            alone = all_items.map(lambda each, row=row: each[[row]])
            assert torch.allclose(model.encode_items(alone)[0], together[row], atol=1e-5)


def test_what_stands_where_a_modality_is_missing_does_not_matter(build, items) -> None:
    model, some = build().eval(), without(items(3), text=[1], picture=[2])
    other = dataclasses.replace(
        some,
        token_IT=some.token_IT.index_fill(0, torch.tensor(1), 7),
        token_mask_IT=some.token_mask_IT ^ (torch.arange(3) == 1)[:, None],
        picture_I3HW=some.picture_I3HW.index_fill(0, torch.tensor(2), 200),
    )
    with torch.no_grad():
        assert torch.allclose(model.encode_items(some), model.encode_items(other), atol=1e-6)


def test_a_missing_picture_is_not_a_black_one(build, items) -> None:
    model = build().eval()
    black = dataclasses.replace(items(3), picture_I3HW=torch.zeros_like(items(3).picture_I3HW))
    with torch.no_grad():
        missing = model.encode_items(without(black, picture=[0]))
        assert not torch.allclose(missing[0], model.encode_items(black)[0], atol=1e-3)
        assert torch.equal(missing[1:], model.encode_items(without(black, picture=[0]))[1:])


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_batches_that_lack_a_modality_train_for_pmmrec(build, batch: Batch, changes) -> None:
    everything = list(range(7))
    for missing in ({"text": [0, 3]}, {"picture": everything}, {"text": everything}):
        model = build(**changes).train()
        loss = model.loss(dataclasses.replace(batch, items=without(batch.items, **missing)))
        loss["loss"].backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert loss["loss"].isfinite()
        assert all(g.isfinite().all() for g in grads)


def test_a_text_model_never_reads_pictures(build, batch: Batch) -> None:
    model = build(modality="text").eval()
    blind = dataclasses.replace(batch.items, picture_I3HW=batch.items.picture_I3HW[..., :0, :0])
    with torch.no_grad():
        found = model.encode_items(blind)
    assert model.vision is None
    assert torch.equal(found, model.encode_items(batch.items))


def test_bf16_autocast_gives_a_finite_loss_near_the_exact_one_for_pmmrec(
    build, batch: Batch
) -> None:
    model = build().eval()
    exact = model.loss(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_a_saved_state_gives_the_same_model(build, options, batch: Batch) -> None:
    model = build().eval()
    torch.manual_seed(99)
    other = Pmmrec(options()).eval()
    assert other.loss(batch)["loss"] != model.loss(batch)["loss"]
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.loss(batch)["loss"], model.loss(batch)["loss"])


def test_user_vectors_are_the_states_at_the_last_item(build) -> None:
    model = build().eval()
    e, valid = torch.randn(2, 5, 64), torch.tensor([[False] * 3 + [True] * 2, [True] * 5])
    with torch.no_grad():
        found, expected = model.user_vectors(e, valid), model.encode_users(e, valid)[:, 4]
    torch.testing.assert_close(found, expected)


def test_scores_rank_as_the_loss_compares(build) -> None:
    e = torch.randn(4, 64)
    assert torch.equal(build().item_vectors(e), e)
    lengths = build(dap_similarity="cosine").item_vectors(e).norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(4))


@pytest.mark.parametrize("decay_norms", [False, True])
def test_each_trained_tensor_stands_in_one_group(build, decay_norms: bool) -> None:
    model = build(fusion_pool="cls")
    groups = parameter_groups(model, lr=1e-4, weight_decay=0.1, decay_norms=decay_norms)
    grouped = [id(p) for g in groups for p in g["params"]]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained)
    assert [g["name"] for g in groups] == ["text", "vision", "rest", "norms"][: 4 - decay_norms]
    assert [g["weight_decay"] for g in groups] == [0, 0, 0.1, 0][: 4 - decay_norms]
    torch.optim.AdamW(groups)


def test_norms_and_biases_of_the_rest_do_not_decay(build) -> None:
    model = build()
    names = {id(p): n for n, p in model.named_parameters()}
    spared = parameter_groups(model, lr=1e-4, weight_decay=0.1)[-1]["params"]
    found = {names[id(p)] for p in spared}
    rest = {n for n in model.trained_names() if not n.startswith(("text.", "vision."))}
    assert found == {n for n in rest if "norm" in n or n.endswith("bias")}


@pytest.mark.parametrize("modality", ["both", "text", "vision"])
def test_a_few_steps_learn_the_next_items_for_pmmrec(build, batch: Batch, modality: str) -> None:
    model = build(dropout=0.0, modality=modality).train()
    optimiser = torch.optim.AdamW(parameter_groups(model, lr=2e-3, weight_decay=0.0))
    losses = []
    for _ in range(30):
        loss = model.loss(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


PRESETS = [
    ("fusion_pool", "cls", "mean", "mean"),
    ("modality_pool", "cls", "mean", "mean"),
    ("fusion_type_embedding", False, False, True),
    ("dap_logq", "off", "on", "off"),
    ("dap_reject", "same_ids", "same_ids", "same_ids"),
    ("dap_similarity", "dot", "dot", "cosine"),
    ("temperature", 1, 1, 0.1),
    ("dap_candidates", "batch", "batch", "auto"),
    ("nicl.family", "nicl", "nicl", "nicl"),
    ("nicl.form", "sum", "sum", "sum"),
    ("nicl.tau", 1, 1, 1),
    ("nicl.denominator", "eq8", "eq8", "eq8"),
    ("nicl.reject", "same_ids", "same_ids", "same_ids"),
    ("nid_relu", True, False, False),
    ("corruption.shuffle", 0.15, 0.15, 0.15),
    ("corruption.replace", 0.05, 0.05, 0.05),
    ("corruption.last_item", True, False, False),
    ("rcl.pool", "mean", "mean", "mean"),
    ("rcl.similarity", "dot", "cosine", "cosine"),
    ("rcl.tau", 1, 0.1, 0.1),
    ("vision.image_norm", "encoder", "half", "encoder"),
    ("vision.train_blocks", 2, 2, 2),
    ("text.train_blocks", 2, 2, 2),
    ("max_length", 20, 20, 20),
    ("user_blocks", 2, 2, 1),
    ("user_heads", 2, 2, 2),
    ("user_encoder", "transformer", "transformer", "hstu"),
    ("user_positions", "absolute", "absolute", "rope"),
    ("user_convolution", 0, 0, 3),
    ("user_norm", "post", "post", "post"),
    ("negatives", "batch", "batch", "batch"),
    ("items", "encoders", "encoders", "encoders"),
    ("residual", "none", "none", "none"),
    ("dap_tau_learned", False, False, False),
    ("dropout", 0.1, 0.1, 0.1),
]
"""Key, paper, official, default. Of objectives that `official` has not it takes the default."""


@pytest.mark.parametrize(("key", "paper", "official", "default"), PRESETS)
def test_presets_are_their_columns_of_the_paper_page(key: str, paper, official, default) -> None:
    get = operator.attrgetter(key)
    found = [get(preset(name)) for name in ("paper", "official", "default")]
    assert found == [paper, official, default]
