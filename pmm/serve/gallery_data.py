"""What `pmm gallery` puts into its page: items, small pictures, test users, the model's answers.

All is bounded: so many items and users, so many bytes of pictures. Items are numbers of `items`.

Shape suffixes: M items of the page, D width.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pmm.arrays import Float32s
from pmm.evaluate.popularity_mix import NO_POPULARITY
from pmm.recommend.answers import Recommended, TestUser, Wanted
from pmm.recommend.loaded_model import LoadedModel
from pmm.recommend.top_k import top_k
from pmm.serve.tested_users import served_rank
from pmm.shards.jpeg import PictureError, encode, shrink

SHOWN = 10
"""Recommendations of a test user."""
AFTER = 40
"""Recommendations after each single item, of which the page makes its estimates."""
SIMILAR = 8
HISTORY = 30
"""The most recent items of a test user's history that the page holds."""
TEXT = 600
"""Characters of an item's text."""
SIDE, QUALITY = 128, 75
"""Pixels and JPEG quality of a picture."""
PICTURE_BYTES = 24 * 2**20
"""Of all pictures of a page together, before they are written as text."""


def gallery_data(
    model: LoadedModel,
    users: Sequence[TestUser],
    *,
    run: str,
    target: str,
    most_items: int,
    picture_bytes: int = PICTURE_BYTES,
) -> dict[str, Any]:
    """Everything that the page needs, ready for JSON.

    Args:
        model: that answers.
        users: test users, of whom the first are taken whose items have room.
        run: what the model is called.
        target: what its items are called.
        most_items: of the page.
        picture_bytes: of all its pictures together; where they do not fit, the most frequent items
            have theirs.
    """
    state = model.state
    told = list(_told(model, users))
    kept, ids = _with_room(model, told, most_items)
    number = {item_id: k for k, item_id in enumerate(ids)}
    lift_N = _lifts(model)
    items = [_item(model, item_id, lift_N) for item_id in ids]
    left_out = _put_pictures(model, items, picture_bytes)
    whole = len(ids) == len(state)
    after = model.recommend(
        [[item_id] for item_id in ids], Wanted(k=AFTER, allow=None if whole else ids)
    )
    return {
        "run": run,
        "target": target,
        "version": model.version,
        "catalogue": len(state),
        "alpha": model.chosen.alpha if model.chosen else None,
        "pictures_left_out": left_out,
        "items": items,
        "users": [each.as_dict(number) for each in kept],
        "after": [[[number[i.item_id], _short(i.score)] for i in each.items] for each in after],
        "similar": _similar(model, ids),
    }


@dataclass(frozen=True, kw_only=True)
class _Told:
    """A test user and the model's answers."""

    user: TestUser
    rank: int | None
    recommended: tuple[tuple[str, float], ...]
    chosen: tuple[tuple[str, float], ...]
    reasons: dict[str, list[tuple[str, float]]]

    @property
    def history(self) -> tuple[str, ...]:
        return self.user.history[-HISTORY:]

    @property
    def ids(self) -> set[str]:
        shown = (*self.recommended, *self.chosen)
        return {*self.history, self.user.target, *(item_id for item_id, _ in shown)}

    def as_dict(self, number: dict[str, int]) -> dict[str, Any]:
        def rows(items: Sequence[tuple[str, float]]) -> list[Any]:
            return [
                [number[item_id], _short(score), self._reasons(item_id, number)]
                for item_id, score in items
            ]

        return {
            "user_id": self.user.user_id,
            "history": [number[each] for each in self.history],
            "earlier": len(self.user.history) - len(self.history),
            "target": number[self.user.target],
            "rank": self.rank,
            "recommended": rows(self.recommended),
            "chosen": rows(self.chosen),
        }

    def _reasons(self, item_id: str, number: dict[str, int]) -> list[Any]:
        found = self.reasons[item_id]
        return [[number[of], _short(effect)] for of, effect in found if of in number][:3]


