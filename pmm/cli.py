"""The command line: a command parses, calls one function and prints one result.

Heavy imports stand inside the commands, so that help answers at once.
"""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pmm import __version__
from pmm.errors import InputError, PmmError
from pmm.home import resolve_home, slug

app = typer.Typer(
    name="pmm",
    help="Recommenders that know items by their text and picture: from raw dumps to ranked items.",
    epilog="Example: pmm demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ingest_app = typer.Typer(
    help="Filter and split a raw dataset into tables and targets.",
    epilog="Example: pmm ingest hm --raw ~/hm",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(ingest_app, name="ingest")


class Repeats(StrEnum):
    """What to do when a user meets an item again."""

    keep = "keep"
    first = "first"


class SplitBy(StrEnum):
    """How sequences are cut into train, valid and test."""

    leave_one_out = "leave-one-out"
    temporal = "temporal"


class MissingImage(StrEnum):
    """What to do with items that have no picture."""

    drop = "drop"
    text_only = "text-only"


class Stage(StrEnum):
    """What a training run starts from."""

    scratch = "scratch"


class Preset(StrEnum):
    """A column of the table of decisions in docs/paper.md."""

    default = "default"
    paper = "paper"
    official = "official"


class Part(StrEnum):
    """Which of a user's items is asked for."""

    test = "test"
    valid = "valid"


class Size(StrEnum):
    """How large the embedded world is."""

    tiny = "tiny"
    demo = "demo"
    large = "large"


class Format(StrEnum):
    """The raw format in which the embedded world is written."""

    hm = "hm"
    csv = "csv"


HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of all artefacts. [default: $PMM_HOME or ./pmm-data]"),
]
TargetOption = Annotated[str, typer.Option("--target", help='A dataset by name, as "HM Shoes".')]
ForceOption = Annotated[bool, typer.Option("--force", help="Write again though nothing changed.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
UserCore = Annotated[int, typer.Option(help="Least interactions of a user; 0 switches it off.")]
ItemCore = Annotated[int, typer.Option(help="Least interactions of an item; 0 switches it off.")]
RepeatsOption = Annotated[Repeats, typer.Option(help="Same user and item again: all or the first.")]
UsersOption = Annotated[int | None, typer.Option(help="Sample this many users after the core.")]
SampleSeed = Annotated[int, typer.Option("--seed", help="Seed of the sample of users.")]
SplitOption = Annotated[
    SplitBy, typer.Option(help="Each user's last two items, or two points in time for all.")
]
MissingOption = Annotated[
    MissingImage, typer.Option(help="Items without a picture: drop before the core, or keep.")
]
ColdOption = Annotated[int, typer.Option(help="Items with fewer training occurrences are cold.")]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line. Exit status: 0 done, 1 the user's input is at fault, 2 usage."""
    try:
        app(args=arguments)
    except PmmError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("Stopped. Run the same command to go on.", file=sys.stderr)
        raise SystemExit(130) from None
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
) -> None:
    del version


@ingest_app.command("hm", epilog='Example: pmm ingest hm --raw ~/hm --target "HM Shoes"')
def ingest_hm_command(
    raw: Annotated[Path | None, typer.Option(help="The competition's files. [HOME/raw/hm]")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="HM, HM Clothes or HM Shoes; repeatable. [all]")
    ] = None,
    home: HomeOption = None,
    user_core: UserCore = 5,
    item_core: ItemCore = 5,
    repeats: RepeatsOption = Repeats.keep,
    users: UsersOption = None,
    seed: SampleSeed = 0,
    split: SplitOption = SplitBy.leave_one_out,
    missing_image: MissingOption = MissingImage.drop,
    cold_below: ColdOption = 10,
) -> None:
    """H&M's Kaggle files: transactions_train.csv, articles.csv, images/."""
    from pmm.ingest.hm import ingest_hm
    from pmm.ingest.targets import IngestOptions

    options = IngestOptions(
        user_core=user_core,
        item_core=item_core,
        repeats=repeats.value,
        users=users,
        seed=seed,
        split=split.value,
        missing_image=missing_image.value,
        cold_below=cold_below,
    )
    place = resolve_home(home)
    _print_cards(ingest_hm(place, raw, target or [], options), place.root)


