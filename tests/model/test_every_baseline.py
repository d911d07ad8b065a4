"""Every baseline of the grid: gradients, causality, its losses, what it scores with."""

import math
from dataclasses import fields, replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pmm.data.batch import Batch
from pmm.errors import RecipeError
from pmm.model import registry
from pmm.model.baselines.unisrec import dropped
from pmm.model.build import build_model
from pmm.model.features.item_features import ItemFeatures, scaled
from pmm.model.model_entry import Asked
from pmm.model.user_encoders.dilated_convolutions import Adapter
from pmm.shards.items import Items
from pmm.storage.toml import resolve

N = 12
BASELINES = tuple(name for name in registry.models() if name not in ("pmmrec", "morec"))
TRANSFER = tuple(name for name in BASELINES if registry.entry(name).transfers)


def preset(name: str, *, original: bool = False) -> Any:
    return registry.entry(name).settings["original" if original else "default"].options


def at_stage(options: Any, stage: Any, *, original: bool = False) -> Any:
    asked = Asked(stage=stage, preset="original" if original else "default")
    return registry.entry(options.name).at_stage(options, asked)


def build(options: Any, features: ItemFeatures | None) -> Any:
    return build_model(options, N, features)


def features_for(options: Any, n_items: int = N, seed: int = 0) -> ItemFeatures | None:
    draw = Generator().manual_seed(seed)
    widths = {"none": (), "text": (10,), "vision": (6,), "both": (10, 6)}[options.content]
    fields = tuple(torch.randn(n_items, width, generator=draw) for width in widths)
    return ItemFeatures(fields, torch.ones(n_items, dtype=torch.bool)) if fields else None


def small(name: Any, *, seed: int = 0, **changes: Any) -> Any:
    """A small one; of the changes those count that it has an option for."""
    fitting = {"width": 16, "max_length": 5, "parts": 4, "centroids": 8, "inner": 32}
    own = {each.name for each in fields(preset(name))}
    wanted = {key: value for key, value in {**fitting, **changes}.items() if key in own}
    options = replace(preset(name), **wanted)
    torch.manual_seed(seed)
    return build(options, features_for(options))


@pytest.fixture
def batch() -> Batch:
    """Three users, one short, with an item that two of them have."""
    slot_BS = torch.tensor([[0, 0, 0, 1, 2, 3], [4, 2, 5, 6, 7, 8], [0, 9, 10, 1, 11, 4]])
    number_I = torch.arange(1, N)
    none_I = torch.zeros(len(number_I), dtype=torch.bool)
    items = Items(
        item_I=number_I,
        token_IT=torch.zeros(len(number_I), 1, dtype=torch.int64),
        token_mask_IT=none_I[:, None],
        picture_I3HW=torch.zeros(len(number_I), 3, 0, 0, dtype=torch.uint8),
        has_text_I=none_I,
        has_picture_I=none_I,
    )
    log_p_I = torch.full((len(number_I),), 1 / 14).log()
    return Batch(items=items, slot_BS=slot_BS, log_p_I=log_p_I)


def generator() -> Generator:
    return Generator().manual_seed(3)


def silent(model: Any, name: str) -> bool:
    """A key's bias moves all logits of a query alike; CARCA's last one all logits of a row."""
    return name.endswith("key.bias") or (
        model.options.loss == "in_batch" and name == "head.score.bias"
    )


STAGES: list[tuple[str, str, dict[str, Any]]] = [
    *((name, "scratch", {}) for name in BASELINES),
    *((name, stage, {}) for name in TRANSFER for stage in ("pretrain", "finetune")),
    ("vqrec", "finetune", {"permutation": "none"}),
    ("unisrec", "finetune", {"transductive": True}),
    ("peterrec", "finetune", {"insertion": "parallel"}),
    *((name, "scratch", {"user_convolution": 2}) for name in BASELINES),
    *(
        (name, "scratch", {"user_encoder": kind, "user_convolution": 2})
        for name in ("sasrec", "unisrec", "vqrec")
        for kind in ("gru", "nextitnet", "hstu")
    ),
    *(
        (name, "scratch", {"user_positions": "rope"})
        for name in ("sasrec", "unisrec", "vqrec", "fdsa")
    ),
    *((name, "finetune", {"user_encoder": "gru"}) for name in ("unisrec", "vqrec")),
]


