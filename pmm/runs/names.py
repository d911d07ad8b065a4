"""How a run is called where nobody says: by everything that decides what comes of it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pmm.runs.recipe import CHANGEABLE
from pmm.runs.request import TrainRequest
from pmm.storage.dotted_names import flat
from pmm.storage.home import Home, slug

LONGEST = 90
"""Bytes of a name; what is longer ends in a digest of the rest."""
_ELSEWHERE = frozenset({*(f"train.{name}" for name in CHANGEABLE), "train.device"})
"""Values that a name leaves out: a resumed run may have others."""


def run_folder_of(home: Home, request: TrainRequest) -> Path:
    """The folder of the run that is asked for, by the name that is given or by `run_name`.

    A run to go on with that was called by fewer words, as they once were, is found by those.
    """
    if request.name:
        return home.run(request.name)
    now, once = home.run(run_name(home, request)), home.run(_once(request))
    return once if request.resume and once.exists() and not now.exists() else now


def run_name(home: Home, request: TrainRequest) -> str:
    """What a run is called: its data and stage, then all that is not as by default.

    Two requests that differ in anything that decides the result have two names: the run that a
    fine-tuning starts from, transfer, modality, objectives, preset, model, values of the recipe.

    >>> home = Home(Path("/data"))
    >>> run_name(home, TrainRequest(stage="pretrain", sources=("HM", "Kwai")))
    'pretrain-hm-kwai'
    >>> run_name(home, TrainRequest(target="HM Shoes", model="sasrec", preset="original", seed=1))
    'hm-shoes-scratch-sasrec-original-seed-1'
    >>> start = Path("/data/runs/pretrain-unisrec")
    >>> run_name(home, TrainRequest(stage="finetune", target="Bili Food", start=start))
    'bili-food-finetune-from-pretrain-unisrec'
    """
    parts: list[str] = [request.stage, *map(slug, request.sources)]
    if request.target:
        parts = [slug(request.target), request.stage]
    values = flat(request.values())
    model = request.model or values.pop("model.name", None)
    parts += [str(model)] if model not in (None, "pmmrec") else []
    parts += [name_of_start(home, request.start)] if request.start else []
    parts += [request.transfer] if request.transfer not in (None, "full") else []
    parts += [f"only-{request.modality}"] if request.modality not in (None, "both") else []
    usual = "all" if request.stage == "pretrain" else "dap"
    parts += [request.objectives] if request.objectives not in (None, usual) else []
    parts += [request.preset] if request.preset not in (None, "default") else []
    parts += [request.mixing] if request.mixing not in (None, "proportional") else []
    own = {path: values[path] for path in sorted(values.keys() - _ELSEWHERE)}
    return shortened("-".join([*parts, *_said(own)]))


def name_of_start(home: Home, start: Path) -> str:
    """The run that a fine-tuning starts from; of one from elsewhere, with a digest of its place."""
    run = home.find_run(start).absolute()
    own = run.parent == home.run(run.name).parent
    return f"from-{run.name}" + ("" if own else f"-{_digest(str(run))}")


def _said(values: Mapping[str, Any]) -> list[str]:
    """Few plain values in words; many, or those that no name can hold, as a digest of all."""
    if not values:
        return []
    if values.keys() >= {"train.lr", "train.encoder_lr"}:  # one option sets both
        same = values["train.lr"] == values["train.encoder_lr"]
        values = {k: v for k, v in values.items() if k != "train.encoder_lr" or not same}
    words = [f"{path.rpartition('.')[2]}-{value}".lower() for path, value in values.items()]
    plain = all(_fits_a_name(word) for word in words)
    if plain and len(words) <= 3:
        return words
    return [_digest(repr(sorted((path, repr(value)) for path, value in values.items())))]


def _fits_a_name(word: str) -> bool:
    """Whether a word can stand in a name as it is."""
    return len(word) <= 30 and all(each.isalnum() or each in "._-" for each in word)


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name of so many bytes at most; a longer one ends in a digest of the whole."""
    if len(name.encode()) <= longest:
        return name
    return f"{name.encode()[: longest - 9].decode(errors='ignore').rstrip('-')}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _once(request: TrainRequest) -> str:
    """What runs were called before their names said everything."""
    parts: list[str] = [request.stage, *map(slug, request.sources)]
    if request.target:
        parts = [slug(request.target), request.stage]
    parts += [request.model] if request.model not in (None, "pmmrec") else []
    return "-".join([*parts, *([request.transfer] if request.transfer else [])])
