"""`pmm evaluate`: a model's ranks over the whole catalogue, beside popularity and chance.

Shape legend: N items of the catalogue, U users of a chunk, L window of recent items, D width.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pmm.artefact import atomic_file, storage_errors, write_json
from pmm.errors import BrokenArtefact, InputError, MissingArtefact, StaleArtefact
from pmm.evaluate import gallery
from pmm.evaluate.checkpoint import BEST, load_weights, read_header
from pmm.evaluate.device import mixed, pick_device, pick_precision
from pmm.evaluate.metrics import headline, summarise
from pmm.evaluate.ranking import Ints, Queries, count_candidates, rank_users, top_items
from pmm.evaluate.references import rank_by_chance, rank_by_popularity
from pmm.home import Home
from pmm.model.pmmrec import Pmmrec, PmmrecOptions
from pmm.progress import progress
from pmm.recipe import read_recipe, resolve
from pmm.schemas import RANKS, write_table
from pmm.shards.batch import Items
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
    items_per_chunk: int = 64
    """Items encoded together; on a CPU 64 take 15% less time an item than 256."""
    users_per_chunk: int = 1024
    """Users ranked together."""

    def __post_init__(self) -> None:
        least = {"seed": 0, "gallery_users": 0, "items_per_chunk": 1, "users_per_chunk": 1}
        low = [
            f"{name} must be at least {n}" for name, n in least.items() if getattr(self, name) < n
        ]
        if low:
            raise InputError("; ".join(low))


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
    model: Pmmrec, shards: Shards, *, dtype: torch.dtype = torch.float32, items_per_chunk: int = 64
) -> Catalogue:
    """Encode every item once, in eval mode; the vectors stay on the model's device in float32."""
    device = next(model.parameters()).device
    parts: list[Tensor] = []
    with _evaluating(model), progress(shards.n_items, "Encoding the catalogue", "items") as bar:
        for items in _read_ahead(shards, items_per_chunk):
            with mixed(device, dtype):
                parts.append(model.encode_items(items.to(device)).float())
            bar.advance(len(items.item_I))
        input_ND = torch.cat(parts)
        return Catalogue(input_ND=input_ND, score_ND=model.item_vectors(input_ND))


