"""What a check finds of one thing in a home, and all of it as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pmm.storage.home import Home
from pmm.text_table import text_table

Condition = Literal["whole", "damaged", "stale", "unfinished"]
"""Stale: made from inputs that have changed since. Unfinished: by a process that was stopped, or
that still runs."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What there is to say of an artefact, a run, a search or a store."""

    place: Path
    kind: str
    state: Condition
    why: str = ""
    run: str = ""
    """The command that mends it."""
    files: int = 0
    bytes: int = 0


def findings_table(home: Home, found: Sequence[Finding]) -> str:
    """One row a finding, then the commands that mend what is not whole."""
    rows = []
    for each in found:
        place = each.place
        name = place.relative_to(home.root) if place.is_relative_to(home.root) else place
        rows.append([str(name), each.state, each.files, each.bytes / 1e6])
    lines = [text_table(["below " + str(home.root), "state", "files", "MB"], rows)]
    for each in found:
        if each.state != "whole":
            lines += ["", f"{each.place}: {each.state}", f"  {each.why}"]
            lines += [f"  {each.run}"] if each.run else []
    return "\n".join(lines)
