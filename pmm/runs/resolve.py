"""From what a user asked for (preset, recipe file, options) to the recipe of a run."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pmm.advice import command, options_text
from pmm.data.category_tables import read_categories
from pmm.errors import InputError, MissingArtefact, RecipeError
from pmm.model import registry
from pmm.model.encoders.specs import TextSpec
from pmm.model.model_entry import DEFAULT, Asked, ModelEntry, Transfer
from pmm.model.protocol import ModelOptions
from pmm.runs.compatibility import require_content
from pmm.runs.folder import RECIPE
from pmm.runs.former_recipes import saved_values
from pmm.runs.loading import command_to_train_again, open_parts
from pmm.runs.recipe import Recipe, Start, encoder_specs, why_scratch_only
from pmm.runs.request import TrainRequest
from pmm.runs.train_options import TrainOptions
from pmm.runs.weights import BEST, read_tensors
from pmm.shards.read import Shards
from pmm.storage.home import SOURCES, Home
from pmm.storage.toml import merge, resolve

logger = logging.getLogger(__name__)

FINETUNE_PATIENCE = 5
"""Fine-tuning converges within a few epochs (R43)."""


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
    starts from; a resumed run: what it was started with), what the stage changes, the encoder whose
    tokens the shards hold, the given values.

    Raises:
        RecipeError: unknown keys or values of the wrong type.
        InputError, MissingArtefact: no such model, target, source or run, no shards, options that
            the model does not have, or the shards hold the tokens of a local encoder and nobody
            said where it is.
    """
    values = merge(request.values(), values)
    if request.stage != "finetune":  # the recipe of one, trained from nothing
        values = {name: each for name, each in values.items() if name != "start"}
    if request.model is not None:
        _refuse_misfits(request.model, request)
    asked = _asked(home, request)
    if resume and (run_dir / RECIPE).is_file():
        before = saved_values(run_dir / RECIPE)
        _require_same_model(run_dir, before, request)
        return resolve(Recipe, merge(before, values, asked))
    name = _model_name(request, values, asked)
    if name not in list(registry.models()):  # which the recipe says; the error lists all names
        return resolve(Recipe, merge(values, asked))
    _refuse_misfits(name, request)
    _refuse_encoders(name, values, request.encoders)
    base = _base(registry.entry(name), name, request, values, asked)
    recipe = resolve(Recipe, merge(base, values, asked))
    first, *others = open_parts(home, recipe)
    for part in (first, *others):
        require_content(part, recipe.model)
    base = merge(base, _groups(request, recipe, values, [first, *others]))
    # What the options come to decides how they train, so it is known only now.
    base = merge({"train": registry.entry(name).training(recipe.model)}, base)
    recipe = resolve(Recipe, merge(base, values, asked))
    if not _reads_texts_of_the_usual_encoder(recipe.model):
        return recipe
    return resolve(Recipe, merge(base, _encoder_of(first), values, asked))


