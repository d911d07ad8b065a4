"""The command line: a command parses, calls one function and prints one result.

Heavy imports stand inside the commands, so that help answers at once.
"""

import errno
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from pmm import __version__
from pmm.commands.ingest import HomeOption, at_home, ingest_app
from pmm.errors import InputError, PmmError
from pmm.messages import configure_logging
from pmm.storage.home import Home, resolve_home, slug

if TYPE_CHECKING:
    from pmm.runs.request import TrainRequest

COMMANDS = (
    "ingest",
    "shard",
    "cache",
    "train",
    "tune",
    "evaluate",
    "compare",
    "inspect",
    "demo",
    "world",
)
"""In the order in which data flows."""


class _InOrderOfFlow(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """The commands as help lists them."""
        return sorted(super().list_commands(ctx), key=COMMANDS.index)


app = typer.Typer(
    name="pmm",
    cls=_InOrderOfFlow,
    help="Recommenders that know items by their text and picture: from raw dumps to ranked items.",
    epilog="Example: pmm demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ingest_app, name="ingest")

TargetOption = Annotated[str, typer.Option("--target", help='A dataset by name, as "HM Shoes".')]
ForceOption = Annotated[bool, typer.Option("--force", help="Write again though nothing changed.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
GivenDeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
StartOption = Annotated[
    Path | None, typer.Option("--from", help="With finetune: the pre-trained run.")
]
TransferOption = Annotated[
    Literal["full", "item", "user", "text", "vision"] | None,
    typer.Option(help="With finetune: the parts to take over. [full]"),
]
ModalityOption = Annotated[
    Literal["both", "text", "vision"] | None,
    typer.Option(help="What a model from scratch reads. [both]"),
]
BatchUsersOption = Annotated[
    int | None, typer.Option(help="Users of a batch. [64; baselines: 256]")
]
ModelOption = Annotated[
    Literal[
        "pmmrec",
        "morec",
        "sasrec",
        "gru4rec",
        "nextitnet",
        "fdsa",
        "carca",
        "unisrec",
        "vqrec",
        "peterrec",
    ]
    | None,
    typer.Option(help="PMMRec, or a baseline: pmm train --help lists them. [pmmrec]"),
]
RecipeOption = Annotated[Path | None, typer.Option(help="A TOML recipe, over the preset.")]
TextEncoderOption = Annotated[
    str | None, typer.Option(help="Hub name or folder. [that of the shards' tokens]")
]
VisionEncoderOption = Annotated[
    str | None, typer.Option(help="open_clip name or folder. [ViT-B-32]")
]
TrainBlocksOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        help='Top blocks of each encoder that train; 0 freezes it, "all" trains everything. [2]',
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any recipe value, as model.fusion_pool=cls; repeatable."),
]
SizeOption = Annotated[
    Literal["tiny", "demo", "large"], typer.Option(help="How large the world is.")
]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line. Exit status: 0 done, 1 the user's input is at fault, 2 usage."""
    try:
        app(args=arguments)
    except PmmError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:  # of any path that a user typed; whatever else fails is told as a bug
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        print(f"Error: {error.filename} cannot be used ({error.strerror})", file=sys.stderr)
        raise SystemExit(1) from None
    except SystemExit as ended:  # typer turns Ctrl-C into one
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):
            print("Stopped. Run the same command to go on.", file=sys.stderr)
        raise
    raise SystemExit(0)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pmm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell all that happens, with times.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Tell warnings and errors only.")
    ] = False,
) -> None:
    del version
    configure_logging(verbose, quiet)


