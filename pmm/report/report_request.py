"""`pmm report`: finished runs as one page that people read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pmm.advice import command
from pmm.errors import InputError, StorageError
from pmm.flags import Flag
from pmm.shards.kinds import Split
from pmm.storage.artefact import atomic_file
from pmm.storage.home import place_of_run, whole_path

ENDINGS = (".html", ".md")
MOST_USERS = 20


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """What `pmm report` can be asked."""

    runs: Annotated[tuple[Path, ...], Flag(argument=True)] = field(kw_only=False)
    """Folders of evaluated runs, or their names."""
    to: Annotated[Path, Flag(group="output", metavar="FILE")]
    """The file to write, ending in .html or .md; one that is there is replaced."""
    users: Annotated[int, Flag(group="output")] = 3
    """Best and worst users shown of a run, so many of each; 0 loads no model."""
    audit: Annotated[bool, Flag(group="data")] = False
    """Also audit each target for leaks, which ranks all its users by neighbours some times."""
    split: Annotated[Split, Flag(group="data")] = "test"
    """Which of the runs' evaluations."""
    device: Annotated[str, Flag(group="training")] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    home: Annotated[Path | None, Flag(group="output", shown="that of each run")] = None
    """Folder of all artefacts."""

    def __post_init__(self) -> None:
        if not 0 <= self.users <= MOST_USERS:
            raise InputError(f"--users must be from 0 to {MOST_USERS}, found {self.users}")


def write_report(request: ReportRequest) -> dict[str, int]:
    """Write the report of runs.

    Returns:
        how many "runs" and "targets" it is about, and its "bytes".

    Raises:
        PmmError: a run is not there, has not been evaluated, or the file cannot be written.
    """
    place = _writable(request)
    from pmm.report.make_report import make_report
    from pmm.report.reported_run import read_runs

    runs = read_runs([place_of_run(request.home, each) for each in request.runs], request.split)
    report, targets = make_report(
        runs,
        users=request.users,
        split=request.split,
        device=request.device,
        audit=request.audit,
    )
    if place.suffix == ".md":
        from pmm.report.markdown_page import markdown_page

        content = markdown_page(report)
    else:
        from pmm.report.html_page import html_page

        content = html_page(report)
    written = content.encode()
    try:
        with atomic_file(place) as temporary:
            temporary.write_bytes(written)
    except OSError as error:
        raise StorageError(f"{place} cannot be written ({error.strerror})") from error
    return {"runs": len(runs), "targets": targets, "bytes": len(written)}


def _writable(request: ReportRequest) -> Path:
    """The file, judged before anything is read.

    Raises:
        InputError: its ending is another, it is a folder, or its folder is not there.
    """
    place = whole_path(request.to)
    if place.is_dir() or place.suffix not in ENDINGS:
        name = place / "report.html" if place.is_dir() else place.with_suffix(".html")
        again = command("report", *request.runs, to=name, home=request.home)
        why = "is a folder: name the file" if place.is_dir() else "must end in .html or .md"
        raise InputError(f"--to {request.to} {why}. Run: {again}")
    if not place.parent.is_dir():
        raise InputError(f"--to {request.to}: there is no folder {place.parent}")
    return place
