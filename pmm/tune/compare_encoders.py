"""`pmm encoders compare`: the same small model on the frozen vectors of several encoders.

Each encoder makes a vector of every item once, which is timed; what trains on them and how is the
same for all. A comparison that was stopped goes on, and what was compared before is not trained
again: a run is known by its recipe, the shards, and its encoders with how they are read.

Below the home folder: `comparisons/<target>/` with the rows and their table, and a run for each.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pmm.errors import InputError
from pmm.evaluate.evaluate_options import EvaluateOptions
from pmm.evaluate.evaluation import evaluate_run
from pmm.model.features.frozen_vectors import vectors_trunk
from pmm.model.features.trunks import activations_folder
from pmm.runs import folder as run_folder
from pmm.runs.device import pick_device
from pmm.runs.folder import Log
from pmm.runs.loading import command_to_train_again
from pmm.runs.recipe import Recipe, encoder_specs, with_whole_paths
from pmm.runs.request import EncodersRequest, TrainRequest
from pmm.runs.resolve import resolve_run
from pmm.runs.weights import BEST, read_header
from pmm.shards.activations import Trunk, items_with, write_activations
from pmm.shards.kinds import Modality
from pmm.shards.read import Shards
from pmm.storage.artefact import storage_errors
from pmm.storage.dotted_names import flat
from pmm.storage.home import Home, slug
from pmm.storage.toml import merge
from pmm.train.interrupt import underway
from pmm.train.train_run import train
from pmm.tune.best_recipe import hardware_of
from pmm.tune.encoder_rows import (
    ROWS,
    TABLE,
    best_first,
    encoders_table,
    read_comparison,
    write_comparison,
)
from pmm.tune.search_folder import claimed
from pmm.tune.trial_rows import open_rows

__all__ = ["compare_as_asked", "encoders_table"]

logger = logging.getLogger(__name__)

TIMED_ITEMS = 256
"""Of a catalogue whose vectors are there already: so many are made again, to know the time."""
_SAME_RESULT = frozenset(
    f"train.{name}"
    for name in (
        *("device", "ahead", "log_every", "save_every", "trackers"),
        *("eval_start", "eval_test"),
    )
)
"""Values of a recipe that change nothing of what comes out."""


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One choice of encoders with one seed."""

    modality: Modality
    recipe: Recipe
    specs: Mapping[str, Any]
    """Side -> the encoder that is read."""


@dataclass(kw_only=True)
class Comparison:
    """What is compared, and what is known so far."""

    home: Home
    shards: Shards
    command: str
    encoders: list[dict[str, Any]] = field(default_factory=list)
    """Each encoder that was timed."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    trunks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By spec: what is known of the encoders of this call, so that each is loaded once."""

    @property
    def folder(self) -> Path:
        """Where rows and table stand."""
        return self.home.comparisons(self.shards.target)


def compare_as_asked(request: EncodersRequest, *, command: str = "") -> dict[str, Any]:
    """Compare encoders on a target, or go on with it.

    Args:
        request: on what, and which.
        command: as the user typed it, for the runs.

    Returns:
        ended (all or interrupted), rows (of this request, the best first), table (the file).

    Raises:
        InputError, RecipeError, MissingArtefact: an encoder cannot be had or read, an option does
            not fit, or there are no shards; before anything is trained.
        BrokenArtefact: the rows of before are damaged.
        PmmError: as of training and evaluation.
    """
    home = request.place()
    target = home.find_target(request.target)
    contest = Comparison(home=home, shards=Shards.of(home, target), command=command)
    wanted = list(contestants(home, request, contest.shards))
    with claimed(contest.folder):
        if request.overwrite:
            _forget(contest)
        known, contest.rows = read_comparison(contest.folder / ROWS)
        contest.encoders = known[::-1]  # the latest counts
        keys = list[str]()
        with underway(), closing(open_rows(contest.folder / ROWS)) as log:
            for each in wanted:  # all are loaded and timed first: what cannot be read is told now
                for side, spec in each.specs.items():
                    _look_at(contest, side, spec, each.recipe, log)
            for number, each in enumerate(wanted, start=1):
                logger.info("%d of %d: %s", number, len(wanted), _told(each))
                keys.append(_key(contest, each))
                if not _compared(contest, each, log):
                    keys.pop()
                    break
        if contest.rows and not (contest.folder / TABLE).is_file():
            write_comparison(contest.folder / TABLE, contest.rows)
        rows = [row for row in contest.rows if row["key"] in keys]
        ended = "all" if len(keys) == len(wanted) else "interrupted"
        return {"ended": ended, "rows": best_first(rows), "table": str(contest.folder / TABLE)}