@pytest.mark.parametrize(("name", "stage", "changes"), STAGES)
def test_all_that_trains_gets_a_gradient(
    name: str, stage: Any, changes: dict[str, Any], batch: Batch
) -> None:
    options = small(name).options
    if stage != "scratch":
        options = at_stage(options, stage)
    torch.manual_seed(0)
    model = build(replace(options, **changes), features_for(options))
    # An adapter's first half learns from the second step on: its second half starts at zero.
    for adapter in (each for each in model.modules() if isinstance(each, Adapter)):
        torch.nn.init.normal_(adapter.up.weight)
    model(batch, generator())["loss"].backward()
    model.after_backward()
    for tensor_name, tensor in model.named_parameters():
        waits = model.learning_codes and not tensor_name.startswith("permutation.")
        if waits:
            assert tensor.grad is None, tensor_name
        elif tensor.requires_grad and not silent(model, tensor_name):
            assert tensor.grad is not None, tensor_name
            assert tensor.grad.isfinite().all(), tensor_name
            assert tensor.grad.count_nonzero() > 0, tensor_name


@pytest.mark.parametrize("name", BASELINES)
def test_later_items_do_not_change_earlier_states_and_padding_changes_nothing(name: str) -> None:
    model = small(name).eval()
    number_BL = torch.tensor([[0, 0, 1, 2, 3], [4, 5, 6, 7, 1]])
    valid_BL = number_BL > 0
    other_BL = number_BL.clone()
    other_BL[:, 3:] = torch.tensor([[6, 7], [2, 3]])
    one, other = (
        model.of_numbers(each.clamp(min=1).flatten()).view(2, 5, -1) * valid_BL[:, :, None]
        for each in (number_BL, other_BL)
    )
    before, after = model.encode_users(one, valid_BL), model.encode_users(other, valid_BL)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 3:], after[:, 3:])
    strange = torch.where(valid_BL[:, :, None], one, 100.0)
    torch.testing.assert_close(model.encode_users(strange, valid_BL), before)
    assert before[~valid_BL].count_nonzero() == 0


@pytest.mark.parametrize("name", BASELINES)
def test_users_are_scored_with_the_last_hidden_state_whatever_the_padding(name: str) -> None:
    model = small(name).eval()
    number_BL = torch.tensor([[0, 0, 0, 2, 3], [0, 0, 6, 7, 1]])
    valid_BL = number_BL > 0
    e_BLW = model.of_numbers(number_BL.clamp(min=1).flatten()).view(2, 5, -1) * valid_BL[:, :, None]
    expected = model.encode_users(e_BLW, valid_BL)[:, -1]
    torch.testing.assert_close(model.user_vectors(e_BLW, valid_BL), expected)
    torch.testing.assert_close(model.user_vectors(e_BLW[:, 2:], valid_BL[:, 2:]), expected)


def losses_of(name: str) -> list[str]:
    if name == "carca":
        return ["in_batch", "bce"]
    return ["in_batch", "full", "bce", "bpr", "cosine"]


