"""Any dataset as two delimited files: interactions (user, item, time) and items (title, picture).

What the files are (delimiter, header, encoding, names of columns, unit of time) is detected and
stands in the tables' card under "detected" (raw-format variety: MovieLens, RecBole atomic files,
PixelRec, MicroLens, Amazon ratings).
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.pictures.picture_folder import PictureFolder
from pmm.ingest.readers.columns import (
    ALIASES,
    FLAG,
    Role,
    find_roles,
    names_stand_above,
    parse_columns,
    parse_item_columns,
    require_agreement,
)
from pmm.ingest.readers.delimited import (
    Dialect,
    describe_columns,
    require_rows,
    sniff,
    stream,
)
from pmm.ingest.readers.plain_file import require_file
from pmm.ingest.readers.text import clean_text, join_text
from pmm.ingest.readers.times import Unit, detect_unit
from pmm.ingest.tables.interactions import Cleaner
from pmm.ingest.tables.item_rows import ItemRows
from pmm.ingest.tables.source_tables import RawSource, Reading, write_tables
from pmm.ingest.targets.target_tables import IngestOptions, write_targets
from pmm.storage.artefact import Digests
from pmm.storage.home import SOURCES, TARGETS, Home, slug

_ITEM_ROLES: tuple[Role, ...] = ("item", "title", "description", "image", "categories")
_BETWEEN_TAGS = r"[|;]"
_NO_TAGS = "(no genres listed)"
"""What MovieLens writes in place of tags."""


@dataclass(frozen=True, kw_only=True)
class CsvFiles:
    """The files of a dataset."""

    interactions: Path
    """One row an interaction: user, item and, where known, time."""
    items: Path
    """One row an item: id, title[, description][, image][, categories]; without a header the
    first column is the id, the second the title, the third (if any) the description."""
    images: Path | None = None
    """A folder of pictures, found by the path that `items` gives or by the item id as stem."""
    columns: str | None = None
    """Names of the interactions' columns in order, needed where the file has no header."""
    item_columns: str | None = None
    """Names of the items' columns in order, for a file without a header: item, title, description,
    image, categories, `-` for what is not read, `tag NAME` for 1 where the item has that tag."""
    encoding: str | None = None
    """Of the delimited files that are neither ASCII nor begin with a byte-order mark; None = as
    detected."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How the interactions file is read."""

    dialect: Dialect
    header: bool
    roles: dict[Role, int]
    names: list[str]
    unit: Unit | None

    def describe(self) -> dict[str, Any]:
        time = self.unit or "none: the order of the rows counts"
        return {
            **self.dialect.describe(),
            "header": self.header,
            "columns": {role: self.names[at] for role, at in self.roles.items()},
            "time": time,
        }


@dataclass(frozen=True, kw_only=True)
class _ItemLayout:
    """How the items file is read."""

    header: bool
    roles: dict[Role, int]
    flags: dict[str, int]
    """Tag -> position of the column that holds 1 where an item has it."""
    between_tags: str
    """Regular expression of what separates the categories of an item."""


def ingest_csv(
    home: Home, name: str, files: CsvFiles, options: IngestOptions
) -> list[dict[str, Any]]:
    """Read two delimited files into tables/<name> and targets/<name>; return the target's card.

    The card carries "detected": what the files were taken for. Times are cut to whole seconds;
    rows within one second keep the order of the file.

    Raises:
        InputError: files or columns are missing or damaged, the name is one of the paper's
            datasets, or nothing is left.
    """
    _require_name(name)
    tables = write_tables(home, _raw(home, name, files))
    return write_targets(home, tables, {name: None}, (), [], options)


def _require_name(name: str) -> None:
    """Refuse names that are no folder, and those of the paper's datasets."""
    place = slug(name)
    for taken in (*SOURCES, *TARGETS):
        if slug(taken) == place:
            source = taken.split()[0].lower()
            raise InputError(
                f'--name "{name}": "{taken}" is what pmm ingest {source} writes, and this would '
                f'replace it. Choose another name, e.g. --name "my {name.strip()}"'
            )


