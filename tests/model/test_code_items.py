"""VQ-Rec's code table against sums written out, its synthetic items and its permutation stage."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from pmm.model.item_parts.code_items import CodeItems, CodePermutation, fake_codes
from pmm.model.losses.of_baselines import cosine_softmax
from pmm.model.user_encoders.post_norm import PostNormEncoder
from pmm.shards.items import Items

CODES = torch.tensor([[0, 3], [1, 1], [3, 0], [0, 0]], dtype=torch.uint8)


def some_codes(n: int, parts: int = 32, centroids: int = 256) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(centroids, (n, parts), generator=draw, dtype=torch.uint8)


@pytest.fixture
def encoder() -> CodeItems:
    torch.manual_seed(0)
    return CodeItems(CODES, 5, centroids=4)


def numbered(item_I: list[int]) -> Items:
    empty = torch.zeros(len(item_I), 0)
    has = torch.zeros(len(item_I), dtype=torch.bool)
    return Items(
        item_I=torch.tensor(item_I),
        token_IT=empty,
        token_mask_IT=empty,
        picture_I3HW=empty,
        has_text_I=has,
        has_picture_I=has,
    )


def count(*modules: torch.nn.Module) -> int:
    return sum(each.numel() for module in modules for each in module.parameters())


def test_an_item_is_the_mean_of_its_codes_rows(encoder: CodeItems) -> None:
    table = encoder.table.weight
    # Item 3 has codes 3 and 0; the parts' codes start at rows 1 and 6.
    expected = torch.stack([(table[1] + table[9]) / 2, (table[4] + table[6]) / 2])
    torch.testing.assert_close(encoder(numbered([1, 3])), expected)


def test_padding_is_zero_and_moves_nothing(encoder: CodeItems) -> None:
    found = encoder(numbered([0, 2]))
    found.sum().backward()
    assert found[0].abs().sum() == 0
    assert encoder.table.weight[0].abs().sum() == 0
    moved = encoder.table.weight.grad.abs().sum(1) > 0
    assert moved.nonzero()[:, 0].tolist() == [2, 7]


def test_sizes_and_rows_are_those_of_the_specification() -> None:
    codes = some_codes(10)
    codes[3] = 255
    items = CodeItems(codes, 300)
    assert count(items) == 2_467_200
    items(numbered([4])).sum().backward()
    assert int(items.table.weight.grad.abs().sum(1).nonzero().max()) == 8_223
    permutation = CodePermutation(32, 256)
    assert count(permutation) == 2_113_568
    users = PostNormEncoder(300, max_length=50)
    assert count(items, permutation, users) == 5_629_480


def test_the_table_starts_small_and_codes_are_stored_with_it() -> None:
    torch.manual_seed(0)
    items = CodeItems(some_codes(10), 300)
    assert items.table.weight[1:].std().item() == pytest.approx(0.02, rel=0.01)
    assert set(items.state_dict()) == {"codes_NK", "table.weight"}


def test_codes_that_the_table_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="code 3, but there are 3 centroids"):
        CodeItems(CODES, 5, centroids=3)
    with pytest.raises(ValueError, match=r"must be uint8, found torch\.int64"):
        CodeItems(CODES.long(), 5)


def test_each_digit_of_a_fake_is_drawn_anew_with_its_probability() -> None:
    codes = some_codes(4000, parts=8, centroids=4)
    fake = fake_codes(codes, 0.75, torch.Generator().manual_seed(0), centroids=4)
    assert fake.dtype == torch.uint8
    changed = (fake != codes).float()
    # A new digit is the old one in one of four cases; 32,000 digits, deviation 0.0028.
    assert changed.mean().item() == pytest.approx(0.75 * 0.75, abs=5 * 0.0028)
    assert changed.mean(0).std() < 0.03
    shares = Counter(fake[codes == 2].tolist())
    assert sorted(shares) == [0, 1, 2, 3]
    assert shares[2] / shares.total() == pytest.approx(0.25 + 0.75 / 4, abs=0.03)
    assert shares[0] / shares.total() == pytest.approx(0.75 / 4, abs=0.03)


def test_all_256_codes_can_be_drawn_and_the_generator_decides() -> None:
    codes = torch.zeros(4000, 8, dtype=torch.uint8)
    one, again, other = (
        fake_codes(codes, 1.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert len(one.unique()) == 256
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_without_new_digits_a_fake_is_the_item_and_the_collapsed_loss_ln_of_b_plus_1() -> None:
    codes = some_codes(6, parts=2, centroids=4)
    fake = fake_codes(codes, 0.0, torch.Generator(), centroids=4)
    assert torch.equal(fake, codes)
    items = CodeItems(codes, 5, centroids=4)
    torch.nn.init.ones_(items.table.weight)
    item = items.of_codes(codes)
    found = cosine_softmax(item, item, torch.arange(6), synthetic_ND=items.of_codes(fake))
    assert found.item() == pytest.approx(math.log(7), rel=1e-5)


def literal_soft(log: Tensor, tau: float, steps: int) -> Tensor:
    """Sinkhorn's steps as divisions, in the plain domain."""
    matrix = ((log.exp() + 1e-6).log() / tau).exp()
    for _ in range(steps):
        for row in matrix:
            row /= row.sum().clone()
        for column in matrix.T:
            column /= column.sum().clone()
    return matrix