def contestants(home: Home, request: EncodersRequest, shards: Shards) -> Iterator[Contestant]:
    """Every choice of encoders with every seed; errors as `compare_as_asked`."""
    values = request.values()
    texts, visions = request.text_encoder or (None,), request.vision_encoder or (None,)
    for modality in _modalities(request, shards):
        for text in texts if modality != "vision" else (None,):
            for vision in visions if modality != "text" else (None,):
                named = {"text": text, "vision": vision}
                sides = {side: {"encoder": name} for side, name in named.items() if name}
                for seed in dict.fromkeys(request.seed or (None,)):
                    own = merge(values, {"model": sides, "train": {"seed": seed}})
                    asked = TrainRequest(target=request.target, modality=modality)
                    recipe = with_whole_paths(resolve_run(home, home.run("encoders"), asked, own))
                    read = ("text", "vision") if modality == "both" else (modality,)
                    specs = {side: encoder_specs(recipe.model)[side] for side in read}
                    yield Contestant(modality=modality, recipe=recipe, specs=specs)


def _modalities(request: EncodersRequest, shards: Shards) -> tuple[Modality, ...]:
    """Those that are asked for, else those that the given encoders have."""
    known: tuple[Modality, ...] = ("text", "vision", "both")
    if wrong := [each for each in request.modality if each not in known]:
        raise InputError(f"--modality {wrong[0]}: there are {', '.join(known)}")
    if request.modality:
        return tuple(each for each in known if each in request.modality)
    if request.text_encoder and not request.vision_encoder:
        return ("text",)
    if request.vision_encoder and not request.text_encoder:
        return ("vision",)
    return known if shards.has_picture.any() else ("text",)


def _look_at(contest: Comparison, side: str, spec: Any, recipe: Recipe, log: Log) -> None:
    """Load an encoder, make its vectors, and know its size and time; once in a call."""
    if repr(spec) in contest.trunks:
        return
    device = pick_device(recipe.train.device)
    trunk, read = vectors_trunk(spec, contest.shards, device)
    # Weights, and how they are read: pooling, tokens, pixels.
    mark = _digest(trunk.about)
    about: dict[str, Any] = {"side": side, "mark": mark, "items": contest.shards.n_items}
    about |= {"device": str(device)}
    known = next((e for e in contest.encoders if about.items() <= e.items()), None)
    place = activations_folder(contest.shards)
    began = time.perf_counter()
    built = write_activations(place, read, trunk)
    seconds = time.perf_counter() - began
    if known is None or (built.fresh and not known["whole"]):
        if not built.fresh:
            seconds = _seconds_by_some(read, trunk)
        known = {**about, "encoder": spec.encoder, "seconds": round(seconds, 6)}
        known |= {"whole": built.fresh, "width": trunk.width}
        known |= {"parameters": trunk.parameters, "parameter_bytes": trunk.parameter_bytes}
        with storage_errors(contest.folder / ROWS):
            log.write({"kind": "encoder", **known})
        contest.encoders.insert(0, known)
    contest.trunks[repr(spec)] = known


def _seconds_by_some(shards: Shards, trunk: Trunk) -> float:
    """The time that all items would take, from some of them."""
    numbers = items_with(shards, trunk.side)
    some = numbers[np.unique(np.linspace(0, len(numbers) - 1, TIMED_ITEMS).astype(np.int64))]
    parts = np.split(some, range(64, len(some), 64))
    began = time.perf_counter()
    with torch.inference_mode():
        for part in parts:
            trunk.run(shards.items(part, read=trunk.side)).float().cpu()
    return (time.perf_counter() - began) * len(numbers) / len(some)


