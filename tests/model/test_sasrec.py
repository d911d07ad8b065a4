"""SASRec on item ids: its sizes, its causality, its table, its loss at the start."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pmm.data.batch import Batch
from pmm.errors import InputError, RecipeError
from pmm.model import registry
from pmm.model.baselines.gru4rec import Gru4rec, Gru4recOptions
from pmm.model.baselines.nextitnet import Nextitnet, NextitnetOptions
from pmm.model.baselines.sasrec import Sasrec, SasrecOptions
from pmm.model.build import build_model
from pmm.model.losses.next_item import in_batch_softmax
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import PmmrecOptions
from pmm.model.user_encoders.transformer import UserEncoder
from pmm.shards.items import Items
from pmm.storage.toml import resolve
from pmm.train.optimiser import parameter_groups


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def small(n_items: int = 7, **changes: object) -> Sasrec:
    torch.manual_seed(0)
    return Sasrec(SasrecOptions(**{"width": 16, "max_length": 5, **changes}), n_items)


def table(model: Sasrec) -> Tensor:
    return model.items.table.weight


def numbered(item_I: Tensor) -> Items:
    """Items of which nothing but the number is there."""
    n, no = len(item_I), torch.zeros(len(item_I), dtype=torch.bool)
    return Items(
        item_I=item_I,
        token_IT=torch.zeros(n, 1, dtype=torch.int64),
        token_mask_IT=torch.zeros(n, 1, dtype=torch.bool),
        picture_I3HW=torch.zeros(n, 3, 0, 0, dtype=torch.uint8),
        has_text_I=no,
        has_picture_I=no,
    )


def test_the_sizes_are_those_of_the_specification() -> None:
    """At the width and on the 44,888 items of the sheet's example: table 34,473,984."""
    with torch.device("meta"):
        model = Sasrec(SasrecOptions(width=768), 44_888 - 1)
    assert count(model.user_encoder) == 14_186_496
    assert count(model.items) == 34_473_984
    assert count(model) == 14_186_496 + 34_473_984
    assert len(list(model.parameters())) == 27 + 1


def test_items_are_rows_of_the_table_by_their_numbers() -> None:
    model = small()
    found = model.encode_items(numbered(torch.tensor([2, 3, 7])))
    assert torch.equal(found, table(model)[[2, 3, 7]])


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, 0.02), ({"table_std": 0.0}, math.sqrt(2 / (5_001 + 64)))]
)
def test_the_table_starts_normal_with_a_zero_row_for_padding(
    changes: dict[str, float], expected: float
) -> None:
    model = small(5_000, width=64, **changes)
    assert table(model)[0].count_nonzero() == 0
    assert table(model)[1:].std().item() == pytest.approx(expected, rel=0.01)
    assert table(model)[1:].mean().item() == pytest.approx(0, abs=0.01 * expected)


def test_grurec_and_carca_keep_the_published_start_of_their_ids() -> None:
    options = [registry.entry(name).options() for name in registry.models()]
    starts = {each.name: each.table_std for each in options if hasattr(each, "table_std")}
    assert {name for name, std in starts.items() if std == 0} == {"gru4rec", "carca"}


def test_a_linear_layer_stands_behind_grurec_and_nextitnet_where_it_is_asked_for() -> None:
    for kind, options in ((Gru4rec, Gru4recOptions), (Nextitnet, NextitnetOptions)):
        plain, dense = (kind(options(width=16, dense=each), 7) for each in (False, True))
        assert count(dense) - count(plain) == 16 * 16 + 16
    with pytest.raises(RecipeError, match='unknown key "dense"'):
        resolve(SasrecOptions, {"dense": True})


def test_positions_start_at_zero_so_that_they_do_not_hide_the_items() -> None:
    encoder = small().user_encoder
    assert isinstance(encoder, UserEncoder)
    assert encoder.position.weight.count_nonzero() == 0
    assert UserEncoder(16, max_length=5).position.weight.count_nonzero() == 5 * 16


