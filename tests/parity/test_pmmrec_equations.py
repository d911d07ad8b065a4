"""PMMRec against Equations 3 to 12 and against its published form (docs/parity.md).

What the two encoders make of a text and a picture (Eq. 1 and 2) is taken as it is: they are other
people's models, which `tests/model/test_encoders.py` holds against other people's code.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pmm_parity_formulas import (
    RTOL,
    Floats,
    Users,
    Weights,
    causal_transformer,
    gelu,
    last_positions,
    layer_norm,
    linear,
    post_norm_block,
    relu,
    softmax,
    unit,
)

from pmm.data.batch import Batch
from pmm.demo.small_encoders import SmallSizes, save_small_encoders
from pmm.model.losses.noised_items import PADDING, corrupt
from pmm.model.pmmrec.pmmrec import Pmmrec
from pmm.model.pmmrec.pmmrec_options import ALL_OBJECTIVES, preset
from pmm.shards.items import Items

USERS: Users = [[1, 2, 3], [4, 2, 5, 6, 7, 8], [9, 10, 1, 11, 4]]
N, SLOTS, SEED = 11, 6, 3
SIZES = SmallSizes(width=32, blocks=3, heads=2, vocabulary=300, picture=32, patch=16)

Made = tuple[Pmmrec, Weights, Batch]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return save_small_encoders(folder, ["red shirt", "blue jeans"] * 5, seed=1, sizes=SIZES)


def made(encoders: tuple[Path, Path], name: Any, slots: int, **changes: Any) -> Made:
    """The model of a preset with drawn weights behind its encoders, these, and a batch."""
    options = preset(name)
    model = Pmmrec(
        replace(
            options,
            text=replace(options.text, encoder=str(encoders[0])),
            vision=replace(options.vision, encoder=str(encoders[1])),
            max_length=slots - 1,
            **changes,
        )
    )
    torch.manual_seed(1)
    model.double().eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if not key.startswith(("text.", "vision.")):
                tensor.normal_(std=0.3)
    w = {key: each.numpy().astype(np.float64) for key, each in model.state_dict().items()}
    return model, w, some_batch(slots)


def some_batch(slots: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    mask = torch.arange(9) < torch.randint(2, 10, (N, 1), generator=draw)
    token = torch.randint(5, 261, mask.shape, generator=draw)
    token[:, 0] = 0
    rows = [[0] * (slots - len(user)) + list(user)[-slots:] for user in USERS]
    counts = np.bincount(np.concatenate(USERS))[1:]
    return Batch(
        items=Items(
            item_I=torch.arange(1, N + 1),
            token_IT=torch.where(mask, token, 1),
            token_mask_IT=mask,
            picture_I3HW=torch.randint(0, 256, (N, 3, 32, 32), generator=draw, dtype=torch.uint8),
            has_text_I=torch.ones(N, dtype=torch.bool),
            has_picture_I=torch.ones(N, dtype=torch.bool),
        ),
        slot_BS=torch.tensor(rows),
        log_p_I=torch.from_numpy(np.log(counts / counts.sum())),
    )


@torch.no_grad()
def projected_tokens(model: Pmmrec, w: Weights, items: Items, row: int) -> tuple[Floats, Floats]:
    """t_cls, t_1 ... and v_cls, v_1 ... of one item, in the model's width."""
    assert model.text is not None
    assert model.vision is not None
    token_1T = items.token_IT[row][items.token_mask_IT[row]][None]
    text = model.text(token_1T, torch.ones_like(token_1T, dtype=torch.bool))[0]
    picture = model.vision(items.picture_I3HW[row][None])[0]
    sides = (("text_projection", text), ("vision_projection", picture))
    found = [linear(w, name, hidden.double().numpy()) for name, hidden in sides]
    return found[0], found[1]


def fused(w: Weights, tokens: Floats) -> Floats:
    """A BERT layer over the tokens of one item (Eq. 3)."""
    options: dict[str, Any] = {"heads": 1, "eps": 1e-12, "activation": gelu, "causal": False}
    return post_norm_block(w, "fusion.block", tokens, **options)


def user_states(w: Weights, items: Floats, user: Sequence[int]) -> Floats:
    """Eq. 4: SASRec's encoder over e + p."""
    x = items[np.array(user) - 1]
    x = x + last_positions(w, "user_encoder.position.weight", len(x))
    x = layer_norm(w, "user_encoder.norm", x, 1e-6)
    return causal_transformer(w, "user_encoder.blocks", x, heads=2, eps=1e-6, activation=relu)


def negatives(users: Users, u: int) -> list[int]:
    """All items of the other users, as often as they stand there, but those of the user."""
    return [i for k, user in enumerate(users) if k != u for i in user if i not in users[u]]


