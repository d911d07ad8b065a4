"""`pmm evaluate`: a model's ranks over the whole catalogue, beside popularity and chance.

Shape legend: N items of the catalogue, U users of a chunk, L window of recent items, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmm.advice import command
from pmm.arrays import Int32s
from pmm.evaluate import gallery
from pmm.evaluate.catalogue import (
    Catalogue,
    embed_catalogue,
    rank_mixes,
    score_catalogue,
)
from pmm.evaluate.cold import ColdCuts, cold_cuts, summarise_cuts
from pmm.evaluate.evaluate_options import EvaluateOptions, EvaluateRequest, RankedPart
from pmm.evaluate.metrics import headline, measure, summarise, summarise_mix
from pmm.evaluate.neighbours import item_neighbours, rank_by_content, rank_by_neighbours, unit
from pmm.evaluate.popularity_and_chance import rank_by_chance, rank_by_popularity
from pmm.evaluate.popularity_mix import KAPPA, NO_POPULARITY, PopularityMix
from pmm.evaluate.publish import SameWeights, publish
from pmm.evaluate.ranking import Queries, count_candidates, top_items
from pmm.model.features.frozen_vectors import frozen_vectors
from pmm.model.protocol import ModelOptions, Recommender
from pmm.runs.device import pick_precision
from pmm.runs.folder import RECIPE
from pmm.runs.loading import is_own, load_run, targets_of
from pmm.runs.recipe import encoder_specs
from pmm.runs.trackers import drop_shown_evaluations
from pmm.shards.kinds import Split
from pmm.shards.read import Shards
from pmm.storage.home import Home, slug
from pmm.storage.snapshot import Snapshot


def questions(shards: Shards, split: Split) -> Queries:
    """All users with their true next item and their history before it."""
    sequences = shards.sequences()
    return Queries(
        user_U=np.arange(len(sequences), dtype=np.int32),
        target_U=sequences.target(split),
        history=sequences.history(split),
    )


def evaluate_model(
    model: Recommender,
    shards: Shards,
    options: EvaluateOptions,
    *,
    dtype: torch.dtype = torch.float32,
    catalogue: Catalogue | None = None,
) -> pa.Table:
    """The ranks table (schemas.RANKS) of a model on all users of a target."""
    return evaluate_mixes(
        model, shards, options, [NO_POPULARITY], dtype=dtype, catalogue=catalogue
    )[0]


def evaluate_mixes(
    model: Recommender,
    shards: Shards,
    options: EvaluateOptions,
    mixes: Sequence[PopularityMix],
    *,
    dtype: torch.dtype = torch.float32,
    catalogue: Catalogue | None = None,
) -> list[pa.Table]:
    """`evaluate_model` with several shares of popularity; items and users are encoded once."""
    if catalogue is None:
        catalogue = embed_catalogue(
            model, shards, dtype=dtype, items_per_chunk=options.items_per_chunk
        )
    asked = questions(shards, options.split)
    rank_MU = _rank(model, catalogue, asked, mixes, options, dtype)
    keep = options.keep_history
    return [ranks_table(asked, rank_U, shards, keep_history=keep) for rank_U in rank_MU]


def _rank(
    model: Recommender,
    catalogue: Catalogue,
    asked: Queries,
    mixes: Sequence[PopularityMix],
    options: EvaluateOptions,
    dtype: torch.dtype,
) -> NDArray[np.int32]:
    """int32 [mixes, U]."""
    return rank_mixes(
        model,
        catalogue,
        asked,
        mixes,
        keep_history=options.keep_history,
        users_per_chunk=options.users_per_chunk,
        dtype=dtype,
    )


def ranks_table(asked: Queries, rank_U: Int32s, shards: Shards, *, keep_history: bool) -> pa.Table:
    """Ranks with what metrics need beside them, one row a user."""
    columns = {
        "user": asked.user_U,
        "target": asked.target_U,
        "rank": rank_U,
        "candidates": count_candidates(asked, shards.n_items, keep_history=keep_history),
        "train_count": shards.train_count[asked.target_U].astype(np.int32),
    }
    return pa.table({name: pa.array(values, pa.int32()) for name, values in columns.items()})


Ranker = Callable[[Queries], Int32s]
"""Ranks without training of what is asked."""


def rankers(
    shards: Shards,
    options: EvaluateOptions,
    model: ModelOptions | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Ranker]:
    """What a model must beat, by name: popularity and chance; with `neighbours` those too.

    Args:
        shards: of the target.
        options: see there.
        model: whose encoders make the frozen vectors that `neighbours` compares.
        device: where they run.
    """
    keep = options.keep_history
    found: dict[str, Ranker] = {
        "popularity": lambda asked: rank_by_popularity(
            shards.train_count[1:], asked, keep_history=keep
        ),
        "random": lambda asked: rank_by_chance(
            asked, shards.n_items, seed=options.seed, keep_history=keep
        ),
    }
    if options.neighbours:
        near = item_neighbours(shards.sequences().train, shards.n_items)
        found["item kNN"] = lambda asked: rank_by_neighbours(near, asked, keep_history=keep)
        vector_ND = None if model is None else _content(shards, model, device)
        if vector_ND is not None:
            found["content kNN"] = lambda asked: rank_by_content(
                vector_ND, asked, keep_history=keep
            )
    return found


def _content(shards: Shards, model: ModelOptions, device: torch.device | str) -> Tensor | None:
    """Unit frozen vectors of the modalities that a model reads, behind one another. [N, D]"""
    read, specs = model.content, encoder_specs(model)
    if read == "none":
        return None
    found = frozen_vectors(
        shards,
        text=specs["text"] if read != "vision" else None,
        vision=specs["vision"] if read != "text" else None,
        device=device,
    )
    sides = [each for each in (found.text_ND, found.picture_ND) if each is not None]
    return torch.cat([unit(each_ND) for each_ND in sides], dim=1)


def references(
    shards: Shards, options: EvaluateOptions, ranked_by: Mapping[str, Ranker] | None = None
) -> dict[str, dict[str, Any]]:
    """The summaries of what a model must beat on the same users (`rankers`)."""
    asked = questions(shards, options.split)
    repeated_U = asked.repeated()
    return {
        name: summarise(
            ranks_table(asked, rank(asked), shards, keep_history=options.keep_history), repeated_U
        )
        for name, rank in (ranked_by or rankers(shards, options)).items()
    }


def _metrics(
    ranks: pa.Table,
    shards: Shards,
    options: EvaluateOptions,
    about: dict[str, Any],
    ranked_by: Mapping[str, Ranker],
) -> dict[str, Any]:
    """What metrics.json holds but for the digest: nothing that varies between evaluations."""
    repeated_U = questions(shards, options.split).repeated()
    return {
        "split": options.split,
        "keep_history": options.keep_history,
        "users": ranks.num_rows,
        "items": shards.n_items,
        "repeated_targets": int(repeated_U.sum()),
        "model": summarise(ranks, repeated_U),
        **references(shards, options, ranked_by),
        **about,
    }


def mixes_of(options: EvaluateOptions, about: Mapping[str, Any]) -> dict[str, PopularityMix]:
    """The shares of popularity that are ranked with: "none", then "chosen" and "balanced".

    Args:
        options: an alpha that is asked for is the chosen one.
        about: the header of the run's best weights, which has what the validation items chose. A
            run that was trained without choosing has nothing, and is ranked without.
    """
    stored, asked = about.get("popularity"), options.popularity_alpha
    found = {"none": NO_POPULARITY}
    if asked is not None:
        found["chosen"] = PopularityMix(alpha=asked, kappa=options.popularity_kappa or KAPPA)
    elif stored is not None:
        for name in ("chosen", "balanced"):
            kappa = options.popularity_kappa or stored["kappa"]
            found[name] = PopularityMix(alpha=stored[name], kappa=kappa)
    return found


def _summarise_mixes(
    mixes: Mapping[str, PopularityMix],
    tables: Sequence[pa.Table],
    cold_MC: NDArray[np.int32] | None,
) -> dict[str, dict[str, Any]]:
    """Metrics of each share of popularity, warm and cold targets and the cold cuts apart."""
    found = {
        name: {**asdict(mix), **summarise_mix(table)}
        for (name, mix), table in zip(mixes.items(), tables, strict=True)
    }
    if cold_MC is not None:
        for name, rank_C in zip(mixes, cold_MC, strict=True):
            found[name]["cold_cuts"] = measure(rank_C)
    return found


def drop_evaluations(run_dir: Path) -> None:
    """Remove what `evaluate_run` wrote about weights that are being replaced."""
    for pattern in ("metrics*.json", "ranks*.parquet", "gallery*.png"):
        for path in run_dir.glob(pattern):
            path.unlink(missing_ok=True)
    drop_shown_evaluations(run_dir)


def _suffix(split: Split, other_target: str = "") -> str:
    """What tells an evaluation's files apart from those of the test items of the run's own target.

    >>> _suffix("test"), _suffix("valid", "Kwai Movie")
    ('', '-kwai-movie-valid')
    """
    own = f"-{slug(other_target)}" if other_target else ""
    return own if split == "test" else f"{own}-{split}"


def ranks_file(run_dir: Path, asked: RankedPart, target: str | None = None) -> str:
    """The name of the ranks that `evaluate_run` writes into a run's folder.

    Args:
        run_dir: the run's folder.
        asked: the split, or which cold cuts.
        target: which dataset was ranked; None = the run's own.

    Raises:
        MissingArtefact, BrokenArtefact: as targets_of.
    """
    other = "" if target is None or is_own(run_dir, target) else target
    match asked:
        case "test" | "valid":
            return f"ranks{_suffix(asked, other)}.parquet"
        case "cold" | "cold-all":
            return f"ranks-{asked}{_suffix('test', other)}.parquet"


def evaluate_run(
    home: Home,
    run_dir: Path,
    options: EvaluateOptions | None = None,
    *,
    device: str = "auto",
    target: str | None = None,
) -> dict[str, Any]:
    """Evaluate a run's best checkpoint on all users of a target.

    Writes ranks.parquet, metrics.json and gallery.png into the run's folder (with -valid in their
    names for that split, and the target's slug where it is not the run's one target) and returns
    what metrics.json holds. Values are fractions. With `options.cold` ranks-cold.parquet has the
    held-out cuts, ranks-cold-all.parquet the paper's. All of them rank without a share of
    popularity; ranks-chosen.parquet has the ranks with the share that the validation items chose.

    Args:
        home: where the shards are.
        run_dir: the run's folder.
        options: see there.
        device: where to compute.
        target: which; None = the run's own. Another one is ranked as it is, without training.

    Raises:
        MissingArtefact: no such run, or it has no checkpoint yet, or no shards.
        StaleArtefact: the shards or the frozen encoders are not those of the training, or weights
            or shards were replaced while they were read.
        BrokenArtefact: a damaged checkpoint or recipe. StorageError: nothing can be written.
        InputError: the model cannot read the target's shards, or knows other items by their ids.
        PmmError: vectors that are no numbers.
    """
    options = options or EvaluateOptions()
    seen = Snapshot(run_dir / RECIPE, f"the run {run_dir}", command("evaluate", run_dir))
    with seen.reading():
        model, shards, about = load_run(home, run_dir, device=device, target=target)
    dtype = pick_precision(about["precision"], next(model.parameters()).device)
    catalogue = embed_catalogue(model, shards, dtype=dtype, items_per_chunk=options.items_per_chunk)
    mixes = mixes_of(options, about)
    every = list(mixes.values())
    mixed = evaluate_mixes(model, shards, options, every, dtype=dtype, catalogue=catalogue)
    ranks, tables, cold_MC = mixed[0], {"ranks": mixed[0]}, None
    ranked_by = rankers(shards, options, model.options, next(model.parameters()).device)
    facts: dict[str, Any] = {"run": run_dir.name, "target": shards.target}
    facts |= {"shards": shards.fingerprint, "step": about["step"], "epoch": about["epoch"]}
    suffix = _suffix(options.split, "" if is_own(run_dir, shards.target) else shards.target)
    if options.cold:
        cuts = cold_cuts(home, shards)
        cold_MC = _rank(model, catalogue, cuts.queries, every, options, dtype)
        facts["cold_start"] = _measure_cold(cuts, cold_MC[0], ranked_by)
        tables |= _cold_tables(cuts, cold_MC[0], shards, options)
        cold_MC = cold_MC[:, cuts.held_out_C]
    if len(mixes) > 1:
        facts["popularity_mix"] = _summarise_mixes(mixes, mixed, cold_MC)
        tables["ranks-chosen"] = mixed[1]
    metrics = _metrics(ranks, shards, options, facts, ranked_by)
    draw = _gallery(model, shards, ranks, options, catalogue, metrics, dtype)
    with seen.reading():
        still = (seen, shards, SameWeights(run_dir, about))
        publish(run_dir, suffix, tables, metrics, draw=draw, still=still)
    return metrics


def _gallery(
    model: Recommender,
    shards: Shards,
    ranks: pa.Table,
    options: EvaluateOptions,
    catalogue: Catalogue,
    metrics: dict[str, Any],
    dtype: torch.dtype,
) -> Callable[[Path], None] | None:
    """What draws the gallery into a file; None where none is wanted."""
    if not options.gallery_users:
        return None
    rows = gallery_rows(model, shards, ranks, options, catalogue, dtype=dtype)
    return partial(_draw_gallery, shards=shards, rows=rows, options=options, metrics=metrics)


def evaluate_as_asked(request: EvaluateRequest) -> Iterator[dict[str, Any]]:
    """What `evaluate_run` returns, for the target that was asked for or for each of the run's.

    Raises:
        as `evaluate_run`.
    """
    home, run_dir = request.place()
    for name in [request.target] if request.target else targets_of(run_dir):
        yield evaluate_run(home, run_dir, request, device=request.device, target=name)


def _measure_cold(
    cuts: ColdCuts, rank_C: NDArray[np.int32], ranked_by: Mapping[str, Ranker]
) -> dict[str, Any]:
    """The metrics of the cold cuts beside what a model must beat."""
    others = {name: rank(cuts.queries) for name, rank in ranked_by.items()}
    return summarise_cuts(cuts, {"model": rank_C, **others})


def _cold_tables(
    cuts: ColdCuts, rank_C: NDArray[np.int32], shards: Shards, options: EvaluateOptions
) -> dict[str, pa.Table]:
    """The model's ranks of the held-out cuts, and of all, by the names of their files."""
    ranks = ranks_table(cuts.queries, rank_C, shards, keep_history=options.keep_history)
    return {"ranks-cold": ranks.filter(pa.array(cuts.held_out_C)), "ranks-cold-all": ranks}


