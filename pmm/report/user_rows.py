"""The users of a run whom it serves best and worst: what they had, what came next, what it offers.

Shape legend: U users of a target.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pmm.arrays import Int32s
from pmm.errors import PmmError
from pmm.evaluate.gallery import HISTORY, Row
from pmm.report.report_blocks import Section, Tile, UserGallery, UserRow
from pmm.report.reported_run import Evaluation, ReportedRun
from pmm.report.systems import System
from pmm.shards.jpeg import PictureError, encode, shrink
from pmm.shards.kinds import Split
from pmm.shards.read import Shards

TOP = 5
"""Recommendations shown of a user."""
SIDE, QUALITY = 96, 70
"""Pixels and JPEG quality of a picture."""
TEXT = 90
"""Characters of an item's text."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GalleryWish:
    """What galleries show, and how they are made."""

    users: int
    """Best and worst users, so many of each."""
    split: Split
    device: str


def galleries(systems: Sequence[System], wish: GalleryWish) -> Section:
    """The best and worst users of the first seed of each system."""
    blocks = [_gallery(*system.runs[0], wish) for system in systems]
    about = (
        "The users whose true next item the run ranks best and worst, drawn by lot among equals, "
        "without a share of popularity. From left to right: the last items that the user had, the "
        "item that came next (framed), "
        f"and the {TOP} that the model ranks highest. Of several seeds the first is shown."
    )
    return Section("Best and worst users", [about, *blocks])


def extreme_users(rank_U: Int32s, n: int) -> tuple[list[int], list[int]]:
    """The n users with the best ranks and, among the others, the n with the worst.

    Equal ranks are drawn by lot, always the same one.

    >>> extreme_users(np.array([9, 1, 4, 30], dtype=np.int32), 1)
    ([1], [3])
    """
    lot_U = np.random.default_rng(0).permutation(len(rank_U))
    order = np.lexsort((lot_U, rank_U))
    best = order[:n]
    left = order[len(best) :]
    worst = left[np.lexsort((lot_U[left], -rank_U[left].astype(np.int64)))][:n]
    return best.tolist(), worst.tolist()


def _gallery(run: ReportedRun, evaluation: Evaluation, wish: GalleryWish) -> UserGallery:
    best, worst = extreme_users(evaluation.ranks["none"]["rank"].to_numpy(), wish.users)
    try:
        shards, rows = _rows(run, evaluation, [*best, *worst], wish)
    except PmmError as error:  # the model or the shards are not there any more, or are others
        logger.warning("no gallery of %s: %s", run.name, error)
        return UserGallery(title=run.name, note=f"Not shown: {error}", best=(), worst=())
    tiles = _Tiles(shards)
    shown = [tiles.row(row) for row in rows]
    return UserGallery(title=run.name, note="", best=shown[: len(best)], worst=shown[len(best) :])


def _rows(
    run: ReportedRun, evaluation: Evaluation, users: Sequence[int], wish: GalleryWish
) -> tuple[Shards, list[Row]]:
    from pmm.evaluate.catalogue import embed_catalogue
    from pmm.evaluate.evaluate_options import EvaluateOptions
    from pmm.evaluate.evaluation import rows_of_users
    from pmm.runs.device import pick_precision
    from pmm.runs.loading import load_run

    logger.info("%s: what it recommends to its best and worst users", run.name)
    model, shards, about = load_run(
        run.home, run.place, device=wish.device, target=evaluation.target
    )
    if shards.fingerprint != evaluation.metrics.get("shards", shards.fingerprint):
        raise PmmError("the shards are others than those of the evaluation")
    keep = bool(evaluation.metrics.get("keep_history", False))
    options = EvaluateOptions(split=wish.split, keep_history=keep)
    dtype = pick_precision(about["precision"], next(model.parameters()).device)
    catalogue = embed_catalogue(model, shards, dtype=dtype, items_per_chunk=options.items_per_chunk)
    ranks = evaluation.ranks["none"]
    return shards, rows_of_users(model, shards, ranks, users, options, catalogue, dtype=dtype)


class _Tiles:
    """Items as tiles; each is read once."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._known: dict[int, dict[str, Any]] = {}

    def row(self, row: Row) -> UserRow:
        """A user's row."""
        history = [item for item in list(row.history)[-HISTORY:] if item]
        earlier = len(row.history) - len(history)
        items = "1 earlier item is" if earlier == 1 else f"{earlier:,} earlier items are"
        more = f" ({items} not shown)" if earlier > 0 else ""
        return UserRow(
            heading=f"User {row.user:,}: rank {row.rank:,} of {row.candidates:,}{more}",
            history=[self._tile(item) for item in history],
            target=self._tile(row.target, hit=True),
            recommended=[
                self._tile(item, hit=item == row.target) for item in list(row.top)[:TOP] if item
            ],
        )

    def _tile(self, item: int, *, hit: bool = False) -> Tile:
        if item not in self._known:
            record, file = self._shards.record(item), self._shards.jpeg(item)
            text = " ".join(str(record["text"] or record["item_id"]).split())
            text = text if len(text) <= TEXT else text[: TEXT - 1] + "…"
            self._known[item] = {"text": text, "jpeg": None if file is None else _small(file)}
        return Tile(**self._known[item], hit=hit)


def _small(file: bytes) -> bytes | None:
    try:
        return encode(shrink(file, SIDE)[0], QUALITY)
    except PictureError:
        return None
