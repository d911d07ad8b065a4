"""What the published systems compute, written out for one user at a time, in NumPy and float64.

An oracle knows a model's weights by their names and nothing else of our code: no padding, no masks,
no batches, no packing. A user is the list of his items, oldest first; row i - 1 of a matrix belongs
to item i. Weights are drawn in the tests, all of them, so that each must be read where it belongs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, nn

from pmm.data.batch import Batch
from pmm.model import registry
from pmm.model.build import build_model
from pmm.model.features.item_features import ItemFeatures
from pmm.shards.items import Items

Floats = NDArray[np.float64]
Weights = dict[str, Floats]
Users = Sequence[Sequence[int]]

RTOL = 1e-6
"""Of the comparisons: ours in float64 too, but for a few sums of logarithms of whole numbers."""

# --- Formulas -------------------------------------------------------------------------------------


def linear(w: Weights, name: str, x: Floats) -> Floats:
    """W x + b; without b where there is none."""
    y: Floats = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def layer_norm(w: Weights, name: str, x: Floats, eps: float) -> Floats:
    """Over the last dimension."""
    centred = x - x.mean(-1, keepdims=True)
    spread = (centred**2).mean(-1, keepdims=True)
    y: Floats = centred / np.sqrt(spread + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]
    return y


def softmax(z: Floats) -> Floats:
    """Over the last dimension."""
    e = np.exp(z - z.max(-1, keepdims=True))
    share: Floats = e / e.sum(-1, keepdims=True)
    return share


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + e^-z)."""
    y: Floats = 1 / (1 + np.exp(-z))
    return y


def relu(z: Floats) -> Floats:
    """max(z, 0)."""
    return np.maximum(z, 0)


def gelu(z: Floats) -> Floats:
    """z times the normal distribution function."""
    return z * (1 + torch.erf(torch.from_numpy(z / np.sqrt(2))).numpy()) / 2


def leaky_relu(z: Floats) -> Floats:
    """0.2 z below zero."""
    return np.where(z > 0, z, 0.2 * z)


def unit(x: Floats) -> Floats:
    """Of length 1 in the last dimension."""
    y: Floats = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return y


def attend(query: Floats, keys: Floats, values: Floats, heads: int) -> Floats:
    """One query [D] over some keys [K, D], head by head."""
    found = []
    for part in np.split(np.arange(len(query)), heads):
        weight = softmax(keys[:, part] @ query[part] / np.sqrt(len(part)))
        found.append(weight @ values[:, part])
    return np.concatenate(found)


def post_norm_block(
    w: Weights,
    name: str,
    x: Floats,
    *,
    heads: int,
    eps: float,
    activation: Callable[[Floats], Floats],
    causal: bool,
) -> Floats:
    """LN(x + attention), then LN(x + feed-forward) [n, D]; causal: row i sees the rows up to i."""
    query, key, value = (linear(w, f"{name}.{each}", x) for each in ("query", "key", "value"))
    ends = range(1, len(x) + 1) if causal else [len(x)] * len(x)
    seen = [attend(q, key[:end], value[:end], heads) for q, end in zip(query, ends, strict=True)]
    x = layer_norm(w, f"{name}.attention_norm", x + linear(w, f"{name}.out", np.array(seen)), eps)
    inner = activation(linear(w, f"{name}.up", x))
    return layer_norm(w, f"{name}.norm", x + linear(w, f"{name}.down", inner), eps)


def causal_transformer(
    w: Weights, name: str, x: Floats, *, heads: int, eps: float, activation: Any
) -> Floats:
    """The blocks below a name, one after the other."""
    count = len({key.split(".")[name.count(".") + 1] for key in w if key.startswith(f"{name}.")})
    for k in range(count):
        options: dict[str, Any] = {"heads": heads, "eps": eps, "activation": activation}
        x = post_norm_block(w, f"{name}.{k}", x, **options, causal=True)
    return x


