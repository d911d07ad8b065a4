"""FDSA, CARCA, UniSRec and VQ-Rec against what their papers define (docs/parity.md)."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pmm_parity_formulas import (
    RTOL,
    Floats,
    Users,
    Weights,
    attend,
    causal_transformer,
    drawn,
    gelu,
    last_positions,
    layer_norm,
    leaky_relu,
    linear,
    mean_full_softmax,
    our_loss,
    our_scores,
    ours,
    relu,
    sigmoid,
    softmax,
    unit,
)

N = 9
FEATURES = np.random.default_rng(0).normal(size=(N, 5))
USERS: Users = [[3, 1, 4, 1, 5, 9, 2], [2, 6], [5, 3, 5, 8], [7]]
ALL_BUT_ONE: Users = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4, 3, 2]]
"""So that the negative that is drawn is the one item left: 9, and 1."""
LEFT = [9, 1]
TAU = 0.07

States = Callable[[Sequence[int]], Floats]


def positioned_transformer(w: Weights, blocks: str, x: Floats) -> Floats:
    """LN(x + positions), then RecBole's Transformer: two heads, GELU."""
    x = x + last_positions(w, "user_encoder.input.position.weight", len(x))
    x = layer_norm(w, "user_encoder.input.norm", x, 1e-12)
    return causal_transformer(w, blocks, x, heads=2, eps=1e-12, activation=gelu)


# --- FDSA (Zhang et al. 2019) ---------------------------------------------------------------------


def fdsa_states(w: Weights, user: Sequence[int]) -> Floats:
    """A stream of ids and one of features; a linear layer joins them, behind it the same norm."""
    rows = np.array(user) - 1
    item = w["items.table.weight"][1:][rows]
    feature = relu(linear(w, "user_encoder.projections.0", FEATURES[rows]))
    both = [
        positioned_transformer(w, f"user_encoder.{stream}_stream.blocks", x)
        for stream, x in (("item", item), ("feature", feature))
    ]
    joined = linear(w, "user_encoder.join", np.concatenate(both, axis=1))
    return layer_norm(w, "user_encoder.input.norm", joined, 1e-12)


def test_fdsa_scores_and_loses_as_its_paper_defines() -> None:
    sizes = {"width": 6, "max_length": 7, "inner": 10, "scaling": "none"}
    model, w = ours("fdsa", N, FEATURES, loss="full", **sizes)
    items = w["items.table.weight"][1:]
    expected = [items @ fdsa_states(w, user)[-1] for user in USERS]
    np.testing.assert_allclose(our_scores(model, USERS, N), expected, rtol=RTOL, atol=1e-9)
    loss = mean_full_softmax(USERS, lambda user: fdsa_states(w, user), items)
    assert our_loss(model, USERS) == pytest.approx(loss, rel=RTOL)


# --- UniSRec (Hou et al. 2022) --------------------------------------------------------------------


def adapted(w: Weights) -> Floats:
    """sum_k g_k W_k (x - b_k) with gates softmax(x W_g), of all items."""
    gates = softmax(FEATURES @ w["adaptor.gate_KF"].T)
    parts = [
        gates[:, k, None] * ((FEATURES - offset) @ expert.T)
        for k, (expert, offset) in enumerate(
            zip(w["adaptor.expert_KDF"], w["adaptor.offset_KF"], strict=True)
        )
    ]
    total: Floats = np.sum(parts, axis=0)
    return total


def transformer_states(w: Weights, items: Floats) -> States:
    """Of sequences of items, by RecBole's Transformer; of length 1."""
    return lambda user: unit(
        positioned_transformer(w, "user_encoder.transformer.blocks", items[np.array(user) - 1])
    )


def cosine_contrast(
    users: Users, states: States, items: Floats, more: Callable[[Floats, int], float] | None = None
) -> float:
    """Each state against its next item and those of all other rows; the mean over the rows.

    Left out of a row are the columns of its own target and of its user's other items.
    """
    rows = [
        (user, state, target)
        for user in users
        if len(user) > 1
        for state, target in zip(states(user[:-1]), user[1:], strict=True)
    ]
    columns, found = Counter(target for *_, target in rows), []
    for user, state, target in rows:
        own = np.exp(state @ items[target - 1] / TAU)
        others = sum(
            count * np.exp(state @ items[other - 1] / TAU)
            for other, count in columns.items()
            if other not in user
        )
        extra = more(state, target) if more else 0.0
        found.append(-np.log(own / (own + others + extra)))
    return float(np.mean(found))


@pytest.mark.parametrize("transductive", [False, True])
def test_unisrec_scores_and_loses_as_its_paper_defines(transductive: bool) -> None:
    sizes = {"width": 6, "max_length": 7, "inner": 10}
    model, w = ours("unisrec", N, FEATURES, transductive=transductive, **sizes)
    items = adapted(w) + (w["items.table.weight"][1:] if transductive else 0.0)
    states = transformer_states(w, items)
    expected = [unit(items) @ states(user)[-1] for user in USERS]
    found = our_scores(model, USERS, N)
    found /= found[:, :1] / np.array(expected)[:, :1]  # a user's length changes no order
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=1e-9)
    loss = mean_full_softmax(USERS, states, unit(items), TAU)
    assert our_loss(model, USERS) == pytest.approx(loss, rel=RTOL)
    model.options = type(model.options)(**{**vars(model.options), "loss": "cosine"})
    loss = cosine_contrast(USERS, states, unit(items))
    assert our_loss(model, USERS) == pytest.approx(loss, rel=RTOL)


# --- VQ-Rec (Hou et al. 2023) ---------------------------------------------------------------------


