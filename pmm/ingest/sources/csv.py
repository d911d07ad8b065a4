"""Any dataset as two delimited files: interactions (user, item, time) and items (title, picture).

What the files are (delimiter, header, encoding, names of columns, unit of time) is detected and
stands in the tables' card under "detected" (raw-format variety: MovieLens, RecBole atomic files,
PixelRec, MicroLens, Amazon ratings).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pmm.advice import options_text
from pmm.errors import InputError
from pmm.ingest.pictures.picture_folder import PictureFolder
from pmm.ingest.readers.columns import (
    ALIASES,
    FLAG,
    Role,
    assigned,
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
from pmm.ingest.readers.histories import (
    HistoryLayout,
    detect_histories,
    refuse_lists,
    stream_histories,
)
from pmm.ingest.readers.plain_file import require_file
from pmm.ingest.readers.text import LONGEST_RAW, clean_text, join_text
from pmm.ingest.readers.times import TimeForm, TimesAre, detect_times
from pmm.ingest.sources.csv_rows import RowFilter, choose_time, stream_rows, with_clock
from pmm.ingest.tables.interactions import Cleaner
from pmm.ingest.tables.item_rows import ItemRows
from pmm.ingest.tables.source_tables import RawSource, Reading, write_tables
from pmm.ingest.targets.target_tables import IngestOptions, write_targets
from pmm.storage.artefact import Digests
from pmm.storage.home import SOURCES, TARGETS, Home, slug

_ITEM_ROLES: tuple[Role, ...] = ("item", "title", "description", "image", "categories")
_BETWEEN_TAGS = r"[|;]"
_OF_ROWS = ("times", "min_rating", "drop_identical")
_LATER = _OF_ROWS
_NUMBERS = "Numbers that grow with time and are no dates: --times numbers"
_NO_TAGS = "(no genres listed)"
"""What MovieLens writes in place of tags."""


@dataclass(frozen=True, kw_only=True)
class CsvFiles:
    """The files of a dataset."""

    interactions: Path
    """One row an interaction: user, item and, where known, time."""
    items: Path | None = None
    """One row an item: id, title[, description][, image][, categories]; without a header the
    first column is the id, the second the title, the third (if any) the description. None: items
    are known by the ids in the interactions alone."""
    images: Path | None = None
    """A folder of pictures, found by the path that `items` gives or by the item id as stem."""
    columns: str | None = None
    """Names of the interactions' columns in order, or user=NAME,item=3 by name or number; needed
    where the file has no header. "user,items" are lists of items, a line a user."""
    item_columns: str | None = None
    """Names of the items' columns in order, for a file without a header: item, title, description,
    image, categories, `-` for what is not read, `tag NAME` for 1 where the item has that tag."""
    times: TimesAre | None = None
    """What the times are; None = found out by looking."""
    min_rating: float | None = None
    """Rows with a lower rating are dropped."""
    drop_identical: bool = False
    """Of rows that are equal in every field only the first counts."""
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
    clock: int | None = None
    """Position of the time of day, where it has a column of its own."""
    times: TimeForm | None = None

    def describe(self) -> dict[str, Any]:
        time = self.times.describe() if self.times else "none: the order of the rows counts"
        apart = {} if self.clock is None else {"time of day": self.names[self.clock]}
        return {
            **self.dialect.describe(),
            "header": self.header,
            "columns": {**{role: self.names[at] for role, at in self.roles.items()}, **apart},
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

    The card carries "detected": what the files were taken for. Rows are ordered by time to the
    nanosecond; rows of one time keep the order of the file.

    Raises:
        InputError: files or columns are missing or damaged, the name is one of the paper's
            datasets, or nothing is left.
    """
    _require_name(name)
    tables = write_tables(home, _raw(home, name, files))
    if files.items is None and files.images is None:  # else not one item would stay
        options = replace(options, missing_image="keep")
    return write_targets(home, tables, {name: None}, (), [], options)


def _require_name(name: str) -> None:
    """Refuse names that are no folder, and those of the paper's datasets."""
    place = slug(name)
    for taken in (*SOURCES, *TARGETS):
        if slug(taken) == place:
            source = taken.split()[0].lower()
            raise InputError(
                f'--name "{name}": "{taken}" is what the source {source} makes, and this would '
                f"replace it. Choose another name, e.g. {options_text(name=f'my {name.strip()}')}"
            )


