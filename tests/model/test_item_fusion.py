"""MoRec++'s fusions against their formulas, item by item, and for items that lack something."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pmm.errors import InputError
from pmm.model.pmmrec.item_fusion import CoAttention, VectorFusion

KINDS = ["sum", "concat", "film", "gated"]
ALL = torch.ones(4, dtype=torch.bool)


def fusion(kind: str, width: int = 6) -> VectorFusion:
    torch.manual_seed(0)
    return VectorFusion(width, kind)


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def affine(layer: nn.Linear, x: Tensor) -> Tensor:
    return torch.stack([layer.weight[j] @ x + layer.bias[j] for j in range(len(layer.weight))])


def literal(module: VectorFusion, t: Tensor, v: Tensor) -> Tensor:
    """One item's vector by the formula of its kind."""
    layer = dict(module.layers)
    if module.kind == "sum":
        return affine(layer["text"], t) + affine(layer["picture"], v)
    if module.kind == "concat":
        return affine(layer["out"], torch.cat([t, v]))
    if module.kind == "film":
        both = affine(layer["text"], t)
        return affine(layer["out"], both[: len(v)] * v + both[len(v) :])
    gate = 1 / (1 + (-affine(layer["text"], t)).exp())
    return affine(layer["out"], gate * affine(layer["picture"], v))


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_its_formula(kind: str) -> None:
    module, t, v = fusion(kind), torch.randn(4, 6), torch.randn(4, 6)
    expected = torch.stack([literal(module, t[i], v[i]) for i in range(4)])
    torch.testing.assert_close(module(t, v, ALL, ALL), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "matrices"), [("sum", 2), ("concat", 2), ("film", 3), ("gated", 3)]
)
def test_sizes_are_those_of_the_layers(kind: str, matrices: int) -> None:
    biases = {"sum": 2, "concat": 1, "film": 3, "gated": 3}[kind]
    with torch.device("meta"):
        assert count(VectorFusion(768, kind)) == matrices * 768**2 + biases * 768


