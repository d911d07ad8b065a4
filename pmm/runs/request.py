"""What a user asks of a training or of a search, as the commands' options have it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pmm.data.order import Mixing
from pmm.errors import InputError
from pmm.flags import Flag, flagged
from pmm.model import registry
from pmm.model.encoders.specs import TextSpec, TrainBlocks, VisionSpec
from pmm.model.model_entry import Objectives, Stage, Transfer
from pmm.runs.train_options import TrainOptions
from pmm.shards.kinds import Modality, Storage
from pmm.shards.shard_options import ENCODERS, NamedEncoders
from pmm.storage.dotted_names import nested
from pmm.storage.home import Home, resolve_home
from pmm.storage.toml import merge, parse_assignments, read_recipe_beside


def _models() -> list[str]:
    return list(registry.models())


def recipe_values(request: Any) -> dict[str, Any]:
    """The nested recipe values that a request's flags set; what is None is left out."""
    given = {
        path: getattr(request, field.name)
        for field, _, flag in flagged(type(request))
        for path in flag.sets
    }
    return nested({path: value for path, value in given.items() if value is not None})


def _named_values(word: NamedEncoders | None) -> dict[str, Any]:
    """The recipe values of encoders that are chosen by one word."""
    if word is None:
        return {}
    pair = ENCODERS[word]
    return {"model": {"text": {"encoder": pair.text}, "vision": {"encoder": pair.vision}}}


@dataclass(frozen=True, kw_only=True)
class RecipeRequest:
    """Values of a recipe: a file, options for some of them, and any other by its name.

    An option that is not given says nothing: the recipe file, the preset or the default decides.
    """

    recipe: Annotated[Path | None, Flag(group="model")] = None
    """A TOML recipe, over the preset."""
    encoders: Annotated[NamedEncoders | None, Flag(group="model")] = None
    """Both encoders by one word; "small": MiniLM and DINOv2-small, for machines without a GPU."""
    text_encoder: Annotated[
        str | None,
        Flag(
            group="model",
            of=TextSpec,
            sets=("model.text.encoder",),
            shown="that of the shards' tokens",
        ),
    ] = None
    vision_encoder: Annotated[
        str | None,
        Flag(group="model", of=VisionSpec, sets=("model.vision.encoder",), shown="ViT-B-32"),
    ] = None
    train_blocks: Annotated[
        TrainBlocks | None,
        Flag(
            group="model",
            of=TextSpec,
            sets=("model.text.train_blocks", "model.vision.train_blocks"),
            metavar="N|all",
            shown="2",
        ),
    ] = None
    set: Annotated[tuple[str, ...], Flag(group="model", metavar="NAME=VALUE")] = ()
    """Any recipe value, as model.fusion_pool=cls; repeatable."""
    device: Annotated[
        str | None, Flag(group="training", of=TrainOptions, sets=("train.device",), shown="auto")
    ] = None
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""

    def place(self) -> Home:
        """The home folder."""
        return resolve_home(self.home)

    def values(self) -> dict[str, Any]:
        """The values of the recipe file, under those of options, under those of --set.

        Raises:
            InputError, RecipeError: the file cannot be read, or a --set has no `=`.
        """
        from_file = read_recipe_beside(self.recipe) if self.recipe else {}
        named = _named_values(self.encoders)
        return merge(from_file, named, recipe_values(self), parse_assignments(self.set))


@dataclass(frozen=True, kw_only=True)
class CacheRequest(RecipeRequest):
    """What `pmm cache` can be asked."""

    target: Annotated[tuple[str, ...], Flag(group="data")]
    """A dataset by name, as "HM Shoes"; repeatable."""
    modality: Annotated[Modality, Flag(group="model")] = "both"
    """Of which encoders."""
    storage: Annotated[Storage, Flag(group="model", sets=("train.cache",))] = "fp16"
    """Type of the stored values."""
    force: Annotated[bool, Flag(group="output")] = False
    """Write again though nothing changed."""