def _raw(home: Home, name: str, files: CsvFiles) -> RawSource:
    require_file(files.interactions, "--interactions")
    if files.items is not None:
        require_file(files.items, "--items")
    pictures = PictureFolder(files.images.resolve()) if files.images else None
    digests = Digests(home.root)
    return RawSource(
        name=name,
        config={
            "columns": files.columns,
            "item_columns": files.item_columns,
            "pictures": str(pictures.folder) if pictures else None,
            # Options that came later stand there where they were given, or every table would be
            # made anew.
            **{n: value for n in _LATER if (value := getattr(files, n)) not in (None, False)},
            **({"encoding": files.encoding} if files.encoding else {}),
        },
        inputs={
            "interactions": digests.file(files.interactions),
            "items": digests.file(files.items) if files.items else "none",
            "images": pictures.digest() if pictures else "none",
        },
        pictures=pictures.folder if pictures else None,
        read=lambda: _read(files, pictures),
    )


def _read(files: CsvFiles, pictures: PictureFolder | None) -> Reading:
    listed = None
    if files.items is not None:
        listed = read_items(files.items, files.item_columns, pictures, files.encoding)
    known = frozenset[str]() if listed is None else frozenset(listed[0]["item_id"].to_pylist())
    histories = detect_histories(files.interactions, known, files.columns, encoding=files.encoding)
    if histories is not None:
        if listed is None:
            lines = stream_histories(files.interactions, histories.dialect, Counter(), histories)
            listed = _bare_items(lines, pictures)
        return _lists(files, histories, listed, pictures)
    layout = _detect(files, known)
    if listed is None:
        ids: dict[str, int] = {"item_id": layout.roles["item"]}
        at = layout.dialect, ids
        rows = stream(files.interactions, *at, header=layout.header, drop_counts=Counter[str]())
        listed = _bare_items(rows, pictures)
    return _rows(files, layout, listed, pictures)


_Listed: TypeAlias = tuple[pa.Table, dict[str, Any], dict[str, Any]]
"""Items, their counts, and what was detected."""


def _lists(
    files: CsvFiles, histories: HistoryLayout, listed: _Listed, pictures: PictureFolder | None
) -> Reading:
    """Of a file with a line a user."""
    items, item_counts, item_notes = listed
    row_counts: Counter[str] = Counter()
    notes = histories.describe()
    return Reading(
        items=items,
        item_counts=item_counts,
        interactions=_read_histories(files, histories, row_counts, notes),
        row_counts=row_counts,
        notes={"detected": {"interactions": notes, "items": item_notes}},
        picture_notes=pictures.notes(items) if pictures else {},
    )


def _rows(
    files: CsvFiles, layout: _Layout, listed: _Listed, pictures: PictureFolder | None
) -> Reading:
    """Of a file with a row an interaction."""
    items, item_counts, item_notes = listed
    wanted = {"user_id": layout.roles["user"], "item_id": layout.roles["item"]}
    wanted |= {"rating": layout.roles["rating"]} if "rating" in layout.roles else {}
    place = str(files.interactions)
    if layout.times is not None:
        wanted["timestamp"] = layout.roles["time"]
        wanted |= {"clock": layout.clock} if layout.clock is not None else {}
        place += f", column {layout.names[wanted['timestamp']]!r}"
    drop_counts: Counter[str] = Counter()
    row_notes: dict[str, Any] = {}
    notes = layout.describe()
    batches = stream_rows(
        files.interactions,
        layout.dialect,
        wanted,
        header=layout.header,
        keep=RowFilter(min_rating=files.min_rating, drop_identical=files.drop_identical),
        drop_counts=drop_counts,
        notes=row_notes,
        odd=notes,
    )
    cleaner = Cleaner(place=place, unit=layout.times, advice=f". {_NUMBERS}")
    return Reading(
        items=items,
        item_counts=item_counts,
        interactions=cleaner.clean(batches, drop_counts, row_notes),
        row_counts=drop_counts,
        row_notes=row_notes,
        notes={"detected": {"interactions": notes, "items": item_notes}},
        picture_notes=pictures.notes(items) if pictures else {},
    )


def _read_histories(
    files: CsvFiles, layout: HistoryLayout, drop_counts: Counter[str], notes: dict[str, Any]
) -> Iterator[pa.Table]:
    for name in _OF_ROWS:
        if getattr(files, name):
            raise InputError(
                f"--{name.replace('_', '-')} is of files with a row an interaction, but "
                f"{files.interactions} has a line a user: {layout.decided_by}"
            )
    batches = stream_histories(files.interactions, layout.dialect, drop_counts, layout, notes)
    return Cleaner(place=str(files.interactions), unit=None).clean(batches, drop_counts)


