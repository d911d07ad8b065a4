"""GRU4Rec and NextItNet against what their papers define (docs/parity.md)."""

from collections.abc import Sequence

import numpy as np
import pytest
from pmm_parity_formulas import (
    RTOL,
    Floats,
    Users,
    Weights,
    layer_norm,
    linear,
    mean_full_softmax,
    our_loss,
    our_scores,
    ours,
    relu,
    sigmoid,
)

N = 9
USERS: Users = [[3, 1, 4, 1, 5, 9], [2, 6], [5, 3, 5, 8], [7]]
ALL_BUT_ONE: Users = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4, 3, 2]]
"""So that the negative that is drawn is the one item left: 9, and 1."""
LEFT = [9, 1]


# --- GRU4Rec (Hidasi et al. 2016) -----------------------------------------------------------------


def gru_states(w: Weights, user: Sequence[int]) -> Floats:
    """Two layers without biases; the reset gate stands behind the product U h, as in cuDNN.

    The paper has it before: U (r * h).
    """
    x = w["items.table.weight"][list(user)]
    for layer in (0, 1):
        into, again = (w[f"user_encoder.gru.weight_{each}_l{layer}"] for each in ("ih", "hh"))
        h, found = np.zeros(x.shape[1]), []
        for each in x:
            (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(into @ each, 3), np.split(again @ h, 3)
            r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
            h = (1 - z) * np.tanh(n_x + r * n_h) + z * h
            found.append(h)
        x = np.array(found)
    return x


def test_gru4rec_scores_and_loses_as_its_paper_defines() -> None:
    model, w = ours("gru4rec", N, width=6, max_length=7, loss="bpr")
    items = w["items.table.weight"][1:]
    expected = [items @ gru_states(w, user)[-1] for user in USERS]
    np.testing.assert_allclose(our_scores(model, USERS, N), expected, rtol=RTOL, atol=1e-9)
    sums = []
    for user, other in zip(ALL_BUT_ONE, LEFT, strict=True):
        states = gru_states(w, user[:-1])
        margins = [
            h @ items[target - 1] - h @ items[other - 1]
            for h, target in zip(states, user[1:], strict=True)
        ]
        sums.append(-np.log(sigmoid(np.array(margins))).sum())
    assert our_loss(model, ALL_BUT_ONE) == pytest.approx(np.mean(sums), rel=RTOL)


# --- NextItNet (Yuan et al. 2019) -----------------------------------------------------------------


def convolution(w: Weights, name: str, x: Floats, dilation: int) -> Floats:
    """out_l = b + sum_k W_k x_(l - (2 - k) dilation); zeros stand before the first item."""
    kernel, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    found = []
    for place in range(len(x)):
        total = bias.copy()
        for k in range(3):
            source = place - (2 - k) * dilation
            if source >= 0:
                total = total + kernel[:, :, k] @ x[source]
        found.append(total)
    return np.array(found)


def convolved_states(w: Weights, user: Sequence[int]) -> Floats:
    """Residual blocks of two dilated causal convolutions, the dilations 1, 2, 4, 8 twice over."""
    x = w["items.table.weight"][list(user)]
    for k, dilation in enumerate((1, 4, 1, 4)):
        name, y = f"user_encoder.blocks.{k}", x
        for part, step in (("first", dilation), ("second", 2 * dilation)):
            y = convolution(w, f"{name}.{part}.convolution", y, step)
            y = relu(layer_norm(w, f"{name}.{part}_norm", y, 1e-8))
        x = x + y
    return x


def test_nextitnet_scores_and_loses_as_its_paper_defines() -> None:
    model, w = ours("nextitnet", N, width=6, max_length=14, loss="full")
    long: Users = [*USERS, [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 3, 5, 7, 9]]
    items = w["items.table.weight"][1:]
    expected = [items @ convolved_states(w, user)[-1] for user in long]
    np.testing.assert_allclose(our_scores(model, long, N), expected, rtol=RTOL, atol=1e-9)
    loss = mean_full_softmax(long, lambda user: convolved_states(w, user), items)
    assert our_loss(model, long) == pytest.approx(loss, rel=RTOL)


def test_the_dense_layer_of_other_implementations_stands_behind_both() -> None:
    for name, states in (("gru4rec", gru_states), ("nextitnet", convolved_states)):
        model, w = ours(name, N, width=6, max_length=7, dense=True, loss="full")
        items = w["items.table.weight"][1:]
        loss = mean_full_softmax(
            USERS,
            lambda user, states=states, w=w: linear(w, "user_encoder.dense", states(w, user)),
            items,
        )
        assert our_loss(model, USERS) == pytest.approx(loss, rel=RTOL)