@pytest.mark.parametrize(
    ("name", "loss"),
    [(n, each) for n, each in product(BASELINES, ["all"]) for each in losses_of(n)],
)
def test_each_loss_falls_under_a_few_steps(name: str, loss: str, batch: Batch) -> None:
    model = small(name, loss=loss, dropout=0.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    found = []
    for _ in range(25):
        optimiser.zero_grad()
        value = model(batch, generator())["loss"]
        value.backward()
        optimiser.step()
        found.append(float(value.detach()))
    assert found[-1] < 0.9 * found[0]


def test_the_full_softmax_is_that_over_the_whole_catalogue(batch: Batch) -> None:
    model = small("gru4rec", loss="full").eval()
    table_ND = model.of_numbers(torch.arange(1, N + 1))
    padded = functional.pad(table_ND, (0, 0, 1, 0))
    number_BS = functional.pad(batch.items.item_I, (1, 0))[batch.slot_BS]
    hidden_BLD = model.encode_users(padded[number_BS[:, :-1]], number_BS[:, :-1] > 0)
    each = []
    for b, slot in product(range(3), range(5)):
        if number_BS[b, slot] > 0 and number_BS[b, slot + 1] > 0:
            scores = table_ND @ hidden_BLD[b, slot]
            each.append(-scores.log_softmax(0)[number_BS[b, slot + 1] - 1])
    torch.testing.assert_close(model.loss(batch), torch.stack(each).mean())


def test_carca_ranks_as_its_training_scores() -> None:
    """The last position of the training form, over all items, is the form of the ranking."""
    model = small("carca").eval()
    every_IW = model.of_numbers(torch.arange(1, N + 1))
    number_BL = torch.tensor([[0, 0, 1, 2, 3], [4, 5, 6, 7, 1]])
    e_BLW = functional.pad(every_IW, (0, 0, 1, 0))[number_BL]
    scores = model.scores_of_users
    assert scores is not None
    assert model.head is not None
    last_BI = scores(e_BLW, number_BL > 0, model.item_vectors(every_IW))
    user_BLD = model.encode_users(e_BLW, number_BL > 0)
    whole_BLI = model.head.scores(user_BLD, number_BL > 0, every_IW[:, 16:])
    torch.testing.assert_close(last_BI, whole_BLI[:, -1], rtol=1e-4, atol=1e-5)


def test_the_published_carca_sees_its_target_in_training(batch: Batch) -> None:
    """The leak that the specification describes: `causal` False, with a drawn negative."""
    model = small("carca", loss="bce", causal=False, residual=False)
    assert torch.isfinite(model.loss(batch, generator()))
    with pytest.raises(ValueError, match="in_batch needs causal"):
        small("carca", causal=False)


@pytest.mark.parametrize("name", BASELINES)
def test_items_known_by_content_are_the_same_on_another_catalogue(name: str) -> None:
    """Alike features, alike items, but for models that know ids."""
    model = small(name).eval()
    alike = name in TRANSFER
    if model.options.content != "none" and name != "vqrec":
        model.vectors.feature_NF[4] = model.vectors.feature_NF[2]
        assert torch.allclose(*model.of_numbers(torch.tensor([3, 5]))) == alike
    assert registry.entry(name).knows_by.startswith("ids") != alike


def test_unisrec_adds_a_vector_of_its_own_to_an_item_where_it_is_transductive() -> None:
    plain, own = small("unisrec").eval(), small("unisrec", transductive=True).eval()
    assert own.items is not None
    numbers = torch.arange(1, N + 1)
    own.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(
        own.of_numbers(numbers), plain.of_numbers(numbers) + own.items.table(numbers)
    )


@pytest.mark.parametrize("name", TRANSFER)
def test_what_fine_tuning_freezes_stands_still(name: str, batch: Batch) -> None:
    options = at_stage(small(name).options, "finetune")
    torch.manual_seed(0)
    model = build(options, features_for(options))
    frozen = {n: t.detach().clone() for n, t in model.named_parameters() if not t.requires_grad}
    assert frozen
    trained = [t for t in model.parameters() if t.requires_grad]
    before = [t.detach().clone() for t in trained]
    optimiser = torch.optim.Adam(trained, lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        model(batch, generator())["loss"].backward()
        optimiser.step()
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], t) for n, t in frozen.items())
    assert sum(not torch.equal(a, b) for a, b in zip(before, trained, strict=True)) > 0


def test_pre_training_compares_with_synthetic_negatives_and_shorter_sequences(batch: Batch) -> None:
    plain = at_stage(small("unisrec").options, "pretrain")
    assert (plain.loss, plain.sequence_weight) == ("cosine", 1e-3)
    heavy = replace(plain, sequence_weight=1.0, dropout=0.0)
    found = []
    for options in (replace(heavy, sequence_weight=0.0), heavy):
        torch.manual_seed(0)
        model = build(options, features_for(options)).eval()
        found.append(float(model.loss(batch, generator()).detach()))
    assert found[1] > found[0]
    few, many = (
        small("vqrec", loss="cosine", fake_ratio=ratio).eval().loss(batch, generator()).item()
        for ratio in (0.0, 1.0)
    )
    assert few > many  # at ratio 0 the synthetic negative is the target itself


