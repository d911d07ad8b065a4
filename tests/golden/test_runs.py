"""Runs that were trained before the code was moved about are evaluated and resumed as ever.

They lie below runs/ and stand for those that users have; `PMM_GOLDEN=runs python -m pytest
tests/golden` trains them again, which says that older ones need not work any more. Metrics are
compared within a hit, as processors round differently.
"""

import tomllib
from typing import Any

import pytest
from pmm_golden_compare import check_json
from pmm_golden_subjects import (
    MADE_BEFORE,
    last_loss,
    metrics_of,
    place_run,
    recipe_text_of,
    resolve_to_resume,
    resume,
    without_unread_options,
)

ADDED = {
    "train": {
        *("trackers", "windows", "choose_popularity", "sequences"),
        *("eval_start", "eval_test"),
    },
    "model": {
        "modality_gelu",
        "user_encoder",
        "user_positions",
        "user_convolution",
        "items",
        "negatives",
        "user_norm",
        "dap_tau_learned",
        "residual",
        "residual_from",
        "residual_drop",
        "residual_rate",
        "dap_candidates",
        "dap_prior",
    },
    "corruption": {"last_item"},
}
"""Options that came later, by table; a run of before has their defaults."""


def without_added(table: dict[str, Any], name: str) -> dict[str, Any]:
    """A table of a recipe without the options that came later, its own tables included."""
    return {
        key: without_added(value, key) if isinstance(value, dict) else value
        for key, value in table.items()
        if key not in ADDED.get(name, ())
    }


def on(name: str) -> str | None:
    return "Old Shoes" if name == "unisrec" else None


@pytest.mark.parametrize("name", MADE_BEFORE)
def test_a_run_of_before_is_evaluated_to_the_metrics_of_before(made: Any, name: str) -> None:
    found = metrics_of(made, place_run(made, name), target=on(name))
    check_json(f"metrics/{name}.json", found, rtol=1e-3, atol=1.01 / found["users"])


@pytest.mark.parametrize("name", MADE_BEFORE)
def test_a_run_of_before_is_resumed_without_a_word_about_another_recipe(
    made: Any, name: str
) -> None:
    for each in MADE_BEFORE:  # a fine-tuning names the run that it started from
        place_run(made, each)
    place = made.home.run(name)
    resumed = resolve_to_resume(made, name, place)
    now = tomllib.loads(recipe_text_of(made, resumed))
    before = tomllib.loads(without_unread_options(recipe_text_of(made, place), resumed.model.name))
    assert without_added(now, "") == without_added(before, "")
    ended = resume(made, place, epochs=2)
    assert (ended["ended"], ended["epochs"]) == ("epochs", 2)
    ended = resume(made, place, epochs=3)
    assert (ended["ended"], ended["epochs"]) == ("epochs", 3)
    told = {"steps": ended["steps"], "loss": last_loss(place)}
    check_json(f"metrics/{name}-resumed.json", told, rtol=1e-2)