def _raw(home: Home, name: str, files: CsvFiles) -> RawSource:
    require_file(files.interactions, "--interactions")
    require_file(files.items, "--items")
    pictures = PictureFolder(files.images.resolve()) if files.images else None
    digests = Digests(home.root)
    return RawSource(
        name=name,
        config={
            "columns": files.columns,
            "item_columns": files.item_columns,
            "pictures": str(pictures.folder) if pictures else None,
            **({"encoding": files.encoding} if files.encoding else {}),
        },
        inputs={
            "interactions": digests.file(files.interactions),
            "items": digests.file(files.items),
            "images": pictures.digest() if pictures else "none",
        },
        pictures=pictures.folder if pictures else None,
        read=lambda: _read(files, pictures),
    )


def _read(files: CsvFiles, pictures: PictureFolder | None) -> Reading:
    layout = _detect(files.interactions, files.columns, files.encoding)
    items, item_counts, item_notes = _read_items(
        files.items, files.item_columns, pictures, files.encoding
    )
    wanted: dict[str, int] = {"user_id": layout.roles["user"], "item_id": layout.roles["item"]}
    place = str(files.interactions)
    if layout.unit is not None:
        wanted["timestamp"] = layout.roles["time"]
        place += f", column {layout.names[wanted['timestamp']]!r}"
    drop_counts: Counter[str] = Counter()
    notes = layout.describe()
    batches = stream(
        files.interactions,
        layout.dialect,
        wanted,
        header=layout.header,
        drop_counts=drop_counts,
        notes=notes,
    )
    return Reading(
        items=items,
        item_counts=item_counts,
        interactions=Cleaner(place=place, unit=layout.unit).clean(batches, drop_counts),
        row_counts=drop_counts,
        notes={"detected": {"interactions": notes, "items": item_notes}},
    )


def _detect(path: Path, columns: str | None, encoding: str | None) -> _Layout:
    named = len(columns.split(",")) if columns else None
    dialect, head = sniff(path, encoding=encoding, fields=named)
    first = [field.strip() for field in head[0]]
    if columns is None:
        roles = find_roles(first, ["user", "item", "time"])
        if not {"user", "item"} <= roles.keys():
            raise _unknown_columns(path, first, roles)
        header, names = True, first
    else:
        roles = parse_columns(columns, dialect.fields, str(path))
        header = _is_header(head, roles)
        if header:
            require_agreement(columns, roles, first, str(path))
        names = [name.strip() for name in columns.split(",")]
    unit = None
    if "time" in roles:
        at = roles["time"]
        require_rows(path, dialect, head[header:])
        samples = [row[at] for row in head[header:] if len(row) == dialect.fields]
        unit = detect_unit(samples, f"{path}, column {names[at]!r}")
    return _Layout(dialect=dialect, header=header, roles=roles, names=names, unit=unit)


def _is_header(head: list[list[str]], roles: dict[Role, int]) -> bool:
    """Whether the first row holds names although --columns was given.

    It does where it has well-known names of columns, where its time is no time, or, in a file
    without times, where it is the only row whose item has no digit.
    """
    first = head[0]
    if find_roles(first, ["user", "item"]):
        return True
    if "time" not in roles:
        return names_stand_above(head, roles["item"])
    try:
        detect_unit([first[roles["time"]]], "")
    except InputError:
        return len(head) > 1
    return False


def _unknown_columns(path: Path, first: list[str], roles: dict[Role, int]) -> InputError:
    missing: list[Role] = [role for role in ("user", "item") if role not in roles]
    swapped = ""
    if "item" in roles and find_roles(first, ["title", "description", "image"]):
        swapped = "It looks like an items file: were --interactions and --items swapped? "
    known = "; ".join(f"{role}: {', '.join(ALIASES[role])}" for role in missing)
    return InputError(
        f"{path}: no {' and no '.join(missing)} column found; its first line has "
        f"{describe_columns(first)}. {swapped}Names that are known (case and _ do not "
        f"matter): {known}. Where the file has no header or other names, give the columns in "
        'order, e.g. --columns "user,item,rating,timestamp" (- for a column that is not read)'
    )


