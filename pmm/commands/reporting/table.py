"""`pmm table`: any runs in one table."""

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.comparison.comparison_options import TableRequest


def run(request: TableRequest) -> None:
    """Any runs in one table.

    Runs that differ in their seed alone share a row: mean and half a 95% interval over seeds. The
    best of a column is marked only where it is better than every other beyond noise.
    """
    from pmm.comparison.runs_table import table_as_asked

    print(table_as_asked(request))


def command() -> GroupedCommand:
    """The command."""
    example = "pmm table hm-shoes-sasrec hm-shoes-scratch --on all,cold --to shoes.md"
    return make_command("table", TableRequest, run, example=example)
