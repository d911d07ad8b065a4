"""From what a user asked for (preset, recipe file, options) to the recipe of a run."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pmm.errors import InputError, MissingArtefact, RecipeError
from pmm.model.baselines.baseline import (
    GRID,
    BaselineName,
    BaselineOptions,
    at_stage,
    baseline_options,
)
from pmm.model.encoders.cut_encoders import TextSpec
from pmm.model.pmmrec.pmmrec import ALL_OBJECTIVES, PmmrecOptions, Preset, Weights, morec, preset
from pmm.runs.folder import RECIPE
from pmm.runs.loading import open_parts
from pmm.runs.recipe import Recipe, Start, Transfer, why_scratch_only
from pmm.runs.request import Modality, Wish, _refuse_of_pmmrec
from pmm.runs.weights import BEST, read_tensors
from pmm.shards.read import Shards
from pmm.storage.home import SOURCES, Home
from pmm.storage.toml import merge, read_recipe, resolve

_TRAINING: dict[Preset, dict[str, Any]] = {
    "default": {},
    "paper": {"decay_norms": True},  # says AdamW and no more, so as the published code (R34)
    "official": {"decay_norms": True, "precision": "fp16", "patience": 0},
}
"""How a preset trains, where it is not as the defaults (docs/paper.md R34, R41, R43)."""


FINETUNE_PATIENCE = 5
"""Fine-tuning converges within a few epochs (R43)."""


_BASELINE_TRAINING: dict[str, Any] = {"lr": 1e-3, "batch_users": 256}
"""How every baseline trains, where it is not as the defaults (docs/paper.md, Baselines)."""


_SAMPLES = 128
"""Users whose prefixes are the 2,048 samples of a published step, where a user has sixteen."""


_ORIGINAL_TRAINING: dict[BaselineName, dict[str, Any]] = {
    "sasrec": {"batch_users": 128, "weight_decay": 0.0, "beta2": 0.98},
    "gru4rec": {"batch_users": 50, "weight_decay": 0.0},
    "nextitnet": {"batch_users": 128, "weight_decay": 0.0},
    "fdsa": {"batch_users": _SAMPLES, "weight_decay": 0.0},
    "carca": {"batch_users": 128, "lr": 1e-4, "weight_decay": 1e-4, "beta2": 0.98},
    "unisrec": {"batch_users": _SAMPLES, "weight_decay": 0.0},
    "vqrec": {"batch_users": _SAMPLES, "weight_decay": 0.0},
    "peterrec": {"batch_users": 32, "weight_decay": 0.0},
}
"""The same with `--preset original`."""


def resolve_run(
    home: Home,
    run_dir: Path,
    wish: Wish,
    values: Mapping[str, Any],
    *,
    resume: bool = False,
) -> Recipe:
    """The whole recipe of a run.

    Later layers win: the preset (fine-tuning: its training alone, with the model of the run it
    starts from; a resumed run: what it was started with), the stage's objectives, the encoder whose
    tokens the shards hold, the given values.

    Raises:
        RecipeError: unknown keys or values of the wrong type.
        InputError, MissingArtefact: no such target, source or run, no shards, or the shards hold
            the tokens of a local encoder and nobody said where it is.
    """
    asked = _asked(home, wish)
    if resume and (run_dir / RECIPE).is_file():
        before = read_recipe(run_dir / RECIPE)
        _require_same_model(run_dir, before, wish)
        return resolve(Recipe, merge(before, values, asked))
    name = _model_name(wish, values, asked)
    if name in GRID:
        return _of_baseline(home, name, wish, values, asked)
    base = _of_pmmrec(wish, asked, with_morec=name == "morec")
    draft = resolve(Recipe, merge(base, values, asked))
    first = open_parts(home, draft)[0]
    assert isinstance(draft.model, PmmrecOptions)
    unsaid = draft.model.text.encoder == TextSpec().encoder
    if not unsaid or draft.model.modality == "vision":
        return draft
    return resolve(Recipe, merge(base, _encoder_of(first), values, asked))


def _of_pmmrec(wish: Wish, asked: Mapping[str, Any], *, with_morec: bool) -> dict[str, Any]:
    """The values of PMMRec's preset or of the run that it starts from, and of its stage.

    Raises:
        InputError: MoRec++ is asked for with objectives or a preset of PMMRec.
    """
    if with_morec and (wish.objectives == "all" or wish.preset):
        raise InputError("--objectives and --preset belong to --model pmmrec; found --model morec")
    name = wish.preset or "default"
    if name == "original":
        raise InputError("--preset original belongs to the baselines, see --model")
    base: dict[str, Any] = {"model": asdict(morec() if with_morec else preset(name))}
    if wish.stage == "finetune":
        base = {"model": _model_of(Path(asked["start"]["run"]), wish.transfer or "full")}
        base["train"] = {"patience": FINETUNE_PATIENCE}
    base = merge(base, {"train": _TRAINING[name]})
    if wish.modality:
        base = merge(base, {"model": {"modality": wish.modality}})
    weights = Weights() if with_morec else _weights(wish, base["model"]["modality"])
    return merge(base, {"model": {"weights": asdict(weights)}})


def _of_baseline(
    home: Home, name: BaselineName, wish: Wish, values: Mapping[str, Any], asked: Mapping[str, Any]
) -> Recipe:
    """The recipe of a baseline; errors as `resolve_run`."""
    if wish.stage != "scratch" and GRID[name].knows_ids:
        origin = f"--from {wish.start}: " if wish.start else ""
        raise InputError(origin + why_scratch_only(name, wish.stage))
    _refuse_of_pmmrec(replace(wish, model=name))
    original = wish.preset == "original"
    options = baseline_options(name, original=original)
    encoders = sorted({"text", "vision"} & _model_table(values).keys())
    if encoders and options.features == "none":
        raise InputError(
            f"{name} knows items by their numbers and reads no {' and no '.join(encoders)}: leave "
            f"out {' and '.join(f'--{side}-encoder' for side in encoders)}"
        )
    training = _BASELINE_TRAINING | (_ORIGINAL_TRAINING[name] if original else {})
    model = asdict(options)
    if wish.stage != "scratch":
        if wish.stage == "finetune":
            model = _model_of(Path(asked["start"]["run"]), wish.transfer or "full")
            training = training | {"patience": FINETUNE_PATIENCE}
        model = asdict(at_stage(resolve(BaselineOptions, model), wish.stage, original=original))
    base = {"model": model, "train": training}
    recipe = resolve(Recipe, merge(base, values, asked))
    if name == "vqrec" and wish.stage == "finetune":  # what remains has most of the epochs
        most = {"permutation_epochs": min(options.permutation_epochs, recipe.train.epochs // 3)}
        base = merge(base, {"model": most})
        recipe = resolve(Recipe, merge(base, values, asked))
    first = open_parts(home, recipe)[0]
    assert isinstance(recipe.model, BaselineOptions)
    if recipe.model.features not in ("text", "both"):
        return recipe
    if recipe.model.text.encoder != TextSpec().encoder:
        return recipe
    return resolve(Recipe, merge(base, _encoder_of(first), values, asked))


def _encoder_of(shards: Shards) -> dict[str, Any]:
    """The values that name the text encoder whose tokens the shards hold.

    Raises:
        InputError: it is a local one, and nobody said where it is.
    """
    if shards.tokenizer["local"]:
        raise InputError(
            f"{shards.place} holds the tokens of a local encoder, the folder "
            f"{shards.tokenizer['name']!r}. Say where it is: --text-encoder FOLDER"
        )
    return {"model": {"text": {"encoder": shards.tokenizer["name"]}}}


def _model_table(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table [model] of values; empty where there is none, or something else in its place."""
    model = values.get("model")
    return model if isinstance(model, Mapping) else {}