@pytest.mark.parametrize("name", ["unisrec", "vqrec"])
def test_in_pre_training_a_users_other_items_are_no_negatives(name: str, batch: Batch) -> None:
    torch.manual_seed(0)
    options = at_stage(small(name).options, "pretrain")
    fake = {"unisrec": {"sequence_weight": 0.0}, "vqrec": {"fake_ratio": 0.0}}[name]
    model = build(replace(options, **fake), features_for(options)).eval()
    alone = replace(batch, slot_BS=batch.slot_BS[1:2])
    left = {"unisrec": 0.0, "vqrec": math.log(2)}  # VQ-Rec's synthetic one, here the target itself
    assert model.loss(alone, generator()).item() == pytest.approx(left[name], abs=1e-6)
    assert model.loss(batch, generator()).item() > left[name] + 0.1


def test_unisrecs_fine_tuned_part_has_the_size_of_the_specification() -> None:
    options = at_stage(preset("unisrec", original=True), "finetune")
    options = replace(options, transductive=False)
    vectors = ItemFeatures((torch.zeros(2, 768),), torch.ones(2, dtype=torch.bool))
    model = build_model(options, 2, vectors)
    sizes = {each.requires_grad: 0 for each in model.parameters()}
    for each in model.parameters():
        sizes[each.requires_grad] += each.numel()
    assert sizes == {True: 1_862_232, False: 2_910_344 - 1_862_232}


def test_a_published_system_changes_with_its_stage_as_published() -> None:
    options = preset("unisrec", original=True)
    before, after = (at_stage(options, stage, original=True) for stage in ("pretrain", "finetune"))
    assert (options.transductive, before.transductive, after.transductive) == (True, False, True)
    inductive = preset("unisrec")
    assert not at_stage(inductive, "finetune").transductive
    assert at_stage(replace(inductive, transductive=True), "finetune").transductive
    codes = preset("vqrec")
    assert at_stage(codes, "finetune").permutation == "straight"
    assert at_stage(codes, "finetune", original=True).permutation == "official"


def test_the_order_of_codes_is_learned_alone_and_then_fixed(batch: Batch) -> None:
    options = replace(at_stage(small("vqrec").options, "finetune"), permutation_epochs=2)
    torch.manual_seed(0)
    model = build(options, features_for(options))
    optimiser = torch.optim.AdamW([t for t in model.parameters() if t.requires_grad], lr=0.1)
    assert model.codes is not None
    first = model.codes.table.weight.detach().clone()

    def step(epoch: int) -> set[str]:
        before = {name: each.detach().clone() for name, each in model.named_parameters()}
        model.begin_epoch(epoch)
        optimiser.zero_grad()
        model(batch, generator())["loss"].backward()
        model.after_backward()
        optimiser.step()
        return {n for n, each in model.named_parameters() if not torch.equal(each, before[n])}

    assert step(0) == step(1) == {"permutation.logit_KCC"}
    assert model.learning_codes
    assert torch.equal(model.codes.table.weight, first)
    model.begin_epoch(2)
    fixed = model.codes.table.weight.detach().clone()
    assert model.permuted
    assert not model.learning_codes
    assert sorted(fixed.tolist()) == sorted(first.tolist())  # the same rows in another order
    assert not torch.equal(fixed, first)
    moved = step(2)
    assert "codes.table.weight" in moved
    assert "permutation.logit_KCC" not in moved
    official = replace(options, permutation="official")
    published = build(official, features_for(official))
    published(batch, generator())["loss"].backward()
    assert published.permutation is not None
    grad = published.permutation.logit_KCC.grad
    assert grad is None or grad.count_nonzero() == 0


