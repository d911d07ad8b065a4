"""`pmm compare`: the difference of two runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.flags import Flag
from pmm.storage.home import resolve_home


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What `pmm compare` can be asked."""

    first: Annotated[Path, Flag(argument=True)]
    """A run's folder, or its name."""
    second: Annotated[Path, Flag(argument=True)]
    """Another one, of the same target."""
    split: Annotated[Literal["test", "valid", "cold", "cold-all"], Flag(group="data")] = "test"
    """Which of their evaluations; cold: the held-out cuts."""
    target: Annotated[str | None, Flag(group="data")] = None
    """What they ranked, if not what they were trained on."""
    seed: Annotated[int, Flag(group="output")] = 0
    """Of the bootstrap's draws."""
    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""


def run(request: CompareRequest) -> None:
    """The difference of two runs.

    Metrics of the same users' ranks, with a paired bootstrap interval of the difference.
    """
    from pmm.evaluate.compare import compare_runs, comparison_table

    home = resolve_home(request.home)
    one, other = (home.find_run(each) for each in (request.first, request.second))
    name = home.find_target(request.target) if request.target else None
    found = compare_runs(one, other, asked=request.split, target=name, seed=request.seed)
    print(comparison_table(one.name, other.name, found))


def command() -> GroupedCommand:
    """The command."""
    example = "pmm compare hm-shoes-scratch hm-shoes-finetune"
    return make_command("compare", CompareRequest, run, example=example)