def _model_name(wish: Wish, values: Mapping[str, Any], asked: Mapping[str, Any]) -> Any:
    """Which model is asked for; a fine-tuning's is that of the run which it starts from.

    Raises:
        InputError: the command line, the recipe and that run say different things.
    """
    told = _model_table(values).get("name")
    if wish.model and told not in (None, wish.model):
        raise InputError(f"--model {wish.model}, but the recipe says model.name = {told!r}")
    name = wish.model or told
    if wish.stage == "finetune":
        run = Path(asked["start"]["run"])
        if (run / RECIPE).is_file():
            held = _model_table(read_recipe(run / RECIPE)).get("name", "pmmrec")
            if name not in (None, held):
                raise InputError(f"--from {run}: that is a run of {held}, not of {name}")
            return held
    return name or "pmmrec"


def _require_same_model(run_dir: Path, before: Mapping[str, Any], wish: Wish) -> None:
    """Refuse to resume a run as that of another model.

    Raises:
        RecipeError: names both.
    """
    held = _model_table(before).get("name", "pmmrec")
    if wish.model not in (None, held):
        raise RecipeError(
            f"{run_dir} is a run of {held}, not of {wish.model}: resume it with --model {held}, or "
            "choose another --name"
        )


def _asked(home: Home, wish: Wish) -> dict[str, Any]:
    """The recipe's values that the wish alone decides."""
    asked: dict[str, Any] = {"stage": wish.stage}
    if wish.stage == "pretrain":
        asked["sources"] = [home.find_target(name) for name in wish.sources or SOURCES]
        if len(set(asked["sources"])) < len(asked["sources"]):
            raise InputError(f"--sources names one twice: {', '.join(asked['sources'])}")
    else:
        asked["target"] = home.find_target(wish.target or "")
    if wish.mixing:
        asked["mixing"] = wish.mixing
    if wish.start is not None:
        run = wish.start if wish.start.exists() else home.run(wish.start.name)
        start = Start(run=str(run.absolute()), transfer=wish.transfer or "full")
        asked["start"] = asdict(start)
    return asked


def _model_of(run: Path, transfer: Transfer) -> dict[str, Any]:
    """The model options of a pre-trained run, with the modality that a transfer leaves.

    Raises:
        MissingArtefact: there is no such run, or it has no checkpoint.
    """
    if not (run / RECIPE).is_file():
        raise MissingArtefact(
            f"{run} is no run: it has no {RECIPE}. Run: pmm train --stage pretrain"
        )
    model = dict(read_recipe(run / RECIPE)["model"])
    if model.get("name") in GRID:
        return model
    tensors, _ = read_tensors(run / BEST, made_by=f"pmm train … --name {run.name} --resume")
    model["width"] = tensors["user_encoder.position.weight"].shape[1]
    if transfer in ("text", "vision"):
        model["modality"] = transfer
    return model


def _weights(wish: Wish, modality: Modality) -> Weights:
    objectives = wish.objectives or ("all" if wish.stage == "pretrain" else "dap")
    if objectives == "dap":
        return Weights()
    if modality != "both":  # nothing to align
        return Weights(nid=ALL_OBJECTIVES.nid, rcl=ALL_OBJECTIVES.rcl)
    return ALL_OBJECTIVES
