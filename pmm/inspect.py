"""Show any artefact: its manifest, its card, first rows of its tables, a contact sheet, metrics.

Of a home folder: all datasets of the paper beside the paper's figures.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pmm.errors import (
    ArtefactError,
    BrokenArtefact,
    InputError,
    MissingArtefact,
    StaleArtefact,
    StorageError,
)
from pmm.ingest.pictures.picture_folder import describe_pictures
from pmm.ingest.targets.paper_table_two import TABLE_II, rules_in_words
from pmm.ingest.targets.target_tables import command_to_ingest, open_target
from pmm.storage.artefact import MANIFEST, Manifest, open_artefact, snapshot, storage_errors
from pmm.storage.home import Home, slug, whole_path
from pmm.storage.snapshot import Snapshot
from pmm.terminal import one_line
from pmm.text_table import text_table

SHEET = "contact-sheet.png"
_HEADER = ["users", "items", "actions", "per user", "sparsity %"]
_FIGURES = ("users", "items", "actions", "average_length", "sparsity_per_cent")
_BELOW_HOME = ("raw", "tables", "targets", "shards", "runs")


def describe(
    path: str | Path, *, rows: int = 5, sheet: Path | None = None, verify: bool = False
) -> str:
    """A readable account of an artefact, a run folder, a home folder or a single table.

    Args:
        path: the folder, or one of an artefact's Parquet, tar or JSON files; or the URL of shards,
            or of one of their tars.
        rows: how many first rows of each table to show.
        sheet: where to draw the contact sheet of shards (default: beside the current folder).
        verify: compare the sha256 of every file with the manifest.

    Raises:
        InputError: there is nothing at this path, or nothing that PMM knows.
        BrokenArtefact: files do not match the manifest.
    """
    if is_url(str(path)):
        return "\n".join(_shards_behind(str(path), rows, sheet))
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} is not there. Artefacts live below --home: tables, targets, runs")
    if path.is_file():
        return "\n".join(_file(path, rows))
    if (path / MANIFEST).is_file():
        with snapshot(path, "the artefact").reading():
            return "\n".join(_artefact(path, rows, sheet, verify))
    if (path / "recipe.toml").is_file():
        of_run = Snapshot(path / "run.json", f"the run {path}")
        with (
            of_run.reading(),
            Snapshot(path / "metrics.json", f"the evaluation of {path}").reading(),
        ):
            return "\n".join(_run(path, rows))
    if any((path / name).is_dir() for name in _BELOW_HOME):
        return "\n".join(_home(Home(path.absolute())))
    raise InputError(
        f"{path} is neither an artefact (no {MANIFEST}) nor a run (no recipe.toml) nor a home "
        "folder (no tables, targets or runs). Give the home folder, or a folder such as "
        "tables/hm, targets/hm, shards/hm or runs/NAME below it"
    )


def is_url(place: str) -> bool:
    """Whether a text names something that is opened over a URL, and no path.

    >>> is_url("http://localhost:8000/hm"), is_url("pipe:cat x.tar"), is_url("pmm-data/shards/hm")
    (True, True, False)
    """
    return place.startswith("pipe:") or len(urlsplit(place).scheme) > 1


def summarise_cards(cards: list[dict[str, Any]]) -> str:
    """Targets as a table in the columns of the paper's Table II, the paper's figures beside.

    Below it, where each target's raw rows went, and what was detected in the raw files.
    """
    rows: list[list[Any]] = []
    for card in cards:
        if "left_out" not in card:
            rows += _beside_paper(card, "written" if card["fresh"] else "unchanged")
    lines = [text_table(["target", *_HEADER, ""], rows)]
    lines += [rows_account(card) for card in cards if "rows" in card]
    lines += dict.fromkeys(
        each for card in cards for each in describe_pictures(card.get("picture_files", {}))
    )
    reasons: dict[str, list[str]] = {}
    for card in cards:
        if "left_out" in card:
            why = card["left_out"].removeprefix(f"{card['target']}: ")
            reasons.setdefault(why, []).append(card["target"])
    lines += [f"{', '.join(names)} left out: {why}" for why, names in reasons.items()]
    detected = next((card["detected"] for card in cards if card.get("detected")), None)
    if detected:
        lines.append(f"detected: {json.dumps(detected, ensure_ascii=False)}")
    return "\n".join(lines)


def rows_account(card: dict[str, Any]) -> str:
    """One line on where a target's raw rows went; the core's rounds as one.

    >>> rows_account({"target": "HM", "rows": {"read": 9, "kept": 4, "dropped": {
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


def _beside_paper(card: dict[str, Any], note: str = "") -> list[list[Any]]:
    """Rows of a table: a target's figures, the paper's, and the difference in per cent of theirs.

    Raises:
        BrokenArtefact: the card holds no figures.
    """
    try:
        ours = [card["statistics"][name] for name in _FIGURES]
        rows = [[card["target"], *ours, note]]
        if "paper" in card:
            paper = [card["paper"][name] for name in _FIGURES]
            difference = [f"{card['difference_per_cent'][name] + 0.0:+.2f}" for name in _FIGURES]
            rows += [["  in the paper", *paper, ""], ["  difference %", *difference, ""]]
    except (KeyError, TypeError) as error:
        raise BrokenArtefact(f"a target's card.json lacks its figures ({error})") from error
    return rows


def _home(home: Home) -> Iterator[str]:
    """The paper's datasets, ours beside its figures; then whatever else was ingested here."""
    yield f"{home.root}: home, ours beside the paper's Table II"
    yield ""
    rows: list[list[Any]] = []
    for name, printed in TABLE_II.items():
        found = _rows_of_target(home, name)
        if len(found) == 1:
            found.append(["  in the paper", *printed, ""])
        rows += found
    known = {slug(name) for name in TABLE_II}
    for card in sorted((home.root / "targets").glob("*/card.json")):
        if card.parent.name not in known:
            rows += _rows_of_target(home, card.parent.name)
    yield text_table(["dataset", *_HEADER, ""], rows)


def _rows_of_target(home: Home, name: str) -> list[list[Any]]:
    """As `_beside_paper`; one row that names the command where the target cannot be used."""
    try:
        with snapshot(home.target(name), f"the target {name}").reading():
            open_target(home, name)
            return _beside_paper(_json(home.target(name) / "card.json"))
    except MissingArtefact:
        why = "not ingested"
    except StaleArtefact:
        why = "out of date"
    except (ArtefactError, InputError):
        why = "damaged"
    return [[name, *[None] * len(_FIGURES), f"{why}: {command_to_ingest(home, name)}"]]


def _artefact(path: Path, rows: int, sheet: Path | None, verify: bool) -> Iterator[str]:
    kind = _json(path / MANIFEST).get("kind", "")
    manifest = open_artefact(path, kind=kind, made_by="the command that made it", verify=verify)
    if kind == "target":
        yield from _target_in_short(_json(path / "card.json"))
    yield from _manifest(path, manifest, verify)
    if (path / "card.json").is_file():
        yield from ("", "card.json", *_indented(_json(path / "card.json")))
    if (path / "index.json").is_file():
        yield from ("", "index.json", *_indented(_shortened(_json(path / "index.json"))))
    for table in _first_of_each(sorted(path.glob("*.parquet"))):
        yield from ("", *_file(table, rows))
    if kind == "shards":
        from pmm.shards.contact_sheet import sheet_of_shards

        yield from ("", _drawn(sheet, partial(sheet_of_shards, path)))


def _drawn(sheet: Path | None, draw: Callable[[Path], None]) -> str:
    """Draw a contact sheet; returns where, or why not where nobody asked for one.

    Raises:
        InputError, StorageError: it was asked for and cannot be written.
    """
    if sheet is not None and sheet.is_dir():
        raise InputError(f"--sheet {sheet} is a folder: name the picture, as {sheet / SHEET}")
    target = whole_path(sheet or Path(SHEET))
    try:
        with storage_errors(target):
            draw(target)
    except (StorageError, OSError) as error:
        if sheet is None:
            why = "is full" if "is full" in str(error) else "cannot be written"
            return f"no contact sheet: {target.parent} {why}. Give --sheet FILE to draw one"
        if isinstance(error, StorageError):
            raise StorageError(
                f"--sheet {sheet} cannot be written ({_reason(error)}). Give another place"
            ) from error
        raise
    return f"contact sheet: {target}"


def _reason(error: BaseException) -> str:
    cause = error.__cause__
    return str(cause.strerror) if isinstance(cause, OSError) else str(error)


def _target_in_short(card: dict[str, Any]) -> Iterator[str]:
    """A target's figures beside the paper's, and the rules that led there."""
    if "statistics" not in card:
        return
    rows = [row[:-1] for row in _beside_paper(card)]
    yield text_table(["target", *_HEADER], rows)
    yield from rules_in_words(card)
    yield ""


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
    if (path / "transfer.json").is_file():
        from pmm.evaluate.transfer_gain import told

        yield from ("", *told(path))
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
        # Before the columns are drawn, for an escape is wider than what it stands for.
        head = head.with_columns(pl.col(pl.String).map_elements(one_line, return_dtype=pl.String))
    except (PolarsError, OSError) as error:
        raise BrokenArtefact(f"{path} is no whole Parquet file ({error})") from error
    yield f"{path.name}: {total:,} rows"
    with pl.Config(
        tbl_hide_dataframe_shape=True, fmt_str_lengths=60, tbl_width_chars=120, tbl_cols=-1
    ):
        yield str(head)


def _tar(path: Path | str, rows: int) -> Iterator[str]:
    from pmm.shards.stream_items import tar_members

    told = [
        f"  {name}  {len(content):,} bytes"
        for name, content in tar_members(path, made_by="the command that made it")
    ]
    yield f"{str(path).rpartition('/')[2]}: {len(told):,} members"
    yield from told[: rows * 3]


def _shards_behind(url: str, rows: int, sheet: Path | None) -> Iterator[str]:
    """Shards that lie elsewhere: their index, first items, and a sheet of the first pictures."""
    if url.startswith("pipe:") or url.endswith(".tar"):
        yield from _tar(url, rows)
        return
    from pmm.shards.contact_sheet import SHOWN, draw_samples
    from pmm.shards.stream_items import index_of, stream_samples

    index, made_by = index_of(url)
    yield from (f"{url}: shards", "", "index.json", *_indented(_shortened(index)), "")
    tars = (f"{url.rstrip('/')}/{each['tar']}" for each in index["item_shards"])
    first = list(islice(stream_samples(tars, parts={"json", "jpg"}, made_by=made_by), SHOWN))
    yield f"first of {index['items']:,} items"
    yield from (f"  {each.parts['json'].decode()}" for each in first[:rows])
    size = int(index["picture"]["size"])
    yield from ("", _drawn(sheet, lambda target: draw_samples(target, first, size)))


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