def _read_items(
    path: Path, columns: str | None, pictures: PictureFolder | None, encoding: str | None = None
) -> tuple[pa.Table, dict[str, Any], dict[str, Any]]:
    """The items, their drop_counts, and what was detected."""
    named = len(columns.split(",")) if columns else None
    dialect, head = sniff(path, encoding=encoding, fields=named)
    layout = _item_layout(path, head, columns, pictures is not None)
    wanted = {str(role): at for role, at in layout.roles.items()}
    wanted |= {FLAG + tag: at for tag, at in layout.flags.items()}
    names = head[0] if layout.header else [f"field {i}" for i in range(dialect.fields)]
    notes = {
        **dialect.describe(),
        "header": layout.header,
        "columns": {role: names[at].strip() for role, at in layout.roles.items()},
    }
    rows = ItemRows()
    for batch in stream(
        path,
        dialect,
        wanted,
        header=layout.header,
        drop_counts=rows.drop_counts,
        notes=notes,
    ):
        _add_items(rows, batch, layout, pictures)
    return *rows.finish(), notes


def _item_layout(
    path: Path, head: list[list[str]], columns: str | None, has_pictures: bool
) -> _ItemLayout:
    first, between = head[0], _BETWEEN_TAGS
    flags: dict[str, int] = {}
    if columns is None:
        roles, header = _item_roles(path, head, has_pictures)
        if header and "categories" in roles:
            # RecBole's atomic files say in the header that spaces separate the entries.
            spaced = first[roles["categories"]].strip().endswith(":token_seq")
            between = r"\s+" if spaced else between
    else:
        roles, flags = parse_item_columns(columns, len(first), str(path))
        header = find_roles(first, ["item", "title"]).keys() >= {"item", "title"}
    return _ItemLayout(header=header, roles=roles, flags=flags, between_tags=between)


def _item_roles(
    path: Path, head: list[list[str]], has_pictures: bool
) -> tuple[dict[Role, int], bool]:
    """The columns of an items file, and whether its first row names them."""
    first = head[0]
    roles = find_roles(first, _ITEM_ROLES)
    shown = f"its first line has {describe_columns([name.strip() for name in first])}"
    content = {"title", "description", "image"} & roles.keys()
    if "item" not in roles:
        if content or names_stand_above(head, 0):
            raise InputError(
                f"{path}: no item column found; {shown}. Name the column of ids item_id (known "
                f"too: {', '.join(ALIASES['item'])}), or leave the line with the names out, with "
                "id, title and description in this order"
            )
        roles = {"item": 0, "title": 1}
        if len(first) > 2:
            roles["description"] = 2
        return roles, False
    if find_roles(first, ["user"]) and not content:
        raise InputError(
            f"{path} looks like a file of interactions; {shown}. Expected are an item's id, title"
            "[, description][, image]: were --interactions and --items swapped?"
        )
    if not content and not has_pictures:
        raise InputError(
            f"{path} has neither a title nor an image column, and there is no folder of pictures; "
            f"{shown}"
        )
    return roles, True


def _add_items(
    rows: ItemRows, batch: pa.RecordBatch, layout: _ItemLayout, pictures: PictureFolder | None
) -> None:
    ids = pc.utf8_trim_whitespace(batch["item"].dictionary_decode()).to_pylist()
    empty = [""] * len(ids)

    def column(role: Role) -> list[str]:
        found: list[str] = batch[role].to_pylist() if role in layout.roles else empty
        return found

    flags = {tag: batch[FLAG + tag].to_pylist() for tag in layout.flags}
    columns = (column(role) for role in _ITEM_ROLES[1:])
    for at, (item_id, title, description, image, categories) in enumerate(
        zip(ids, *columns, strict=True)
    ):
        text = _title_and_description(clean_text(title), clean_text(description))
        tags = [] if categories.strip() == _NO_TAGS else re.split(layout.between_tags, categories)
        tags = [clean_text(tag) for tag in tags if tag.strip()]
        tags += [tag for tag, values in flags.items() if values[at].strip() == "1"]
        rows.add(item_id, text, _picture(pictures, item_id, image), tags)


def _title_and_description(title: str, description: str) -> str:
    return join_text(title, [description])


def _picture(pictures: PictureFolder | None, item_id: str, named: str) -> str | None:
    if pictures is None:
        return None
    return (pictures.at(named) if named.strip() else None) or pictures.of_item(item_id)
