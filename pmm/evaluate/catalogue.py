"""The catalogue and the users as a model sees them, and its ranks of what is asked.

Shape legend: N items of the catalogue, U users of a chunk, L window of recent items, D width.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pmm.arrays import Int64s
from pmm.evaluate.popularity_mix import NO_POPULARITY, PopularityMix
from pmm.evaluate.ranking import HISTORY_AT_ONCE, Queries, Scratch, rank_scores, rank_users, spans
from pmm.model.protocol import Recommender
from pmm.progress import progress
from pmm.runs.device import mixed
from pmm.shards.items import Items
from pmm.shards.kinds import Reads
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists, Prefixes

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
    count_N: Int64s
    """How often each item occurs in the training parts."""


def embed_catalogue(
    model: Recommender,
    shards: Shards,
    *,
    dtype: torch.dtype = torch.float32,
    items_per_chunk: int = 64,
    before: int = 0,
) -> Catalogue:
    """Encode every item once, in eval mode; the vectors stay on the model's device in float32.

    Args:
        model: in whatever mode; it is put back into it.
        shards: of the target.
        dtype: of the matrix products.
        items_per_chunk: encoded together.
        before: how many items of other targets the model numbers before these, as while it is
            trained on several.
    """
    device = next(model.parameters()).device
    if model.options.reads == "none":
        items_per_chunk = LOOKED_UP_ITEMS
    parts: list[Tensor] = []
    with _evaluating(model), progress(shards.n_items, "Encoding the catalogue", "items") as bar:
        for items in _read_ahead(shards, items_per_chunk, model.options.reads):
            numbered = replace(items, item_I=items.item_I + before)
            with mixed(device, dtype):
                parts.append(model.encode_items(numbered.to(device)).float())
            bar.advance(len(items.item_I))
        input_ND = torch.cat(parts)
        return Catalogue(
            input_ND=input_ND,
            score_ND=model.item_vectors(input_ND),
            count_N=shards.train_count[1:],
        )


def _read_ahead(shards: Shards, chunk: int, read: Reads) -> Iterator[Items]:
    """All items in order; a thread decodes the next pictures while these are encoded."""
    chunks = shards.iterate(chunk, read=read)
    with ThreadPoolExecutor(1, thread_name_prefix="pmm-catalogue") as pool:
        coming = pool.submit(next, chunks, None)
        while (items := coming.result()) is not None:
            coming = pool.submit(next, chunks, None)
            yield items


def user_vectors(
    model: Recommender,
    catalogue: Catalogue,
    history: Lists | Prefixes,
    *,
    dtype: torch.dtype = torch.float32,
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
    model: Recommender, catalogue: Catalogue, history: Lists | Prefixes, row_U: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """The most recent items of some users as the model sees them [U, L, W], and which are real.

    L is no more than the longest history has.
    """
    longest = max(1, min(model.max_length, int(history.lengths[row_U].max(initial=0))))
    window_UL = history.recent(row_U, longest)
    item_UL = torch.from_numpy(window_UL).to(catalogue.input_ND.device)
    valid_UL = item_UL > 0
    return catalogue.input_ND[(item_UL - 1).clamp(min=0)] * valid_UL[:, :, None], valid_UL


def score_catalogue(
    model: Recommender,
    catalogue: Catalogue,
    history: Lists | Prefixes,
    *,
    dtype: torch.dtype = torch.float32,
    mix: PopularityMix = NO_POPULARITY,
) -> Tensor:
    """The scores of all items for users with these histories, float32 [U, N]; for a few users."""
    with _evaluating(model), mixed(catalogue.input_ND.device, dtype):
        scores = model.scores_of_users
        windows = _windows(model, catalogue, history, np.arange(len(history)))
        if scores is None:
            score_UN = model.user_vectors(*windows).float() @ catalogue.score_ND.T
        else:
            score_UN = scores(*windows, catalogue.score_ND).float()
    return score_UN if mix.alpha == 0 else score_UN + _of_popularity(model, catalogue, mix)


def _of_popularity(model: Recommender, catalogue: Catalogue, mix: PopularityMix) -> Tensor:
    """What a mix adds to the score of each item, float32 [N].

    A score times the model's temperature is a logit, and alpha is meant beside logits.
    """
    log_share_N = torch.from_numpy(mix.log_share(catalogue.count_N))
    return (mix.alpha * model.temperature * log_share_N).to(catalogue.score_ND.device)


def rank_mixes(
    model: Recommender,
    catalogue: Catalogue,
    asked: Queries,
    mixes: Sequence[PopularityMix] = (NO_POPULARITY,),
    *,
    keep_history: bool = False,
    users_per_chunk: int = 1024,
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.int32]:
    """The rank of each query's target among the whole catalogue, int32 [mixes, U].

    Several shares of popularity are ranked with at once, so that users are encoded once. Users with
    histories of like length are ranked together, so that windows are hardly padded.

    What a mix adds is one more value of the vectors, of the item its log share and of the user
    alpha, so a rank is as exact as without.
    """
    rank_MU: NDArray[np.int32] = np.zeros((len(mixes), len(asked)), np.int32)
    added = [_of_popularity(model, catalogue, mix) if mix.alpha else None for mix in mixes]
    items = [_with_value(catalogue.score_ND, each) for each in added]
    order_U = np.argsort(np.minimum(asked.history.lengths, model.max_length), kind="stable")
    scratch = Scratch()
    with progress(len(asked), "Ranking", "users") as bar:
        dense = model.scores_of_users is not None
        step = min(users_per_chunk, DENSE_USERS) if dense else users_per_chunk
        for start, stop in spans(asked.history.lengths[order_U], HISTORY_AT_ONCE, step):
            chosen = order_U[start:stop]
            part = asked.take(chosen)
            if dense:
                score_UN = score_catalogue(model, catalogue, part.history, dtype=dtype)
                for k, added_N in enumerate(added):
                    mixed_UN = score_UN if added_N is None else score_UN + added_N
                    rank_MU[k, chosen] = rank_scores(mixed_UN, part, keep_history=keep_history)
            else:
                vectors_UD = user_vectors(model, catalogue, part.history, dtype=dtype)
                widened_UD = functional.pad(vectors_UD, (0, 1), value=1.0)
                for k, item_ND in enumerate(items):
                    rank_MU[k, chosen] = rank_users(
                        vectors_UD if added[k] is None else widened_UD,
                        item_ND,
                        part,
                        keep_history=keep_history,
                        scratch=scratch,
                    )
            bar.advance(len(part))
    return rank_MU


def _with_value(x_ND: Tensor, value_N: Tensor | None) -> Tensor:
    """Vectors with one more value each; as they are without one."""
    return x_ND if value_N is None else torch.cat([x_ND, value_N[:, None]], dim=1)


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
