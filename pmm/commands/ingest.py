"""`pmm ingest …`: one command a source, made of what the source can be asked."""

from collections.abc import Mapping
from typing import Any

from pmm.advice import command as command_line
from pmm.commands.from_request import GroupedCommand, LazyGroup, make_command, make_group
from pmm.ingest.sources import source_registry as registry
from pmm.storage.home import Home


class _Sources(LazyGroup):
    """The sources of the registry as commands; a source's module is imported when it is used."""

    def lines(self) -> dict[str, str]:
        return {name: registry.says(name) for name in registry.source_names()}

    def make(self, name: str) -> Any:
        return source_command(name)


def command() -> Any:
    """The group of all sources."""
    return make_group(
        _Sources, "Filter and split a raw dataset.", example="pmm ingest hm --raw ~/hm"
    )


def source_command(name: str) -> GroupedCommand:
    """The command that ingests a source."""
    entry = registry.find_source(name)

    def run(request: Any) -> None:
        from pmm.inspect import summarise_cards

        cards = registry.ingest_from(name, request)
        print(summarise_cards(cards))
        print(f"Artefacts are below {request.place().root}.")
        made = [card for card in cards if "left_out" not in card]
        if made:
            print(f"Next: {_to_shard(made[0], request.place())}")

    run.__doc__ = entry.ingest.__doc__
    return make_command(name, entry.request, run, example=entry.example)


def _to_shard(card: Mapping[str, Any], home: Home) -> str:
    """The command that makes shards of a new target, as its items need it."""
    items = card["statistics"]["items"]
    bare, silent = (card[f"items_without_{what}"] == items for what in ("image", "text"))
    how = {"no_content": bare and silent, "allow_no_pictures": bare and not silent}
    return command_line("shard", target=card["target"], **how, home=home.option)