def test_with_pictures_of_zeros_concat_and_sum_read_the_text_alone() -> None:
    t, v = torch.randn(4, 6), torch.zeros(4, 6)
    concat, total = fusion("concat"), fusion("sum")
    out = concat.layers["out"]
    expected = functional.linear(t, out.weight[:, :6], out.bias)
    torch.testing.assert_close(concat(t, v, ALL, ALL), expected)
    expected = total.layers["text"](t) + total.layers["picture"].bias
    torch.testing.assert_close(total(t, v, ALL, ALL), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rubbish", [1e3, math.nan])
def test_what_is_not_there_counts_as_zeros_and_gets_no_gradient(kind: str, rubbish: float) -> None:
    module = fusion(kind)
    has_text, has_picture = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]]).bool()
    t, v = torch.randn(2, 4, 6)
    t[~has_text], v[~has_picture] = rubbish, rubbish
    t.requires_grad_()
    v.requires_grad_()
    found = module(t, v, has_text, has_picture)
    found.square().sum().backward()
    zeroed = [
        torch.where(has[:, None], x.detach(), 0.0) for x, has in ((t, has_text), (v, has_picture))
    ]
    torch.testing.assert_close(found, module(*zeroed, ALL, ALL))
    assert found.isfinite().all()
    for x, has in ((t, has_text), (v, has_picture)):
        assert (x.grad[~has] == 0).all()
        assert x.grad[0].abs().sum() > 0
    assert all(each.grad.isfinite().all() for each in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_and_every_tensor_get_gradients(kind: str) -> None:
    module, t, v = fusion(kind), *torch.randn(2, 4, 6).requires_grad_().unbind()
    t.retain_grad()
    v.retain_grad()
    (module(t, v, ALL, ALL) * torch.randn(4, 6)).sum().backward()
    for name, tensor in [*module.named_parameters(), ("t", t), ("v", v)]:
        assert tensor.grad.abs().min() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_torchs_own_check_for_every_fusion(kind: str) -> None:
    module = fusion(kind).double()
    t, v = (torch.randn(3, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    has = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda a, b: module(a, b, has, ~has | has.roll(1)), (t, v))


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits_give_nearly_the_same(kind: str) -> None:
    module, (t, v) = fusion(kind), torch.randn(2, 4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(t, v, ALL, ALL)
    found.float().sum().backward()
    torch.testing.assert_close(found.float(), module(t, v, ALL, ALL), atol=0.05, rtol=0.05)
    assert all(each.grad.isfinite().all() for each in module.parameters())


# Co-attention.

TEXT_MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
PICTURE_MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
TEXT_MASK, PICTURE_MASK = TEXT_MASK.bool(), PICTURE_MASK.bool()


def co_attention(width: int = 8) -> CoAttention:
    """With weights and biases that are far from their start."""
    torch.manual_seed(0)
    module = CoAttention(width).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module


def tokens(width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(5, n, width, generator=draw) for n in (4, 3))


def attended(block: nn.Module, queries: list[Tensor], keys: list[Tensor]) -> list[Tensor]:
    """Token by token, head by head."""
    out = []
    size = len(queries[0]) // block.heads if queries else 0
    for x in queries:
        heads = []
        for h in range(block.heads if keys else 0):
            part = slice(h * size, (h + 1) * size)
            q = affine(block.query, x)[part]
            z = [float(q @ affine(block.key, y)[part]) / math.sqrt(size) for y in keys]
            total = sum(math.exp(each) for each in z)
            pairs = zip(z, keys, strict=True)
            heads.append(sum(math.exp(a) / total * affine(block.value, y)[part] for a, y in pairs))
        new = affine(block.out, torch.cat(heads)) if keys else 0
        out.append(functional.layer_norm(x + new, x.shape, block.norm.weight, block.norm.bias))
    return out


def fed(block: nn.Module, xs: list[Tensor]) -> list[Tensor]:
    out = []
    for x in xs:
        inner = affine(block.up, x)
        inner = inner * (1 + (inner / math.sqrt(2)).erf()) / 2
        new = x + affine(block.down, inner)
        out.append(functional.layer_norm(new, x.shape, block.norm.weight, block.norm.bias))
    return out


@torch.no_grad()
def literal_co_attention(module: CoAttention, text: Tensor, picture: Tensor, i: int) -> Tensor:
    """One item over its real tokens alone."""
    t, v = list(text[i][TEXT_MASK[i]]), list(picture[i][PICTURE_MASK[i]])
    t, v = attended(module.cross, t, v), attended(module.cross, v, t)
    t, v = attended(module.text_self, t, t), attended(module.picture_self, v, v)
    t, v = fed(module.text_layer, t), fed(module.picture_layer, v)
    zero = torch.zeros(text.shape[2])
    return affine(module.out, torch.cat([sum(x) / len(x) if x else zero for x in (t, v)]))


@pytest.mark.parametrize("width", [8, 128])
def test_co_attention_equals_the_definition_written_out(width: int) -> None:
    module, (text, picture) = co_attention(width), tokens(width)
    if width == 128:  # milder, as sums are longer
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.2)
    expected = [literal_co_attention(module, text, picture, i) for i in range(5)]
    found = module(text, picture, TEXT_MASK, PICTURE_MASK)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rubbish", [1e3, math.nan])
def test_padding_of_tokens_is_not_read_and_gets_no_gradient(rubbish: float) -> None:
    module, (text, picture) = co_attention(), tokens()
    expected = module(text, picture, TEXT_MASK, PICTURE_MASK)
    text[~TEXT_MASK], picture[~PICTURE_MASK] = rubbish, rubbish
    text.requires_grad_()
    picture.requires_grad_()
    found = module(text, picture, TEXT_MASK, PICTURE_MASK)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    for x, mask in ((text, TEXT_MASK), (picture, PICTURE_MASK)):
        assert (x.grad[~mask] == 0).all()
        assert (x.grad[mask].abs().sum(1) > 0).all()
    assert all(each.grad.isfinite().all() for each in module.parameters())


def test_each_side_changes_what_the_other_says() -> None:
    module, (text, picture) = co_attention(), tokens()
    out = module.out.weight
    with torch.no_grad():
        out[:, 8:] = 0  # only the text's mean counts
    before = module(text, picture, TEXT_MASK, PICTURE_MASK)
    after = module(text, picture + 1, TEXT_MASK, PICTURE_MASK)
    assert (before - after).abs().sum(1)[:2].min() > 1e-3
    assert torch.equal(before[2:], after[2:])  # no text, or no picture


def test_a_batch_without_a_place_for_pictures_is_as_one_without_pictures() -> None:
    module, (text, picture) = co_attention(), tokens()
    none = torch.zeros_like(PICTURE_MASK)
    expected = module(text, picture, TEXT_MASK, none)
    found = module(text, picture[:, :0], TEXT_MASK, none[:, :0])
    found.sum().backward()
    torch.testing.assert_close(found, expected)
    assert all(each.grad is None or each.grad.isfinite().all() for each in module.parameters())


def test_every_tensor_of_co_attention_gets_a_gradient_but_the_keys_biases() -> None:
    module, (text, picture) = co_attention(), tokens()
    (module(text, picture, TEXT_MASK, PICTURE_MASK) * torch.randn(5, 8)).sum().backward()
    for name, parameter in module.named_parameters():
        # A bias of the keys adds the same to all of a query's logits.
        assert (parameter.grad.abs().max() > 1e-4) != name.endswith("key.bias"), name


def test_co_attention_has_one_cross_attention_and_two_of_all_else() -> None:
    d = 768
    attention, layer = 4 * (d * d + d) + 2 * d, 2 * 4 * d * d + 5 * d + 2 * d
    with torch.device("meta"):
        assert count(CoAttention(d)) == 3 * attention + 2 * layer + 2 * d * d + d


def test_co_attention_in_sixteen_bits_is_finite_and_near() -> None:
    torch.manual_seed(0)
    module, (text, picture) = CoAttention(64).eval(), tokens(64)
    expected = module(text, picture, TEXT_MASK, PICTURE_MASK)
    module.train()
    module.text_layer.dropout.p = 0.1
    with torch.autocast("cpu", torch.bfloat16):
        noisy = module(text, picture, TEXT_MASK, PICTURE_MASK)
        found = module.eval()(text, picture, TEXT_MASK, PICTURE_MASK)
    (noisy.float().square().sum() + found.float().square().sum()).backward()
    assert noisy.isfinite().all()
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
    assert all(each.grad.isfinite().all() for each in module.parameters())


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="width = 200 cannot be cut into 3 heads"):
        CoAttention(200)
