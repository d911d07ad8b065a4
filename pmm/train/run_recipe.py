"""From what a user said (preset, recipe file, options) to the recipe of a run."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pmm.errors import InputError
from pmm.home import Home
from pmm.model.encoders import TextSpec
from pmm.model.pmmrec import Preset, preset
from pmm.recipe import merge, read_recipe, resolve
from pmm.shards.read import Shards
from pmm.train.loop import Recipe
from pmm.train.run_folder import RECIPE


def resolve_run(
    home: Home,
    run_dir: Path,
    target: str,
    chosen: Preset,
    values: Mapping[str, Any],
    *,
    resume: bool = False,
) -> Recipe:
    """The whole recipe of a run.

    Later layers win: the preset (a resumed run: what it was started with), the encoder whose tokens
    the shards hold, the given values. The target is the one named here.

    Raises:
        RecipeError: unknown keys or values of the wrong type.
        InputError, MissingArtefact: no such target, no shards, or the shards hold the tokens of a
            local encoder and nobody said where it is.
    """
    name = home.find_target(target)
    shards = Shards(home.shards(name))
    base: Mapping[str, Any] = {"model": asdict(preset(chosen))}
    if resume and (run_dir / RECIPE).is_file():
        base = read_recipe(run_dir / RECIPE)
    elif not shards.tokenizer["local"]:
        base = merge(base, {"model": {"text": {"encoder": shards.tokenizer["name"]}}})
    recipe = resolve(Recipe, merge(base, values, {"target": name}))
    unsaid = recipe.model.text.encoder == TextSpec().encoder
    if shards.tokenizer["local"] and unsaid and recipe.model.modality != "vision":
        raise InputError(
            f"{shards.place} holds the tokens of a local encoder, the folder "
            f"{shards.tokenizer['name']!r}. Say where it is: --text-encoder FOLDER"
        )
    return recipe
