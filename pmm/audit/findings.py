"""What the figures of an audit mean, and what to do: each judged by a bound that stands here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pmm.audit.beside_floors import BesideFloor, Repeats
from pmm.audit.concentration import Concentration
from pmm.audit.near_items import Duplicates
from pmm.audit.tie_order import TieOrder
from pmm.audit.time_leak import TimeLeak

LATER = 0.05
"""Share of test items seen later in training above which figures are not those of any day."""
DECIDED = 0.05
"""Share of users whose question an order of tied rows decides: as much as models differ by."""
LOOKED_UP = 0.01
"""Share of test items that a look-up wins: a point of HR."""
REPEATED = 0.05
"""Share of test items that repeat."""
TOP_USERS, TOP_ITEMS = 0.25, 0.5
"""What the busiest 1 % may have of all."""

Level = Literal["warning", "note", "fine"]


@dataclass(frozen=True, kw_only=True)
class AuditFinding:
    """One thing that was looked at."""

    about: str
    level: Level
    said: str
    """What was found, in one or two sentences with figures."""
    to_do: str
    """What to do; empty where nothing is."""


def findings_of(
    *,
    split: str,
    time: TimeLeak | None,
    ties: TieOrder | None,
    texts: Duplicates | None,
    pictures: Duplicates | None,
    repeats: Repeats,
    by_user: Concentration,
    by_item: Concentration,
    beside_run: list[BesideFloor],
) -> list[AuditFinding]:
    """All findings, in the order in which they are measured. What was not measured has none."""
    found = []
    if time is not None:
        found += [_time(time, split), _popularity(time)]
    if ties is not None:
        found.append(_ties(ties))
    if texts is not None:
        found.append(_duplicates(texts, "text"))
    if pictures is not None:
        found.append(_duplicates(pictures, "picture"))
    found += [_repeats(repeats), _concentration(by_user, by_item)]
    return [*found, *map(_beside, beside_run)]


def per_cent(share: float) -> str:
    """A fraction in words.

    >>> per_cent(0.1234), per_cent(0.0)
    ('12.3 %', '0.0 %')
    """
    return f"{100 * share:.1f} %"


def _finding(about: str, level: Level, said: str, to_do: str) -> AuditFinding:
    return AuditFinding(about=about, level=level, said=said, to_do="" if level == "fine" else to_do)


def _level(seen: float, share: float, bound: float) -> Level:
    """Fine where nothing was seen; a warning where its share of the users is beyond the bound."""
    if not seen:
        return "fine"
    return "warning" if share > bound else "note"


def _time(time: TimeLeak, split: str) -> AuditFinding:
    level = _level(time.later_targets, time.later_targets, LATER)
    said = (
        f"{per_cent(time.later_targets)} of the test items were taken by others at a later time in "
        f"the training part; {per_cent(time.later_rows)} of all training lies behind an average "
        f"test item. The split is {split}."
    )
    to_do = (
        "Figures say which of two models is better, not what would have happened on a day. For "
        "that, ingest again with --split temporal, and quote both. The floors under such a split "
        "stand below."
    )
    return _finding("later in time", level, said, to_do)


def _popularity(time: TimeLeak) -> AuditFinding:
    low, high = (100 * each for each in time.gain)
    ahead, before = (
        100 * each["hr@10"] for each in (time.popularity_of_all_time, time.popularity_before)
    )
    said = (
        f"Popularity of all time has HR@10 {ahead:.2f}, popularity before each test item's own "
        f"time {before:.2f}: a difference of {ahead - before:+.2f} (95 % interval {low:+.2f} .. "
        f"{high:+.2f})."
    )
    to_do = (
        "Items that become popular after a test item are known to whatever was trained on this "
        "split, ids and shares of popularity most of all. Compare with --split temporal before "
        "you call such a model better than one that reads content."
    )
    return _finding("future popularity", "warning" if low > 0 else "fine", said, to_do)


def _ties(ties: TieOrder) -> AuditFinding:
    level = _level(ties.decided_users, ties.decided_users, DECIDED)
    moved = " ".join(
        f"HR@10 of {floor} goes from {100 * each.low:.2f} to {100 * each.high:.2f}, in the order "
        f"of the file it is {100 * each.in_file_order:.2f}, sorted by item "
        f"{100 * each.by_item_id:.2f}."
        for floor, each in ((floor, found["hr@10"]) for floor, found in ties.spread.items())
    )
    said = (
        f"{per_cent(ties.tied_rows)} of the rows have another one of their user at the same time. "
        f"Of {per_cent(ties.decided_users)} of the users the order of such rows alone says what "
        f"the test item is. Over {ties.draws} drawn orders {moved}"
    )
    to_do = (
        "Compare only figures of one and the same order: published ones were made with another. "
        "Where the raw data have finer times, ingest those. Differences between models within this "
        "spread say nothing about the models."
    )
    return _finding("tied times", level, said, to_do)


def _duplicates(found: Duplicates, what: str) -> AuditFinding:
    level = _level(found.items, found.lookup_share, LOOKED_UP)
    said = (
        f"{found.items:,} of {found.looked_at:,} items have nearly the {what} of another id "
        f"(pairs: {found.pairs:,}; the largest group of the same: {found.largest:,}). "
        f"{found.lookups:,} test items ({per_cent(found.lookup_share)}) have such a one in their "
        "user's own history."
    )
    if found.examples:
        said += " As " + "; ".join(f"{one} and {other}" for one, other in found.examples) + "."
    to_do = (
        f"A model that reads {what}s wins such test items by look-up, and one of ids cannot. Give "
        "the same thing one id before you ingest it, or quote the figures without these users."
    )
    return _finding(f"near-duplicate {what}s", level, said, to_do)


def _repeats(repeats: Repeats) -> AuditFinding:
    level = _level(repeats.users, repeats.share, REPEATED)
    new = repeats.new["item kNN"]
    rest = (
        f" Of the others item kNN finds {100 * new['hr@10']:.2f} at HR@10."
        if "hr@10" in new
        else ""
    )
    said = (
        f"{repeats.users:,} users ({per_cent(repeats.share)}) are asked for an item that they have "
        f"had before.{rest}"
    )
    to_do = (
        "Such an item was a training target and competes alone among its like, since the rest of "
        'the history is masked. Quote the figures of "new" in the evaluation, or ingest '
        "with --repeats first."
    )
    return _finding("repeats", level, said, to_do)


def _concentration(by_user: Concentration, by_item: Concentration) -> AuditFinding:
    uneven = by_user.top_share > TOP_USERS or by_item.top_share > TOP_ITEMS
    said = (
        f"The busiest 1 % of the users have {per_cent(by_user.top_share)} of the rows (Gini "
        f"{by_user.gini:.2f}), the most frequent 1 % of the items {per_cent(by_item.top_share)} "
        f"(Gini {by_item.gini:.2f})."
    )
    to_do = (
        "A few decide what is learned. Cut long histories with --last N, look whether the busiest "
        "users are people, and read the results by bucket of popularity beside the whole."
    )
    return _finding("who dominates", "warning" if uneven else "fine", said, to_do)


def _beside(found: BesideFloor) -> AuditFinding:
    hr = next(each for each in found.differences if each.name == "hr@10")
    said = (
        f"The run has HR@10 {100 * hr.second:.2f}, {found.floor} {100 * hr.first:.2f}: a "
        f"difference of {100 * hr.difference:+.2f} (95 % interval {100 * hr.low:+.2f} .. "
        f"{100 * hr.high:+.2f})."
    )
    to_do = (
        f"{found.floor[0].upper()}{found.floor[1:]} needs no training and reaches this result "
        "within chance, or passes it. The model has not shown that it learned anything more: tune "
        "it, train it longer or on more data, before you compare it with others."
    )
    return _finding(f"a run beside {found.floor}", "fine" if hr.low > 0 else "warning", said, to_do)


def warnings_of(found: list[AuditFinding]) -> Iterator[AuditFinding]:
    """Those that need doing something about."""
    return (each for each in found if each.level == "warning")
