"""An audit as one page of text, which is Markdown too, and as a file."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pmm.audit.audit_request import AuditRequest
from pmm.audit.audit_target import Audit, audit_target
from pmm.audit.findings import warnings_of
from pmm.errors import StorageError
from pmm.storage.artefact import atomic_file, write_json
from pmm.storage.home import resolve_home
from pmm.terminal import one_line
from pmm.text_table import text_table

WIDTH = 100
_COLUMNS = ("hr@10", "hr@20", "hr@50", "ndcg@10")
_SHOWN = {"warning": "LOOK AT", "note": "to know", "fine": "fine"}


def audit_as_asked(request: AuditRequest) -> Audit:
    """Audit what a request names, and write the file that it asks for; raises as `audit_target`.

    Raises:
        StorageError: the file cannot be written.
    """
    home = resolve_home(request.home)
    run = home.find_run(request.run) if request.run is not None else None
    audit = audit_target(home, request.target, request, run=run)
    if request.to is not None:
        write_audit(audit, request.to.expanduser())
    return audit


def write_audit(audit: Audit, path: Path) -> None:
    """Write an audit as JSON or as its page, by the end of the file's name; whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        with atomic_file(path) as temporary:
            if path.suffix.lower() == ".json":
                write_json(temporary, audit.as_json())
            else:
                temporary.write_text(audit_page(audit) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror})") from error


def audit_page(audit: Audit) -> str:
    """The page: what to look at first, each finding with what to do, then the figures."""
    return "\n".join(_lines(audit))


def _lines(audit: Audit) -> Iterator[str]:
    yield f"# Audit of {one_line(audit.target)}"
    yield ""
    about = [each.about for each in warnings_of(audit.findings)]
    yield from _filled(
        f"{audit.users:,} users, {audit.items:,} items, {audit.actions:,} interactions, split "
        f"{audit.split}. " + (f"To look at: {', '.join(about)}." if about else "Nothing alarming.")
    )
    for each in audit.findings:
        yield ""
        yield f"## {_SHOWN[each.level]}: {each.about}"
        yield ""
        yield from _filled(one_line(each.said))
        if each.to_do:
            yield ""
            yield from _filled(f"What to do: {each.to_do}")
    for about_it, why in audit.not_looked_at.items():
        yield ""
        yield from _filled(f"Not looked at: {about_it}, since {one_line(why)}")
    yield ""
    yield "## Without training, in per cent"
    yield ""
    yield from _table(["", "users", *map(str.upper, _COLUMNS)], list(_floors(audit)))
    if audit.ties is not None:
        yield ""
        yield f"## Over {audit.ties.draws} orders of tied rows, in per cent"
        yield ""
        yield from _table(
            ["", "in file order", "least", "mean", "most", "sorted by item"], list(_spreads(audit))
        )


def _filled(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(header: list[str], rows: list[list[Any]]) -> Iterator[str]:
    yield "```text"
    yield text_table(header, rows)
    yield "```"


def _floors(audit: Audit) -> Iterator[list[Any]]:
    for name, found in audit.floors.items():
        yield _row(name, found)
    for name, found in audit.repeats.new.items():
        yield _row(f"{name}, not repeated", found)
    if audit.time is not None:
        yield _row("popularity before each test item", audit.time.popularity_before)
        for name, found in audit.time.temporal.items():
            yield _row(f"{name}, temporal split", found)
    for each in audit.beside_run[:1]:
        values = {one.name: one.second for one in each.differences}
        yield _row(str(audit.run), {"users": audit.users, **values})


def _row(name: str, found: dict[str, Any]) -> list[Any]:
    values = [100 * found[column] if column in found else None for column in _COLUMNS]
    return [name, found["users"], *values]


def _spreads(audit: Audit) -> Iterator[list[Any]]:
    assert audit.ties is not None
    for floor, metrics in audit.ties.spread.items():
        for name in ("hr@10", "ndcg@10"):
            each = metrics[name]
            values = (each.in_file_order, each.low, each.mean, each.high, each.by_item_id)
            yield [f"{floor}, {name.upper()}", *(100 * value for value in values)]
