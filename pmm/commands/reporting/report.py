"""`pmm report`: runs as one page."""

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.report.report_request import ReportRequest, write_report


def run(request: ReportRequest) -> None:
    """Evaluated runs as one page that people read, in HTML or Markdown.

    Tables of all metrics, validation by epoch, hits by popularity, length of history, warm and cold
    items, best and worst users, the data, and how the recipes differ. The HTML page is one file
    that fetches nothing. Runs that differ in the seed alone are one row with an interval.
    """
    made = write_report(request)
    runs = f"{made['runs']:,} run{'s' * (made['runs'] > 1)}"
    targets = f"{made['targets']:,} target{'s' * (made['targets'] > 1)}"
    print(f"{request.to}: {runs} on {targets}, {made['bytes'] / 1e6:.2f} MB")


def command() -> GroupedCommand:
    """The command."""
    example = "pmm report hm-shoes-scratch hm-shoes-finetune --to report.html"
    return make_command("report", ReportRequest, run, example=example)
