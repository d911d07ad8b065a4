"""CARCA: its mixing, its blocks and its head to the letter; factored scores equal literal ones."""

import math

import pytest
import torch
from torch import Tensor, nn

from pmm.errors import InputError
from pmm.model import registry
from pmm.model.user_encoders.carca_attention import CarcaEncoder, CarcaHead, ItemMix

VALID = torch.tensor([[False, False, True, True, True], [True] * 5, [False] * 5])
HEADS = [{}, {"residual": False}, {"causal": False}, {"residual": False, "causal": False}]


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def stirred(module: nn.Module) -> nn.Module:
    """With biases and norms of their own, so that each must be read."""
    torch.manual_seed(1)
    for tensor in module.parameters():
        if tensor.ndim == 1:
            nn.init.normal_(tensor, std=0.5)
    return module.eval()


def small_encoder(**options: object) -> CarcaEncoder:
    torch.manual_seed(0)
    return stirred(CarcaEncoder(8, **{"heads": 2, **options}))


def small_head(**options: object) -> CarcaHead:
    torch.manual_seed(0)
    return stirred(CarcaHead(8, **{"heads": 2, **options}))


def some_profile() -> Tensor:
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))


def some_candidates(n: int = 7) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(3))


def leaky(layer: nn.Linear, x: Tensor) -> Tensor:
    y = x @ layer.weight.T + layer.bias
    return torch.where(y > 0, y, 0.2 * y)


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True)
    return centred / (spread + 1e-8).sqrt() * norm.weight + norm.bias


def attend(layers: nn.Module, query_D: Tensor, key_KD: Tensor, seen: list[int]) -> Tensor:
    """One query over the keys that it may see, head by head."""
    q, k, v = leaky(layers.query, query_D), leaky(layers.key, key_KD), leaky(layers.value, key_KD)
    parts = []
    for part in (slice(0, 4), slice(4, 8)):
        weight = torch.stack([q[part] @ k[j, part] / math.sqrt(4) for j in seen]).softmax(0)
        parts.append(sum(w * v[j, part] for w, j in zip(weight, seen, strict=True)))
    return torch.cat(parts)


def visible(valid_L: Tensor, i: int, causal: bool) -> list[int]:
    return [j for j in range(5) if valid_L[j] and (j <= i or not causal)]


def literal_profile(encoder: CarcaEncoder, z_LD: Tensor, valid_L: Tensor) -> Tensor:
    """The encoder for one user, over real items alone."""
    x = {i: z_LD[i] for i in range(5) if valid_L[i]}
    for block in encoder.blocks:
        keys = torch.stack([x.get(i, torch.zeros(8)) for i in range(5)])
        after = {}
        for i in x:
            query = layer_norm(block.attention_norm, x[i])
            seen = visible(valid_L, i, encoder.causal)
            y = layer_norm(block.norm, attend(block.projections, query, keys, seen) * query)
            inner = leaky(block.up, y)
            after[i] = y + block.down.weight @ inner + block.down.bias
        x = after
    x = {i: layer_norm(encoder.norm, each) for i, each in x.items()}
    return torch.stack([x.get(i, torch.zeros(8)) for i in range(5)])


def literal_score(head: CarcaHead, profile: Tensor, valid_L: Tensor, i: int, z: Tensor) -> Tensor:
    """One candidate at position i of one user; 0 at padding."""
    if not valid_L[i]:
        return torch.zeros(())
    attended = attend(head.projections, z, profile, visible(valid_L, i, head.causal))
    if head.residual:
        attended = attended * z
    return (head.score.weight @ attended + head.score.bias)[0]


def literal_scores(head: CarcaHead, profile_BLD: Tensor, candidate_ID: Tensor) -> Tensor:
    return torch.stack(
        [
            torch.stack([literal_score(head, p, valid, i, z) for z in candidate_ID])
            for p, valid in zip(profile_BLD, VALID, strict=True)
            for i in range(5)
        ]
    ).view(3, 5, -1)


def test_its_sizes_are_those_of_the_specification_for_carca() -> None:
    """768 wide with 1,536 features and two blocks."""
    with torch.device("meta"):
        mix, encoder, head = ItemMix(768, 1_536), CarcaEncoder(768), CarcaHead(768)
    assert (count(mix.feature), count(mix.mix)) == (5_902_080, 3_539_712)
    assert count(encoder.blocks) == 5_912_064
    assert count(encoder.norm) == 1_536
    assert count(head) == 1_772_545
    assert count(mix) + count(encoder) + count(head) == 17_127_937


def test_as_published_the_matrices_that_mix_items_and_give_scores_start_small() -> None:
    torch.manual_seed(0)
    mix, head = ItemMix(64, 200, std=0.01), CarcaHead(640, heads=2, std=0.01)
    for layer in (mix.feature, mix.mix, head.score):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert layer.bias.count_nonzero() == 0
    bound = math.sqrt(6 / (640 + 640))
    assert head.projections.query.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    entry = registry.entry("carca")
    assert [entry.settings[name].options.mix_std for name in ("default", "original")] == [0, 0.01]


