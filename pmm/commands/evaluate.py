"""`pmm evaluate`: the whole catalogue ranked for every user."""

from pmm.advice import command as command_line
from pmm.commands.from_request import GroupedCommand, make_command
from pmm.evaluate.evaluate_options import EvaluateRequest


def run(request: EvaluateRequest) -> None:
    """Rank the whole catalogue for every user.

    HR and NDCG at 10, 20 and 50 beside popularity and random, and a gallery of top tens.
    """
    from pmm.evaluate.evaluation import evaluate_as_asked
    from pmm.evaluate.report import metrics_table
    from pmm.evaluate.transfer_gain import told

    _, run_dir = request.place()
    for metrics in evaluate_as_asked(request):
        print(metrics_table(metrics))
    if lines := told(run_dir):
        print("\n".join(["", *lines, ""]))
    look = command_line("inspect", run_dir)
    print(f"Written to {run_dir}: ranks, metrics, gallery. Look: {look}")
    print(f"Next: {command_line('serve', run_dir)}")


def command() -> GroupedCommand:
    """The command."""
    example = "pmm evaluate pmm-data/runs/hm-shoes-scratch"
    return make_command("evaluate", EvaluateRequest, run, example=example)