def test_without_noise_the_matrix_is_sinkhorns_of_the_logits() -> None:
    torch.manual_seed(0)
    permutation = CodePermutation(2, 5).eval()
    found = permutation.soft()
    for part in range(2):
        expected = literal_soft(permutation.logit_KCC[part, 1:, 1:].detach().double(), 0.7, 3)
        torch.testing.assert_close(found[part].double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["straight", "official"])
def test_columns_sum_to_1_after_the_last_step_and_rows_nearly(mode: str) -> None:
    torch.manual_seed(0)
    soft = CodePermutation(3, 256, mode=mode).soft()
    places = 256 + (mode == "official")
    assert soft.shape == (3, places, places)
    torch.testing.assert_close(soft.sum(1), torch.ones(3, places), atol=1e-5, rtol=0)
    assert (soft.sum(2) - 1).abs().mean() < 0.1
    assert not torch.allclose(soft.sum(2), torch.ones(3, places), atol=1e-4)


def test_the_noise_is_gumbels() -> None:
    torch.manual_seed(0)
    permutation = CodePermutation(1, 400, steps=0, tau=1.0)
    torch.nn.init.zeros_(permutation.logit_KCC)
    noise = permutation.soft().log()
    # Its mean is Euler's constant; its deviation is pi / sqrt(6) but for the published 1e-6.
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), rel=0.01)


def test_noise_is_for_training_only_unless_official() -> None:
    straight, official = CodePermutation(1, 5), CodePermutation(1, 5, mode="official")
    assert not torch.equal(straight.soft(), straight.soft())
    assert torch.equal(straight.eval().soft(), straight.soft())
    assert not torch.equal(official.eval().soft(), official.soft())


def test_a_permuted_table_has_the_rows_of_the_largest_entries() -> None:
    torch.manual_seed(0)
    permutation, table = CodePermutation(2, 4).eval(), torch.randn(10, 3)
    soft, found = permutation.soft(), permutation(table)
    for part, place in itertools.product(range(2), range(1, 5)):
        source = max(range(4), key=lambda c: float(soft[part, place - 1, c].detach()))
        assert torch.equal(found[part * 5 + place], table[part * 5 + 1 + source])
    assert torch.equal(found[5], table[5])  # the place that is nothing keeps its row
    assert found[0].abs().sum() == 0


def test_official_rounding_picks_the_rows_of_the_largest_entries_too() -> None:
    permutation, table = CodePermutation(2, 4, mode="official"), torch.randn(10, 3)
    torch.manual_seed(1)
    largest = permutation.soft().argmax(2)
    torch.manual_seed(1)
    found = permutation(table)
    for part, place in itertools.product(range(2), range(5)):
        if (part, place) != (0, 0):
            assert torch.equal(found[part * 5 + place], table[part * 5 + largest[part, place]])
    assert found[0].abs().sum() == 0


def learning(mode: str) -> tuple[CodePermutation, CodeItems]:
    torch.manual_seed(0)
    return CodePermutation(2, 4, mode=mode), CodeItems(CODES, 5, centroids=4)


def test_gradients_reach_our_logits_and_none_the_published_ones() -> None:
    for mode in ("straight", "official"):
        permutation, items = learning(mode)
        (items(numbered([1, 2, 3]), permutation) * torch.randn(3, 5)).sum().backward()
        gradient = permutation.logit_KCC.grad
        if mode == "official":
            assert gradient.abs().sum() == 0
        else:
            assert gradient[:, 1:, 1:].abs().min() > 0
            assert gradient[:, 0].abs().sum() + gradient[:, :, 0].abs().sum() == 0
        assert items.table.weight.grad.abs().sum() > 0
        assert items.table.weight.grad[0].abs().sum() == 0