def test_ids_are_scaled_in_the_profile_and_not_in_candidates() -> None:
    mix = stirred(ItemMix(8, 6))
    e, feature = torch.randn(4, 8), torch.randn(4, 6)
    q = feature @ mix.feature.weight.T + mix.feature.bias
    for found, scale in zip(mix(e, feature), (math.sqrt(8), 1.0), strict=True):
        expected = torch.cat([scale * e, q], 1) @ mix.mix.weight.T + mix.mix.bias
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_the_encoder_equals_the_definition_written_out(causal: bool) -> None:
    encoder, z = small_encoder(causal=causal), some_profile()
    expected = torch.stack([literal_profile(encoder, z[b], VALID[b]) for b in range(3)])
    torch.testing.assert_close(encoder(z, VALID), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", HEADS)
def test_factored_scores_equal_the_explicit_softmax_at_each_position(options) -> None:
    head, profile, candidates = small_head(**options), some_profile(), some_candidates()
    expected = literal_scores(head, profile, candidates)
    found = head.scores(profile, VALID, candidates)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert expected[1].std(0).min() > 1e-3 or not head.causal  # positions differ


@pytest.mark.parametrize("options", HEADS)
def test_last_scores_and_pairs_equal_the_definition(options) -> None:
    head, profile, candidates = small_head(**options), some_profile(), some_candidates()
    expected = literal_scores(head, profile, candidates)
    for chunk in (1, 3, 100):
        found = head.last_scores(profile, VALID, candidates, chunk=chunk)
        torch.testing.assert_close(found, expected[:, -1], atol=1e-5, rtol=1e-4)
    for places in (1, 3, 5):
        own_BM = torch.arange(3 * places).view(3, places) % 7
        found = head.pair_scores(profile, VALID, candidates[own_BM])
        own_BMI = expected[:, -places:].gather(2, own_BM[:, :, None])
        torch.testing.assert_close(found, own_BMI[:, :, 0], atol=1e-5, rtol=1e-4)


def test_logits_far_apart_leave_the_early_scores_exact() -> None:
    """Against one maximum for the whole window, exp(-1,000) would make an early score 0 / 0."""
    head, candidates = small_head(residual=False).double(), some_candidates().double()
    profile = some_profile().double()
    profile[:, 4] *= 10_000
    key_E = head.projections.keys_and_values(profile)[0]
    logits = torch.einsum("blhe,ihe->hbli", key_E, head.projections.queries(candidates)) / 2
    assert (logits[:, 1, 4] - logits[:, 1, :4].amax(1)).max() > 1_000
    expected = literal_scores(head, profile, candidates)
    torch.testing.assert_close(head.scores(profile, VALID, candidates), expected)
    single = head.float().scores(profile.float(), VALID, candidates.float())
    torch.testing.assert_close(single[:, :4].double(), expected[:, :4], atol=1e-4, rtol=1e-4)
    weights = torch.randn(3, 5, 7)
    (single * weights).sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in head.parameters())


def test_the_gradient_of_factored_scores_is_that_of_the_definition() -> None:
    head, candidates = small_head().double(), some_candidates().double().requires_grad_()
    profile = some_profile().double().requires_grad_()
    weights = torch.randn(3, 5, 7, dtype=torch.float64)
    leaves = [profile, candidates, *head.parameters()]
    scores = (head.scores(profile, VALID, candidates), literal_scores(head, profile, candidates))
    found, expected = (torch.autograd.grad((s * weights).sum(), leaves) for s in scores)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)


def test_scores_are_full_precision_under_autocast() -> None:
    head, profile, candidates = small_head(), some_profile(), some_candidates()
    with torch.autocast("cpu", torch.bfloat16):
        found = head.scores(profile, VALID, candidates)
        last = head.last_scores(profile, VALID, candidates)
        pairs = head.pair_scores(profile, VALID, profile)
    assert (found.dtype, last.dtype, pairs.dtype) == (torch.float32,) * 3
    torch.testing.assert_close(found[:, -1], last, atol=1e-5, rtol=1e-5)
    plain = head.scores(profile, VALID, candidates)
    torch.testing.assert_close(found, plain, atol=0.1, rtol=0.1)  # projections are 16 bit


@pytest.mark.parametrize("causal", [True, False])
def test_a_later_item_changes_earlier_scores_in_the_published_form_alone(causal: bool) -> None:
    encoder, head = small_encoder(causal=causal), small_head(causal=causal)
    z, candidates = some_profile(), some_candidates()
    changed = z.clone()
    changed[:, 3:] = torch.randn(3, 2, 8)
    before, after = (head.scores(encoder(x, VALID), VALID, candidates) for x in (z, changed))
    same = [torch.equal(before[b, i], after[b, i]) for b in (0, 1) for i in (2, 3)]
    assert same == ([True, False] * 2 if causal else [False] * 4)
    states = [encoder(x, VALID)[:2, 2] for x in (z, changed)]
    assert torch.equal(*states) == causal
    fixed = encoder(z, VALID)  # the head by itself
    moved = torch.cat([fixed[:, :3], torch.randn(3, 2, 8)], dim=1)
    before, after = (head.scores(x, VALID, candidates)[:, :3] for x in (fixed, moved))
    assert torch.equal(before, after) == causal