def next_item_loss(w: Weights, items: Floats, users: Users, log_p: Floats) -> float:
    """Eq. 5, the mean over all pairs of an item and its next."""
    found = []
    for u, user in enumerate(users):
        for h, target in zip(user_states(w, items, user[:-1]), user[1:], strict=True):
            above = np.exp(items @ h - log_p)
            others = sum(above[i - 1] for i in negatives(users, u))
            found.append(-np.log(above[target - 1] / (above[target - 1] + others)))
    return float(np.mean(found))


def next_item_contrast(text: Floats, picture: Floats, users: Users) -> float:
    """Eq. 8 and 9."""
    t, v = unit(text), unit(picture)
    found = []
    for u, user in enumerate(users):
        for own, after in itertools.pairwise(user):
            for a, b in ((t, v), (v, t)):

                def like(x: Floats, i: int, *, of: Floats = a[own - 1]) -> float:
                    return float(np.exp(of @ x[i - 1]))

                above = like(b, own) + like(b, after) + like(a, after)
                below = like(b, own)
                below += sum(like(b, i) + like(a, i) for i in negatives(users, u))
                found.append(-np.log(above / below) / 2)
    return float(np.sum(found) / (len(found) / 2))


def test_the_preset_paper_is_equations_3_to_12(encoders: tuple[Path, Path]) -> None:
    model, w, batch = made(encoders, "paper", SLOTS, weights=ALL_OBJECTIVES)
    tokens = [projected_tokens(model, w, batch.items, row) for row in range(N)]
    text = np.array([t[0] for t, _ in tokens])
    picture = np.array([v[0] for _, v in tokens])
    first = w["fusion.mm_cls_D"][None]
    items = np.array([fused(w, np.concatenate([first, t[1:], v[1:]]))[0] for t, v in tokens])
    with torch.no_grad():
        np.testing.assert_allclose(
            model.encode_items(batch.items).numpy(), items, rtol=1e-5, atol=1e-6
        )
    found = model.loss(batch, torch.Generator().manual_seed(SEED))
    expected = {"dap": next_item_loss(w, items, USERS, np.zeros(N))}
    expected["nicl"] = next_item_contrast(text, picture, USERS)
    # Which items are shuffled and replaced is chance; they are read whole, the last one too, as far
    # as the user encoder reads back.
    noise = torch.Generator().manual_seed(SEED)
    noisy = corrupt(batch.slot_BS, N, model.options.corruption, noise)
    detected, pooled = [], []
    for user, slots, labels in zip(USERS, noisy.slot_BL, noisy.label_BL, strict=True):
        plain = list(user)[-(SLOTS - 1) :]
        corrupted = slots[slots > 0].tolist()
        assert len(corrupted) == len(plain)
        states = user_states(w, items, corrupted)
        share = softmax(relu(linear(w, "detector", states)))
        kinds = labels[labels != PADDING].tolist()
        detected += [-np.log(row[kind]) for row, kind in zip(share, kinds, strict=True)]
        pooled.append((user_states(w, items, plain).mean(0), states.mean(0)))
    assert (noisy.label_BL > 0).any(), "something was corrupted"
    expected["nid"] = float(np.mean(detected))
    expected["rcl"] = float(
        np.mean(
            [
                -np.log(softmax(np.array([h @ g for _, g in pooled]))[k])
                for k, (h, _) in enumerate(pooled)
            ]
        )
    )
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name
    assert found["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-5)


def test_the_preset_official_is_the_published_form(encoders: tuple[Path, Path]) -> None:
    """Means of all fused tokens, and the popularity correction on every column."""
    model, w, batch = made(encoders, "official", SLOTS)
    tokens = [projected_tokens(model, w, batch.items, row) for row in range(N)]
    items = np.array([fused(w, np.concatenate(each)).mean(0) for each in tokens])
    with torch.no_grad():
        np.testing.assert_allclose(
            model.encode_items(batch.items).numpy(), items, rtol=RTOL, atol=1e-9
        )
        rows = batch.slot_BS[:, 1:]
        padded = torch.nn.functional.pad(torch.from_numpy(items), (0, 0, 1, 0))
        scores = model.user_vectors(padded[rows], rows > 0) @ torch.from_numpy(items).T
    for user, found in zip(USERS, scores.numpy(), strict=True):
        expected = items @ user_states(w, items, list(user)[-(SLOTS - 1) :])[-1]
        np.testing.assert_allclose(found, expected, rtol=RTOL, atol=1e-9)
    loss = next_item_loss(w, items, USERS, batch.log_p_I.numpy())
    assert model.loss(batch)["dap"].item() == pytest.approx(loss, rel=RTOL)