def gallery_rows(
    model: Recommender,
    shards: Shards,
    ranks: pa.Table,
    options: EvaluateOptions,
    catalogue: Catalogue,
    *,
    dtype: torch.dtype = torch.float32,
) -> list[gallery.Row]:
    """Users to show, drawn by seed: half of them hits (rank <= 10) where there are so many."""
    rank_U = ranks["rank"].to_numpy()
    generator = np.random.default_rng(options.seed)
    order = generator.permutation(len(rank_U))
    hit = rank_U[order] <= gallery.TOP
    wanted = options.gallery_users
    n_hits = min(int(hit.sum()), max(wanted // 2, wanted - int((~hit).sum())))
    chosen = np.concatenate([order[hit][:n_hits], order[~hit][: wanted - n_hits]])
    return rows_of_users(model, shards, ranks, chosen.tolist(), options, catalogue, dtype=dtype)


def rows_of_users(
    model: Recommender,
    shards: Shards,
    ranks: pa.Table,
    users: Sequence[int],
    options: EvaluateOptions,
    catalogue: Catalogue,
    *,
    dtype: torch.dtype = torch.float32,
) -> list[gallery.Row]:
    """What these users (rows of `ranks`) had, would do next, and are offered."""
    asked, rows = questions(shards, options.split), []
    for user in users:
        part = asked.rows(user, user + 1)
        score_1N = score_catalogue(model, catalogue, part.history, dtype=dtype)
        top = top_items(score_1N, part, k=gallery.TOP, keep_history=options.keep_history)
        rows.append(
            gallery.Row(
                user=user,
                history=part.history[0].tolist(),
                target=int(part.target_U[0]),
                rank=ranks["rank"][user].as_py(),
                candidates=ranks["candidates"][user].as_py(),
                top=top[0].tolist(),
            )
        )
    return rows


def _draw_gallery(
    path: Path,
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
    records = {item: shards.record(item) for item in shown}
    # Of what has neither text nor picture, as items known by their ids alone, the id is shown.
    texts = {
        item: str(each["text"] or ("" if item in pictures else each["item_id"]))
        for item, each in records.items()
    }
    hits = sum(row.rank <= gallery.TOP for row in rows)
    title = (
        f"{shards.target}, {options.split} items, run {path.parent.name}: "
        f"{headline(metrics['model'])} (drawn at random; hits: {hits}, misses: {len(rows) - hits})"
    )
    gallery.draw(rows, pictures, texts, path, title=title)