def _base(
    entry: ModelEntry,
    name: str,
    request: TrainRequest,
    values: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """The values of a model's preset, or of the run that it starts from, at its stage.

    Raises:
        MissingArtefact: there is no such run, or it has no checkpoint.
        RecipeError: its recipe is not of this model.
    """
    settings = entry.settings[request.preset or DEFAULT]
    options, training = settings.options, dict(settings.training)
    if (request.preset or DEFAULT) != DEFAULT:  # as published, where nothing was chosen
        training = {"choose_popularity": False, **training}
    if request.stage == "finetune":
        options = _held(entry, Path(asked["start"]["run"]), request.transfer or "full")
        training = {"patience": FINETUNE_PATIENCE, **training}
    options = entry.at_stage(
        options,
        Asked(
            stage=request.stage,
            preset=request.preset or DEFAULT,
            objectives=request.objectives,
            modality=request.modality,
            epochs=_epochs(merge({"train": training}, values)),
        ),
    )
    return {"model": {**asdict(options), "name": name}, "train": training}


def _groups(
    request: TrainRequest, recipe: Recipe, values: Mapping[str, Any], parts: Sequence[Shards]
) -> dict[str, Any]:
    """Which negatives and sequences a pre-training has where nobody says: of the items' categories,
    as far as the sources have any, else negatives of the own source.

    The other presets stay as printed. Sequences are split where negatives are of the own category:
    either alone gives less than both (docs/paper.md).

    Raises:
        StaleArtefact, BrokenArtefact: as `pmm.data.category_tables.read_categories`.
    """
    fits = "negatives" in {each.name for each in fields(recipe.model)}
    if recipe.stage != "pretrain" or (request.preset or DEFAULT) != DEFAULT or not fits:
        return {}
    negatives = _model_table(values).get("negatives")
    if negatives is None:
        negatives = "category" if _have_categories(parts) else "source"
    found: dict[str, Any] = {"model": {"negatives": negatives}}
    if negatives == "category":
        found["train"] = {"sequences": "by category"}
    return found


def _have_categories(parts: Sequence[Shards]) -> bool:
    try:
        found = [read_categories(part).some for part in parts]
    except MissingArtefact as error:
        logger.warning("negatives of the own source, for no categories are known: %s", error)
        return False
    return any(found)


def _held(entry: ModelEntry, run: Path, transfer: Transfer) -> ModelOptions:
    """The model options of a pre-trained run, as a transfer leaves them; errors as `_base`."""
    if not (run / RECIPE).is_file():
        raise MissingArtefact(f"{run} is no run: it has no {RECIPE}. Run: {_to_pretrain(run)}")
    table = saved_values(run / RECIPE)["model"]
    options = resolve(entry.options, table, origin=str(run / RECIPE))

    def tensors() -> Mapping[str, Any]:
        return read_tensors(run / BEST, made_by=command_to_train_again(run))[0]

    found: ModelOptions = entry.of_run(options, transfer, tensors)
    return found


def _to_pretrain(run: Path) -> str:
    home = Home.holding(run, "runs")
    return command("train", stage="pretrain", name=run.name, home=home and home.option)


def _epochs(values: Mapping[str, Any]) -> int:
    """How many there will be at most; what is no number is told of when all values are checked."""
    train = values.get("train")
    epochs = train.get("epochs") if isinstance(train, Mapping) else None
    return epochs if isinstance(epochs, int) else TrainOptions.epochs


def _reads_texts_of_the_usual_encoder(model: ModelOptions) -> bool:
    """Whether a model reads texts, and nobody said by which encoder."""
    text = encoder_specs(model).get("text")
    if text is None or model.content not in ("text", "both"):
        return False
    return bool(text.encoder == TextSpec().encoder)


def _encoder_of(shards: Shards) -> dict[str, Any]:
    """The values that name the text encoder whose tokens the shards hold.

    Raises:
        InputError: it is a local one, and nobody said where it is.
    """
    if shards.tokenizer["local"]:
        raise InputError(
            f"{shards.place} holds the tokens of a local encoder, the folder "
            f"{shards.tokenizer['name']!r}. Say where it is: "
            f"{options_text(text_encoder=shards.text_encoder)}"
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
            table = _model_table(saved_values(run / RECIPE))
            held = table.get("name", registry.DEFAULT_MODEL)
            if name not in (None, held):
                raise InputError(f"--from {run}: that is a run of {held}, not of {name}")
            return held
    return name or registry.DEFAULT_MODEL


def _require_same_model(run_dir: Path, before: Mapping[str, Any], request: TrainRequest) -> None:
    """Refuse to resume a run as that of another model.

    Raises:
        RecipeError: names both.
    """
    held = _model_table(before).get("name", registry.DEFAULT_MODEL)
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


def _refuse_misfits(name: str, request: TrainRequest) -> None:
    """Refuse a stage and options that do not go with a model.

    Raises:
        InputError: names them, or there is no such model.
    """
    entry = registry.entry(name)
    if request.stage != "scratch" and not entry.transfers:
        origin = f"--from {request.start}: " if request.start else ""
        raise InputError(origin + why_scratch_only(name, request.stage))
    allowed: dict[str, tuple[str, ...]] = {
        "objectives": entry.objectives,
        "modality": entry.modalities,
        "preset": tuple(entry.settings),
        "transfer": tuple(entry.transfers),
    }
    given = {option: str(value) for option in allowed if (value := getattr(request, option))}
    faults = [
        f"--{option} {value} ({name} has {', '.join(allowed[option]) or 'none'})"
        for option, value in given.items()
        if value not in allowed[option]
    ]
    if faults:
        raise InputError(
            f"{' and '.join(faults)} cannot be had with --model {name}, which knows items by "
            f"{entry.knows_by}"
        )


def _refuse_encoders(name: str, values: Mapping[str, Any], word: str | None) -> None:
    """Refuse encoders for a model that reads no content.

    Raises:
        InputError: names them.
    """
    entry = registry.entry(name)
    known = {each.name for each in fields(entry.options)}
    encoders = sorted({"text", "vision"} & _model_table(values).keys() - known)
    if encoders:
        given = " and ".join(f"--{side}-encoder" for side in encoders) if not word else "--encoders"
        raise InputError(
            f"{name} knows items by {entry.knows_by} and reads no {' and no '.join(encoders)}: "
            f"leave out {given}"
        )
