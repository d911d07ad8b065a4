"""`pmm tune`: as many trials for every model -> the best options by the validation items.

The first trial is what a run would have been without a search, so a search cannot end below the
defaults. What a later trial tries is a function of the seed and of the rows before it, and a trial
is an ordinary run; so a search that was stopped anywhere goes on to the rows that it would have had
(but for their seconds, and for what a limit in minutes cuts off). The test items are never read.

Below the home folder: `tuning/<target>/<model>/` with search.json (what is searched, from what),
trials.jsonl (one row a finished trial) and best.toml (a recipe), and a run for each trial.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pmm.errors import InputError, PmmError
from pmm.model.registry import space_of
from pmm.runs.folder import LOG
from pmm.runs.loading import open_parts
from pmm.runs.recipe import with_whole_paths
from pmm.runs.request import TrainRequest, TuneRequest
from pmm.runs.resolve import resolve_run
from pmm.storage.artefact import storage_errors
from pmm.storage.dotted_names import flat, short_name, written
from pmm.storage.home import Home
from pmm.storage.toml import merge
from pmm.train.curves import read_log
from pmm.train.interrupt import underway
from pmm.train.train_run import train
from pmm.tune.best_recipe import hardware_of, result_of, write_best
from pmm.tune.fitting import fit_space
from pmm.tune.proposals import load_optuna, propose
from pmm.tune.search_folder import TRIALS, Search, claimed, forget, keep_or_compare
from pmm.tune.trial_rows import open_rows, read_rows, trials_table

__all__ = ["trials_table", "tune", "tune_as_asked"]

logger = logging.getLogger(__name__)


def tune_as_asked(request: TuneRequest, *, command: str = "") -> dict[str, Any]:
    """The search that is asked for; returns and raises what `tune` does.

    Args:
        request: what is searched, on what, and how long.
        command: as the user typed it, for the rows and the runs.
    """
    return tune(
        request.place(),
        request.of_each_trial(),
        request.values(),
        budget=request.budget,
        seed=request.seed,
        minutes=request.minutes,
        overwrite=request.overwrite,
        command=command,
    )


def tune(
    home: Home,
    request: TrainRequest,
    values: Mapping[str, Any],
    *,
    budget: int,
    seed: int = 0,
    minutes: float = 0.0,
    overwrite: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Search a model's options on a target, or go on with a search that was stopped.

    Args:
        home: where the shards are, and the search and its runs go.
        request: model, target, and how each trial is trained; not in pre-training.
        values: of the recipe, kept in all trials and not searched.
        budget: trials, failed ones included. What earlier calls did counts; of more than these the
            first count, so that models with the same budget can be compared.
        seed: of what is tried, and of the training where the values do not say.
        minutes: of a trial at most; 0 leaves the recipe's limits. Results then depend on the
            machine's speed.
        overwrite: delete an earlier search of this model and target with its runs.
        command: as the user typed it, for the rows and the runs.

    Returns:
        folder, ended (budget or interrupted), rows, best (a row; None before the first finished
        trial), run (of the best), recipe (best.toml), next (what to run).

    Raises:
        InputError: wrong options, or Optuna is missing.
        RecipeError, StaleArtefact: the folder holds a search from other options or on other shards.
        PmmError: all trials failed.
    """
    search = _prepare(home, request, values, budget=budget, seed=seed, minutes=minutes)
    search = replace(search, command=command)
    with claimed(search.folder):
        if overwrite:
            forget(search)
        keep_or_compare(search)
        with underway(), closing(open_rows(search.folder / TRIALS)) as log:
            rows = read_rows(search.folder / TRIALS, search.space)
            while len(rows) < budget:
                row = _run_trial(search, rows, budget)
                if row is None:
                    break
                with storage_errors(search.folder / TRIALS):
                    log.write(row)
                rows.append(row)
                write_best(search, rows)
        ended = "budget" if len(rows) >= budget else "interrupted"
        return result_of(search, rows[:budget], ended)


def _prepare(
    home: Home,
    request: TrainRequest,
    values: Mapping[str, Any],
    *,
    budget: int,
    seed: int,
    minutes: float,
) -> Search:
    """What is to be searched; errors as `tune`, before anything is written."""
    load_optuna()
    if budget < 1:
        raise InputError(f"--budget {budget}: a search needs 1 trial at least")
    if seed < 0:
        raise InputError(f"--seed {seed} should be 0 or above")
    if not (math.isfinite(minutes) and minutes >= 0):
        raise InputError(f"--minutes {minutes} should be 0 (no limit) or above")
    if request.stage == "pretrain":
        raise InputError("a search is on one --target: --stage scratch or finetune")
    values = merge({"train": {"seed": seed}}, values)
    limit = {"train": {"max_minutes": minutes or None}}
    base = with_whole_paths(resolve_run(home, home.run("tune"), request, merge(values, limit)))
    (shards,) = open_parts(home, base)
    return Search(
        home=home,
        request=request,
        values=values,
        minutes=minutes,
        base=base,
        space=fit_space(space_of(base.model.name), base, set(flat(values))),
        seed=seed,
        shards=shards.fingerprint,
    )


def _run_trial(
    search: Search, rows: Sequence[Mapping[str, Any]], budget: int
) -> dict[str, Any] | None:
    """Train the trial after these rows, or go on with it; None: it was interrupted."""
    number = len(rows) + 1
    parameters = propose(search.space, search.base, rows, seed=search.seed)
    run_dir = search.run(number)
    told = ", ".join(f"{short_name(path)} {written(value)}" for path, value in parameters.items())
    logger.info("trial %d of %d: %s", number, budget, told)
    recipe = search.recipe(parameters)
    row: dict[str, Any] = {"number": number, "state": "finished", "parameters": parameters}
    began = time.perf_counter()
    try:
        found = train(
            search.home,
            run_dir,
            recipe,
            existing="resume",
            command=search.command,
            made_on=search.shards,
        )
    except PmmError as error:
        if type(error) is not PmmError:  # options, files, a full disk: not the trial's fault
            raise
        logger.warning("trial %d failed: %s", number, error)
        seconds = round(time.perf_counter() - began, 1)
        row |= {"state": "failed", "hr@10": None, "ndcg@10": None, "steps": None, "epochs": None}
        row |= {"seconds": seconds, "ended": "failed", "error": str(error)}
    else:
        if found["ended"] == "interrupted":
            return None
        row |= {"hr@10": found["best_hr@10"] or 0.0, "ndcg@10": _ndcg(run_dir, found["best_hr@10"])}
        row |= {"best_epoch": found["best_epoch"]}
        row |= {name: found[name] for name in ("steps", "epochs", "seconds", "ended")}
    row |= {"hardware": hardware_of(run_dir), "seen": time.strftime("%Y-%m-%d")}
    return row | {"run": run_dir.name, "command": search.command}


def _ndcg(run_dir: Path, best: float | None) -> float:
    """NDCG@10 of the ranking that had the best HR@10, be it with a share of popularity; of the
    first evaluation that had it, as its weights were kept. Epoch 0 is only recorded."""
    for each in read_log(run_dir / LOG):
        for ranking in ("", "mixed_") if each["kind"] == "evaluation" and each["step"] else ():
            if each.get(f"{ranking}hr@10") == best and f"{ranking}ndcg@10" in each:
                return float(each[f"{ranking}ndcg@10"])
    return 0.0