def last_positions(w: Weights, name: str, count: int) -> Floats:
    """The vectors of the last positions of a window."""
    return w[name][len(w[name]) - count :]


def minus_log_share(z: Floats, target: int) -> float:
    """-log of the softmax at one place."""
    return float(-np.log(softmax(z)[target]))


# --- Our side -------------------------------------------------------------------------------------


def drawn(model: nn.Module, seed: int, std: float = 0.4) -> Weights:
    """Draw every weight of a model anew, in float64; rows of padding stay zero."""
    torch.manual_seed(seed)
    model.double().eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.normal_(std=std)
            if name in ("items.table.weight", "codes.table.weight"):
                tensor[0] = 0.0
    return {name: each.numpy().astype(np.float64) for name, each in model.state_dict().items()}


def ours(
    name: str, n_items: int, vectors: Floats | None = None, **changes: Any
) -> tuple[nn.Module, Weights]:
    """One of our baselines with drawn weights, and these."""
    options = replace(registry.entry(name).settings["default"].options, **changes)
    read = None
    if vectors is not None:
        fields = (torch.from_numpy(vectors),)
        read = ItemFeatures(fields, torch.ones(n_items, dtype=torch.bool))
    model = build_model(options, n_items, read, fresh=False)
    assert isinstance(model, nn.Module)
    return model, drawn(model, seed=1)


def batch_of(users: Users, slots: int) -> Batch:
    """The users as a batch, left-padded; of items nothing is known but their numbers."""
    rows = torch.tensor([[0] * (slots - len(each)) + list(each) for each in users])
    item_I = torch.unique(rows[rows > 0])
    none = torch.zeros(len(item_I), dtype=torch.bool)
    items = Items(
        item_I=item_I,
        token_IT=torch.zeros(len(item_I), 0, dtype=torch.int64),
        token_mask_IT=torch.zeros(len(item_I), 0, dtype=torch.bool),
        picture_I3HW=torch.zeros(len(item_I), 3, 0, 0, dtype=torch.uint8),
        has_text_I=none,
        has_picture_I=none,
    )
    slot_BS = torch.where(rows > 0, torch.searchsorted(item_I, rows) + 1, 0)
    return Batch(items=items, slot_BS=slot_BS, log_p_I=torch.zeros(len(item_I)))


@torch.no_grad()
def our_scores(model: Any, users: Users, n_items: int) -> Floats:
    """Of all items for all users, [users, n_items], as evaluation has them."""
    e_NW = model.of_numbers(torch.arange(1, n_items + 1))
    rows = [[0] * (model.max_length - len(each)) + list(each) for each in users]
    window_BL = torch.tensor(rows)
    e_BLW = nn.functional.pad(e_NW, (0, 0, 1, 0))[window_BL]
    item_ND, valid_BL = model.item_vectors(e_NW), window_BL > 0
    if model.scores_of_users is not None:
        found = model.scores_of_users(e_BLW, valid_BL, item_ND)
    else:
        found = model.user_vectors(e_BLW, valid_BL) @ item_ND.T
    return found.numpy()  # type: ignore[no-any-return]


@torch.no_grad()
def our_loss(model: Any, users: Users, seed: int = 0) -> float:
    """Of a batch of the users."""
    batch = batch_of(users, model.max_length + 1)
    return float(model(batch, Generator().manual_seed(seed))["loss"])


# --- Losses ---------------------------------------------------------------------------------------


def mean_full_softmax(
    users: Users, states: Callable[[Sequence[int]], Floats], items: Floats, tau: float = 1.0
) -> float:
    """-log softmax of each next item over the whole catalogue, the mean over all of them."""
    found = []
    for user in users:
        if len(user) < 2:  # nothing follows
            continue
        for state, target in zip(states(user[:-1]), user[1:], strict=True):
            found.append(minus_log_share(items @ state / tau, target - 1))
    return float(np.mean(found))
