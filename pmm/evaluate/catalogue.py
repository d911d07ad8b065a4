"""The catalogue and the users as a model sees them, and its ranks of what is asked.

Shape legend: N items of the catalogue, U users of a chunk, L window of recent items, D width.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmm.arrays import Int32s
from pmm.evaluate.ranking import Queries, Scratch, rank_scores, rank_users
from pmm.model.protocol import Recommender
from pmm.progress import progress
from pmm.runs.device import mixed
from pmm.shards.items import Items
from pmm.shards.kinds import Reads
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists

ENCODED_USERS = 256
"""Users whose windows are encoded together, in a CPU's second cache: 1,024 take half as long again.
"""
LOOKED_UP_ITEMS = 8_192
"""Items encoded together by models that read no content; `items_per_chunk` is for those that do."""
DENSE_USERS = 64
"""Users at a time where their scores of all items are held: of 100,000 items 51 MB, with flags."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Every item as the model sees it, row i - 1 for item i."""

    input_ND: Tensor
    """What the user encoder reads."""
    score_ND: Tensor
    """What users are scored against."""


def embed_catalogue(
    model: Recommender,
    shards: Shards,
    *,
    dtype: torch.dtype = torch.float32,
    items_per_chunk: int = 64,
) -> Catalogue:
    """Encode every item once, in eval mode; the vectors stay on the model's device in float32."""
    device = next(model.parameters()).device
    if model.options.reads == "none":
        items_per_chunk = LOOKED_UP_ITEMS
    parts: list[Tensor] = []
    with _evaluating(model), progress(shards.n_items, "Encoding the catalogue", "items") as bar:
        for items in _read_ahead(shards, items_per_chunk, model.options.reads):
            with mixed(device, dtype):
                parts.append(model.encode_items(items.to(device)).float())
            bar.advance(len(items.item_I))
        input_ND = torch.cat(parts)
        return Catalogue(input_ND=input_ND, score_ND=model.item_vectors(input_ND))


def _read_ahead(shards: Shards, chunk: int, read: Reads) -> Iterator[Items]:
    """All items in order; a thread decodes the next pictures while these are encoded."""
    chunks = shards.iterate(chunk, read=read)
    with ThreadPoolExecutor(1, thread_name_prefix="pmm-catalogue") as pool:
        coming = pool.submit(next, chunks, None)
        while (items := coming.result()) is not None:
            coming = pool.submit(next, chunks, None)
            yield items


def user_vectors(
    model: Recommender, catalogue: Catalogue, history: Lists, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The vectors of users with these histories, of which the most recent L items count. [U, D]"""
    with _evaluating(model), mixed(catalogue.input_ND.device, dtype):
        parts = [
            model.user_vectors(*_windows(model, catalogue, history, row_U)).float()
            for row_U in np.split(
                np.arange(len(history)), range(ENCODED_USERS, len(history), ENCODED_USERS)
            )
        ]
        return torch.cat(parts)


def _windows(
    model: Recommender, catalogue: Catalogue, history: Lists, row_U: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """The most recent items of some users as the model sees them [U, L, W], and which are real.

    L is no more than the longest history has.
    """
    longest = max(1, min(model.max_length, int(history.lengths_of(row_U).max(initial=0))))
    window_UL = history.recent(row_U, longest)
    item_UL = torch.from_numpy(window_UL).to(catalogue.input_ND.device)
    valid_UL = item_UL > 0
    return catalogue.input_ND[(item_UL - 1).clamp(min=0)] * valid_UL[:, :, None], valid_UL


def score_catalogue(
    model: Recommender, catalogue: Catalogue, history: Lists, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The scores of all items for users with these histories, float32 [U, N]; for a few users."""
    with _evaluating(model), mixed(catalogue.input_ND.device, dtype):
        scores = model.scores_of_users
        windows = _windows(model, catalogue, history, np.arange(len(history)))
        if scores is None:
            return model.user_vectors(*windows).float() @ catalogue.score_ND.T
        return scores(*windows, catalogue.score_ND).float()


def rank_queries(
    model: Recommender,
    catalogue: Catalogue,
    asked: Queries,
    *,
    keep_history: bool = False,
    users_per_chunk: int = 1024,
    dtype: torch.dtype = torch.float32,
) -> Int32s:
    """The rank of each query's target among the whole catalogue. [U]

    Users with histories of like length are ranked together, so that windows are hardly padded.
    """
    rank_U = np.zeros(len(asked), np.int32)
    order_U = np.argsort(np.minimum(asked.history.lengths, model.max_length), kind="stable")
    scratch = Scratch()
    with progress(len(asked), "Ranking", "users") as bar:
        dense = model.scores_of_users is not None
        step = min(users_per_chunk, DENSE_USERS) if dense else users_per_chunk
        for start in range(0, len(asked), step):
            chosen = order_U[start : start + step]
            part = asked.take(chosen)
            if dense:
                score_UN = score_catalogue(model, catalogue, part.history, dtype=dtype)
                rank_U[chosen] = rank_scores(score_UN, part, keep_history=keep_history)
            else:
                vectors_UD = user_vectors(model, catalogue, part.history, dtype=dtype)
                rank_U[chosen] = rank_users(
                    vectors_UD,
                    catalogue.score_ND,
                    part,
                    keep_history=keep_history,
                    scratch=scratch,
                )
            bar.advance(len(part))
    return rank_U


@contextmanager
def _evaluating(model: Recommender) -> Iterator[None]:
    """Eval mode without gradients; the former mode comes back."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
