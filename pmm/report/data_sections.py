"""The sections of a report on a target's data: its card, and what leaks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pmm.advice import command
from pmm.errors import PmmError
from pmm.report.report_blocks import Cell, Command, DataTable, ReportBlock, Section
from pmm.storage.dotted_names import flat
from pmm.storage.home import Home
from pmm.storage.json_files import JSON_ERRORS, parse_json

_STATISTICS = {
    "users": "Users",
    "items": "Items",
    "actions": "Interactions",
    "average_length": "Average length",
    "sparsity_per_cent": "Sparsity, %",
}


def data_card(home: Home, target: str) -> Section:
    """What a target is made of, by its card."""
    place = home.target(target) / "card.json"
    card = _read(place)
    if card is None:
        return Section(
            "Data", [f"The card of {target} is not there, so nothing is said of its data."]
        )
    blocks: list[ReportBlock] = [_statistics(card)]
    rules = [str(each) for each in card.get("rules") or ()]
    if rules:
        steps: list[list[Cell]] = [[k, rule] for k, rule in enumerate(rules, start=1)]
        blocks.append(DataTable(title="How it was made", header=["Step", "Rule"], rows=steps))
    rows = card.get("rows") or {}
    dropped: list[list[Cell]] = [["rows read", rows.get("read")]]
    dropped += [[f"dropped: {why}", n] for why, n in (rows.get("dropped") or {}).items()]
    dropped += [["rows kept", rows.get("kept")]]
    blocks.append(DataTable(title="Rows", header=["What", "Rows"], rows=dropped))
    options: list[list[Cell]] = [
        [name, "none" if value is None else str(value)]
        for name, value in flat(card.get("options") or {}).items()
    ]
    for name, what in (
        ("items_without_text", "items without text"),
        ("items_without_image", "items without picture"),
    ):
        if name in card:
            options.append([what, card[name]])
    if isinstance(card.get("tied_timestamps"), float):
        options.append(
            ["interactions at the same time as another", f"{card['tied_timestamps']:.1%}"]
        )
    for name, value in (card.get("cold") or {}).items():
        options.append([f"cold: {name}", value])
    blocks.append(DataTable(title="Options and counts", header=["What", "Value"], rows=options))
    return Section("Data", blocks)


def _statistics(card: Mapping[str, Any]) -> DataTable:
    found, paper = card.get("statistics") or {}, card.get("paper") or {}
    off = card.get("difference_per_cent") or {}
    rows: list[list[Cell]] = []
    for name, what in _STATISTICS.items():
        row: list[Cell] = [what, _number(found.get(name))]
        rows.append([*row, _number(paper.get(name)), _number(off.get(name))] if paper else row)
    header = ["Statistic", "Here"] + (["Paper", "Difference, %"] if paper else [])
    return DataTable(
        title=f"{card.get('target', '')} from {card.get('source', '')}", header=header, rows=rows
    )


def _number(value: Any) -> Cell:
    return value if isinstance(value, int | float) else None


def leak_audit(home: Home, target: str, *, asked: bool) -> Section:
    """What `pmm audit` finds in a target, or how to ask it.

    Args:
        home: where the target is.
        target: which.
        asked: whether to audit it; that ranks all its users by neighbours several times.
    """
    again = command("audit", target, home=home.option)
    if not asked:
        why = (
            "Whether training saw test items at a later time, how much tied timestamps could move "
            "the metrics, which texts and pictures are the same: an audit tells. Add --audit to "
            "the command of this report, or run:"
        )
        return Section("Leaks", [why, Command(again)])
    from pmm.audit.audit_target import audit_target

    try:
        audit = audit_target(home, target)
    except PmmError as error:  # the target is not there any more, or is damaged
        return Section("Leaks", [f"{target} cannot be audited: {error}"])
    found: list[list[Cell]] = [
        [each.about, _LEVELS.get(each.level, each.level), each.said, each.to_do]
        for each in audit.findings
    ]
    found += [[about, "not known", why, ""] for about, why in audit.not_looked_at.items()]
    header = ["About", "Verdict", "What was found", "What to do"]
    table = DataTable(title="What an audit found", header=header, rows=found)
    return Section("Leaks", [table, "Its figures:", Command(again)])


_LEVELS = {"warning": "look at this", "note": "to know", "fine": "fine"}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return parse_json(path.read_bytes())
    except JSON_ERRORS:
        return None
