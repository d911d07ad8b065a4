"""`pmm encoders …`: which encoders of texts and pictures suit a target."""

from functools import partial
from typing import Any

from pmm.commands.from_request import GroupedCommand, LazyGroup, make_command, make_group
from pmm.commands.tune import run_search
from pmm.runs.request import EncodersRequest

HELP = "Which encoders of texts and pictures suit a target."


class _OfEncoders(LazyGroup):
    """The commands of the group."""

    def lines(self) -> dict[str, str]:
        return {"compare": "Several encoders on frozen vectors: accuracy, time and size."}

    def make(self, name: str) -> Any:
        del name  # there is one
        return compare_command()


def run(request: EncodersRequest) -> None:
    """Several encoders on frozen vectors: accuracy, time and size.

    Each makes a vector of every item once, and the same small model is trained on them. A text
    encoder may have another tokenizer than the shards. The best by the validation items stands
    first. Stopped and started again, it goes on; what was compared before is not trained again.
    """
    from pmm.tune.compare_encoders import compare_as_asked, encoders_table

    found = run_search(partial(compare_as_asked, request), encoders_table)
    print(f"Written to {found['table']}")


def command() -> Any:
    """The group."""
    return make_group(_OfEncoders, HELP, example='pmm encoders compare --target "HM Shoes"')


def compare_command() -> GroupedCommand:
    """The command that compares."""
    example = 'pmm encoders compare --target "HM Shoes" --text-encoder first --text-encoder second'
    return make_command("compare", EncodersRequest, run, example=example)