def test_dropped_windows_keep_the_first_item_and_the_order() -> None:
    number_BL = torch.tensor([[0, 0, 1, 2, 3], [4, 5, 6, 7, 8]])
    e_BLW = number_BL[:, :, None].float()
    lost = 0
    for seed in range(20):
        found_BLW, valid_BL = dropped(e_BLW, number_BL > 0, Generator().manual_seed(seed))
        for row, valid, former in zip(found_BLW[:, :, 0], valid_BL, number_BL, strict=True):
            items = row[valid].int().tolist()
            former = former[former > 0].tolist()
            assert items[0] == former[0]
            assert items == [each for each in former if each in items]
            assert not row[~valid].any()
            assert valid.tolist() == sorted(valid.tolist())
            lost += len(former) - len(items)
    assert 0.1 < lost / (20 * 6) < 0.3  # one in five of the six that are no first ones


def test_scaling_learns_from_training_items_that_have_the_modality() -> None:
    x_NF = torch.randn(200, 4, dtype=torch.float64).float() * 3 + 2
    has_N, trained_N = torch.rand(200) < 0.8, torch.rand(200) < 0.7
    x_NF[~has_N] = 0
    found = scaled(x_NF, has_N, trained_N, "standardise")
    rows = found[has_N & trained_N]
    torch.testing.assert_close(rows.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(0, unbiased=False), torch.ones(4), atol=1e-3, rtol=0)
    assert found[~has_N].count_nonzero() == 0
    assert torch.equal(scaled(x_NF, has_N, trained_N, "none"), x_NF)


def test_eight_users_are_learnt_by_heart_by_every_baseline() -> None:
    """T16: HR@1 = 1 on the training sequences."""
    draw = Generator().manual_seed(5)
    rows = torch.stack([torch.randperm(N, generator=draw)[:6] + 1 for _ in range(8)])
    number_I = torch.arange(1, N + 1)
    no = torch.zeros(N, dtype=torch.bool)
    items = Items(
        item_I=number_I,
        token_IT=torch.zeros(N, 1, dtype=torch.int64),
        token_mask_IT=no[:, None],
        picture_I3HW=torch.zeros(N, 3, 0, 0, dtype=torch.uint8),
        has_text_I=no,
        has_picture_I=no,
    )
    batch = Batch(items=items, slot_BS=rows, log_p_I=torch.zeros(N))
    for name in BASELINES:
        loss = {"loss": "in_batch", "reject": "none", "logq": "off"}
        model = small(name, dropout=0.0, width=32, similarity="dot", tau=1.0, **loss)
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
        for step in range(1, 251):
            optimiser.zero_grad()
            model(batch, generator())["loss"].backward()
            optimiser.step()
            if step % 25 == 0 and hits(model.eval(), rows) == 1:
                break
            model.train()
        assert hits(model.eval(), rows) == 1, name


@torch.no_grad()
def hits(model: Any, rows: Tensor) -> float:
    """HR@1 of the last item, all N competing but the user's others."""
    every_IW = model.of_numbers(torch.arange(1, N + 1))
    e_BLW, valid_BL = every_IW[rows[:, :-1] - 1], torch.ones(8, 5, dtype=torch.bool)
    scores = model.scores_of_users
    if scores is None:
        score_BI = model.user_vectors(e_BLW, valid_BL) @ model.item_vectors(every_IW).T
    else:
        score_BI = scores(e_BLW, valid_BL, model.item_vectors(every_IW))
    score_BI.scatter_(1, rows[:, :-1] - 1, -torch.inf)
    return float((score_BI.argmax(1) + 1 == rows[:, -1]).float().mean())


def test_options_that_a_baseline_does_not_have_are_refused() -> None:
    with pytest.raises(RecipeError, match="features = 'none' should be one of"):
        resolve(registry.entry("fdsa").options, {"features": "none"})
    with pytest.raises(RecipeError, match='unknown key "features"'):
        resolve(registry.entry("sasrec").options, {"features": "text"})
    with pytest.raises(RecipeError, match="loss = 'full' should be one of 'in_batch', 'bce'"):
        resolve(registry.entry("carca").options, {"loss": "full"})
    with pytest.raises(ValueError, match="reads frozen vectors"):
        build_model(preset("fdsa"), N)
    assert isinstance(small("sasrec").items, nn.Module)