def test_vqrec_scores_and_loses_as_its_paper_defines() -> None:
    sizes: dict[str, Any] = {"width": 6, "max_length": 7, "inner": 10, "parts": 3, "centroids": 4}
    model, _ = ours("vqrec", N, FEATURES, fake_ratio=0.0, **sizes)
    codes = np.random.default_rng(1).integers(0, 4, (N, 3))
    model.codes.codes_NK.copy_(torch.from_numpy(codes))
    w = drawn(model, seed=2)
    # The table has 5 rows a part: one in front, then one for each code.
    table = w["codes.table.weight"].reshape(3, 5, 6)
    items = np.array([np.mean([table[m, 1 + row[m]] for m in range(3)], axis=0) for row in codes])
    states = transformer_states(w, items)
    expected = [unit(items) @ states(user)[-1] for user in USERS]
    found = our_scores(model, USERS, N)
    found /= found[:, :1] / np.array(expected)[:, :1]
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=1e-9)
    loss = mean_full_softmax(USERS, states, unit(items), TAU)
    assert our_loss(model, USERS) == pytest.approx(loss, rel=RTOL)
    # In pre-training a synthetic item is one more negative; with no digit drawn anew it is the
    # target itself.
    model.options = type(model.options)(**{**vars(model.options), "loss": "cosine"})
    loss = cosine_contrast(
        USERS, states, unit(items), lambda h, item: np.exp(h @ unit(items)[item - 1] / TAU)
    )
    assert our_loss(model, USERS) == pytest.approx(loss, rel=RTOL)


# --- CARCA (Rashed et al. 2022) -------------------------------------------------------------------


def carca_items(w: Weights, scale: float) -> Floats:
    """W [scale e ; V q + b] + c: of candidates with scale 1, in a profile with the root of D."""
    features = linear(w, "mix.feature", FEATURES)
    both = np.concatenate([scale * w["items.table.weight"][1:], features], axis=1)
    return linear(w, "mix.mix", both)


def projected(w: Weights, name: str, x: Floats) -> list[Floats]:
    """Query, key and value: LeakyReLU of a linear layer each."""
    return [leaky_relu(linear(w, f"{name}.{each}", x)) for each in ("query", "key", "value")]


def carca_profile(w: Weights, user: Sequence[int], *, causal: bool) -> Floats:
    """Blocks of attention whose result is multiplied with the normed query."""
    x = carca_items(w, np.sqrt(6))[np.array(user) - 1]
    for k in range(2):
        name = f"user_encoder.blocks.{k}"
        normed = layer_norm(w, f"{name}.attention_norm", x, 1e-8)
        query = projected(w, f"{name}.projections", normed)[0]
        _, key, value = projected(w, f"{name}.projections", x)
        ends = range(1, len(x) + 1) if causal else [len(x)] * len(x)
        seen = [attend(q, key[:end], value[:end], 2) for q, end in zip(query, ends, strict=True)]
        y = layer_norm(w, f"{name}.norm", np.array(seen) * normed, 1e-8)
        x = y + linear(w, f"{name}.down", leaky_relu(linear(w, f"{name}.up", y)))
    return layer_norm(w, "user_encoder.norm", x, 1e-8)


def carca_score(w: Weights, profile: Floats, candidate: Floats, *, residual: bool) -> float:
    """A candidate attends to the profile; a linear layer reads the result."""
    query = projected(w, "head.projections", candidate)[0]
    _, key, value = projected(w, "head.projections", profile)
    found = attend(query, key, value, 2) * (candidate if residual else 1.0)
    return float(linear(w, "head.score", found)[0])


@pytest.mark.parametrize("residual", [True, False])
def test_carca_scores_and_loses_as_its_paper_defines(residual: bool) -> None:
    published = {"loss": "bce", "causal": False, "residual": residual, "scaling": "none"}
    sizes = {"width": 6, "max_length": 7, "user_heads": 2, "features": "text"}
    model, w = ours("carca", N, FEATURES, **published, **sizes)
    items = carca_items(w, 1.0)
    expected = []
    for user in USERS:
        profile = carca_profile(w, user, causal=False)
        expected.append([carca_score(w, profile, each, residual=residual) for each in items])
    np.testing.assert_allclose(our_scores(model, USERS, N), expected, rtol=RTOL, atol=1e-9)
    losses = []
    for user, other in zip(ALL_BUT_ONE, LEFT, strict=True):
        profile = carca_profile(w, user[:-1], causal=False)
        for target in user[1:]:
            good = carca_score(w, profile, items[target - 1], residual=residual)
            bad = carca_score(w, profile, items[other - 1], residual=residual)
            losses.append(-np.log(sigmoid(np.array(good))) - np.log(1 - sigmoid(np.array(bad))))
    assert our_loss(model, ALL_BUT_ONE) == pytest.approx(np.mean(losses), rel=RTOL)


def test_carca_causal_is_the_same_over_the_items_so_far() -> None:
    sizes = {"width": 6, "max_length": 7, "user_heads": 2, "features": "text", "scaling": "none"}
    model, w = ours("carca", N, FEATURES, loss="bce", **sizes)
    items, losses = carca_items(w, 1.0), []
    for user, other in zip(ALL_BUT_ONE, LEFT, strict=True):
        profile = carca_profile(w, user[:-1], causal=True)
        for end, target in enumerate(user[1:], start=1):
            good, bad = (
                carca_score(w, profile[:end], items[each - 1], residual=True)
                for each in (target, other)
            )
            losses.append(-np.log(sigmoid(np.array(good))) - np.log(1 - sigmoid(np.array(bad))))
    assert our_loss(model, ALL_BUT_ONE) == pytest.approx(np.mean(losses), rel=RTOL)