def test_later_items_do_not_change_earlier_states_for_sasrec() -> None:
    model = small().eval()
    number_BL = torch.tensor([[0, 0, 1, 2, 3], [4, 5, 6, 7, 1]])
    other_BL = number_BL.clone()
    other_BL[:, 3:] = torch.tensor([[6, 7], [2, 3]])
    before, after = (
        model.encode_users(table(model)[each_BL], each_BL > 0) for each_BL in (number_BL, other_BL)
    )
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_every_tensor_gets_a_gradient_but_the_row_of_padding(batch: Batch) -> None:
    model = small()
    model(batch)["loss"].backward()
    for name, tensor in model.named_parameters():
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.count_nonzero() > 0, name
    grad = table(model).grad
    assert grad is not None
    assert (grad != 0).any(1).tolist() == [False] + [True] * 7


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_row_of_padding_stays_zero_when_the_others_move_and_decay(
    batch: Batch, similarity: str
) -> None:
    model = small(8, similarity=similarity)  # item 8 is in no batch
    optimiser = torch.optim.AdamW(parameter_groups(model, lr=1e-2, weight_decay=0.5))
    start = table(model).detach().clone()
    for _ in range(5):
        optimiser.zero_grad()
        model(batch)["loss"].backward()
        optimiser.step()
    assert table(model)[0].count_nonzero() == 0
    assert (table(model) != start).any(1).tolist() == [False] + [True] * 8
    torch.testing.assert_close(table(model)[8], start[8] * (1 - 1e-2 * 0.5) ** 5)


def test_the_table_decays_with_all_that_is_no_norm_and_no_bias() -> None:
    model = small()
    groups = {each["name"]: each for each in parameter_groups(model, lr=1e-3, weight_decay=0.1)}
    assert {name: each["weight_decay"] for name, each in groups.items()} == {
        "rest": 0.1,
        "norms": 0,
    }
    assert any(each is table(model) for each in groups["rest"]["params"])
    assert sum(len(each["params"]) for each in groups.values()) == 28


@pytest.mark.parametrize("width", [256, 768])
def test_the_first_loss_is_that_of_the_popularity_correction_alone(width: int) -> None:
    """Within 2 %: the first logits are small beside log p, whose loss is ln sum 1/p - ln 1/p_t."""
    draw = np.random.default_rng(0)
    count_N = draw.zipf(1.5, 5_000).clip(max=500)
    share_N = count_N / count_N.sum()
    rows = draw.choice(5_000, size=(64, 21), p=share_N) + 1
    distinct = np.unique(rows)
    batch = Batch(
        items=numbered(torch.from_numpy(distinct)),
        slot_BS=torch.from_numpy(np.searchsorted(distinct, rows) + 1),
        log_p_I=torch.from_numpy(np.log(share_N[distinct - 1])).float(),
    )
    model = small(5_000, width=width, max_length=20, logq="on")
    zero_BLD = torch.zeros(64, 20, width)
    expected = in_batch_softmax(
        zero_BLD, torch.zeros(len(distinct), width), batch.slot_BS, batch.log_p_I
    )
    assert model(batch)["loss"].item() == pytest.approx(expected.item(), rel=0.02)


def test_users_and_items_are_scored_as_the_loss_compares_them() -> None:
    vectors = torch.randn(4, 16)
    assert torch.equal(small().item_vectors(vectors), vectors)
    found = small(similarity="cosine").item_vectors(vectors)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))


def test_options_build_the_model_that_they_belong_to(options) -> None:
    assert isinstance(build_model(SasrecOptions(), 7), Sasrec)
    made = options()
    assert isinstance(made, PmmrecOptions)
    assert isinstance(build_model(made, 7), Pmmrec)


def test_options_out_of_range_are_named_together_for_sasrec() -> None:
    with pytest.raises(ValueError, match=r"width must be at least 1; dropout must .*; tau must be"):
        SasrecOptions(width=0, dropout=1.0, tau=0.0)
    with pytest.raises(InputError, match="user_heads = 3 does not divide the width 16"):
        small(user_heads=3)