@dataclass(frozen=True, kw_only=True)
class ModelRequest(RecipeRequest):
    """What a training and a search can both be asked: which model, on what, from where."""

    target: Annotated[str | None, Flag(group="data")] = None
    """What to train on, as "HM Shoes"."""
    model: Annotated[str | None, Flag(group="model", choices=_models, shown="pmmrec")] = None
    """PMMRec, or a baseline: pmm train --help lists them."""
    start: Annotated[Path | None, Flag(group="model", name="--from")] = None
    """With finetune: the pre-trained run."""
    transfer: Annotated[Transfer | None, Flag(group="model", shown="full")] = None
    """With finetune: the parts to take over."""
    modality: Annotated[Modality | None, Flag(group="model", shown="both")] = None
    """What a model from scratch reads."""
    epochs: Annotated[
        int | None, Flag(group="training", of=TrainOptions, sets=("train.epochs",), shown="30")
    ] = None
    batch_users: Annotated[
        int | None,
        Flag(
            group="training",
            of=TrainOptions,
            sets=("train.batch_users",),
            shown="64; baselines: 256",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainRequest(ModelRequest):
    """What a training can be asked."""

    stage: Annotated[Stage, Flag(group="training")] = "scratch"
    """From public encoders; on the sources; from a pre-trained run."""
    sources: Annotated[
        tuple[str, ...], Flag(group="data", commas=True, shown="Bili,Kwai,HM,Amazon")
    ] = ()
    """With pretrain: names with commas between."""
    mixing: Annotated[Mixing | None, Flag(group="data", shown="proportional")] = None
    """With pretrain: users of a source in a batch."""
    objectives: Annotated[
        Objectives | None, Flag(group="model", shown="pretrain: all, else: dap")
    ] = None
    """Next item only, or all four."""
    preset: Annotated[str | None, Flag(group="model", shown="default")] = None
    """One that the model has: paper or official (decisions of docs/paper.md; with finetune of the
    training alone), of a baseline original, its own paper's."""
    lr: Annotated[
        float | None,
        Flag(
            group="training",
            of=TrainOptions,
            sets=("train.lr", "train.encoder_lr"),
            shown="1e-4; baselines: 1e-3",
        ),
    ] = None
    """Learning rate of all groups."""
    seed: Annotated[
        int | None, Flag(group="training", of=TrainOptions, sets=("train.seed",), shown="0")
    ] = None
    name: Annotated[str | None, Flag(group="output", shown="by what was asked")] = None
    """Name of the run."""
    resume: Annotated[bool, Flag(group="output")] = False
    """Go on with a stopped run."""
    overwrite: Annotated[bool, Flag(group="output")] = False
    """Replace a run of this name."""
    profile: Annotated[bool, Flag(group="output")] = False
    """Print where the time of a step goes."""

    def __post_init__(self) -> None:
        """Refuse what does not go together.

        Raises:
            InputError: names the options.
        """
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite exclude each other")
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


@dataclass(frozen=True, kw_only=True)
class TuneRequest(ModelRequest):
    """What a search can be asked."""

    target: Annotated[str, Flag(group="data")]
    """A dataset by name, as "HM Shoes"."""
    budget: Annotated[int, Flag(group="search")]
    """How many trials, those done before included."""
    stage: Annotated[Literal["scratch", "finetune"], Flag(group="training")] = "scratch"
    """From public encoders, or from a run."""
    minutes: Annotated[float, Flag(group="search")] = 0.0
    """Of each trial, at most; 0 has no limit."""
    seed: Annotated[int, Flag(group="search")] = 0
    """Of the search and of every trial."""
    overwrite: Annotated[bool, Flag(group="output")] = False
    """Begin the search anew."""

    def of_each_trial(self) -> TrainRequest:
        """How the trials are trained; errors as of `TrainRequest`."""
        return TrainRequest(
            stage=self.stage,
            model=self.model,
            target=self.target,
            start=self.start,
            transfer=self.transfer,
            modality=self.modality,
            home=self.home,
        )


@dataclass(frozen=True, kw_only=True)
class EncodersRequest:
    """What a comparison of encoders can be asked."""

    target: Annotated[str, Flag(group="data")]
    """A dataset by name, as "HM Shoes"."""
    text_encoder: Annotated[
        tuple[str, ...], Flag(group="model", shown="that of the shards' tokens")
    ] = ()
    """Of texts, by name or folder; repeatable."""
    vision_encoder: Annotated[tuple[str, ...], Flag(group="model", shown="the recipe's")] = ()
    """Of pictures, by name or folder; repeatable."""
    modality: Annotated[
        tuple[str, ...], Flag(group="model", metavar="[text|vision|both]", shown="what is given")
    ] = ()
    """Each text encoder alone, each of pictures alone, each pair; repeatable."""
    recipe: Annotated[Path | None, Flag(group="model")] = None
    """A TOML recipe, the same for all."""
    set: Annotated[tuple[str, ...], Flag(group="model", metavar="NAME=VALUE")] = ()
    """Any recipe value, as train.lr=2e-3; repeatable."""
    seed: Annotated[tuple[int, ...], Flag(group="training", shown="0")] = ()
    """Of weights, order and dropout; repeatable, the table then has means."""
    epochs: Annotated[
        int | None, Flag(group="training", of=TrainOptions, sets=("train.epochs",), shown="30")
    ] = None
    batch_users: Annotated[
        int | None,
        Flag(group="training", of=TrainOptions, sets=("train.batch_users",), shown="64"),
    ] = None
    device: Annotated[
        str | None, Flag(group="training", of=TrainOptions, sets=("train.device",), shown="auto")
    ] = None
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""
    overwrite: Annotated[bool, Flag(group="output")] = False
    """Compare anew what was compared before."""

    def place(self) -> Home:
        """The home folder."""
        return resolve_home(self.home)

    def values(self) -> dict[str, Any]:
        """The recipe's values, as of `RecipeRequest`; items are made of vectors.

        Raises:
            InputError, RecipeError: the file cannot be read, or a --set has no `=`.
        """
        from_file = read_recipe_beside(self.recipe) if self.recipe else {}
        asked = merge(from_file, recipe_values(self), parse_assignments(self.set))
        return merge(asked, {"model": {"items": "vectors"}})
