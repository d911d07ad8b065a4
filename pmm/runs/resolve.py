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
from pmm.model.encoders.specs import TextSpec
from pmm.model.pmmrec.pmmrec import ALL_OBJECTIVES, PmmrecOptions, Preset, Weights, morec, preset
from pmm.runs.folder import RECIPE
from pmm.runs.loading import open_parts
from pmm.runs.recipe import Recipe, Start, why_scratch_only
from pmm.runs.request import TrainRequest
from pmm.runs.train_options import Transfer
from pmm.runs.weights import BEST, read_tensors
from pmm.shards.kinds import Modality
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
    request: TrainRequest,
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
    values = merge(request.values(), values)
    _refuse_misfits(request)
    asked = _asked(home, request)
    if resume and (run_dir / RECIPE).is_file():
        before = read_recipe(run_dir / RECIPE)
        _require_same_model(run_dir, before, request)
        return resolve(Recipe, merge(before, values, asked))
    name = _model_name(request, values, asked)
    if name in GRID:
        return _of_baseline(home, name, request, values, asked)
    base = _of_pmmrec(request, asked, with_morec=name == "morec")
    draft = resolve(Recipe, merge(base, values, asked))
    first = open_parts(home, draft)[0]
    assert isinstance(draft.model, PmmrecOptions)
    unsaid = draft.model.text.encoder == TextSpec().encoder
    if not unsaid or draft.model.modality == "vision":
        return draft
    return resolve(Recipe, merge(base, _encoder_of(first), values, asked))


def _of_pmmrec(
    request: TrainRequest, asked: Mapping[str, Any], *, with_morec: bool
) -> dict[str, Any]:
    """The values of PMMRec's preset or of the run that it starts from, and of its stage.

    Raises:
        InputError: MoRec++ is asked for with objectives or a preset of PMMRec.
    """
    if with_morec and (request.objectives == "all" or request.preset):
        raise InputError("--objectives and --preset belong to --model pmmrec; found --model morec")
    name = request.preset or "default"
    if name == "original":
        raise InputError("--preset original belongs to the baselines, see --model")
    base: dict[str, Any] = {"model": asdict(morec() if with_morec else preset(name))}
    if request.stage == "finetune":
        base = {"model": _model_of(Path(asked["start"]["run"]), request.transfer or "full")}
        base["train"] = {"patience": FINETUNE_PATIENCE}
    base = merge(base, {"train": _TRAINING[name]})
    if request.modality:
        base = merge(base, {"model": {"modality": request.modality}})
    weights = Weights() if with_morec else _weights(request, base["model"]["modality"])
    return merge(base, {"model": {"weights": asdict(weights)}})


def _of_baseline(
    home: Home,
    name: BaselineName,
    request: TrainRequest,
    values: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> Recipe:
    """The recipe of a baseline; errors as `resolve_run`."""
    if request.stage != "scratch" and GRID[name].knows_ids:
        origin = f"--from {request.start}: " if request.start else ""
        raise InputError(origin + why_scratch_only(name, request.stage))
    _refuse_of_pmmrec(replace(request, model=name))
    original = request.preset == "original"
    options = baseline_options(name, original=original)
    encoders = sorted({"text", "vision"} & _model_table(values).keys())
    if encoders and options.features == "none":
        raise InputError(
            f"{name} knows items by their numbers and reads no {' and no '.join(encoders)}: leave "
            f"out {' and '.join(f'--{side}-encoder' for side in encoders)}"
        )
    training = _BASELINE_TRAINING | (_ORIGINAL_TRAINING[name] if original else {})
    model = asdict(options)
    if request.stage != "scratch":
        if request.stage == "finetune":
            model = _model_of(Path(asked["start"]["run"]), request.transfer or "full")
            training = training | {"patience": FINETUNE_PATIENCE}
        model = asdict(at_stage(resolve(BaselineOptions, model), request.stage, original=original))
    base = {"model": model, "train": training}
    recipe = resolve(Recipe, merge(base, values, asked))
    if name == "vqrec" and request.stage == "finetune":  # what remains has most of the epochs
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


def _model_name(request: TrainRequest, values: Mapping[str, Any], asked: Mapping[str, Any]) -> Any:
    """Which model is asked for; a fine-tuning's is that of the run which it starts from.

    Raises:
        InputError: the command line, the recipe and that run say different things.
    """
    told = _model_table(values).get("name")
    if request.model and told not in (None, request.model):
        raise InputError(f"--model {request.model}, but the recipe says model.name = {told!r}")
    name = request.model or told
    if request.stage == "finetune":
        run = Path(asked["start"]["run"])
        if (run / RECIPE).is_file():
            held = _model_table(read_recipe(run / RECIPE)).get("name", "pmmrec")
            if name not in (None, held):
                raise InputError(f"--from {run}: that is a run of {held}, not of {name}")
            return held
    return name or "pmmrec"


def _require_same_model(run_dir: Path, before: Mapping[str, Any], request: TrainRequest) -> None:
    """Refuse to resume a run as that of another model.

    Raises:
        RecipeError: names both.
    """
    held = _model_table(before).get("name", "pmmrec")
    if request.model not in (None, held):
        raise RecipeError(
            f"{run_dir} is a run of {held}, not of {request.model}: resume it with "
            f"--model {held}, or choose another --name"
        )


def _asked(home: Home, request: TrainRequest) -> dict[str, Any]:
    """The recipe's values that the request alone decides."""
    asked: dict[str, Any] = {"stage": request.stage}
    if request.stage == "pretrain":
        asked["sources"] = [home.find_target(name) for name in request.sources or SOURCES]
        if len(set(asked["sources"])) < len(asked["sources"]):
            raise InputError(f"--sources names one twice: {', '.join(asked['sources'])}")
    else:
        asked["target"] = home.find_target(request.target or "")
    if request.mixing:
        asked["mixing"] = request.mixing
    if request.start is not None:
        run = home.find_run(request.start)
        start = Start(run=str(run.absolute()), transfer=request.transfer or "full")
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


def _weights(request: TrainRequest, modality: Modality) -> Weights:
    objectives = request.objectives or ("all" if request.stage == "pretrain" else "dap")
    if objectives == "dap":
        return Weights()
    if modality != "both":  # nothing to align
        return Weights(nid=ALL_OBJECTIVES.nid, rcl=ALL_OBJECTIVES.rcl)
    return ALL_OBJECTIVES


def _refuse_misfits(request: TrainRequest) -> None:
    """Refuse options that do not go with the model.

    Raises:
        InputError: names them.
    """
    if request.model in GRID and GRID[request.model].knows_ids and request.stage != "scratch":
        raise InputError(why_scratch_only(request.model, request.stage))
    if request.model not in (None, *GRID) and request.preset == "original":
        raise InputError("--preset original belongs to the baselines, see --model")
    _refuse_of_pmmrec(request)


def _refuse_of_pmmrec(request: TrainRequest) -> None:
    """Refuse options of PMMRec with another model.

    Raises:
        InputError: names them.
    """
    if request.model not in GRID:
        return
    given = [each for each in ("objectives", "modality") if getattr(request, each)]
    given += ["preset"] * (request.preset not in (None, "original"))
    if given:
        raise InputError(
            f"{' and '.join(f'--{each}' for each in given)} belong to --model pmmrec; found "
            f"--model {request.model}, which knows items by {GRID[request.model].reads} alone"
        )
    if request.transfer not in (None, "full"):
        raise InputError(
            f"--transfer {request.transfer} belongs to --model pmmrec; {request.model} has full "
            "alone"
        )
