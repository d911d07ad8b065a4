"""From what a user said (stage, preset, recipe file, options) to the recipe of a run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pmm.errors import InputError, MissingArtefact
from pmm.evaluate.checkpoint import BEST, read_tensors
from pmm.home import SOURCES, Home
from pmm.model.encoders import TextSpec
from pmm.model.pmmrec import ALL_OBJECTIVES, Preset, Weights, preset
from pmm.recipe import merge, read_recipe, resolve
from pmm.shards.training_set import Mixing
from pmm.train.loop import Recipe, Stage, open_parts
from pmm.train.run_folder import RECIPE
from pmm.train.transfer import Start, Transfer

Modality = Literal["both", "text", "vision"]

_TRAINING: dict[Preset, dict[str, Any]] = {
    "default": {},
    "paper": {"decay_norms": True},  # says AdamW and no more, so as the published code (R34)
    "official": {"decay_norms": True, "precision": "fp16", "patience": 0},
}
"""How a preset trains, where it is not as the defaults (docs/paper.md R34, R41, R43)."""
FINETUNE_PATIENCE = 5
"""Fine-tuning converges within a few epochs (R43)."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the command line was asked for, apart from single values."""

    stage: Stage = "scratch"
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
    preset: Preset = "default"

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
        return resolve(Recipe, merge(read_recipe(run_dir / RECIPE), values, asked))
    base: dict[str, Any] = {"model": asdict(preset(wish.preset))}
    if wish.stage == "finetune":
        base = {"model": _model_of(Path(asked["start"]["run"]), wish.transfer or "full")}
        base["train"] = {"patience": FINETUNE_PATIENCE}
    base = merge(base, {"train": _TRAINING[wish.preset]})
    if wish.modality:
        base = merge(base, {"model": {"modality": wish.modality}})
    base = merge(base, {"model": {"weights": asdict(_weights(wish, base["model"]["modality"]))}})
    draft = resolve(Recipe, merge(base, values, asked))
    first = open_parts(home, draft)[0]
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
