"""What a search tries next: a function of its seed and of the rows before, by Optuna."""

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from pmm.errors import InputError
from pmm.model.search_space import Choice, Interval, Space
from pmm.runs.recipe import Recipe
from pmm.storage.dotted_names import value_at
from pmm.tune.fitting import counts, stands_for_another
from pmm.tune.trial_rows import value_of

STARTUP = 10
"""Trials before the sampler learns from them; the first are the defaults and random draws."""


def propose(
    space: Space, base: Recipe, rows: Sequence[Mapping[str, Any]], *, seed: int
) -> dict[str, Any]:
    """The parameters of the trial after these rows; of the first the defaults.

    The sampler is made anew for each trial, seeded by its number, and is told the rows before: so a
    search that was stopped anywhere goes on as it would have, with no state of Optuna's to keep.

    Args:
        space: as `fit_space` made it.
        base: of the first trial.
        rows: of the trials before, failed ones included.
        seed: of the search.
    """
    if not rows:
        # A 0 that stands for another value stays, so that the first trial is a run of the defaults.
        active = {path: value_at(base, path) for path in space if counts(space[path], {}, base)}
        return {p: v for p, v in active.items() if v or not stands_for_another(space[p])}
    optuna = load_optuna()
    digest = hashlib.sha256(f"tune {seed} {len(rows) + 1}".encode()).digest()
    sampler = optuna.samplers.TPESampler(
        seed=int.from_bytes(digest[:4], "little"), n_startup_trials=STARTUP
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for row in rows:
        tried = row["parameters"]
        former = optuna.trial.create_trial(
            params=tried,
            distributions={path: _distribution(space[path]) for path in tried},
            value=max(0.0, value_of(row)),  # a failed trial counts as one that found nothing
        )
        study.add_trial(former)
    trial, chosen = study.ask(), dict[str, Any]()
    for path, each in space.items():
        if not counts(each, chosen, base):
            continue
        if isinstance(each, Choice):
            chosen[path] = trial.suggest_categorical(path, each.values)
        else:
            drawn = float(f"{trial.suggest_float(path, each.low, each.high, log=True):.3g}")
            chosen[path] = min(max(drawn, each.low), each.high)
    return chosen


def _distribution(each: Interval | Choice) -> Any:
    kinds = load_optuna().distributions
    if isinstance(each, Choice):
        return kinds.CategoricalDistribution(each.values)
    return kinds.FloatDistribution(each.low, each.high, log=True)


def load_optuna() -> Any:
    """Optuna, quiet.

    Raises:
        InputError: it is not installed.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise InputError(
            f"a search needs Optuna, which cannot be imported ({error}). Install PMM with its "
            "extra: pip install 'pmmrec[tune]', or from a checkout pip install -e '.[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
