"""Recipes of runs that were made when all baselines had the same options."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pmm.errors import RecipeError
from pmm.model import registry
from pmm.runs.train_options import TrainOptions
from pmm.storage.toml import read_recipe

_SHARED_BEFORE = frozenset(
    {"sasrec", "gru4rec", "nextitnet", "fdsa", "carca", "unisrec", "vqrec", "peterrec"}
)
"""Models whose runs may hold options that only others of them read."""
_READ_BY_NONE = frozenset(
    {"dropout", "table_std", "dense", "user_heads", "inner", "similarity", "text", "vision"}
    | {"features", "scaling", "causal", "residual", "same_target", "fake_ratio", "parts"}
    | {"centroids", "quantiser", "permutation", "permutation_epochs", "insertion", "freeze_users"}
)
"""Meant nothing to a model that has them no more."""
_ALWAYS = {"transductive": False, "sequence_weight": 0.0, "adapters": False}
"""Meant something to any model with another value than this, which was nobody's."""


def saved_values(path: Path) -> dict[str, Any]:
    """The values of a recipe that a run was saved with.

    Those of former versions, which held the options of all baselines for each of them, come without
    the ones that the run's model never read.

    Raises:
        InputError, RecipeError: the file cannot be read, as `read_recipe`.
        RecipeError: such an option changed the run, and is not to be had any more.
    """
    values = without_former_options(read_recipe(path), origin=str(path))
    return with_former_defaults(values)


def without_former_options(values: dict[str, Any], *, origin: str) -> dict[str, Any]:
    """The same of values that were read already; see `saved_values`."""
    model = values.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(name, str) or name not in _SHARED_BEFORE:
        return values
    known = {each.name for each in fields(registry.entry(name).options)}
    changed = [
        f"{key} = {model[key]!r}"
        for key, usual in _ALWAYS.items()
        if key in model and key not in known and model[key] != usual
    ]
    if changed:
        raise RecipeError(
            f"{origin}: {name} was trained with {' and '.join(changed)}, which it does not have "
            "any more. Train it again with --overwrite"
        )
    former = (_READ_BY_NONE | _ALWAYS.keys()) - known
    return {**values, "model": {k: v for k, v in model.items() if k not in former}}


_DEFAULTS_BEFORE: Mapping[str, Mapping[str, Any]] = {
    "train": {"choose_popularity": False},
    "model": {
        "user_encoder": "transformer",
        "user_positions": "absolute",
        "user_convolution": 0,
        "dap_candidates": "batch",
        "dap_prior": 0.0,
    },
}
"""What a run's recipe did not say before it could be chosen, and what was so then."""


def with_former_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """A run's values as they were meant, where its recipe is older than an option.

    A saved recipe holds every value, so one that is missing there is one that did not exist.
    """
    found = dict(values)
    for section, before in _DEFAULTS_BEFORE.items():
        given = values.get(section)
        if isinstance(given, Mapping):
            known = _known(section, given)
            found[section] = {**{k: v for k, v in before.items() if k in known}, **given}
    return found


def _known(section: str, given: Mapping[str, Any]) -> set[str]:
    """The options that a section has today; none where its model is unknown."""
    if section == "train":
        return {each.name for each in fields(TrainOptions)}
    name = str(given.get("name"))
    if name not in registry.models():
        return set()
    return {each.name for each in fields(registry.entry(name).options)}