def test_the_straight_gradient_is_that_of_the_soft_matrix() -> None:
    permutation, items = learning("straight")
    permutation.eval()
    table, weight = items.table.weight.detach(), torch.randn(10, 5)
    (found,) = torch.autograd.grad((permutation(table) * weight).sum(), permutation.logit_KCC)
    soft = permutation.soft()
    rows = [soft[part] @ table.view(2, 5, 5)[part, 1:] for part in range(2)]
    loss = sum((rows[part] * weight.view(2, 5, 5)[part, 1:]).sum() for part in range(2))
    (expected,) = torch.autograd.grad(loss, permutation.logit_KCC)
    torch.testing.assert_close(found, expected)


def test_learning_finds_a_permutation_of_codes() -> None:
    torch.manual_seed(0)
    permutation, table = CodePermutation(1, 6), torch.randn(7, 8)
    wanted = table[[0, 3, 1, 2, 6, 4, 5]]
    adam = torch.optim.Adam(permutation.parameters(), lr=0.1)
    for _ in range(300):
        adam.zero_grad()
        (permutation(table)[1:] - wanted[1:]).square().sum().backward()
        adam.step()
    assert permutation.fixed().tolist() == [[0, 3, 1, 2, 6, 4, 5]]


def test_what_is_fixed_is_the_permutation_of_the_largest_sum() -> None:
    torch.manual_seed(0)
    permutation = CodePermutation(3, 5)
    found = permutation.fixed()
    assert found.dtype == torch.int64
    for part in range(3):
        logits = permutation.logit_KCC[part, 1:, 1:].tolist()
        best = max(
            itertools.permutations(range(5)),
            key=lambda order, z=logits: sum(z[place][order[place]] for place in range(5)),
        )
        assert found[part].tolist() == [0, *(source + 1 for source in best)]


def test_ours_is_a_permutation_and_the_published_one_loses_rows() -> None:
    torch.manual_seed(0)
    published = CodePermutation(4, 256, mode="official").fixed()
    survivors = [len(each.unique()) for each in published]
    # The mean of 32 such parts is about 202; a single one is 5 off at most times.
    assert all(180 < each < 225 for each in survivors)
    ours = CodePermutation(2, 256).fixed()
    assert ours.sort(1).values.tolist() == [list(range(257))] * 2


@pytest.mark.parametrize("mode", ["straight", "official"])
def test_fixing_puts_the_tables_rows_in_order(mode: str) -> None:
    _, items = learning(mode)
    before = items.table.weight.detach().clone()
    items.permute(torch.tensor([[0, 2, 1, 4, 3], [2, 3, 3, 0, 1]]))
    expected = before[[0, 2, 1, 4, 3, 7, 8, 8, 5, 6]]
    assert torch.equal(items.table.weight.detach(), expected)
    items.permute(torch.tensor([[3, 2, 1, 4, 3], [0, 1, 2, 3, 4]]))
    assert items.table.weight[0].abs().sum() == 0


def test_a_rounded_permutation_gives_the_same_items_before_and_after_it_is_fixed() -> None:
    permutation, items = learning("straight")
    with torch.no_grad():  # so sure that largest entries are a permutation already
        permutation.logit_KCC[:, 1:, 1:] = 9 * torch.eye(4)[[2, 0, 3, 1]]
    permutation.eval()
    expected = items(numbered([1, 2, 3, 4]), permutation)
    items.permute(permutation.fixed())
    torch.testing.assert_close(items(numbered([1, 2, 3, 4])), expected)


@pytest.mark.parametrize("mode", ["straight", "official"])
def test_sixteen_bits_change_neither_the_order_nor_the_rows(mode: str) -> None:
    permutation, items = learning(mode)
    expected, found = [], []
    for enabled, results in ((False, expected), (True, found)):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            results.append(items(numbered([1, 2, 3]), permutation))
        results[0].sum().backward()
    torch.testing.assert_close(found[0].float(), expected[0])
    assert permutation.logit_KCC.grad.isfinite().all()


def test_large_logits_give_no_nan() -> None:
    permutation = CodePermutation(1, 4)
    with torch.no_grad():
        permutation.logit_KCC.copy_(torch.linspace(-90, 90, 25).view(1, 5, 5))
    permutation(torch.randn(5, 3)).square().sum().backward()
    assert permutation.soft().isfinite().all()
    assert permutation.logit_KCC.grad.isfinite().all()
