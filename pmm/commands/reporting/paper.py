"""`pmm paper …`: the paper's tables and figure, from what they need to a report that is checked."""

from collections.abc import Callable
from typing import Any

import typer

from pmm.advice import command as command_line
from pmm.advice import said_options
from pmm.commands.from_request import (
    GroupedCommand,
    LazyGroup,
    make_command,
    make_group,
    typed_command,
)
from pmm.paper.paper_request import (
    CampaignRequest,
    PaperReportRequest,
    PaperRequest,
    PlanRequest,
    VerifyRequest,
)
from pmm.storage.home import resolve_home

_LINES = {
    "plan": "What a table needs: runs, in which order, what is there; time, memory and disk.",
    "run": "Train and evaluate what is missing; stopped, the same command goes on.",
    "report": "The table as the paper prints it, beside the paper's figures.",
    "verify": "Compute every cell of a report again, from the ranks alone.",
}


class _Steps(LazyGroup):
    """The steps to a table."""

    def lines(self) -> dict[str, str]:
        return _LINES

    def make(self, name: str) -> Any:
        return _STEPS[name]()


def command() -> Any:
    """The group of all steps."""
    says = "The paper's tables: what they need, running it, a report, checking it."
    return make_group(_Steps, says, example="pmm paper run table4")


def plan(request: PlanRequest) -> None:
    """What a table needs: runs, in which order, what is there; time, memory and disk.

    The estimate is from runs that are there already, else from a few steps of each kind of run.
    """
    from pmm.paper.running.paper_plan import plan_lines

    print("\n".join(plan_lines(request)))
    print(f"Next: {_to('run', request)}")


def run(request: CampaignRequest) -> None:
    """Train and evaluate what is missing; stopped, the same command goes on.

    One row a finished run in paper/results.jsonl of the home folder: command, commit, seed, digests
    of its data and ranks, hardware, times and figures. Each command's output is in paper/logs.
    """
    from pmm.paper.running.paper_plan import run_as_asked

    done = run_as_asked(request)
    print("All runs are there." if done else f"Time is up. Go on: {typed_command()}")
    print(f"Next: {_to('report', request)}")


def report(request: PaperReportRequest) -> None:
    """The table as the paper prints it, beside the paper's figures.

    Ours with mean and interval over the seeds, the paper's figure, the difference; what is missing
    is empty. Tests over users with Holm's correction; every cell leads to its run.
    """
    from pmm.paper.reporting.pages import markdown_page
    from pmm.paper.reporting.paper_report import make_report, write_report

    home = request.place()
    facts = make_report(home, request, _to("report", request))
    if not request.to:
        print(markdown_page(facts))
    for path in request.to:
        write_report(facts, path)
        print(f"Written: {path}")
    pages = [path for path in request.to if path.suffix != ".csv"]
    if pages:
        again = command_line("paper", "verify", pages[0], home=home.option)
        print(f"Check it: {again}")


def verify(request: VerifyRequest) -> None:
    """Compute every cell of a report again, from the ranks alone.

    Nothing is trained and no torch is loaded. Says each cell that does not fit its files, the
    paper's figures or what the page shows; the exit status is then 1.
    """
    from pmm.paper.reporting.verify_report import verify as verify_page

    cells, faults = verify_page(resolve_home(request.home), request.report)
    for fault in faults:
        print(fault)
    if faults:
        print(f"{len(faults):,} faults in {cells:,} cells that have files.")
        raise typer.Exit(1)
    print(f"{cells:,} cells are as their files say.")


def _to(step: str, request: PaperRequest) -> str:
    own = ("measure", "jobs", "max_minutes", "to", "rows")
    shared = said_options(request, leave_out=("table", *own))
    if step != "report":
        shared.pop("ranking", None)
    return command_line("paper", step, request.table, **shared)


def _step(
    name: str, request: type[Any], do: Callable[[Any], None], example: str
) -> Callable[[], GroupedCommand]:
    return lambda: make_command(name, request, do, example=example)


_STEPS = {
    "plan": _step("plan", PlanRequest, plan, example="pmm paper plan table4 --seeds 3"),
    "run": _step("run", CampaignRequest, run, example="pmm paper run table4 --seeds 3 --jobs 2"),
    "report": _step(
        "report", PaperReportRequest, report, example="pmm paper report table4 --to table4.html"
    ),
    "verify": _step("verify", VerifyRequest, verify, example="pmm paper verify table4.html"),
}
