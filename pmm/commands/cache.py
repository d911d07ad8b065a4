"""`pmm cache`: what the frozen parts of the encoders make of each item, stored."""

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.runs.request import CacheRequest


def run(request: CacheRequest) -> None:
    """What the frozen parts of the encoders make of each item, computed once.

    Training does it on first use; the same encoders and shards are never computed twice.
    """
    from pmm.train.train_run import store_as_asked

    for folder, state in store_as_asked(request).items():
        print(f"{folder}: {state}")
    print(f'Next: pmm train --stage scratch --target "{request.target[0]}", with the same encoders')


def command() -> GroupedCommand:
    """The command."""
    return make_command("cache", CacheRequest, run, example='pmm cache --target "Kwai Movie"')