@ingest_app.command(
    "csv",
    epilog="Example: pmm ingest csv --name shop --interactions ratings.csv --items items.csv",
)
def ingest_csv_command(
    name: Annotated[str, typer.Option(help="The name of the new dataset.")],
    interactions: Annotated[Path, typer.Option(help="One row an interaction: user, item, time.")],
    items: Annotated[Path, typer.Option(help="One row an item: id, title, description, image.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures, found by path or by item id.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns of a file without header, as user,item,rating,timestamp."),
    ] = None,
    home: HomeOption = None,
    user_core: UserCore = 5,
    item_core: ItemCore = 5,
    repeats: RepeatsOption = Repeats.keep,
    users: UsersOption = None,
    seed: SampleSeed = 0,
    split: SplitOption = SplitBy.leave_one_out,
    missing_image: MissingOption = MissingImage.drop,
    cold_below: ColdOption = 10,
) -> None:
    """Any user-item-time table: `,`, tab, `::` or `|`, with or without header, gz or plain."""
    from pmm.ingest.generic import CsvFiles, ingest_csv
    from pmm.ingest.targets import IngestOptions

    options = IngestOptions(
        user_core=user_core,
        item_core=item_core,
        repeats=repeats.value,
        users=users,
        seed=seed,
        split=split.value,
        missing_image=missing_image.value,
        cold_below=cold_below,
    )
    place = resolve_home(home)
    files = CsvFiles(interactions=interactions, items=items, images=images, columns=columns)
    _print_cards(ingest_csv(place, name, files, options), place.root)


def _print_cards(cards: list[dict[str, Any]], home: Path) -> None:
    from pmm.inspect import summarise_cards

    print(summarise_cards(cards))
    print(f"Artefacts are below {home}. Next: {_next_shard(cards)}")


def _next_shard(cards: list[dict[str, Any]]) -> str:
    made = [card["target"] for card in cards if "left_out" not in card]
    return f'pmm shard --target "{made[0]}"' if made else "choose other cores"


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
    """Resize pictures to 224x224, tokenize texts to 50, write WebDataset shards."""
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
    print(f'Next: pmm train --stage scratch --target "{name}"')


@app.command("train", epilog='Example: pmm train --stage scratch --target "HM Shoes" --epochs 20')
def train_command(
    target: TargetOption,
    stage: Annotated[Stage, typer.Option(help="What the run starts from.")] = Stage.scratch,
    name: Annotated[str | None, typer.Option(help="Name of the run. [TARGET-STAGE]")] = None,
    preset: Annotated[Preset, typer.Option(help="Decisions of docs/paper.md.")] = Preset.default,
    recipe: Annotated[Path | None, typer.Option(help="A TOML recipe, over the preset.")] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Hub name or folder. [that of the shards' tokens]")
    ] = None,
    vision_encoder: Annotated[
        str | None, typer.Option(help="open_clip name or folder. [ViT-B-32]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many. [30]")] = None,
    batch_users: Annotated[int | None, typer.Option(help="Users of a batch. [64]")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of all groups. [1e-4]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and dropout. [0]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any recipe value, as model.fusion_pool=cls; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a stopped run.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a run of this name.")] = False,
    home: HomeOption = None,
) -> None:
    """Train a model on a target's shards; the best checkpoint by validation HR@10 is kept."""
    from pmm.recipe import merge, parse_assignments, read_recipe
    from pmm.train.loop import train
    from pmm.train.run_recipe import resolve_run

    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    place = resolve_home(home)
    run_dir = place.run(name or f"{slug(target)}-{stage.value}")
    flags: dict[str, Any] = {
        "model": {"text": {"encoder": text_encoder}, "vision": {"encoder": vision_encoder}},
        "train": {
            "epochs": epochs,
            "batch_users": batch_users,
            "lr": lr,
            "encoder_lr": lr,
            "seed": seed,
            "device": device,
        },
    }
    values = merge(read_recipe(recipe) if recipe else {}, flags, parse_assignments(set_ or []))
    resolved = resolve_run(place, run_dir, target, preset.value, values, resume=resume)
    existing = "resume" if resume else "overwrite" if overwrite else "refuse"
    result = train(place, run_dir, resolved, existing=existing, command=_command())  # type: ignore[arg-type]
    best = result["best_hr@10"]
    print(f"{result['run']}: ended by {result['ended']} after {result['epochs']} epochs")
    print(f"  {result['steps']:,} steps in {result['seconds']:,} s")
    if best is not None:
        print(
            f"  best validation HR@10 {100 * best:.2f} in epoch {result['best_epoch']}, "
            f"popularity {100 * result['popularity_hr@10']:.2f}"
        )
    if result["ended"] == "interrupted":
        print(f"Go on: {_command()}{'' if resume else ' --resume'}")
        raise typer.Exit(130)
    print(f"Next: pmm evaluate {run_dir}")


def _command() -> str:
    return shlex.join(["pmm", *sys.argv[1:]])


@app.command("evaluate", epilog="Example: pmm evaluate pmm-data/runs/hm-shoes-scratch")
def evaluate_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its name.")],
    split: Annotated[Part, typer.Option(help="Which item of each user is asked for.")] = Part.test,
    keep_history: Annotated[
        bool, typer.Option(help="Rank the items a user has had already, too.")
    ] = False,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Of the random reference and the gallery.")] = 0,
    home: HomeOption = None,
) -> None:
    """Rank the whole catalogue for every user: HR and NDCG beside popularity and random."""
    from pmm.evaluate.report import metrics_table
    from pmm.evaluate.run import EvaluateOptions, evaluate_run

    place = resolve_home(home)
    run_dir = run if run.exists() else place.run(run.name)
    options = EvaluateOptions(split=split.value, keep_history=keep_history, seed=seed)
    metrics = evaluate_run(place, run_dir, options, device=device)
    print(metrics_table(metrics))
    print(f"Written to {run_dir}: ranks, metrics, gallery. Look: pmm inspect {run_dir}")


