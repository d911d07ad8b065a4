"""`pmm evaluate`: a model's ranks over the whole catalogue, beside popularity and chance.

Shape legend: N items of the catalogue, U users of a chunk, L window of recent items, D width.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pmm.artefact import atomic_file, storage_errors, write_json
from pmm.evaluate.device import mixed
from pmm.evaluate.metrics import summarise
from pmm.evaluate.ranking import Ints, Queries, count_candidates, rank_users
from pmm.evaluate.references import rank_by_chance, rank_by_popularity
from pmm.model.pmmrec import Pmmrec
from pmm.progress import progress
from pmm.schemas import RANKS, write_table
from pmm.shards.read import Shards
from pmm.shards.sequence_shards import Lists, Split


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How a run is evaluated."""

    split: Split = "test"
    """Which item is asked for: the last of each user, or the second last."""
    keep_history: bool = False
    """Rank the items that a user has had already, too."""
    seed: int = 0
    """Of the chance reference and of the users in the gallery."""
    gallery_users: int = 6
    """Users shown in gallery.png; 0 draws none."""
    items_per_chunk: int = 256
    """Items encoded together."""
    users_per_chunk: int = 1024
    """Users ranked together."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Every item as the model sees it, row i - 1 for item i."""

    input_ND: Tensor
    """What the user encoder reads."""
    score_ND: Tensor
    """What users are scored against."""


def questions(shards: Shards, split: Split) -> Queries:
    """All users with their true next item and their history before it."""
    sequences = shards.sequences()
    return Queries(
        user_U=np.arange(len(sequences), dtype=np.int32),
        target_U=sequences.target(split),
        history=sequences.history(split),
    )


def embed_catalogue(
    model: Pmmrec, shards: Shards, *, dtype: torch.dtype = torch.float32, items_per_chunk: int = 256
) -> Catalogue:
    """Encode every item once, in eval mode; the vectors stay on the model's device in float32."""
    device = next(model.parameters()).device
    parts: list[Tensor] = []
    with _evaluating(model), progress(shards.n_items, "Encoding the catalogue", "items") as bar:
        for items in shards.iterate(items_per_chunk):
            with mixed(device, dtype):
                parts.append(model.encode_items(items.to(device)).float())
            bar.advance(len(items.item_I))
        input_ND = torch.cat(parts)
        return Catalogue(input_ND=input_ND, score_ND=model.item_vectors(input_ND))


def user_vectors(
    model: Pmmrec, catalogue: Catalogue, history: Lists, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The vectors of users with these histories, of which the most recent L items count. [U, D]"""
    device = catalogue.input_ND.device
    window_UL = history.recent(np.arange(len(history)), model.max_length)
    item_UL = torch.from_numpy(window_UL).to(device)
    valid_UL = item_UL > 0
    with _evaluating(model), mixed(device, dtype):
        e_ULD = catalogue.input_ND[(item_UL - 1).clamp(min=0)] * valid_UL[:, :, None]
        return model.user_vectors(e_ULD, valid_UL).float()


def evaluate_model(
    model: Pmmrec,
    shards: Shards,
    options: EvaluateOptions,
    *,
    dtype: torch.dtype = torch.float32,
    catalogue: Catalogue | None = None,
) -> pa.Table:
    """The ranks table (schemas.RANKS) of a model on all users of a target."""
    if catalogue is None:
        catalogue = embed_catalogue(
            model, shards, dtype=dtype, items_per_chunk=options.items_per_chunk
        )
    asked = questions(shards, options.split)
    ranks = []
    with progress(len(asked), "Ranking", "users") as bar:
        for start in range(0, len(asked), options.users_per_chunk):
            part = asked.rows(start, start + options.users_per_chunk)
            vectors = user_vectors(model, catalogue, part.history, dtype=dtype)
            ranks.append(
                rank_users(vectors, catalogue.score_ND, part, keep_history=options.keep_history)
            )
            bar.advance(len(part))
    return ranks_table(asked, np.concatenate(ranks), shards, keep_history=options.keep_history)


def ranks_table(asked: Queries, rank_U: Ints, shards: Shards, *, keep_history: bool) -> pa.Table:
    """Ranks with what metrics need beside them, one row a user."""
    columns = {
        "user": asked.user_U,
        "target": asked.target_U,
        "rank": rank_U,
        "candidates": count_candidates(asked, shards.n_items, keep_history=keep_history),
        "train_count": shards.train_count[asked.target_U].astype(np.int32),
    }
    return pa.table({name: pa.array(values, pa.int32()) for name, values in columns.items()})


def references(shards: Shards, options: EvaluateOptions) -> dict[str, dict[str, Any]]:
    """The summaries of popularity and chance on the same users."""
    asked, keep = questions(shards, options.split), options.keep_history
    popularity = rank_by_popularity(shards.train_count[1:], asked, keep_history=keep)
    chance = rank_by_chance(asked, shards.n_items, seed=options.seed, keep_history=keep)
    return {
        name: summarise(ranks_table(asked, ranks, shards, keep_history=keep))
        for name, ranks in (("popularity", popularity), ("random", chance))
    }


def write_metrics(
    folder: Path,
    ranks: pa.Table,
    shards: Shards,
    options: EvaluateOptions,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write ranks.parquet, then metrics.json (ranks-valid, metrics-valid for that split).

    Holds nothing that varies between equal evaluations. Returns what metrics.json holds.
    """
    suffix = "" if options.split == "test" else f"-{options.split}"
    with storage_errors(folder):
        with atomic_file(folder / f"ranks{suffix}.parquet") as temporary:
            write_table(temporary, ranks, RANKS)
            digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        metrics = {
            "split": options.split,
            "keep_history": options.keep_history,
            "users": ranks.num_rows,
            "items": shards.n_items,
            "repeated_targets": questions(shards, options.split).repeats(),
            "model": summarise(ranks),
            **references(shards, options),
            "ranks_sha256": digest,
            **about,
        }
        with atomic_file(folder / f"metrics{suffix}.json") as temporary:
            write_json(temporary, metrics)
    return metrics


@contextmanager
def _evaluating(model: Pmmrec) -> Iterator[None]:
    """Eval mode without gradients; the former mode comes back."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
