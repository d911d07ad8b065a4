"""`pmm compare`: the differences of runs."""

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.comparison.comparison_options import CompareManyRequest
from pmm.evaluate.evaluate_options import CompareRequest
from pmm.storage.home import resolve_home


def run(request: CompareManyRequest) -> None:
    """The differences of runs, beyond noise or not.

    Of two runs all metrics of the same users' ranks, with a paired bootstrap interval of the
    difference. Of more each against the first, and all against the strongest floor (popularity,
    item kNN where it was evaluated, SASRec where it is among them), with Holm's correction.
    """
    from pmm.comparison.many_runs import compare_many, many_lines

    runs = [*([request.against] if request.against else []), *request.runs]
    if len(runs) == 2 and len(set(runs)) == 2:
        _two(request, *runs)
    else:
        print("\n".join(many_lines(compare_many(request), request.split)))


def _two(request: CompareManyRequest, *runs: object) -> None:
    from pmm.evaluate.compare import compare_as_asked, comparison_table

    home = resolve_home(request.home)
    one, other = runs
    asked = CompareRequest(
        first=one,  # type: ignore[arg-type]
        second=other,  # type: ignore[arg-type]
        split=request.split,
        target=request.target,
        seed=request.seed,
        home=request.home,
    )
    first, second = (home.find_run(each).name for each in (asked.first, asked.second))
    found = compare_as_asked(asked)
    shown = [each for each in found if not request.metrics or each.name in request.metrics]
    print(comparison_table(first, second, shown))


def command() -> GroupedCommand:
    """The command."""
    example = "pmm compare hm-shoes-scratch hm-shoes-finetune"
    return make_command("compare", CompareManyRequest, run, example=example)
