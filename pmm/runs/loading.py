"""What a run reads: the shards that it is trained on; of a finished run its model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmm.advice import command
from pmm.errors import BrokenArtefact, InputError, MissingArtefact, PmmError, StaleArtefact
from pmm.ingest.targets.target_tables import command_to_ingest
from pmm.model.build import build_model, features_of
from pmm.model.encoders.specs import TextSpec
from pmm.model.features.item_features import ItemFeatures
from pmm.model.features.trunks import with_activations
from pmm.model.protocol import Recommender
from pmm.runs.compatibility import require_content, require_pictures, require_tokens
from pmm.runs.device import pick_device
from pmm.runs.folder import RECIPE, written_name
from pmm.runs.former_recipes import saved_values
from pmm.runs.recipe import Recipe, encoder_specs
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
            missing.append(f"{place} is not there. Run: {_commands_for(home, recipe, name)}")
    if missing:
        raise MissingArtefact("\n".join(missing))
    return parts


def _commands_for(home: Home, recipe: Recipe, name: str) -> str:
    """What makes a target's shards; its source is ingested first where that was not done."""
    specs = encoder_specs(recipe.model)
    said = "text" in specs and specs["text"].encoder != TextSpec().encoder
    shard = command_to_shard(name, home, text_encoder=specs["text"].encoder if said else None)
    if home.target(name).exists():
        return shard
    return f"{command_to_ingest(home, name)}; {shard}"


def command_to_train(run_dir: Path, recipe: Recipe, **how: object) -> str:
    """The command that trains a run again, or goes on with it, for messages.

    Args:
        run_dir: its folder.
        recipe: what it is made of. With `overwrite` the command reads all of it from the folder.
        how: `resume`, `overwrite`: options by name.
    """
    home = Home.holding(run_dir, "runs")
    start, usual = recipe.start, Recipe()
    return command(
        "train",
        stage=recipe.stage,
        target=None if recipe.stage == "pretrain" else recipe.target,
        sources=",".join(recipe.sources) or None,
        mixing=recipe.mixing if recipe.mixing != usual.mixing else None,
        model=recipe.model.name if recipe.model.name != usual.model.name else None,
        from_=start.run if start else None,
        transfer=start.transfer if start and start.transfer != "full" else None,
        recipe=run_dir.absolute() / RECIPE if how.get("overwrite") else None,
        name=_written_name(run_dir),
        home=home and home.option,
        **how,
    )


def command_to_train_again(run_dir: Path, **how: object) -> str:
    """The same of a run of which its folder alone is known, damaged as that may be.

    Where `how` says nothing, the run goes on if it has no weights yet, else it begins anew.
    """
    how = how or {"overwrite" if (run_dir / BEST).is_file() else "resume": True}
    try:
        return command_to_train(run_dir, saved_recipe(run_dir), **how)
    except PmmError:
        return _to_begin(run_dir, **how)


def _written_name(run_dir: Path) -> str:
    """A run's name as its maker wrote it; that of its folder where nothing says."""
    name = written_name(run_dir)
    try:
        return name if name and slug(name) == run_dir.name else run_dir.name
    except InputError:  # no name of ours
        return run_dir.name


def saved_recipe(run_dir: Path) -> Recipe:
    """The recipe that a run's folder holds.

    Raises:
        MissingArtefact: it is no run. BrokenArtefact: the recipe names nothing to train on, or no
            model. RecipeError: it holds what no recipe has.
    """
    path = run_dir / RECIPE
    if not path.is_file():
        raise MissingArtefact(f"{run_dir} is no run: it has no {RECIPE}. Run: {_to_begin(run_dir)}")
    values = saved_values(path)
    names = values.get("sources") if values.get("stage") == "pretrain" else [values.get("target")]
    named = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not named or not isinstance(values.get("model"), dict):
        raise BrokenArtefact(
            f"{path} names no target or has no table [model]: it is damaged. "
            f"Run: {_to_begin(run_dir, overwrite=True)}"
        )
    return resolve(Recipe, values, origin=str(path))


def _to_begin(run_dir: Path, **how: object) -> str:
    """The command that begins a run of which nothing but the name is known."""
    home = Home.holding(run_dir, "runs")
    where = {"name": _written_name(run_dir), "home": home and home.option}
    return command("train", target="NAME", **where, **how)


def _to_train_on(home: Home, target: str, model: str) -> str:
    return command("train", stage="scratch", target=target, model=model, home=home.option)


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
    found = load_run_whole(home, run_dir, device=device, target=target)
    return found.model, found.shards, found.about


@dataclass(frozen=True, kw_only=True)
class LoadedRun:
    """A run's best model, with all that it was built on."""

    model: Recommender
    """In eval mode."""
    shards: Shards
    """To rank."""
    about: dict[str, Any]
    """The header of its weights."""
    features: ItemFeatures | None
    """The frozen vectors that it reads, if any."""


def load_run_whole(
    home: Home, run_dir: Path, *, device: str = "auto", target: str | None = None
) -> LoadedRun:
    """The same with what the model was built on; arguments and errors as `load_run`."""
    recipe = saved_recipe(run_dir)
    own, options = recipe.names, recipe.model
    if target is None and len(own) > 1:
        raise InputError(f"{run_dir} was trained on {', '.join(own)}: say which one with --target")
    name = home.find_target(target or own[0])
    shards = Shards.of(home, name)
    if not (run_dir / BEST).is_file():
        made_by = command_to_train(run_dir, recipe, resume=True)
        raise MissingArtefact(f"{run_dir} has no evaluated weights yet. Run: {made_by}")
    again = command_to_train(run_dir, recipe, overwrite=True)
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
            f"{name}. Train on that: {_to_train_on(home, name, options.name)}"
        )
    left: tuple[str, ...] = ()
    if name not in parts:
        left, options = options.of_one_target, options.elsewhere()
    require_content(shards, options)
    on = pick_device(device)
    features = features_of(options, [shards], on)
    counts = shards.train_count[1:]
    model = build_model(options, shards.n_items, features, fresh=False, train_count=counts)
    model = model.to(on).eval()
    if name not in parts:
        require_tokens(shards, model)
    require_pictures(shards, model)
    # A training that still runs may have replaced the file since: the header of these weights.
    about = load_weights(run_dir / BEST, model, made_by=again, without=left)
    read = with_activations(shards, model, None, write=False)
    return LoadedRun(model=model, shards=read, about=about, features=features)
