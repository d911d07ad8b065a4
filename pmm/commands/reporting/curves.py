"""`pmm curves`: the curves of any runs in one picture."""

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.comparison.comparison_options import CurvesRequest


def run(request: CurvesRequest) -> None:
    """The validation items by epoch, of any runs in one picture.

    Runs that recorded them have their test items too, dashed (train.eval_test), and epoch 0
    (train.eval_start).
    """
    from pmm.comparison.overlay import overlay_as_asked

    print(overlay_as_asked(request))


def command() -> GroupedCommand:
    """The command."""
    example = "pmm curves hm-shoes-scratch hm-shoes-finetune --to curves.svg"
    return make_command("curves", CurvesRequest, run, example=example)
