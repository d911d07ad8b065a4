"""`pmm train`: shards of a target, or of several sources -> a run's folder with its checkpoints."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pmm.data.training_set import TrainingSet
from pmm.errors import PmmError, RecipeError, StaleArtefact
from pmm.model.build import build_model, features_of
from pmm.model.encoders.encoder_origin import origin_of
from pmm.model.features.trunks import trunks_of, write_trunks
from pmm.model.protocol import ModelOptions
from pmm.runs import folder as run_folder
from pmm.runs.checkpoint import LAST
from pmm.runs.compatibility import require_content, require_pictures, require_tokens
from pmm.runs.device import pick_device
from pmm.runs.folder import LOG, RECIPE, Existing
from pmm.runs.former_recipes import saved_values
from pmm.runs.loading import open_parts
from pmm.runs.names import run_folder_of
from pmm.runs.recipe import CHANGEABLE, Recipe, encoder_specs, with_whole_paths
from pmm.runs.request import CacheRequest, TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.trackers import TrackedLog, require_trackers
from pmm.runs.transfer import take_over, write_report
from pmm.storage.artefact import storage_errors
from pmm.storage.home import Home
from pmm.storage.toml import dump, resolve
from pmm.train import curves
from pmm.train.interrupt import Interrupt, underway
from pmm.train.trainer import Trainer

logger = logging.getLogger(__name__)


def train_as_asked(request: TrainRequest, *, command: str = "") -> dict[str, Any]:
    """Train what was asked for; returns and raises what `train` and `resolve_run` do.

    Args:
        request: what is trained, on what, and how.
        command: as the user typed it, for run.json.
    """
    home = request.place()
    run_dir = run_folder_of(home, request)
    recipe = resolve_run(home, run_dir, request, {}, resume=request.resume)
    existing: Existing = "refuse"
    if request.resume or request.overwrite:
        existing = "resume" if request.resume else "overwrite"
    return train(
        home,
        run_dir,
        recipe,
        existing=existing,
        command=command,
        profile=request.profile,
        name=(request.name or "").strip(),
    )


def train(
    home: Home,
    run_dir: Path,
    recipe: Recipe,
    *,
    existing: Existing = "refuse",
    command: str = "",
    profile: bool = False,
    name: str = "",
    made_on: str = "",
) -> dict[str, Any]:
    """Train a model on shards until it ends, or until Ctrl-C.

    Writes recipe.toml, run.json, log.jsonl, what `train.trackers` asks for, first_batch.json and
    .png, checkpoint/best.safetensors (the best validation HR@10), checkpoint/last.safetensors
    (where --resume goes on), curves.png.

    Args:
        home: where the target's shards are.
        run_dir: the run's folder.
        recipe: everything else.
        existing: what to do if the folder holds a run: refuse, resume or overwrite it.
        command: as the user typed it, for run.json.
        profile: print where the time of a step goes, once that is measured.
        name: of the run, as the user wrote it.
        made_on: fingerprint of the only shards that will do; of any where it is empty.

    Returns:
        run, ended (epochs, patience, max_steps, max_minutes or interrupted), steps, epochs,
        best_hr@10 and best_epoch on the validation items, popularity_hr@10, seconds.

    Raises:
        InputError, ArtefactError, RecipeError: before anything is written or replaced.
        PmmError: the loss or a weight is no number. StorageError: the disk is full.
        StaleArtefact: the shards were replaced before the end.
    """
    recipe = with_whole_paths(recipe)
    require_trackers(recipe.train.trackers)
    data = _data(home, recipe, made_on)
    with run_folder.claim(run_dir):
        run_folder.require_same_name(run_dir, name)
        going_on = run_folder.settle(run_dir, existing)
        if going_on:
            _require_same(run_dir, recipe, data)
        begins = not (going_on and (run_dir / LAST).exists())  # else nothing of its start is needed
        trainer = Trainer(run_dir, data, recipe.model, recipe.train, fresh=begins, profile=profile)
        report = take_over(trainer.model, recipe.start) if recipe.start and begins else None
        if going_on:
            _restore(trainer)
        about = {"name": name or run_dir.name, **_about(trainer, data, command)}
        # Nothing that could be refused stands after this.
        with run_folder.replaced(run_dir) if existing == "overwrite" else nullcontext():
            run_folder.describe(run_dir, dump(recipe), about)
        for each in data.told(recipe.train.batch_users):
            logger.info(each)
        if report is not None:
            write_report(run_dir, report)
            logger.info(report)
        _fit(trainer, recipe)
        return _result(trainer)


def _data(home: Home, recipe: Recipe, made_on: str) -> TrainingSet:
    """What a recipe is trained on.

    Raises:
        StaleArtefact: it is not of the fingerprint that is asked for.
    """
    data = training_set(home, recipe)
    if made_on and data.fingerprint != made_on:
        raise StaleArtefact(
            f"{data.parts[0].place} changed: they were {made_on[:8]}, and are now "
            f"{data.fingerprint[:8]}. Run the same command again"
        )
    return data


def _fit(trainer: Trainer, recipe: Recipe) -> None:
    """Train a described run to an end, and draw its curves."""
    run_dir, options = trainer.run_dir, recipe.train
    with underway(), storage_errors(run_dir):
        log = TrackedLog(run_dir / LOG, trainer.state, options.trackers, about=asdict(recipe))
        with closing(log), Interrupt() as interrupt, memory_errors(options.batch_users):
            trainer.fit(log, interrupt)
        records = curves.read_log(run_dir / LOG)
        title = f"{run_dir.name}: {trainer.data.target}"
        curves.draw(records, run_dir / "curves.png", title=title)


def _about(trainer: Trainer, data: TrainingSet, command: str) -> dict[str, Any]:
    """What run.json says of a run beside its recipe."""
    return {
        "command": command,
        "seed": trainer.options.seed,
        "shards": data.fingerprint,
        "target": data.target,
        "reads": data.reads(),
        "device": str(trainer.device),
        "encoders": origins_of(trainer.model.options),
        **trainer.sizes(),
    }


def origins_of(options: ModelOptions) -> dict[str, dict[str, str]]:
    """ "text", "vision" -> source and licence of the encoders that a model reads items by."""
    return {
        side: origin_of(spec).as_record()
        for side, spec in encoder_specs(options).items()
        if options.content in (side, "both")
    }


def training_set(home: Home, recipe: Recipe) -> TrainingSet:
    """What a recipe is trained on; errors as `train`."""
    return TrainingSet(
        open_parts(home, recipe),
        mixing=recipe.mixing,
        read=recipe.model.reads,
        windows=recipe.train.windows,
        max_length=recipe.model.max_length,
        negatives=recipe.model.negatives,
        sequences=recipe.train.sequences,
    )


def store_activations(home: Home, recipe: Recipe, *, force: bool = False) -> dict[str, str]:
    """Store what the frozen trunks of a recipe's model make of the items that it is trained on.

    Args:
        home: where the shards are, and the activations go.
        recipe: whose encoders, cut and type of storage count.
        force: compute again what is there.

    Returns:
        the folders of `activations/`, and whether each was written or found.

    Raises:
        ArtefactError, InputError: no shards, or the model cannot read them.
        StorageError: the disk is full.
    """
    recipe = with_whole_paths(recipe)
    storage = "fp16" if recipe.train.cache == "off" else recipe.train.cache
    found: dict[str, str] = {}
    for shards in open_parts(home, recipe):
        require_content(shards, recipe.model)
        features = features_of(recipe.model, [shards], pick_device(recipe.train.device))
        model = build_model(recipe.model, shards.n_items, features, fresh=False).eval()
        require_tokens(shards, model)
        require_pictures(shards, model)
        model.to(pick_device(recipe.train.device))
        found |= write_trunks(shards, trunks_of(model), storage, force=force)
    return found


def store_as_asked(request: CacheRequest) -> dict[str, str]:
    """`store_activations` of each target that was asked for; raises what that and resolving do."""
    home = request.place()
    found: dict[str, str] = {}
    for name in request.target:
        asked = TrainRequest(target=name, modality=request.modality, home=request.home)
        recipe = resolve_run(home, run_folder_of(home, asked), asked, request.values())
        found |= store_activations(home, recipe, force=request.force)
    return found


@contextmanager
def memory_errors(batch_users: int) -> Iterator[None]:
    """Say what to do where an accelerator's memory does not suffice.

    Raises:
        PmmError: instead of torch's own error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PmmError(
            f"batches of {batch_users} users do not fit into the accelerator's memory. Run again "
            f"with --batch-users {max(2, batch_users // 2)} --overwrite"
        ) from error


