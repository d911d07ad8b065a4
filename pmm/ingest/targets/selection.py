"""Which interactions of a source make a target: usable items, a rule's items, a sample of users."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError
from pmm.ingest.pictures.picture_folder import describe_pictures
from pmm.ingest.readers.ids import as_number
from pmm.ingest.tables.source_tables import Source
from pmm.ingest.targets.k_core import NothingLeft
from pmm.ingest.targets.rows import InteractionRows
from pmm.ingest.targets.rules import Rule
from pmm.ingest.targets.split import LEAST

logger = logging.getLogger(__name__)
MissingImage = Literal["drop", "text-only", "keep"]
"""What becomes of items without a picture: dropped, kept if they have text, or kept anyway."""
CutTime = Literal["after-core", "before-core"]
"""When histories are cut to their ends.

The paper does not say whether or when. Its published code cuts when it loads a dataset, whose files
are filtered by then, and drops the items that no cut history holds: after the core. Cut before, the
core holds in what is counted, and users and items are fewer.
"""

UNLISTED = "item not in the items file"
UNPICTURED = "item without picture"


def usable_rows(
    source: Source, missing_image: MissingImage, drop_counts: dict[str, int]
) -> InteractionRows:
    """Rows whose item is listed and has the content that the options ask for.

    Args:
        source: all interactions.
        missing_image: drop items without a picture, only those without picture and text, or none.
        drop_counts: counts the dropped rows by reason.

    Raises:
        InputError: nothing is left.
    """
    rows = InteractionRows(
        user=source.user,
        item=source.item,
        timestamp=source.timestamp,
        nanoseconds=source.nanoseconds,
    )
    listed = source.listed_at >= 0
    rows = rows.keep(listed[rows.item], UNLISTED, drop_counts)
    if len(rows.user) and (alike := _alike_ids(source)):
        logger.warning("%s: %s", source.name, alike)
    image = np.zeros(len(listed), bool)
    image[listed] = source.items["image"].is_valid().to_numpy()[source.listed_at[listed]]
    match missing_image:
        case "drop":
            rows = rows.keep(image[rows.item], UNPICTURED, drop_counts)
        case "text-only":
            text = np.zeros(len(listed), bool)
            has_text = pc.not_equal(source.items["text"], "").to_numpy()
            text[listed] = has_text[source.listed_at[listed]]
            rows = rows.keep(
                (image | text)[rows.item], "item without picture and text", drop_counts
            )
        case "keep":
            pass
    if not len(rows.user):
        _refuse_nothing(source, drop_counts)
    return rows


def _refuse_nothing(source: Source, drop_counts: dict[str, int]) -> None:
    listing = "; ".join(f"{reason}: {n:,} rows" for reason, n in drop_counts.items() if n)
    listing = listing or "the file of interactions has no rows"
    advice = ""
    if drop_counts.get(UNPICTURED, 0) > drop_counts.get(UNLISTED, 0):
        pictures = source.card["pictures"]
        where = f" below {pictures}" if pictures else ", for there is no folder of pictures"
        advice = (
            f". No item that occurs has a picture{where}: give the folder of pictures (--images "
            "DIR, for Amazon also --images download; H&M: images/ beside articles.csv; Bili and "
            "Kwai: covers beside the tables), or keep items by their text with "
            "--missing-image text-only (all of them, for models on ids, with keep)"
        )
        for told in describe_pictures(source.card.get("picture_files", {})):
            advice += f". {told[0].upper()}{told[1:]}"
        outcomes = source.card.get("picture_outcomes")
        if outcomes:
            counts = ", ".join(f"{name}: {n:,}" for name, n in sorted(outcomes.items()))
            advice += f". Outcomes of the download: {counts}"
    elif drop_counts.get(UNLISTED):
        sold = [repr(source.item_ids[code].as_py()) for code in np.unique(source.item)[:3].tolist()]
        listed = [repr(each) for each in source.items["item_id"][:3].to_pylist()]
        advice = (
            f". Item ids of the interactions look like {', '.join(sold)}, those of the items file "
            f"like {', '.join(listed) or 'nothing: it has no rows'}. They must be the same; where "
            "the interactions have no header, --columns may name the wrong column as item"
        )
        if alike := _alike_ids(source):
            advice += f". {alike[0].upper()}{alike[1:]}"
    raise InputError(f"{source.name}: no interaction is left before the core ({listing}){advice}")


def _alike_ids(source: Source) -> str:
    """What to say of ids that are listed but for how a spreadsheet writes numbers; "" if none is.

    Such an id is never taken for another one: 007 and 7 may both be items.
    """
    unlisted = source.item_ids.filter(pa.array(source.listed_at < 0))
    if not len(unlisted):
        return ""
    listed = source.items["item_id"].combine_chunks()
    at = pc.index_in(as_number(unlisted), value_set=as_number(listed))
    found = pc.is_valid(at)
    count = pc.sum(found).as_py() or 0
    if not count:
        return ""
    one, other = unlisted.filter(found)[0].as_py(), listed[at.filter(found)[0].as_py()].as_py()
    return (
        f"{count:,} items of the interactions are in the items file but for how a spreadsheet "
        f"writes numbers, by leading zeros or .0 ({one!r} and {other!r}). They were not taken for "
        "the same: write the ids of one file as the other has them"
    )


def carve_rows(
    rows: InteractionRows,
    name: str,
    rule: Rule,
    columns: Sequence[str],
    source: Source,
    user_core: int,
    drop_counts: dict[str, int],
) -> InteractionRows:
    """Rows of the items that a rule names, of users with at least `user_core` rows among them.

    Raises:
        NothingLeft: no item fits, or no user has as many rows (and as many as the split needs).
    """
    items = pl.DataFrame(source.items.select(["categories"]))
    matches = items.select(rule.matches(columns)).to_series().to_numpy()
    if not matches.any():
        advice = f". {rule.advice}" if rule.advice else ""
        raise NothingLeft(f"{name}: no item of {source.name} is inside it (rule: {rule}){advice}")
    inside = np.zeros(len(source.item_ids), bool)
    listed = source.listed_at >= 0
    inside[listed] = matches[source.listed_at[listed]]
    carved = rows.keep(inside[rows.item], "outside the target", drop_counts)
    least = max(user_core, LEAST)
    counts = np.bincount(carved.user, minlength=len(source.user_ids))
    kept = carved.keep(
        (counts >= user_core)[carved.user],
        f"user with fewer than {user_core} inside the target",
        drop_counts,
    )
    if not (counts >= least).any():
        raise NothingLeft(
            f"{name}: no user of the core has {least} interactions inside it (rule: {rule}; "
            f"{len(carved.user):,} interactions of {np.count_nonzero(counts):,} users, at most "
            f"{counts.max(initial=0)} each). Lower --user-core or --item-core"
        )
    return kept


def sample_users(
    rows: InteractionRows, ids: pa.StringArray, users: int, seed: int, drop_counts: dict[str, int]
) -> InteractionRows:
    """The users whose hash with the seed is least: the same in every version of every library."""

    def place(code: int) -> bytes:
        return hashlib.sha256(f"{seed}:{ids[code].as_py()}".encode()).digest()

    chosen = np.zeros(len(ids), bool)
    chosen[sorted(np.unique(rows.user).tolist(), key=place)[:users]] = True
    return rows.keep(chosen[rows.user], "user not in the sample", drop_counts)


def keep_last(
    rows: InteractionRows, last: int | None, drop_counts: dict[str, int]
) -> InteractionRows:
    """The last rows of each user; of the same time those later in the file.

    Args:
        rows: in order (`InteractionRows.ordered`).
        last: so many of each user; None keeps all.
        drop_counts: counts the dropped rows by reason.

    >>> rows = InteractionRows(user=np.array([0, 0, 0, 4]), item=np.array([7, 8, 9, 7]),
    ...                        timestamp=None)
    >>> counts = {}
    >>> keep_last(rows, 2, counts).item.tolist(), counts
    ([8, 9, 7], {'before the last 2 of the user': 1})
    """
    if last is None:
        return rows
    ends = np.append(np.flatnonzero(np.diff(rows.user)) + 1, len(rows.user))
    behind = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(rows.user))
    return rows.keep(behind <= last, f"before the last {last} of the user", drop_counts)