def _read_ahead(shards: Shards, chunk: int) -> Iterator[Items]:
    """All items in order; a thread decodes the next pictures while these are encoded."""
    chunks = shards.iterate(chunk)
    with ThreadPoolExecutor(1, thread_name_prefix="pmm-catalogue") as pool:
        coming = pool.submit(next, chunks, None)
        while (items := coming.result()) is not None:
            coming = pool.submit(next, chunks, None)
            yield items


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
    repeated_U = asked.repeated()
    return {
        name: summarise(ranks_table(asked, ranks, shards, keep_history=keep), repeated_U)
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
    suffix = _suffix(options.split)
    repeated_U = questions(shards, options.split).repeated()
    with storage_errors(folder):
        with atomic_file(folder / f"ranks{suffix}.parquet") as temporary:
            write_table(temporary, ranks, RANKS)
            digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        metrics = {
            "split": options.split,
            "keep_history": options.keep_history,
            "users": ranks.num_rows,
            "items": shards.n_items,
            "repeated_targets": int(repeated_U.sum()),
            "model": summarise(ranks, repeated_U),
            **references(shards, options),
            "ranks_sha256": digest,
            **about,
        }
        with atomic_file(folder / f"metrics{suffix}.json") as temporary:
            write_json(temporary, metrics)
    return metrics


def drop_evaluations(run_dir: Path) -> None:
    """Remove what `evaluate_run` wrote about weights that are being replaced."""
    for split in get_args(Split):
        for name in (f"metrics{_suffix(split)}.json", f"ranks{_suffix(split)}.parquet"):
            (run_dir / name).unlink(missing_ok=True)
        (run_dir / f"gallery{_suffix(split)}.png").unlink(missing_ok=True)


def _suffix(split: Split) -> str:
    return "" if split == "test" else f"-{split}"


def evaluate_run(
    home: Home, run_dir: Path, options: EvaluateOptions | None = None, *, device: str = "auto"
) -> dict[str, Any]:
    """Evaluate a run's best checkpoint on all users of its target.

    Writes ranks.parquet, metrics.json and gallery.png into the run's folder (with -valid in their
    names for that split) and returns what metrics.json holds. Values are fractions.

    Raises:
        MissingArtefact: no such run, or it has no checkpoint yet, or no shards.
        StaleArtefact: the shards or the frozen encoders are not those of the training.
        BrokenArtefact: a damaged checkpoint or recipe. StorageError: nothing can be written.
        PmmError: vectors that are no numbers.
    """
    options = options or EvaluateOptions()
    model, shards, about = load_run(home, run_dir, device=device)
    dtype = pick_precision(about["precision"], next(model.parameters()).device)
    catalogue = embed_catalogue(model, shards, dtype=dtype, items_per_chunk=options.items_per_chunk)
    ranks = evaluate_model(model, shards, options, dtype=dtype, catalogue=catalogue)
    facts = {"run": run_dir.name, "target": shards.target, "shards": shards.fingerprint}
    facts |= {"step": about["step"], "epoch": about["epoch"]}
    metrics = write_metrics(run_dir, ranks, shards, options, facts)
    if options.gallery_users:
        rows = gallery_rows(model, shards, ranks, options, catalogue, dtype=dtype)
        with storage_errors(run_dir):
            _draw_gallery(run_dir, shards, rows, options, metrics)
    return metrics


def load_run(
    home: Home, run_dir: Path, *, device: str = "auto"
) -> tuple[Pmmrec, Shards, dict[str, Any]]:
    """A run's best model in eval mode, the shards it was trained on, and its checkpoint's header.

    Raises:
        as evaluate_run.
    """
    if not (run_dir / "recipe.toml").is_file():
        raise MissingArtefact(f"{run_dir} is no run: it has no recipe.toml. Run: pmm train")
    recipe = read_recipe(run_dir / "recipe.toml")
    if not isinstance(recipe.get("target"), str) or not isinstance(recipe.get("model"), dict):
        raise BrokenArtefact(
            f"{run_dir / 'recipe.toml'} names no target or has no table [model]: it is damaged. "
            "Run: pmm train (see --help) with --overwrite"
        )
    target = recipe["target"]
    shards = Shards(home.shards(home.find_target(target)))
    again = f'pmm train --stage scratch --target "{target}" --name {run_dir.name}'
    if not (run_dir / BEST).is_file():
        raise MissingArtefact(f"{run_dir} has no evaluated weights yet. Run: {again} --resume")
    again += " --overwrite"
    made_on = read_header(run_dir / BEST, made_by=again)["shards"]
    if made_on != shards.fingerprint:
        raise StaleArtefact(
            f"{run_dir} was trained on shards {made_on[:8]}, but {shards.place} is now "
            f"{shards.fingerprint[:8]}. Run: {again}"
        )
    options = resolve(PmmrecOptions, recipe["model"], origin=str(run_dir / "recipe.toml"))
    model = Pmmrec(options).to(pick_device(device)).eval()
    # A training that still runs may have replaced the file since: the header of these weights.
    return model, shards, load_weights(run_dir / BEST, model, made_by=again)


def gallery_rows(
    model: Pmmrec,
    shards: Shards,
    ranks: pa.Table,
    options: EvaluateOptions,
    catalogue: Catalogue,
    *,
    dtype: torch.dtype = torch.float32,
) -> list[gallery.Row]:
    """Users to show, drawn by seed: half of them hits (rank <= 10) where there are so many."""
    asked, rank_U = questions(shards, options.split), ranks["rank"].to_numpy()
    generator = np.random.default_rng(options.seed)
    order = generator.permutation(len(rank_U))
    hit = rank_U[order] <= gallery.TOP
    wanted = options.gallery_users
    n_hits = min(int(hit.sum()), max(wanted // 2, wanted - int((~hit).sum())))
    chosen = np.concatenate([order[hit][:n_hits], order[~hit][: wanted - n_hits]])
    rows = []
    for user in chosen.tolist():
        part = asked.rows(user, user + 1)
        vector = user_vectors(model, catalogue, part.history, dtype=dtype)
        top = top_items(
            vector, catalogue.score_ND, part, k=gallery.TOP, keep_history=options.keep_history
        )
        rows.append(
            gallery.Row(
                user=user,
                history=part.history[0].tolist(),
                target=int(part.target_U[0]),
                rank=int(rank_U[user]),
                candidates=ranks["candidates"][user].as_py(),
                top=top[0].tolist(),
            )
        )
    return rows


def _draw_gallery(
    run_dir: Path,
    shards: Shards,
    rows: list[gallery.Row],
    options: EvaluateOptions,
    metrics: dict[str, Any],
) -> None:
    shown = {
        item
        for row in rows
        for item in (*row.history[-gallery.HISTORY :], row.target, *row.top)
        if item
    }
    pictures = {item: shards.picture(item) for item in shown if shards.has_picture[item]}
    texts = {item: str(shards.record(item)["text"]) for item in shown}
    hits = sum(row.rank <= gallery.TOP for row in rows)
    title = (
        f"{shards.target}, {options.split} items, run {run_dir.name}: "
        f"{headline(metrics['model'])} (drawn at random; hits: {hits}, misses: {len(rows) - hits})"
    )
    path = run_dir / f"gallery{_suffix(options.split)}.png"
    gallery.draw(rows, pictures, texts, path, title=title)


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
