"""Show any artefact: its manifest, its card, first rows of its tables, a contact sheet, metrics."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pmm.artefact import MANIFEST, Manifest, open_artefact
from pmm.errors import BrokenArtefact, InputError
from pmm.text_table import text_table

SHEET = "contact-sheet.png"


def describe(path: Path, *, rows: int = 5, sheet: Path | None = None, verify: bool = False) -> str:
    """A readable account of an artefact, a run folder or a single table.

    Args:
        path: the artefact's folder, or one of its Parquet, tar or JSON files.
        rows: how many first rows of each table to show.
        sheet: where to draw the contact sheet of shards (default: beside the current folder).
        verify: compare the sha256 of every file with the manifest.

    Raises:
        InputError: there is nothing at this path, or nothing that PMM knows.
        BrokenArtefact: files do not match the manifest.
    """
    if not path.exists():
        raise InputError(f"{path} is not there. Artefacts live below --home: tables, targets, runs")
    if path.is_file():
        return "\n".join(_file(path, rows))
    if (path / MANIFEST).is_file():
        return "\n".join(_artefact(path, rows, sheet, verify))
    if (path / "recipe.toml").is_file():
        return "\n".join(_run(path, rows))
    raise InputError(
        f"{path} is neither an artefact (no {MANIFEST}) nor a run (no recipe.toml). "
        "Give a folder such as tables/hm, targets/hm, shards/hm or runs/NAME below the home folder"
    )


def summarise_cards(cards: list[dict[str, Any]]) -> str:
    """Targets as a table in the columns of the paper's Table II, the paper's figures beside.

    Below it, where each target's raw rows went, and what was detected in the raw files.
    """
    rows = []
    for card in cards:
        if "left_out" in card:
            continue
        ours, paper = card["statistics"], card.get("paper", {})
        state = "written" if card["fresh"] else "unchanged"
        rows.append([card["target"], state, *_columns(ours)])
        if paper:
            rows.append(["  in the paper", "", *_columns(paper)])
    lines = [
        text_table(
            ["target", "", "users", "items", "actions", "per user", "sparsity %"],
            rows,
        )
    ]
    lines += [_rows_account(card) for card in cards if "rows" in card]
    for card in cards:
        if "left_out" in card:
            why = card["left_out"].removeprefix(f"{card['target']}: ")
            lines.append(f"{card['target']} left out: {why}")
    detected = next((card["detected"] for card in cards if card.get("detected")), None)
    if detected:
        lines.append(f"detected: {json.dumps(detected, ensure_ascii=False)}")
    return "\n".join(lines)


def _rows_account(card: dict[str, Any]) -> str:
    """One line on where a target's raw rows went; the core's rounds as one.

    >>> _rows_account({"target": "HM", "rows": {"read": 9, "kept": 4, "dropped": {
    ...     "item without picture": 2, "core round 1": 2, "core round 2": 1}}})
    'HM: 9 rows read, 4 kept; dropped: 2 item without picture, 3 core (2 rounds)'
    """
    rows = card["rows"]
    rounds = [n for why, n in rows["dropped"].items() if why.startswith("core round ")]
    parts = [f"{n:,} {why}" for why, n in rows["dropped"].items() if "core round " not in why]
    if rounds:
        parts.append(f"{sum(rounds):,} core ({len(rounds)} round{'s'[: len(rounds) > 1]})")
    gone = f"; dropped: {', '.join(parts)}" if parts else ", none dropped"
    return f"{card['target']}: {rows['read']:,} rows read, {rows['kept']:,} kept{gone}"


def _columns(figures: dict[str, Any]) -> list[Any]:
    names = ("users", "items", "actions", "average_length", "sparsity_per_cent")
    return [figures[name] for name in names]


def _artefact(path: Path, rows: int, sheet: Path | None, verify: bool) -> Iterator[str]:
    kind = _json(path / MANIFEST).get("kind", "")
    manifest = open_artefact(path, kind=kind, made_by="the command that made it", verify=verify)
    yield from _manifest(path, manifest, verify)
    if (path / "card.json").is_file():
        yield from ("", "card.json", *_indented(_json(path / "card.json")))
    if (path / "index.json").is_file():
        yield from ("", "index.json", *_indented(_shortened(_json(path / "index.json"))))
    for table in _first_of_each(sorted(path.glob("*.parquet"))):
        yield from ("", *_file(table, rows))
    if kind == "shards":
        from pmm.shards.contact_sheet import sheet_of_shards

        target = sheet or Path.cwd() / SHEET
        sheet_of_shards(path, target)
        yield from ("", f"contact sheet: {target}")


def _manifest(path: Path, manifest: Manifest, verified: bool) -> Iterator[str]:
    size = sum(entry["bytes"] for entry in manifest.files.values())
    state = "contents verified" if verified else "sizes checked; --verify compares the contents"
    yield f"{path}: {manifest.kind}, whole ({state})"
    yield f"  made by    pmm {manifest.version}, fingerprint {manifest.fingerprint[:16]}"
    yield f"  files      {len(manifest.files):,}, {size / 1e6:,.1f} MB"
    for name, mark in manifest.inputs.items():
        yield f"  input      {name} {mark[:16]}"
    for name, value in manifest.config.items():
        yield f"  option     {name} = {json.dumps(value, ensure_ascii=False)}"
    for name, value in manifest.counts.items():
        yield f"  count      {name} {value:,}"


def _run(path: Path, rows: int) -> Iterator[str]:
    yield f"{path}: run"
    yield from (f"  {line}" for line in (path / "recipe.toml").read_text().splitlines())
    for name in ("run.json", "metrics.json"):
        if (path / name).is_file():
            yield from ("", name, *_indented(_json(path / name)))
    if (path / "ranks.parquet").is_file():
        yield from ("", *_file(path / "ranks.parquet", rows))
    pictures = sorted(each.name for each in path.glob("*.png"))
    if pictures:
        yield from ("", "pictures: " + ", ".join(pictures))


def _file(path: Path, rows: int) -> Iterator[str]:
    if path.suffix == ".parquet":
        yield from _table(path, rows)
    elif path.suffix == ".tar":
        yield from _tar(path, rows)
    elif path.suffix == ".json":
        yield from (path.name, *_indented(_json(path)))
    else:
        raise InputError(f"{path}: PMM shows .parquet, .tar and .json files and whole artefacts")


def _table(path: Path, rows: int) -> Iterator[str]:
    import polars as pl
    from polars.exceptions import PolarsError

    try:
        frame = pl.scan_parquet(path)
        total = frame.select(pl.len()).collect().item()
        head = frame.head(rows).collect()
    except (PolarsError, OSError) as error:
        raise BrokenArtefact(f"{path} is no whole Parquet file ({error})") from error
    yield f"{path.name}: {total:,} rows"
    with pl.Config(
        tbl_hide_dataframe_shape=True, fmt_str_lengths=60, tbl_width_chars=120, tbl_cols=-1
    ):
        yield str(head)


def _tar(path: Path, rows: int) -> Iterator[str]:
    import tarfile

    try:
        with tarfile.open(path) as archive:
            members = archive.getmembers()
    except (tarfile.TarError, OSError) as error:
        raise BrokenArtefact(f"{path} is no whole tar ({error})") from error
    yield f"{path.name}: {len(members):,} members"
    yield from (f"  {member.name}  {member.size:,} bytes" for member in members[: rows * 3])


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenArtefact(f"{path} is no whole JSON file ({error})") from error
    return found if isinstance(found, dict) else {"": found}


def _indented(value: Any) -> list[str]:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return [f"  {line}" for line in text.splitlines()]


def _shortened(index: dict[str, Any], most: int = 3) -> dict[str, Any]:
    """Long lists cut to their first entries, so that the index of a large target fits a screen."""
    return {
        key: [*value[:most], f"... {len(value) - most} more"]
        if isinstance(value, list) and len(value) > most
        else value
        for key, value in index.items()
    }


def _first_of_each(paths: list[Path]) -> list[Path]:
    """One of each numbered series (items-00000.parquet stands for items-00001.parquet …)."""
    kept: dict[str, Path] = {}
    for path in paths:
        kept.setdefault(path.stem.rstrip("0123456789"), path)
    return list(kept.values())