def _told(model: LoadedModel, users: Sequence[TestUser]) -> Iterator[_Told]:
    histories = [each.history for each in users]
    best = model.recommend(histories, Wanted(k=SHOWN))
    chosen = model.recommend(histories, Wanted(k=SHOWN, popularity="chosen"))
    for user, first, second in zip(users, best, chosen, strict=True):
        offered = dict.fromkeys(each.item_id for each in (*first.items, *second.items))
        reasons = {
            item_id: [(each.item_id, each.effect) for each in model.explain(user.history, item_id)]
            for item_id in offered
        }
        yield _Told(
            user=user,
            rank=served_rank(model, user),
            recommended=_pairs(first),
            chosen=_pairs(second),
            reasons=reasons,
        )


def _pairs(found: Recommended) -> tuple[tuple[str, float], ...]:
    return tuple((each.item_id, each.score) for each in found.items)


def _with_room(
    model: LoadedModel, told: Sequence[_Told], most: int
) -> tuple[list[_Told], list[str]]:
    """The first users whose items fit, and the ids of all items: theirs, then the most frequent."""
    state, taken, kept = model.state, set[str](), list[_Told]()
    for each in told:
        if len(taken | each.ids) <= most:
            taken |= each.ids
            kept.append(each)
    order = np.argsort(-state.count_N, kind="stable")
    others = (state.ids[row] for row in order if state.offered_N[row])
    for item_id in others:
        if len(taken) >= most:
            break
        taken.add(item_id)
    ordered: list[str] = [state.ids[row] for row in order if state.ids[row] in taken]
    return kept, ordered


def _lifts(model: LoadedModel) -> Float32s:
    """What the chosen share of popularity adds to the score of each item of the catalogue."""
    mix, count_N = model.chosen or NO_POPULARITY, model.state.count_N
    lift_N: Float32s = np.float32(mix.alpha * model.encoder.temperature) * mix.log_share(count_N)
    return lift_N


def _item(model: LoadedModel, item_id: str, lift_N: Float32s) -> dict[str, Any]:
    card, row = model.card(item_id), model.state.find(item_id)
    text = card.text if len(card.text) <= TEXT else card.text[: TEXT - 1] + "…"
    return {
        "item_id": item_id,
        "text": text,
        "categories": list(card.categories),
        "count": card.count,
        "lift": _short(float(lift_N[row])),
        "picture": None,
    }


def _put_pictures(model: LoadedModel, items: Sequence[dict[str, Any]], most: int) -> int:
    """Give items their pictures while there is room; how many had to be left out."""
    used = left_out = 0
    for item in items:
        file = model.picture(item["item_id"])
        small = None if file is None else _small(file)
        if small is None:
            continue
        if used + len(small) > most:
            left_out += 1
            continue
        used += len(small)
        item["picture"] = "data:image/jpeg;base64," + base64.b64encode(small).decode()
    return left_out


def _small(file: bytes) -> bytes | None:
    """A small JPEG of a picture file; None where it cannot be read."""
    try:
        pixels, _ = shrink(file, SIDE)
    except PictureError:
        return None
    return encode(pixels, QUALITY)


def _similar(model: LoadedModel, ids: Sequence[str]) -> list[list[list[float]]]:
    """For each item the nearest of the page, as `LoadedModel.similar` finds them."""
    state = model.state
    rows = np.array([state.find(each) for each in ids], dtype=np.int64)
    length_N = np.sqrt(np.einsum("nd,nd->n", state.score_ND, state.score_ND))
    unit_MD = (state.score_ND / np.maximum(length_N, 1e-12)[:, None])[rows]
    found = []
    for k in range(len(ids)):
        allowed_M = state.offered_N[rows]
        allowed_M[k] = False
        near, score = top_k(unit_MD[k], unit_MD, allowed_M, SIMILAR, longest=1.0)
        found.append([[int(m), _short(float(s))] for m, s in zip(near, score, strict=True)])
    return found


def _short(value: float) -> float:
    """Five digits are enough to look at."""
    return float(f"{value:.5g}")