@app.command(
    "shard", epilog='Example: pmm shard --target "HM Shoes" --text-encoder xlm-roberta-base'
)
def shard_command(
    target: TargetOption,
    text_encoder: Annotated[
        str, typer.Option(help="Whose tokenizer: a name on the model hub, or a local folder.")
    ] = "xlm-roberta-base",
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of raw pictures, if it has moved since the ingest.")
    ] = None,
    allow_no_pictures: Annotated[
        bool, typer.Option(help="Accept a target of which no picture can be read.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="Sub-word tokens of a text at most.")] = 50,
    jpeg_quality: Annotated[int, typer.Option(help="Of the 224x224 pictures, 1 to 100.")] = 90,
    workers: Annotated[int | None, typer.Option(help="Processes. [all cores]")] = None,
    home: HomeOption = None,
    force: ForceOption = False,
) -> None:
    """Pictures to 224x224, texts to tokens, shards.

    Writes plain WebDataset: pictures squashed to 224x224, texts as at most 50 sub-word tokens.
    """
    from pmm.shards.write import ShardOptions, write_shards

    place = resolve_home(home)
    name = place.find_target(target)
    options = ShardOptions(
        text_encoder=text_encoder,
        pictures=pictures,
        allow_no_pictures=allow_no_pictures,
        max_tokens=max_tokens,
        jpeg_quality=jpeg_quality,
        workers=workers,
    )
    built = write_shards(place, name, options, force=force)
    state = "written" if built.fresh else "unchanged, nothing to do"
    print(f"{built.place}: {state}")
    for what, count in built.manifest.counts.items():
        print(f"  {count:>9,} {what}")
    where = f" --text-encoder {shlex.quote(text_encoder)}" if Path(text_encoder).is_dir() else ""
    print(f'Next: pmm train --stage scratch --target "{name}"{where}{at_home(home)}')


@app.command("cache", epilog='Example: pmm cache --target "Kwai Movie"')
def cache_command(
    target: Annotated[
        list[str], typer.Option("--target", help='A dataset by name, as "HM Shoes"; repeatable.')
    ],
    modality: Annotated[
        Literal["both", "text", "vision"], typer.Option(help="Of which encoders.")
    ] = "both",
    recipe: RecipeOption = None,
    text_encoder: TextEncoderOption = None,
    vision_encoder: VisionEncoderOption = None,
    train_blocks: TrainBlocksOption = None,
    storage: Annotated[
        Literal["fp16", "fp32"], typer.Option(help="Type of the stored values.")
    ] = "fp16",
    device: DeviceOption = "auto",
    set_: SetOption = None,
    force: ForceOption = False,
    home: HomeOption = None,
) -> None:
    """What the frozen parts of the encoders make of each item, computed once.

    Training does it on first use; the same encoders and shards are never computed twice.
    """
    from pmm.runs.request import TrainRequest
    from pmm.runs.resolve import resolve_run
    from pmm.train.training import store_activations

    place = resolve_home(home)
    training = {"device": device, "cache": storage}
    values = _values(recipe, text_encoder, vision_encoder, train_blocks, training, set_)
    for name in target:
        request = TrainRequest(target=name, modality=modality)
        resolved = resolve_run(place, place.run(_run_name(request)), request, values)
        for folder, state in store_activations(place, resolved, force=force).items():
            print(f"{folder}: {state}")
    print(f'Next: pmm train --stage scratch --target "{target[0]}", with the same encoders')


def _values(
    recipe: Path | None,
    text_encoder: str | None,
    vision_encoder: str | None,
    train_blocks: str | None,
    training: dict[str, Any],
    assignments: list[str] | None,
) -> dict[str, Any]:
    """The values of a recipe file, under those of options, under those of --set."""
    from pmm.storage.toml import merge, parse_assignments, read_recipe_beside

    blocks = int(train_blocks) if train_blocks and train_blocks.isdecimal() else train_blocks
    sides: dict[str, dict[str, Any]] = {
        "text": {"encoder": text_encoder, "train_blocks": blocks},
        "vision": {"encoder": vision_encoder, "train_blocks": blocks},
    }
    given = {side: {k: v for k, v in each.items() if v is not None} for side, each in sides.items()}
    flags = {"model": {side: each for side, each in given.items() if each}, "train": training}
    return merge(
        read_recipe_beside(recipe) if recipe else {}, flags, parse_assignments(assignments or [])
    )


@app.command("train", epilog='Example: pmm train --stage scratch --target "HM Shoes" --epochs 20')
def train_command(
    stage: Annotated[
        Literal["scratch", "pretrain", "finetune"],
        typer.Option(help="From public encoders; on the sources; from a pre-trained run."),
    ] = "scratch",
    target: Annotated[
        str | None, typer.Option("--target", help='What to train on, as "HM Shoes".')
    ] = None,
    model: ModelOption = None,
    sources: Annotated[
        str | None,
        typer.Option(help="With pretrain: names with commas between. [Bili,Kwai,HM,Amazon]"),
    ] = None,
    mixing: Annotated[
        Literal["proportional", "equal"] | None,
        typer.Option(help="With pretrain: users of a source in a batch. [proportional]"),
    ] = None,
    start: StartOption = None,
    transfer: TransferOption = None,
    objectives: Annotated[
        Literal["dap", "all"] | None,
        typer.Option(help="Next item only, or all four. [pretrain: all, else: dap]"),
    ] = None,
    modality: ModalityOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the run. [TARGET-STAGE]")] = None,
    preset: Annotated[
        Literal["default", "paper", "official", "original"] | None,
        typer.Option(
            help="Decisions of docs/paper.md; with finetune of the training alone. original: of a "
            "baseline, its own paper's. [default]"
        ),
    ] = None,
    recipe: RecipeOption = None,
    text_encoder: TextEncoderOption = None,
    vision_encoder: VisionEncoderOption = None,
    train_blocks: TrainBlocksOption = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many. [30]")] = None,
    batch_users: BatchUsersOption = None,
    lr: Annotated[float | None, typer.Option(help="Of all groups. [1e-4; baselines: 1e-3]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and dropout. [0]")] = None,
    device: GivenDeviceOption = None,
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option(help="Go on with a stopped run.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a run of this name.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print where the time of a step goes.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Train a model on shards.

    The best checkpoint by validation HR@10 is kept. Ctrl-C stops after the step in hand.

    \b
    Models and what they know of an item:
      pmmrec     its text and picture, by encoders that train; transfers
      morec      the same without fusion of tokens and without further objectives; transfers
                 (MoRec++; Yuan et al. 2023)
      sasrec     its id (Kang and McAuley 2018)
      gru4rec    its id (Hidasi et al. 2016)
      nextitnet  its id (Yuan et al. 2019)
      fdsa       its id and a frozen vector of its text (Zhang et al. 2019)
      carca      its id and frozen vectors of text and picture (CARCA++; Rashed et al. 2022)
      unisrec    a frozen vector of its text; transfers (Hou et al. 2022)
      vqrec      codes of a frozen vector of its text; transfers (Hou et al. 2023)
      peterrec   frozen vectors of text and picture; transfers by adapters (Yuan et al. 2020,
                 on ids; on vectors it is our extension)
    Baselines have width 128, 20 items, lr 1e-3 and 256 users a batch, unless --preset original asks
    for their own papers' settings; docs/paper.md has all values and their sources.
    """
    from pmm.runs.folder import Existing
    from pmm.runs.request import TrainRequest
    from pmm.runs.resolve import resolve_run
    from pmm.train.training import train

    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    request = TrainRequest(
        stage=stage,
        model=model,
        target=target,
        sources=tuple(each.strip() for each in sources.split(",")) if sources else (),
        mixing=mixing,
        start=start,
        transfer=transfer,
        objectives=objectives,
        modality=modality,
        preset=preset,
    )
    place = resolve_home(home)
    run_dir = place.run(name or _run_name(request))
    training = {
        "epochs": epochs,
        "batch_users": batch_users,
        "lr": lr,
        "encoder_lr": lr,
        "seed": seed,
        "device": device,
    }
    values = _values(recipe, text_encoder, vision_encoder, train_blocks, training, set_)
    resolved = resolve_run(place, run_dir, request, values, resume=resume)
    existing: Existing = "resume" if resume else "overwrite" if overwrite else "refuse"
    result = train(place, run_dir, resolved, existing=existing, command=_command(), profile=profile)
    _print_result(result)
    if result["ended"] == "interrupted":
        print(f"Go on: {_command(leave_out='--overwrite')}{'' if resume else ' --resume'}")
        raise typer.Exit(130)
    again = f'pmm train --stage finetune --target "HM Shoes" --from {run_dir}'
    print(f"Next: {again if stage == 'pretrain' else f'pmm evaluate {run_dir}'}")


@app.command("tune", epilog='Example: pmm tune --target "HM Shoes" --model gru4rec --budget 20')
def tune_command(
    target: TargetOption,
    budget: Annotated[int, typer.Option(help="How many trials, those done before included.")],
    model: ModelOption = None,
    stage: Annotated[
        Literal["scratch", "finetune"], typer.Option(help="From public encoders, or from a run.")
    ] = "scratch",
    start: StartOption = None,
    transfer: TransferOption = None,
    modality: ModalityOption = None,
    recipe: RecipeOption = None,
    text_encoder: TextEncoderOption = None,
    vision_encoder: VisionEncoderOption = None,
    train_blocks: TrainBlocksOption = None,
    epochs: Annotated[int | None, typer.Option(help="Of each trial, at most. [30]")] = None,
    batch_users: BatchUsersOption = None,
    minutes: Annotated[float, typer.Option(help="Of each trial, at most; 0 has no limit.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the search and of every trial.")] = 0,
    device: GivenDeviceOption = None,
    set_: SetOption = None,
    overwrite: Annotated[bool, typer.Option(help="Begin the search anew.")] = False,
    home: HomeOption = None,
) -> None:
    """Search a model's hyper-parameters, by validation HR@10; the same budget for every model.

    The first trial has the model's defaults. Values that are given are kept. Stopped and started
    again, the search goes on. Needs the extra "tune".
    """
    from pmm.runs.request import TrainRequest
    from pmm.tune.search import trials_table, tune

    place = resolve_home(home)
    request = TrainRequest(
        stage=stage, model=model, target=target, start=start, transfer=transfer, modality=modality
    )
    training = {"epochs": epochs, "batch_users": batch_users, "device": device}
    values = _values(recipe, text_encoder, vision_encoder, train_blocks, training, set_)
    command = _command(leave_out="--overwrite")
    found = tune(
        place,
        request,
        values,
        budget=budget,
        seed=seed,
        minutes=minutes,
        overwrite=overwrite,
        command=command,
    )
    if found["rows"]:
        print(trials_table(found["rows"]))
    if found["ended"] == "interrupted":
        print(f"Go on: {command}")
        raise typer.Exit(130)
    print(f"Best options: {found['recipe']}")
    for each in found["next"]:
        print(f"Next: {each}")


def _run_name(request: "TrainRequest") -> str:
    """What a run is called where nobody said: hm-shoes-scratch, hm-shoes-finetune-text, pretrain.

    >>> from pmm.runs.request import TrainRequest
    >>> _run_name(TrainRequest(stage="pretrain", sources=("HM", "Kwai")))
    'pretrain-hm-kwai'
    >>> _run_name(TrainRequest(target="HM Shoes", model="sasrec"))
    'hm-shoes-scratch-sasrec'
    """
    parts = [request.stage, *map(slug, request.sources)]
    if request.target:
        parts = [slug(request.target), request.stage]
    own = [] if request.model in (None, "pmmrec") else [request.model]
    return "-".join([*parts, *own, *([request.transfer] if request.transfer else [])])


def _print_result(result: dict[str, Any]) -> None:
    best = result["best_hr@10"]
    print(f"{result['run']}: ended by {result['ended']} after {result['epochs']} epochs")
    print(f"  {result['steps']:,} steps in {result['seconds']:,} s")
    if best is not None:
        print(
            f"  best validation HR@10 {100 * best:.2f} in epoch {result['best_epoch']}, "
            f"popularity {100 * result['popularity_hr@10']:.2f}"
        )


def _command(leave_out: str = "") -> str:
    return shlex.join(["pmm", *(each for each in sys.argv[1:] if each != leave_out)])


@app.command("evaluate", epilog="Example: pmm evaluate pmm-data/runs/hm-shoes-scratch")
def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its name.")],
    split: Annotated[
        Literal["test", "valid"], typer.Option(help="Which item of each user is asked for.")
    ] = "test",
    keep_history: Annotated[
        bool, typer.Option(help="Rank the items a user has had already, too.")
    ] = False,
    target: Annotated[
        str | None, typer.Option(help="Another dataset, ranked without training. [its own]")
    ] = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="Also the cuts that end on a cold item.")
    ] = False,
    neighbours: Annotated[
        bool,
        typer.Option("--neighbours", help="Also by items that share users or are alike."),
    ] = False,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Of the random reference and the gallery.")] = 0,
    home: HomeOption = None,
) -> None:
    """Rank the whole catalogue for every user.

    HR and NDCG at 10, 20 and 50 beside popularity and random, and a gallery of top tens.
    """
    from pmm.evaluate.evaluation import EvaluateOptions, evaluate_run
    from pmm.evaluate.report import metrics_table
    from pmm.runs.loading import targets_of

    place = resolve_home(home)
    run_dir = _run_folder(run, place)
    if home is None and run.exists():
        place = Home.holding(run, "runs") or place
    options = EvaluateOptions(
        split=split, keep_history=keep_history, seed=seed, cold=cold, neighbours=neighbours
    )
    for name in [target] if target else targets_of(run_dir):
        print(metrics_table(evaluate_run(place, run_dir, options, device=device, target=name)))
    print(f"Written to {run_dir}: ranks, metrics, gallery. Look: pmm inspect {run_dir}")


@app.command("compare", epilog="Example: pmm compare hm-shoes-scratch hm-shoes-finetune")
def compare_command(
    first: Annotated[Path, typer.Argument(help="A run's folder, or its name.")],
    second: Annotated[Path, typer.Argument(help="Another one, of the same target.")],
    split: Annotated[
        Literal["test", "valid", "cold", "cold-all"],
        typer.Option(help="Which of their evaluations; cold: the held-out cuts."),
    ] = "test",
    target: Annotated[
        str | None, typer.Option(help="What they ranked, if not what they were trained on.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap's draws.")] = 0,
    home: HomeOption = None,
) -> None:
    """The difference of two runs.

    Metrics of the same users' ranks, with a paired bootstrap interval of the difference.
    """
    from pmm.evaluate.compare import compare_runs, comparison_table

    place = resolve_home(home)
    one, other = (_run_folder(each, place) for each in (first, second))
    name = place.find_target(target) if target else None
    found = compare_runs(one, other, asked=split, target=name, seed=seed)
    print(comparison_table(one.name, other.name, found))


def _run_folder(run: Path, home: Home) -> Path:
    """A run by its folder, or by its name below the home folder."""
    return run if run.exists() else home.run(run.name)


@app.command("demo", epilog="Example: pmm demo --home pmm-demo")
def demo_command(
    home: HomeOption = Path("pmm-demo"),
    size: SizeOption = "demo",
    epochs: Annotated[int | None, typer.Option(help="Training epochs at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of the world and of the training.")] = 0,
) -> None:
    """The whole way on the embedded world.

    From raw files to recommendations, on a CPU, in minutes.
    """
    from pmm.demo.demo import run_demo

    place, command = resolve_home(home), _command()
    print(run_demo(place, size=size, epochs=epochs, seed=seed, command=command))


@app.command("world", epilog="Example: pmm world --format hm --size demo --to raw/hm")
def world_command(
    to: Annotated[Path | None, typer.Option(help="Folder for the raw files.")] = None,
    format: Annotated[
        Literal["amazon", "hm", "bili", "kwai", "csv"], typer.Option(help="Raw format.")
    ] = "hm",
    layout: Annotated[
        str | None,
        typer.Option(
            help="Which of a format's layouts. amazon: 2018, 2018-old, 2023; bili and kwai: "
            "ninerec, ninerec-user-first, pmmrec, pmmrec-lmdb; kwai also: microlens, "
            "microlens-crlf, microlens-tsv. [the first]"
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="With --format csv: which source or target to write.")
    ] = "HM",
    size: SizeOption = "demo",
    seed: Annotated[int, typer.Option(help="Of everything in the world.")] = 0,
    strays: Annotated[
        int, typer.Option(help="Per cent of the interactions replaced by random ones.")
    ] = 0,
    describe: Annotated[
        bool, typer.Option(help="Print sizes, oracle and popularity of all sources and targets.")
    ] = False,
    encoders: Annotated[
        Path | None, typer.Option(help="Folder for the world's small pre-trained encoders.")
    ] = None,
    teach: Annotated[
        bool, typer.Option("--teach", help="Train these again instead of copying those of PMM.")
    ] = False,
) -> None:
    """The embedded world as raw files.

    With --describe: how hard it is, measured on all sources and targets.
    """
    from pmm.world import generate
    from pmm.world.formats.csv_writer import write_csv
    from pmm.world.formats.raw_formats import write_raw

    if to is None and not describe and encoders is None:
        raise InputError("say where to write raw files (--to DIR) or --encoders DIR, or --describe")
    if encoders is not None:
        from pmm.demo.public_encoders import put_public_encoders, teach_public_encoders

        if teach:
            teach_public_encoders(encoders)
        else:
            put_public_encoders(encoders)
        print(
            f"{encoders}: give pmm shard --text-encoder {encoders}/text, and pmm train --recipe "
            f"{encoders}/recipe.toml"
        )
    if format == "csv" and layout is not None:
        raise InputError(f"--layout {layout}: --format csv has one layout only; leave it out")
    world = generate(size, seed, strays)
    if describe:
        from pmm.text_table import text_table
        from pmm.world.describe import describe as describe_world

        found = describe_world(world)
        names = max(map(list, found), key=len)  # a target in which nothing is left has fewer
        print("Sizes after a core of 5; what the oracles and the floors reach is HR@10.")
        print(text_table(names, [[row.get(name) for name in names] for row in found]))
    if to is not None:
        if format == "csv":
            wrote = {target: write_csv(world, target, to)}
        else:
            wrote = write_raw(world, format, to, layout)
        for name, counts in wrote.items():
            told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
            print(f"{to} ({name}): {told}")


@app.command("inspect", epilog="Example: pmm inspect pmm-data/shards/hm")
def inspect_command(
    path: Annotated[
        str, typer.Argument(help="An artefact, a run, one of their files; or the URL of shards.")
    ],
    rows: Annotated[int, typer.Option(help="First rows of each table.")] = 5,
    sheet: Annotated[
        Path | None, typer.Option(help="Where to draw the contact sheet of shards.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare the content of every file.")] = False,
) -> None:
    """Show any artefact, run or file.

    Manifest, card, first rows of tables, a contact sheet of the pictures in shards.
    """
    from pmm.inspect import describe

    print(describe(path, rows=rows, sheet=sheet, verify=verify))
