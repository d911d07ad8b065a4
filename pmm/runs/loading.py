"""What a run reads: the shards that it is trained on; of a finished run its model."""

from pathlib import Path
from typing import Any

from pmm.errors import BrokenArtefact, InputError, MissingArtefact, StaleArtefact
from pmm.model import registry
from pmm.model.build import build_model, features_of
from pmm.model.features.trunks import with_activations
from pmm.model.protocol import Recommender
from pmm.runs.compatibility import require_pictures, require_tokens
from pmm.runs.device import pick_device
from pmm.runs.folder import RECIPE
from pmm.runs.former_recipes import saved_values
from pmm.runs.recipe import Recipe
from pmm.runs.weights import BEST, load_weights, read_header
from pmm.shards.read import Shards
from pmm.shards.write import command as command_to_shard
from pmm.storage.home import Home, slug
from pmm.storage.toml import resolve


def open_parts(home: Home, recipe: Recipe) -> list[Shards]:
    """The shards that a recipe is trained on.

    Raises:
        MissingArtefact: some have not been made; the message has the command for each.
    """
    parts, missing = [], []
    for name in recipe.names:
        place = home.shards(home.find_target(name))
        if place.exists():
            parts.append(Shards(place, home))
        else:
            missing.append(f"{place} is not there. Run: {_commands_for(home, name)}")
    if missing:
        raise MissingArtefact("\n".join(missing))
    return parts


def _commands_for(home: Home, name: str) -> str:
    """What makes a target's shards; its source is ingested first where that was not done."""
    shard = command_to_shard(name)
    if home.target(name).exists():
        return shard
    return f"pmm ingest {name.split()[0].lower()}; {shard}"


def saved_recipe(run_dir: Path) -> Recipe:
    """The recipe that a run's folder holds.

    Raises:
        MissingArtefact: it is no run. BrokenArtefact: the recipe names nothing to train on, or no
            model. RecipeError: it holds what no recipe has.
    """
    path = run_dir / RECIPE
    if not path.is_file():
        raise MissingArtefact(f"{run_dir} is no run: it has no {RECIPE}. Run: pmm train")
    values = saved_values(path)
    names = values.get("sources") if values.get("stage") == "pretrain" else [values.get("target")]
    named = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not named or not isinstance(values.get("model"), dict):
        raise BrokenArtefact(
            f"{path} names no target or has no table [model]: it is damaged. "
            "Run: pmm train (see --help) with --overwrite"
        )
    return resolve(Recipe, values, origin=str(path))


def targets_of(run_dir: Path) -> list[str]:
    """What a run was trained on: its target, or its sources; errors as `saved_recipe`."""
    return list(saved_recipe(run_dir).names)


def is_own(run_dir: Path, target: str) -> bool:
    """Whether a target is the one that a run was trained on; errors as `saved_recipe`."""
    return [slug(name) for name in targets_of(run_dir)] == [slug(target)]


def load_run(
    home: Home, run_dir: Path, *, device: str = "auto", target: str | None = None
) -> tuple[Recommender, Shards, dict[str, Any]]:
    """A run's best model in eval mode, shards to rank, and its checkpoint's header.

    Raises:
        as `pmm.evaluate.evaluation.evaluate_run`.
    """
    recipe = saved_recipe(run_dir)
    own, options = recipe.names, recipe.model
    if target is None and len(own) > 1:
        raise InputError(f"{run_dir} was trained on {', '.join(own)}: say which one with --target")
    name = home.find_target(target or own[0])
    shards = Shards.of(home, name)
    stage = recipe.stage
    what = f'--target "{own[0]}"' if stage != "pretrain" else f'--sources "{",".join(own)}"'
    which = "" if options.name == registry.DEFAULT_MODEL else f" --model {options.name}"
    again = f"pmm train --stage {stage} {what}{which} --name {run_dir.name}"
    if not (run_dir / BEST).is_file():
        raise MissingArtefact(f"{run_dir} has no evaluated weights yet. Run: {again} --resume")
    again += " --overwrite"
    header = read_header(run_dir / BEST, made_by=again)
    parts = header.get("parts") or {home.find_target(own[0]): header["shards"]}
    made_on = parts.get(name, shards.fingerprint)  # of another target: nothing to hold against
    if made_on != shards.fingerprint:
        raise StaleArtefact(
            f"{run_dir} was trained on shards {made_on[:8]}, but {shards.place} is now "
            f"{shards.fingerprint[:8]}. Run: {again}"
        )
    if name not in parts and options.knows_items:
        raise InputError(
            f"{run_dir} knows the items of {', '.join(own)} one by one, which says nothing of "
            f'{name}. Train on that: pmm train --stage scratch --target "{name}" '
            f"--model {options.name}"
        )
    on = pick_device(device)
    features = features_of(options, [shards], on)
    model = build_model(options, shards.n_items, features, fresh=False).to(on).eval()
    # A training that still runs may have replaced the file since: the header of these weights.
    about = load_weights(run_dir / BEST, model, made_by=again)
    if name not in parts:
        require_tokens(shards, model)
        require_pictures(shards, model)
    return model, with_activations(shards, model, None, write=False), about
