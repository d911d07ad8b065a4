"""Names that published files give their columns, and which of a file's columns is which.

A name is compared in lower case without `_` and without RecBole's type (`user_id:token`).
"""

import re
from collections.abc import Sequence
from typing import Literal

from pmm.errors import InputError
from pmm.ingest.readers.delimited import describe_columns

Role = Literal["user", "item", "time", "title", "description", "image", "categories"]

ALIASES: dict[Role, tuple[str, ...]] = {
    "user": ("user", "userid", "uid", "customerid", "reviewerid"),
    # parent_asin before asin: the 2023 Amazon release is joined on it.
    "item": ("item", "itemid", "parentasin", "asin", "movieid", "videoid", "articleid", "iid"),
    "time": (
        *("timestamp", "ts", "time", "tdat", "unixreviewtime", "sorttimestamp"),
        *("datetime", "date"),
    ),
    "title": ("title", "name", "movietitle", "text"),
    "description": ("description", "detaildesc"),
    "image": ("image", "imagepath", "picture", "cover"),
    "categories": ("categories", "category", "genres", "genre", "tags", "tag", "class"),
}
"""Role -> accepted names; the first that a file has is taken."""

IGNORED = ("rating", "score", "-")
"""Names that may stand in --columns for what PMM does not read ("-" for any)."""

FLAG = "tag "
"""In the names of an items file's columns: what begins so holds 1 where the item has that tag."""


def fold(name: str) -> str:
    """A column's name as it is compared.

    >>> fold(" Item_ID:token "), fold("movieId")
    ('itemid', 'movieid')
    """
    return name.partition(":")[0].strip().strip('"').replace("_", "").lower()


def find_roles(names: Sequence[str], roles: Sequence[Role]) -> dict[Role, int]:
    """Which of the roles the named columns have, and at which position.

    >>> find_roles(["rating", "asin", "parent_asin", "user_id"], ["user", "item", "time"])
    {'user': 3, 'item': 2}
    """
    folded = [fold(name) for name in names]
    found: dict[Role, int] = {}
    for role in roles:
        position = next((folded.index(alias) for alias in ALIASES[role] if alias in folded), None)
        if position is not None:
            found[role] = position
    return found


def names_stand_above(rows: Sequence[Sequence[str]], position: int) -> bool:
    """Whether a column's first value reads as its name: all values but it hold a digit.

    >>> names_stand_above([["sku"], ["a7"], ["9"]], 0), names_stand_above([["ab"], ["cd"]], 0)
    (True, False)
    """
    first, *below = [re.search(r"\d", row[position]) for row in rows if position < len(row)]
    return not first and bool(below) and all(below)


def require_agreement(
    option: str, roles: dict[Role, int], first: Sequence[str], place: str
) -> None:
    """Refuse a --columns option that contradicts the names in the file's own first line.

    Raises:
        InputError: a column is given a role, and its name is well known for another one.
    """
    asked: tuple[Role, ...] = ("user", "item", "time")
    for role, position in roles.items():
        named = next((r for r in asked if fold(first[position]) in ALIASES[r]), role)
        if named != role:
            raise InputError(
                f"--columns {option} takes field {position + 1} of {place} as {role}, but its "
                f"first line names it {first[position]!r}. Leave --columns out, or reorder it"
            )


def parse_columns(option: str, fields: int, place: str) -> dict[Role, int]:
    """The roles in a --columns option such as "user,item,rating,timestamp".

    Raises:
        InputError: an unknown name, another number of names than the file has fields, or no
            user or item among them.
    """
    names = [name.strip() for name in option.split(",")]
    roles = find_roles(names, ["user", "item", "time"])
    unknown = [
        name
        for position, name in enumerate(names)
        if position not in roles.values() and fold(name) not in IGNORED
    ]
    if unknown:
        raise InputError(
            f"--columns {option}: {describe_columns(unknown)} unknown or there twice; name the "
            "columns user, item, timestamp, and rating or - for what is not read"
        )
    if len(names) != fields:
        raise InputError(
            f"--columns {option} names {len(names)} columns, but the rows of {place} have {fields}"
        )
    if not {"user", "item"} <= roles.keys():
        raise InputError(
            f"--columns {option} must name a user and an item column, as "
            "user,item,rating,timestamp does"
        )
    return roles


def parse_item_columns(
    option: str, fields: int, place: str
) -> tuple[dict[Role, int], dict[str, int]]:
    """The roles and the flags in names for an items file's columns.

    >>> parse_item_columns("item,title,-,tag Comedy,tag Drama", 5, "u.item")
    ({'item': 0, 'title': 1}, {'Comedy': 3, 'Drama': 4})

    Raises:
        InputError: an unknown name, another number of names than the file has fields, or no
            item column among them.
    """
    names = [name.strip() for name in option.split(",")]
    flags = {name.removeprefix(FLAG): at for at, name in enumerate(names) if name.startswith(FLAG)}
    roles = find_roles(names, ["item", "title", "description", "image", "categories"])
    known = {*roles.values(), *flags.values()}
    unknown = [name for at, name in enumerate(names) if at not in known and name != "-"]
    if unknown or "item" not in roles:
        raise InputError(
            f"{option}: name the columns item, title, description, image, categories, tag NAME, "
            "and - for what is not read; item must be among them"
        )
    if len(names) != fields:
        raise InputError(
            f"{place}: its rows have {fields} fields, but {len(names)} were expected: {option}"
        )
    return roles, flags
