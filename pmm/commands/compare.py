"""`pmm compare`: the difference of two runs."""

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.evaluate.evaluate_options import CompareRequest
from pmm.storage.home import resolve_home


def run(request: CompareRequest) -> None:
    """The difference of two runs.

    Metrics of the same users' ranks, with a paired bootstrap interval of the difference.
    """
    from pmm.evaluate.compare import compare_as_asked, comparison_table

    home = resolve_home(request.home)
    first, second = (home.find_run(each).name for each in (request.first, request.second))
    print(comparison_table(first, second, compare_as_asked(request)))


def command() -> GroupedCommand:
    """The command."""
    example = "pmm compare hm-shoes-scratch hm-shoes-finetune"
    return make_command("compare", CompareRequest, run, example=example)
