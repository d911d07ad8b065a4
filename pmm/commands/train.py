"""`pmm train`: a model trained on shards."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import typer

from pmm.advice import command as command_line
from pmm.commands.from_request import GroupedCommand, make_command, typed_command
from pmm.model import registry
from pmm.runs.request import TrainRequest
from pmm.storage.home import SOURCES, TARGETS
from pmm.train.interrupt import Underway, exit_status


def run(request: TrainRequest) -> None:
    """Train a model on shards.

    The best checkpoint by validation HR@10 is kept. Ctrl-C stops after the step in hand.

    \b
    MODELS

    Baselines have width 128, 20 items, lr 1e-3 and 256 users a batch, unless --preset original asks
    for their own papers' settings; docs/paper.md has all values and their sources.
    """
    from pmm.train.train_run import train_as_asked

    again = typed_command(leave_out="--overwrite") + ("" if request.resume else " --resume")
    try:
        result = train_as_asked(request, command=typed_command())
    except Underway:
        print(f"Stopped at once, unsaved. Go on from the last checkpoint: {again}", file=sys.stderr)
        raise typer.Exit(exit_status()) from None
    _print_result(result)
    if result["ended"] == "interrupted":
        print(f"Go on: {again}")
        raise typer.Exit(exit_status())
    if request.stage == "finetune":
        from pmm.evaluate.transfer_gain import told_after_training

        for line in told_after_training(request.place(), Path(result["run"])):
            print(line)
    print(f"Next: {_to_go_on(request, result['run'])}")


def _to_go_on(request: TrainRequest, run_dir: str) -> str:
    """The command after a training: an evaluation, or a fine-tuning of what was pre-trained."""
    if request.stage != "pretrain":
        return command_line("evaluate", run_dir)
    home = request.place()
    sources = [home.find_target(name) for name in request.sources or SOURCES]
    sharded = (
        home.find_target(each.parent.name) for each in home.shards("x").parent.glob("*/index.json")
    )
    own = [name for name in TARGETS if name.split()[0] in sources]
    target = min({*sharded} - {*sources}, default=(own or TARGETS)[0])
    return command_line("train", stage="finetune", target=target, from_=run_dir, home=home.option)


def _print_result(result: dict[str, Any]) -> None:
    best = result["best_hr@10"]
    print(f"{result['run']}: ended by {result['ended']} after {result['epochs']} epochs")
    print(f"  {result['steps']:,} steps in {result['seconds']:,} s")
    if best is not None:
        print(
            f"  best validation HR@10 {100 * best:.2f} in epoch {result['best_epoch']}, "
            f"popularity {100 * result['popularity_hr@10']:.2f}"
        )


def _models() -> str:
    """The models of the registry and what they know of an item, for help."""
    lines = ["Models and what they know of an item:"]
    for name, listed in registry.models().items():
        wide = textwrap.wrap(f"{name:<10} {listed.knows}", 88, subsequent_indent=" " * 11)
        lines += [f"  {line}" for line in wide]
    return "\n".join(lines)


def command() -> GroupedCommand:
    """The command."""
    assert run.__doc__ is not None
    run.__doc__ = run.__doc__.replace("MODELS", textwrap.indent(_models(), "    ").lstrip())
    example = 'pmm train --stage scratch --target "HM Shoes" --epochs 20'
    return make_command("train", TrainRequest, run, example=example)