@pytest.mark.parametrize("causal", [True, False])
def test_what_stands_at_padding_does_not_matter_and_its_states_are_zero_for_carca(
    causal: bool,
) -> None:
    encoder, head = small_encoder(causal=causal), small_head(causal=causal)
    z, candidates = some_profile(), some_candidates()
    changed = torch.where(VALID[:, :, None], z, 1e3)
    assert torch.equal(encoder(z, VALID), encoder(changed, VALID))
    assert encoder(z, VALID)[~VALID].abs().sum() == 0
    for method in (head.scores, head.last_scores):
        assert torch.equal(method(z, VALID, candidates), method(changed, VALID, candidates))
    found = head.pair_scores(z, VALID, some_profile())
    assert torch.equal(found, head.pair_scores(changed, VALID, some_profile()))
    assert found[~VALID].abs().sum() == 0
    assert head.scores(z, VALID, candidates)[~VALID].abs().sum() == 0
    assert head.last_scores(z, VALID, candidates)[2].abs().sum() == 0


def test_a_shorter_window_is_the_same_as_one_padded_on_the_left_for_carca() -> None:
    encoder, head, z = small_encoder(), small_head(), some_profile()
    short = encoder(z[:1, 2:], torch.ones(1, 3, dtype=torch.bool))
    whole = encoder(z, VALID)
    torch.testing.assert_close(short, whole[:1, 2:], atol=1e-5, rtol=1e-5)
    found = head.scores(short, torch.ones(1, 3, dtype=torch.bool), some_candidates())
    expected = head.scores(whole, VALID, some_candidates())[:1, 2:]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", HEADS)
@pytest.mark.parametrize("method", ["scores", "last_scores", "pair_scores"])
def test_every_tensor_gets_a_gradient_and_padding_none_for_carca(options, method: str) -> None:
    torch.manual_seed(0)
    mix, encoder = ItemMix(8, 6), CarcaEncoder(8, heads=2, causal=options.get("causal", True))
    head = CarcaHead(8, heads=2, **options)
    e, feature = torch.randn(15, 8, requires_grad=True), torch.randn(15, 6)
    profile_ID, candidate_ID = mix(e, feature)
    z = profile_ID.view(3, 5, 8)
    z.retain_grad()
    candidates = candidate_ID.view(3, 5, 8) if method == "pair_scores" else candidate_ID
    found = getattr(head, method)(encoder(z, VALID), VALID, candidates)
    (found * torch.randn(found.shape)).sum().backward()
    for module in (mix, encoder, head):
        for name, tensor in module.named_parameters():
            assert tensor.grad.isfinite().all(), name
            assert tensor.grad.abs().max() > 1e-6, name
    assert z.grad.isfinite().all()
    assert z.grad[~VALID].abs().sum() == 0
    assert (z.grad[VALID] != 0).any(1).all()


@pytest.mark.parametrize("options", HEADS)
def test_dropout_of_the_head_keeps_the_mean_of_the_scores(options) -> None:
    head, profile, candidates = (
        small_head(dropout=0.3, **options),
        some_profile(),
        some_candidates(),
    )
    expected = head.scores(profile, VALID, candidates)
    head.train()
    draws = torch.stack([head.scores(profile, VALID, candidates) for _ in range(500)])
    last = torch.stack([head.last_scores(profile, VALID, candidates) for _ in range(500)])
    assert draws[:, VALID].std(0).min() > 1e-3
    error = 5 * draws.std(0) / math.sqrt(500) + 1e-5  # five standard errors of the mean
    assert ((draws.mean(0) - expected).abs() <= error).all()
    error = 5 * last.std(0) / math.sqrt(500) + 1e-5
    assert ((last.mean(0) - expected[:, -1]).abs() <= error).all()


def test_it_starts_from_xavier_uniform_weights_and_zero_biases() -> None:
    torch.manual_seed(0)
    for module in (ItemMix(128, 256), CarcaEncoder(128), CarcaHead(128)):
        for name, tensor in module.named_parameters():
            if tensor.ndim == 2:
                bound = math.sqrt(6 / sum(tensor.shape))
                assert tensor.abs().max().item() == pytest.approx(bound, rel=0.02), name
            else:
                expected = 1.0 if name.endswith("norm.weight") else 0.0
                assert torch.equal(tensor, torch.full_like(tensor, expected)), name


def test_heads_that_do_not_divide_the_width_are_refused_for_carca() -> None:
    with pytest.raises(InputError, match="user_heads = 3"):
        CarcaEncoder(8, heads=3)
    with pytest.raises(InputError, match="user_heads = 3"):
        CarcaHead(8, heads=3)
