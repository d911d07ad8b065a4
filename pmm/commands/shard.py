"""`pmm shard`: a target as WebDataset shards."""

import shlex
from pathlib import Path

from pmm.commands.from_request import GroupedCommand, at_home, make_command
from pmm.shards.shard_options import ShardRequest
from pmm.storage.home import resolve_home


def run(request: ShardRequest) -> None:
    """Pictures to 224x224, texts to tokens, shards.

    Writes plain WebDataset: pictures squashed to 224x224, texts as at most 50 sub-word tokens.
    """
    from pmm.shards.write import write_shards

    home, text = resolve_home(request.home), request.text_encoder
    name = home.find_target(request.target)
    built = write_shards(home, name, request, force=request.force)
    state = "written" if built.fresh else "unchanged, nothing to do"
    print(f"{built.place}: {state}")
    for what, count in built.manifest.counts.items():
        print(f"  {count:>9,} {what}")
    where = f" --text-encoder {shlex.quote(text)}" if Path(text).is_dir() else ""
    print(f'Next: pmm train --stage scratch --target "{name}"{where}{at_home(request.home)}')


def command() -> GroupedCommand:
    """The command."""
    example = 'pmm shard --target "HM Shoes" --text-encoder xlm-roberta-base'
    return make_command("shard", ShardRequest, run, example=example)
