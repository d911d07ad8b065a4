"""Names that published files give their columns, and which of a file's columns is which.

A name is compared in lower case by its letters and digits alone, without RecBole's type
(`user_id:token`, `USER ID`, `userId`).
"""

import re
from collections.abc import Sequence
from typing import Literal

from pmm.errors import InputError, nearest
from pmm.ingest.readers.delimited import describe_columns

Role = Literal[
    "user", "item", "time", "rating", "items", "title", "description", "image", "categories"
]

ALIASES: dict[Role, tuple[str, ...]] = {
    "user": (
        *("user", "userid", "uid", "customerid", "reviewerid"),
        *("visitorid", "memberid", "buyerid", "clientid", "accountid", "playerid", "viewerid"),
        *("customer", "reviewer", "username", "sessionid", "session"),
    ),
    # parent_asin before asin: the 2023 Amazon release is joined on it.
    "item": (
        *("item", "itemid", "parentasin", "asin", "movieid", "videoid", "articleid", "iid"),
        *("productid", "product", "skuid", "sku", "goodsid", "newsid", "trackid", "songid"),
        *("bookid", "isbn", "gameid", "appid", "businessid", "recipeid", "contentid", "stockcode"),
    ),
    "time": (
        *("timestamp", "ts", "time", "tdat", "unixreviewtime", "sorttimestamp"),
        *("datetime", "date", "timestampms", "unixtime", "eventtime", "createdat", "createtime"),
        *("reviewtime", "reviewdate", "ratingtime", "purchasetime", "purchasedate", "ordertime"),
        *("orderdate", "invoicedate", "clicktime", "visittime"),
    ),
    "rating": ("rating", "score", "stars", "overall", "ratings", "starrating", "bookrating"),
    "items": (
        *("items", "itemids", "itemidlist", "itemlist", "itemseq", "itemsequence", "sequence"),
        *("history", "behaviour", "behavior", "productids", "products"),
    ),
    "title": (
        *("title", "name", "movietitle", "text"),
        *("productname", "producttitle", "itemname", "itemtitle", "booktitle", "prodname"),
        *("gamename", "songname", "trackname", "appname", "headline"),
    ),
    "description": (
        *("description", "detaildesc"),
        *("productdescription", "itemdescription", "desc", "abstract"),
    ),
    "image": (
        *("image", "imagepath", "picture", "cover"),
        *("imagefile", "imagename", "img", "picturepath", "photo"),
    ),
    "categories": (
        *("categories", "category", "genres", "genre", "tags", "tag", "class"),
        *("productcategory", "itemcategory", "categoryname"),
    ),
}
"""Role -> accepted names; the first that a file has is taken."""

NOT_READ = "-"
"""What stands in a list of columns for one that is not read."""

FLAG = "tag "
"""In the names of an items file's columns: what begins so holds 1 where the item has that tag."""


def fold(name: str) -> str:
    """A column's name as it is compared.

    >>> fold(" Item_ID:token "), fold("movieId"), fold("USER ID")
    ('itemid', 'movieid', 'userid')
    """
    return re.sub(r"[\W_]+", "", name.partition(":")[0]).lower()


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


def time_columns(names: Sequence[str]) -> list[int]:
    """The positions of all columns whose name is one of a time, the best known first.

    >>> time_columns(["date", "user", "time"])
    [2, 0]
    """
    folded = [fold(name) for name in names]
    return [at for alias in ALIASES["time"] for at, name in enumerate(folded) if name == alias]


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


def assigned(option: str, first: Sequence[str], place: str) -> tuple[str, bool]:
    """A list of columns in the order of the file, and whether it was given by their names.

    What is no assignment stays as it is: it is in the order of the file already.

    >>> assigned("user=Who,item=3", ["Who", "when", "what"], "f.csv")
    ('user,-,item', True)

    Args:
        option: "user=NAME,item=3": a column by its name in the file, or by its number from 1.
        first: the fields of the file's first line.
        place: the file, for errors.

    Raises:
        InputError: there is no such column, or a column or a role twice.
    """
    if "=" not in option:
        return option, False
    order = [NOT_READ] * len(first)
    by_name = False
    for part in option.split(","):
        role, equals, column = (each.strip() for each in part.partition("="))
        if not equals or not role or not column:
            raise InputError(f"{option}: {part.strip()!r} is no assignment such as item=NAME")
        at, named = _position(column, first, f"{place}, {option}")
        if order[at] != NOT_READ:
            raise InputError(f"{option}: {column!r} is both {order[at]} and {role}")
        order[at] = role
        by_name |= named
    return ",".join(order), by_name


def _position(column: str, first: Sequence[str], place: str) -> tuple[int, bool]:
    """Where a column is, and whether that was found by its name."""
    names = [name.strip() for name in first]
    for found in (
        [at for at, name in enumerate(names) if name == column],
        [at for at, name in enumerate(names) if fold(name) == fold(column) and fold(column)],
    ):
        if len(found) > 1:
            raise InputError(
                f"{place}: several columns are called {column!r}; give its number, from 1"
            )
        if found and not (column.isdecimal() and names[found[0]] != column):
            return found[0], True
    if column.isdecimal() and 1 <= int(column) <= len(names):
        return int(column) - 1, False
    raise InputError(
        f"{place}: no column {column!r}: {nearest(column, names)}; or give its number, 1 to "
        f"{len(names)}"
    )


def parse_columns(option: str, fields: int, place: str) -> dict[Role, int]:
    """The roles in a --columns option such as "user,item,rating,timestamp".

    Raises:
        InputError: an unknown name, another number of names than the file has fields, or no
            user or item among them.
    """
    names = [name.strip() for name in option.split(",")]
    roles = find_roles(names, ["user", "item", "time", "rating"])
    unknown = [
        name
        for position, name in enumerate(names)
        if position not in roles.values()
        and name != NOT_READ
        and fold(name) not in ALIASES["rating"]
    ]
    if unknown:
        raise InputError(
            f"--columns {option}: {describe_columns(unknown)} unknown or there twice; name the "
            "columns user, item, timestamp, rating, and - for what is not read"
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
    unknown = [name for at, name in enumerate(names) if at not in known and name != NOT_READ]
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
