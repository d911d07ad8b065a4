"""Runs of former versions hold the options of all baselines; only saved recipes may."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from pmm.errors import RecipeError
from pmm.runs.former_recipes import saved_values
from pmm.runs.recipe import Recipe
from pmm.storage.toml import read_recipe, resolve

RUNS = Path(__file__).parents[1] / "golden" / "runs"


def written(folder: Path, **model: Any) -> Path:
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps({"target": "HM", "model": model}), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["sasrec", "unisrec"])
def test_a_saved_recipe_loses_what_its_model_never_read(name: str) -> None:
    path = RUNS / name / "recipe.toml"
    before, found = read_recipe(path), saved_values(path)
    model = resolve(Recipe, found).model
    later = vars(model).keys() - found["model"].keys()
    assert later <= {"user_norm"}, "it came after this run, which had its default"
    added = {"user_encoder", "user_positions", "user_convolution"}
    assert found["model"].keys() < {*before["model"], *added}
    assert all(before["model"].get(key, value) == value for key, value in found["model"].items())
    assert (model.user_positions, model.user_convolution) == ("absolute", 0)
    with pytest.raises(RecipeError, match=r'unknown key "model.causal'):
        resolve(Recipe, before)


def test_a_recipe_of_other_models_is_taken_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, name="pmmrec", causal=True)
    before = {"user_positions": "absolute", "user_convolution": 0, "user_encoder": "transformer"}
    before |= {"dap_candidates": "batch", "dap_prior": 0.0}
    assert saved_values(path)["model"] == {"name": "pmmrec", "causal": True, **before}
    with pytest.raises(RecipeError, match=r'unknown key "model.wdth'):
        resolve(Recipe, saved_values(written(tmp_path, name="sasrec", wdth=3)))
    with pytest.raises(RecipeError, match=r"model\.name = \['sasrec'\] should be one of 'pmmrec'"):
        resolve(Recipe, saved_values(written(tmp_path, name=["sasrec"])))


def test_a_former_option_that_changed_a_run_is_told_of(tmp_path: Path) -> None:
    assert (
        "transductive"
        not in saved_values(written(tmp_path, name="peterrec", transductive=False))["model"]
    )
    with pytest.raises(RecipeError, match="peterrec was trained with transductive = True, which"):
        saved_values(written(tmp_path, name="peterrec", transductive=True))