def _detect(files: CsvFiles, known: frozenset[str]) -> _Layout:
    path, columns = files.interactions, files.columns
    named = len(columns.split(",")) if columns and "=" not in columns else None
    dialect, head = sniff(path, encoding=files.encoding, fields=named)
    first = [field.strip() for field in head[0]]
    clock = None
    if columns is None:
        roles = find_roles(first, ["user", "item", "time", "rating"])
        if not {"user", "item"} <= roles.keys():
            raise _unknown_columns(path, first, roles)
        header, names = True, first
        if "time" in roles:
            roles["time"], clock = choose_time(first, head[1:])
    else:
        order, by_name = assigned(columns, first, str(path))
        roles = parse_columns(order, dialect.fields, str(path))
        header = by_name or _is_header(head, roles)
        if header:
            require_agreement(columns, roles, first, str(path))
        names = first if by_name else [name.strip() for name in order.split(",")]
        fitting = [row for row in head[header:] if len(row) == dialect.fields]
        refuse_lists([row[roles["item"]] for row in fitting], known, columns, str(path))
    if files.min_rating is None:
        roles.pop("rating", None)
    elif "rating" not in roles:
        raise InputError(
            f"--min-rating {files.min_rating:g}: {path} has no column of ratings; its first line "
            f"has {describe_columns(first)}. Name one in --columns, e.g. user,item,rating,timestamp"
        )
    layout = _Layout(dialect=dialect, header=header, roles=roles, names=names, clock=clock)
    if "time" not in roles:
        return layout
    return replace(layout, times=_times(files, layout, head[header:]))


def _times(files: CsvFiles, layout: _Layout, rows: list[list[str]]) -> TimeForm | None:
    path, at, clock = files.interactions, layout.roles["time"], layout.clock
    fitting = [row for row in rows if len(row) == layout.dialect.fields]
    require_rows(path, layout.dialect, rows)
    samples = [row[at] if clock is None else f"{row[at]} {row[clock]}" for row in fitting]
    wanted = {"timestamp": at, **({} if clock is None else {"clock": clock})}

    def whole() -> Iterator[pa.Array]:
        unread: Counter[str] = Counter()
        for batch in stream(path, layout.dialect, wanted, header=layout.header, drop_counts=unread):
            column = batch["timestamp"] if clock is None else with_clock(batch)
            yield column.dictionary

    place = f"{path}, column {layout.names[at]!r}"
    return detect_times(samples, place, whole=whole, asked=files.times, option="--times")


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
        form = detect_times([first[roles["time"]]], "", asked="day-first")
    except InputError:
        return len(head) > 1
    return form is None and names_stand_above(head, roles["item"])


def _unknown_columns(path: Path, first: list[str], roles: dict[Role, int]) -> InputError:
    missing: list[Role] = [role for role in ("user", "item") if role not in roles]
    swapped = ""
    if "item" in roles and find_roles(first, ["title", "description", "image"]):
        swapped = "It looks like an items file: were --interactions and --items swapped? "
    known = "; ".join(f"{role}: {', '.join(ALIASES[role])}" for role in missing)
    return InputError(
        f"{path}: no {' and no '.join(missing)} column found; its first line has "
        f"{describe_columns(first)}. {swapped}Names that are known (case, spaces and _ "
        f"do not matter): {known}. Where the file has no header or other names, give the columns "
        'in order, e.g. --columns "user,item,rating,timestamp" (- for a column that is not read), '
        'or by name or number: --columns "user=NAME,item=2". Where a line is a user and a list of '
        'items: --columns "user,items"'
    )


def _bare_items(
    interactions: Iterable[pa.RecordBatch], pictures: PictureFolder | None
) -> tuple[pa.Table, dict[str, Any], dict[str, Any]]:
    """The items that the interactions name, where no file lists them; as `read_items`."""
    ids: set[str] = set()
    for batch in interactions:
        trimmed = pc.utf8_trim_whitespace(batch["item_id"].dictionary_decode())
        ids.update(pc.unique(trimmed).to_pylist())
    rows = ItemRows()
    for each in sorted(ids - {""}):
        rows.add(each, "", _picture(pictures, each, ""), [])
    rows.drop_counts["read"] = len(ids - {""})
    return *rows.finish(), {"from": "the ids of the interactions: there is no file of items"}


def read_items(
    path: Path, columns: str | None, pictures: PictureFolder | None, encoding: str | None = None
) -> tuple[pa.Table, dict[str, Any], dict[str, Any]]:
    """The items of a file as `SOURCE_ITEMS`, their drop_counts, and what was detected.

    Raises:
        InputError: the file is missing, damaged or empty, or has no columns of items.
    """
    named = len(columns.split(",")) if columns and "=" not in columns else None
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
        order, by_name = assigned(columns, first, str(path))
        roles, flags = parse_item_columns(order, len(first), str(path))
        header = by_name or find_roles(first, ["item", "title"]).keys() >= {"item", "title"}
        header = header or names_stand_above(head, roles["item"])
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
            f"{shown}. For models on ids alone leave --items out"
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
        categories = categories[:LONGEST_RAW]
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
