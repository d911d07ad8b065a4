"""`pmm tune`: a search for hyper-parameters."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

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

    found = run_search(partial(tune_as_asked, request), trials_table)
    print(f"Best options: {found['recipe']}")
    for each in found["next"]:
        print(f"Next: {each}")


def run_search(
    search: Callable[..., dict[str, Any]], table: Callable[[list[dict[str, Any]]], str]
) -> dict[str, Any]:
    """Search, and print the rows; stopped, say how to go on.

    Args:
        search: takes the command to go on with, and returns "rows" and how it "ended".
        table: of the rows.

    Raises:
        typer.Exit: somebody stopped it.
    """
    again = typed_command(leave_out="--overwrite")
    try:
        found = search(command=again)
    except Underway:
        print(f"Stopped at once. Go on: {again}", file=sys.stderr)
        raise typer.Exit(exit_status()) from None
    if found["rows"]:
        print(table(found["rows"]))
    if found["ended"] == "interrupted":
        print(f"Go on: {again}")
        raise typer.Exit(exit_status())
    return found


def command() -> GroupedCommand:
    """The command."""
    example = 'pmm tune --target "HM Shoes" --model gru4rec --budget 20'
    return make_command("tune", TuneRequest, run, example=example)
