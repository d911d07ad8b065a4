"""`pmm shard`: a target as WebDataset shards."""

from collections.abc import Mapping
from pathlib import Path

from pmm.advice import command as command_line
from pmm.commands.from_request import GroupedCommand, make_command
from pmm.shards.shard_options import ShardRequest
from pmm.storage.home import Home, resolve_home


def run(request: ShardRequest) -> None:
    """Pictures to 224x224, texts to tokens, shards.

    Writes plain WebDataset: pictures squashed to 224x224 (or another --size that the vision tower
    wants), texts as at most 50 sub-word tokens.
    """
    from pmm.shards.write import write_shards

    home = resolve_home(request.home)
    name = home.find_target(request.target)
    built = write_shards(home, name, request, force=request.force)
    state = "written" if built.fresh else "unchanged, nothing to do"
    print(f"{built.place}: {state}")
    for what, count in built.manifest.counts.items():
        print(f"  {count:>9,} {what}")
    print(f"Next: {_to_train(request, home, name, built.manifest.counts)}")


def _to_train(request: ShardRequest, home: Home, name: str, counts: Mapping[str, int]) -> str:
    """The command that trains on new shards what can be trained on them."""
    if request.no_content:
        return command_line("train", target=name, model="sasrec", home=home.option)
    folder = Path(request.text_encoder).expanduser()
    return command_line(
        "train",
        stage="scratch",
        target=name,
        modality=None if counts["pictures"] else "text",
        text_encoder=folder.absolute() if folder.is_dir() else None,
        encoders=request.encoders,
        home=home.option,
    )


def command() -> GroupedCommand:
    """The command."""
    example = 'pmm shard --target "HM Shoes" --text-encoder xlm-roberta-base'
    return make_command("shard", ShardRequest, run, example=example)
