"""From what a user said (stage, preset, recipe file, options) to the recipe of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pmm.errors import InputError, MissingArtefact, RecipeError
from pmm.evaluate.checkpoint import BEST, read_tensors
from pmm.home import SOURCES, Home
from pmm.model.baseline import GRID, BaselineName, BaselineOptions
from pmm.model.encoders import TextSpec
from pmm.model.pmmrec import ALL_OBJECTIVES, PmmrecOptions, Preset, Weights, preset
from pmm.recipe import merge, read_recipe, resolve
from pmm.shards.training_set import Mixing
from pmm.train.loop import Recipe, Stage, open_parts, why_scratch_only
from pmm.train.run_folder import RECIPE
from pmm.train.transfer import Start, Transfer

Modality = Literal["both", "text", "vision"]
ModelName = Literal["pmmrec"] | BaselineName

_TRAINING: dict[Preset, dict[str, Any]] = {
    "default": {},
    "paper": {"decay_norms": True},  # says AdamW and no more, so as the published code (R34)
    "official": {"decay_norms": True, "precision": "fp16", "patience": 0},
}
"""How a preset trains, where it is not as the defaults (docs/paper.md R34, R41, R43)."""
FINETUNE_PATIENCE = 5
"""Fine-tuning converges within a few epochs (R43)."""


_BASELINE_TRAINING: dict[BaselineName, dict[str, Any]] = {
    "sasrec": {"lr": 1e-3, "batch_users": 256},
}
"""How a baseline trains, where it is not as the defaults (docs/paper.md, Baselines)."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the command line was asked for, apart from single values."""

    stage: Stage = "scratch"
    model: ModelName | None = None
    """None: what the recipe file or the resumed run says, else PMMRec."""
    target: str | None = None
    sources: tuple[str, ...] = ()
    """Empty: the four of the paper."""
    mixing: Mixing | None = None
    start: Path | None = None
    """The run that a fine-tuning starts from."""
    transfer: Transfer | None = None
    objectives: Literal["dap", "all"] | None = None
    """None: all four in pre-training, DAP alone elsewhere."""
    modality: Modality | None = None
    preset: Preset | None = None
    """Of PMMRec. None: the default."""

    def __post_init__(self) -> None:
        """Refuse what does not go together.

        Raises:
            InputError: names the options.
        """
        if self.stage == "pretrain" and self.target:
            raise InputError("--stage pretrain is trained on --sources, not on a --target")
        if self.stage != "pretrain" and not self.target:
            raise InputError(f'--stage {self.stage} needs --target, e.g. --target "HM Shoes"')
        if self.stage != "pretrain" and (self.sources or self.mixing):
            raise InputError("--sources and --mixing belong to --stage pretrain")
        if self.stage == "finetune" and self.start is None:
            raise InputError("--stage finetune needs --from RUN, the folder of a pre-trained run")
        if self.stage != "finetune" and (self.start or self.transfer):
            raise InputError("--from and --transfer belong to --stage finetune")
        if self.stage == "finetune" and self.modality:
            raise InputError("in --stage finetune --transfer text or vision says the modality")
        if self.model in GRID and self.stage != "scratch":
            raise InputError(why_scratch_only(self.model, self.stage))
        _refuse_of_pmmrec(self)


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
    name = _model_name(wish, values)
    if name in GRID:
        return _of_baseline(home, name, wish, values, asked)
    base = _of_pmmrec(wish, asked)
    draft = resolve(Recipe, merge(base, values, asked))
    first = open_parts(home, draft)[0]
    assert isinstance(draft.model, PmmrecOptions)
    unsaid = draft.model.text.encoder == TextSpec().encoder
    if not unsaid or draft.model.modality == "vision":
        return draft
    if first.tokenizer["local"]:
        raise InputError(
            f"{first.place} holds the tokens of a local encoder, the folder "
            f"{first.tokenizer['name']!r}. Say where it is: --text-encoder FOLDER"
        )
    named = {"model": {"text": {"encoder": first.tokenizer["name"]}}}
    return resolve(Recipe, merge(base, named, values, asked))


def _of_pmmrec(wish: Wish, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The values of PMMRec's preset or of the run that it starts from, and of its stage."""
    name = wish.preset or "default"
    base: dict[str, Any] = {"model": asdict(preset(name))}
    if wish.stage == "finetune":
        base = {"model": _model_of(Path(asked["start"]["run"]), wish.transfer or "full")}
        base["train"] = {"patience": FINETUNE_PATIENCE}
    base = merge(base, {"train": _TRAINING[name]})
    if wish.modality:
        base = merge(base, {"model": {"modality": wish.modality}})
    return merge(base, {"model": {"weights": asdict(_weights(wish, base["model"]["modality"]))}})


def _of_baseline(
    home: Home, name: BaselineName, wish: Wish, values: Mapping[str, Any], asked: Mapping[str, Any]
) -> Recipe:
    """The recipe of a baseline; errors as `resolve_run`."""
    _refuse_of_pmmrec(replace(wish, model=name))
    encoders = sorted({"text", "vision"} & _model_table(values).keys())
    if encoders:
        raise InputError(
            f"{name} knows items by their numbers and reads no {' and no '.join(encoders)}: leave "
            f"out {' and '.join(f'--{side}-encoder' for side in encoders)}"
        )
    base = {"model": asdict(BaselineOptions(name=name)), "train": _BASELINE_TRAINING[name]}
    recipe = resolve(Recipe, merge(base, values, asked))
    open_parts(home, recipe)
    return recipe


def _model_table(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table [model] of values; empty where there is none, or something else in its place."""
    model = values.get("model")
    return model if isinstance(model, Mapping) else {}


def _model_name(wish: Wish, values: Mapping[str, Any]) -> Any:
    """Which model is asked for.

    Raises:
        InputError: the command line and the recipe say different things.
    """
    told = _model_table(values).get("name")
    if wish.model and told not in (None, wish.model):
        raise InputError(f"--model {wish.model}, but the recipe says model.name = {told!r}")
    return wish.model or told or "pmmrec"


def _refuse_of_pmmrec(wish: Wish) -> None:
    """Refuse options of PMMRec with another model.

    Raises:
        InputError: names them.
    """
    if wish.model not in GRID:
        return
    given = [each for each in ("preset", "objectives", "modality") if getattr(wish, each)]
    if given:
        raise InputError(
            f"{' and '.join(f'--{each}' for each in given)} belong to --model pmmrec; found "
            f"--model {wish.model}, which knows items by their numbers alone"
        )


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
        raise InputError(f"--from {run}: {why_scratch_only(model['name'], 'finetune')}")
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
