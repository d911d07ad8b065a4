"""The page of measured figures: `record` puts one section of benchmarks/results.md in place.

A section stands between two HTML comments that carry its name, so that a benchmark replaces what it
measured before and leaves the sections of the others alone.
"""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

RESULTS = Path(__file__).with_name("results.md")
HEADING = (
    "# Measured figures\n\nEach section is written by the benchmark of its name: `make bench`.\n"
)


def hardware() -> str:
    """Processor, cores and memory of this machine in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = found[1].strip() if found else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def commit() -> str:
    """The short commit of the checkout, with a + where files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude", "*"],
            cwd=RESULTS.parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def record(section: str, table: str, page: Path = RESULTS) -> None:
    """Replace the named section of the page by a Markdown table with hardware, commit and date.

    A section that is not there yet goes to the end.
    """
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    today = datetime.date.today().isoformat()
    block = (
        f"{begin}\n## {section}\n\n{hardware()}; commit {commit()}; {today}\n\n"
        f"{table.strip()}\n{end}"
    )
    text = page.read_text(encoding="utf-8") if page.exists() else HEADING
    if begin in text and end in text:
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = head + block + tail
    else:
        text = f"{text.rstrip()}\n\n{block}\n"
    page.write_text(text, encoding="utf-8")
