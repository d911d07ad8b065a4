"""`pmm train --stage scratch`: one target's shards -> a run's folder with its best checkpoint."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pmm.artefact import storage_errors
from pmm.errors import PmmError, RecipeError, StaleArtefact
from pmm.home import Home
from pmm.model.pmmrec import PmmrecOptions
from pmm.recipe import dump, read_recipe, resolve
from pmm.shards.read import Shards
from pmm.train import curves, run_folder
from pmm.train.checkpoint import LAST
from pmm.train.interrupt import Interrupt
from pmm.train.run_folder import LOG, RECIPE, Existing, Log
from pmm.train.session import Session, TrainOptions

__all__ = ["Recipe", "TrainOptions", "train"]

CHANGEABLE = frozenset(
    {"epochs", "patience", "max_steps", "max_minutes", "log_every", "save_every", "ahead"}
)
"""Training options that a resumed run may change: they do not touch what a step does."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a run from scratch is made of; saved as recipe.toml in its folder."""

    target: str
    model: PmmrecOptions = field(default_factory=PmmrecOptions)
    train: TrainOptions = field(default_factory=TrainOptions)


def train(
    home: Home, run_dir: Path, recipe: Recipe, *, existing: Existing = "refuse", command: str = ""
) -> dict[str, Any]:
    """Train a model on a target's shards until it ends, or until Ctrl-C.

    Writes recipe.toml, run.json, log.jsonl, first_batch.json and .png, checkpoint/best.safetensors
    (the best validation HR@10), checkpoint/last.safetensors (where --resume goes on), curves.png.

    Args:
        home: where the target's shards are.
        run_dir: the run's folder.
        recipe: everything else.
        existing: what to do if the folder holds a run: refuse, resume or overwrite it.
        command: as the user typed it, for run.json.

    Returns:
        run, ended (epochs, patience, max_steps, max_minutes or interrupted), steps, epochs,
        best_hr@10 and best_epoch on the validation items, popularity_hr@10, seconds.

    Raises:
        InputError, ArtefactError, RecipeError: before anything is written or replaced.
        PmmError: the loss or a weight is no number. StorageError: the disk is full.
    """
    recipe = with_whole_paths(recipe)
    shards = Shards(home.shards(home.find_target(recipe.target)))
    with run_folder.claim(run_dir):
        going_on = run_folder.settle(run_dir, existing)
        if going_on:
            _require_same(run_dir, recipe, shards)
        session = Session(run_dir, shards, recipe.model, recipe.train)
        if going_on:
            _restore(session)
        elif existing == "overwrite":  # nothing that could be refused stands after this
            run_folder.clear(run_dir)
        about = {"command": command, "seed": recipe.train.seed, "shards": shards.fingerprint}
        about |= {"target": shards.target, "device": str(session.device), **session.sizes()}
        run_folder.describe(run_dir, dump(recipe), about)
        with storage_errors(run_dir):
            log = Log(run_dir / LOG, session.state.log_bytes)
            with closing(log), Interrupt() as interrupt, memory_errors(recipe.train.batch_users):
                session.go(log, interrupt)
            records = curves.read_log(run_dir / LOG)
            curves.draw(records, run_dir / "curves.png", title=f"{run_dir.name}: {shards.target}")
        return _result(session)


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


def with_whole_paths(recipe: Recipe) -> Recipe:
    """The recipe with encoders in folders named from the root: a run is evaluated from anywhere."""
    model = recipe.model
    text = replace(model.text, encoder=_whole_path(model.text.encoder))
    vision = replace(model.vision, encoder=_whole_path(model.vision.encoder))
    return replace(recipe, model=replace(model, text=text, vision=vision))


def _whole_path(encoder: str) -> str:
    path = Path(encoder.removeprefix("local-dir:")).expanduser()
    return str(path.resolve()) if path.is_dir() else encoder


def _restore(session: Session) -> None:
    """Take up the last checkpoint; a run that was stopped before its first starts again."""
    if (session.run_dir / LAST).exists():
        session.restore()
    else:
        print(f"{session.run_dir} has no checkpoint yet: from the start", file=sys.stderr)


def _result(session: Session) -> dict[str, Any]:
    state = session.state
    return {
        "run": str(session.run_dir),
        "ended": session.ended,
        "steps": state.step,
        "epochs": state.epoch,
        "best_hr@10": state.best if state.best_epoch >= 0 else None,
        "best_epoch": state.best_epoch if state.best_epoch >= 0 else None,
        "popularity_hr@10": session.popularity["hr@10"],
        "seconds": round(state.seconds, 1),
    }


def _require_same(run_dir: Path, recipe: Recipe, shards: Shards) -> None:
    """Refuse to resume another recipe, or on shards that were made anew."""
    values = read_recipe(run_dir / RECIPE)
    before = with_whole_paths(resolve(Recipe, values, origin=str(run_dir / RECIPE)))
    former, now = asdict(before), asdict(recipe)
    changed = [
        f"{section}.{name} was {old!r}, is {now[section][name]!r}"
        for section in ("model", "train")
        for name, old in former[section].items()
        if old != now[section][name] and not (section == "train" and name in CHANGEABLE)
    ]
    if former["target"].casefold() != now["target"].casefold():
        changed.append(f"target was {former['target']!r}, is {now['target']!r}")
    if changed:
        raise RecipeError(
            f"{run_dir} was started with another recipe ({'; '.join(changed)}). Resume it with the "
            "same options, or choose another --name"
        )
    made_on = run_folder.shards_of(run_dir)
    if made_on != shards.fingerprint:
        raise StaleArtefact(
            f"{run_dir} was trained on shards {made_on[:8]}, but {shards.place} is now "
            f"{shards.fingerprint[:8]}. Train again with --overwrite, or choose another --name"
        )