@app.command("demo", epilog="Example: pmm demo --home pmm-demo")
def demo_command(
    home: HomeOption = Path("pmm-demo"),
    size: Annotated[Size, typer.Option(help="How large the world is.")] = Size.demo,
    epochs: Annotated[int | None, typer.Option(help="Training epochs at most.")] = None,
    seed: Annotated[int, typer.Option(help="Of the world and of the training.")] = 0,
) -> None:
    """The whole way on the embedded world, on a CPU, in minutes: raw files to recommendations."""
    from pmm.demo import run_demo

    print(run_demo(resolve_home(home), size=size.value, epochs=epochs, seed=seed))


@app.command("world", epilog="Example: pmm world --format hm --size demo --to raw/hm")
def world_command(
    to: Annotated[Path | None, typer.Option(help="Folder for the raw files.")] = None,
    format: Annotated[Format, typer.Option(help="Raw format.")] = Format.hm,
    target: Annotated[
        str, typer.Option(help="With --format csv: which source or target to write.")
    ] = "HM",
    size: Annotated[Size, typer.Option(help="How large the world is.")] = Size.demo,
    seed: Annotated[int, typer.Option(help="Of everything in the world.")] = 0,
    describe: Annotated[
        bool, typer.Option(help="Print sizes, oracle and popularity of all sources and targets.")
    ] = False,
) -> None:
    """Write the embedded world as raw files, or say how hard it is."""
    from pmm.world import generate
    from pmm.world.csv_files import write_csv
    from pmm.world.hm_files import write_hm

    if to is None and not describe:
        raise InputError("say where to write the raw files (--to DIR), or --describe")
    world = generate(size.value, seed)
    if describe:
        from pmm.text_table import text_table
        from pmm.world.describe import describe as describe_world

        found = describe_world(world)
        print(text_table(list(found[0]), [list(row.values()) for row in found]))
    if to is not None:
        wrote = write_hm(world, to) if format is Format.hm else write_csv(world, target, to)
        print(f"{to}: " + ", ".join(f"{count:,} {what}" for what, count in wrote.items()))


@app.command("inspect", epilog="Example: pmm inspect pmm-data/shards/hm")
def inspect_command(
    path: Annotated[Path, typer.Argument(help="An artefact, a run, or one of their files.")],
    rows: Annotated[int, typer.Option(help="First rows of each table.")] = 5,
    sheet: Annotated[
        Path | None, typer.Option(help="Where to draw the contact sheet of shards.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare the content of every file.")] = False,
) -> None:
    """Show any artefact: manifest, card, first rows, a contact sheet of its pictures."""
    from pmm.inspect import describe

    print(describe(path, rows=rows, sheet=sheet, verify=verify))
