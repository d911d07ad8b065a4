"""`pmm tune`: a search for hyper-parameters."""

import sys

import typer

from pmm.commands.from_request import GroupedCommand, make_command, typed_command
from pmm.runs.request import TuneRequest
from pmm.train.interrupt import Underway, exit_status


def run(request: TuneRequest) -> None:
    """Search a model's hyper-parameters; the same budget for every model.

    The best has the highest validation HR@10. The first trial has the model's defaults. Values that
    are given are kept. Stopped and started again, the search goes on. Needs the extra "tune".
    """
    from pmm.tune.search import tune_as_asked
    from pmm.tune.trial_rows import trials_table

    again = typed_command(leave_out="--overwrite")
    try:
        found = tune_as_asked(request, command=again)
    except Underway:
        print(f"Stopped at once. Go on: {again}", file=sys.stderr)
        raise typer.Exit(exit_status()) from None
    if found["rows"]:
        print(trials_table(found["rows"]))
    if found["ended"] == "interrupted":
        print(f"Go on: {again}")
        raise typer.Exit(exit_status())
    print(f"Best options: {found['recipe']}")
    for each in found["next"]:
        print(f"Next: {each}")


def command() -> GroupedCommand:
    """The command."""
    example = 'pmm tune --target "HM Shoes" --model gru4rec --budget 20'
    return make_command("tune", TuneRequest, run, example=example)