def _compared(contest: Comparison, each: Contestant, log: Log) -> bool:
    """Train and rank one where that was not done before; False: it was interrupted."""
    key = _key(contest, each)
    if any(row["key"] == key for row in contest.rows):
        return True
    run_dir = _run_of(contest, key)
    made_on = contest.shards.fingerprint
    found = train(
        contest.home,
        run_dir,
        each.recipe,
        existing="resume",
        command=contest.command,
        made_on=made_on,
    )
    if found["ended"] == "interrupted":
        return False
    options = EvaluateOptions(cold=True, gallery_users=0)
    metrics = evaluate_run(contest.home, run_dir, options, device=each.recipe.train.device)
    known = [contest.trunks[repr(spec)] for spec in each.specs.values()]
    row = {
        "key": key,
        "modality": each.modality,
        **{side: getattr(each.specs.get(side), "encoder", None) for side in ("text", "vision")},
        "run": run_dir.name,
        "seed": each.recipe.train.seed,
        **_metrics(run_dir, metrics),
        "vectors_seconds": sum(e["seconds"] for e in known),
        "vectors_timed_whole": all(e["whole"] for e in known),
        "train_seconds": float(found["seconds"]),
        **{name: sum(e[name] for e in known) for name in ("parameters", "parameter_bytes")},
        "width": sum(e["width"] for e in known),
        "hardware": hardware_of(run_dir),
    }
    with storage_errors(contest.folder / ROWS):
        log.write({"kind": "row", **row})
    contest.rows.append(row)
    write_comparison(contest.folder / TABLE, contest.rows)
    return True


def _metrics(run_dir: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Without a share of popularity, with the chosen one, and on cold items of held-out cuts."""
    header = read_header(run_dir / BEST, made_by=command_to_train_again(run_dir))
    plain, cold = metrics["model"], metrics["cold_start"]["held_out"]["model"]
    chosen = metrics.get("popularity_mix", {}).get("chosen", {"alpha": 0.0, **plain})
    return {
        "valid_hr@10": header["valid_hr@10"],
        "hr@10": plain["hr@10"],
        "ndcg@10": plain["ndcg@10"],
        "alpha": chosen["alpha"],
        "hr@10_chosen": chosen["hr@10"],
        "ndcg@10_chosen": chosen["ndcg@10"],
        "cold_hr@10": cold.get("hr@10"),
        "cold_ndcg@10": cold.get("ndcg@10"),
        "cold_cuts": cold["users"],
    }


def _key(contest: Comparison, each: Contestant) -> str:
    """What decides a row: recipe, shards, encoders."""
    recipe = {k: v for k, v in flat(asdict(each.recipe)).items() if k not in _SAME_RESULT}
    marks = [contest.trunks[repr(spec)]["mark"] for spec in each.specs.values()]
    return _digest([recipe, contest.shards.fingerprint, marks])


def _digest(values: Any) -> str:
    said = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _run_of(contest: Comparison, key: str) -> Path:
    return contest.home.run(f"{slug(contest.shards.target)}-encoders-{key}")


def _forget(contest: Comparison) -> None:
    """Delete the rows and runs of earlier comparisons on the target."""
    stem = f"{slug(contest.shards.target)}-encoders-"
    for run_dir in sorted((contest.home.root / "runs").glob(f"{stem}*")):
        if re.fullmatch("[0-9a-f]{16}", run_dir.name.removeprefix(stem)):  # else a user's own
            with run_folder.claim(run_dir):
                run_folder.clear(run_dir)
    for name in (TABLE, ROWS):
        with storage_errors(contest.folder):
            (contest.folder / name).unlink(missing_ok=True)


def _told(each: Contestant) -> str:
    names: Sequence[str] = [Path(spec.encoder).name for spec in each.specs.values()]
    return f"{each.modality}, {' + '.join(names)}, seed {each.recipe.train.seed}"