def _restore(trainer: Trainer) -> None:
    """Take up the last checkpoint; a run that was stopped before its first starts again."""
    if (trainer.run_dir / LAST).exists():
        trainer.restore()
    else:
        logger.info("%s has no checkpoint yet: from the start", trainer.run_dir)


def _result(trainer: Trainer) -> dict[str, Any]:
    state = trainer.state
    return {
        "run": str(trainer.run_dir),
        "ended": trainer.ended,
        "steps": state.step,
        "epochs": state.epoch,
        "best_hr@10": state.best if state.best_epoch >= 0 else None,
        "best_epoch": state.best_epoch if state.best_epoch >= 0 else None,
        "popularity_hr@10": trainer.popularity["hr@10"],
        "seconds": round(state.seconds, 1),
    }


def _require_same(run_dir: Path, recipe: Recipe, data: TrainingSet) -> None:
    """Refuse to resume another recipe, or on shards that were made anew."""
    values = saved_values(run_dir / RECIPE)
    before = with_whole_paths(resolve(Recipe, values, origin=str(run_dir / RECIPE)))
    former, now = asdict(before), asdict(recipe)
    # A falling learning rate depends on how many epochs there will be.
    changeable = CHANGEABLE - ({"epochs"} if recipe.train.schedule != "constant" else set())
    if former["model"]["name"] != now["model"]["name"]:  # of which nothing else can be compared
        former["model"], now["model"] = ({"name": each["model"]["name"]} for each in (former, now))
    changed = [
        f"{section}.{name} was {old!r}, is {now[section][name]!r}"
        for section in ("model", "train")
        for name, old in former[section].items()
        if old != now[section][name] and not (section == "train" and name in changeable)
    ]
    changed += [
        f"{name} was {former[name]!r}, is {now[name]!r}"
        for name in ("stage", "target", "sources", "mixing", "start")
        if _folded(former[name]) != _folded(now[name])
    ]
    if changed:
        raise RecipeError(
            f"{run_dir} was started with another recipe ({'; '.join(changed)}). Resume it with the "
            "same options, or choose another --name"
        )
    made_on = run_folder.shards_of(run_dir)
    if made_on != data.fingerprint:
        places = ", ".join(str(part.place) for part in data.parts)
        raise StaleArtefact(
            f"{run_dir} was trained on shards {made_on[:8]}, but {places} is now "
            f"{data.fingerprint[:8]}. Train again with --overwrite, or choose another --name"
        )


def _folded(value: Any) -> str:
    return str(value).casefold()
