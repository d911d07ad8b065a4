"""`pmm cache`: what the frozen parts of the encoders make of each item, stored."""

from pmm.advice import command as command_line
from pmm.advice import said_options
from pmm.commands.from_request import GroupedCommand, make_command
from pmm.runs.request import CacheRequest


def run(request: CacheRequest) -> None:
    """What the frozen parts of the encoders make of each item, computed once.

    Training does it on first use; the same encoders and shards are never computed twice.
    """
    from pmm.train.train_run import store_as_asked

    for folder, state in store_as_asked(request).items():
        print(f"{folder}: {state}")
    said = said_options(request, leave_out=["target", "storage", "force", "set"])
    values = request.set
    if request.storage != CacheRequest.storage:
        values += (f"train.cache={request.storage}",)
    target = request.target[0]
    again = command_line("train", stage="scratch", target=target, **said, set=values)
    print(f"Next: {again}")


def command() -> GroupedCommand:
    """The command."""
    return make_command("cache", CacheRequest, run, example='pmm cache --target "Kwai Movie"')
