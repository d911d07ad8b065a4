"""`--last N`: only the ends of histories, in two orders of the rules, against the slowest loop."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from pmm.check.check_home import check_and_repair
from pmm.errors import InputError
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.artefact import read_manifest
from pmm.storage.home import Home

Row = tuple[str, str, int]


def draw(seed: int, rows: int = 120) -> list[Row]:
    """Rows in the order of a file, whose times tie and are out of order."""
    rng = np.random.default_rng(seed)
    codes = zip(
        rng.integers(0, 9, rows), rng.integers(0, 10, rows), rng.integers(0, 20, rows), strict=True
    )
    return [(f"u{user}", f"i{item}", int(time)) for user, item, time in codes]


def text_of(rows: list[Row]) -> str:
    lines = (f"{user},{item},{time}" for user, item, time in rows)
    return "\n".join(["user_id,item_id,timestamp", *lines, ""])


def in_order(rows: list[Row]) -> list[Row]:
    """By time; ties by the order of the file, since `sorted` is stable."""
    return sorted(rows, key=lambda row: row[2])


def cut(rows: list[Row], last: int) -> list[Row]:
    """A row stays if fewer than `last` rows of its user are behind it."""
    return [
        row
        for n, row in enumerate(rows)
        if sum(other[0] == row[0] for other in rows[n + 1 :]) < last
    ]


def core(rows: list[Row], least: int) -> list[Row]:
    """One row after the other goes while a user or an item has too few."""
    left = list(rows)
    while True:
        for n, row in enumerate(left):
            if min(sum(other[side] == row[side] for other in left) for side in (0, 1)) < least:
                del left[n]
                break
        else:
            return left


def by_user(rows: list[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user, item, _ in rows:
        found.setdefault(user, []).append(item)
    return {user: items for user, items in found.items() if len(items) >= 3}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("when", ["after-core", "before-core"])
def test_the_ends_of_histories_are_those_of_the_slowest_loop(
    seed: int,
    when: str,
    ingest_text: Callable[..., dict[str, Any]],
    sequences: Callable[..., dict[str, list[str]]],
    adds_up: Callable[[dict[str, Any]], bool],
) -> None:
    rows, last, least = draw(seed), 7, 4
    card = ingest_text(text_of(rows), user_core=least, item_core=least, last=last, last_cut=when)
    ordered = in_order(rows)
    if when == "after-core":
        stays, cores = cut(core(ordered, least), last), core(ordered, least)
        dropped = len(cores) - len(stays)
    else:
        stays = core(cut(ordered, last), least)
        dropped = len(ordered) - len(cut(ordered, last))
    assert sequences() == by_user(stays)
    assert adds_up(card)
    assert card["rows"]["dropped"]["before the last 7 of the user"] == dropped > 0
    assert card["options"]["last"] == last
    told = "cut after core" if when == "after-core" else "cut before the core"
    assert [each for each in card["rules"] if each.startswith("histories: only the last 7")] == [
        each for each in card["rules"] if told in each
    ]


def test_both_readings_differ_where_an_item_lives_in_what_is_cut(
    ingest_text: Callable[..., dict[str, Any]],
) -> None:
    rows = draw(0)
    counts = [
        ingest_text(text_of(rows), user_core=3, item_core=3, last=5, last_cut=when)["statistics"]
        for when in ("after-core", "before-core")
    ]
    assert counts[0]["actions"] > counts[1]["actions"]


def test_repeats_that_do_not_count_are_gone_before_the_cut(
    ingest_text: Callable[..., dict[str, Any]], sequences: Callable[..., dict[str, list[str]]]
) -> None:
    rows = [("u", f"i{item}", time) for time, item in enumerate([1, 2, 3, 4, 3, 2, 1])]
    ingest_text(text_of(rows), last=3, repeats="first")
    assert sequences() == {"u": ["i2", "i3", "i4"]}


def test_the_last_of_a_carved_target_are_those_inside_it_or_of_the_source(
    write_shop: Callable[..., Any],
    ingest_shop: Callable[..., list[dict[str, Any]]],
    sequences: Callable[..., dict[str, list[str]]],
) -> None:
    shoes, hats = [f"010000000{n}" for n in range(1, 6)], [f"020000000{n}" for n in range(1, 3)]
    order = [*shoes[:3], *hats, *shoes[3:]]
    rows = [(f"2020-01-0{day + 1}", "u", article) for day, article in enumerate(order)]
    articles = [(each, "Shoes") for each in shoes] + [(each, "Hats") for each in hats]
    raw = write_shop(rows, articles, [*shoes, *hats])
    ingest_shop(raw, "HM Shoes", last=5)
    assert sequences("HM Shoes") == {"u": shoes}
    ingest_shop(raw, "HM Shoes", last=5, last_cut="before-core")
    assert sequences("HM Shoes") == {"u": shoes[2:]}


def test_nothing_changes_for_a_target_that_is_not_cut(
    home: Home, ingest_text: Callable[..., dict[str, Any]]
) -> None:
    card = ingest_text(text_of(draw(0)))
    manifest = read_manifest(home.target("Shop"))
    assert manifest is not None
    config = manifest.config
    for written in (card["options"], config):
        assert not {"last", "last_cut"} & written.keys()
    assert {*asdict(IngestOptions())} - {*card["options"]} == {"last", "last_cut"}
    assert not any("histories" in each for each in card["rules"])
    assert IngestOptions.read(config).written() == card["options"]


def test_a_damaged_target_that_was_cut_is_made_again_as_it_was(
    home: Home, ingest_text: Callable[..., dict[str, Any]]
) -> None:
    ingest_text(text_of(draw(1)), last=4)
    path = home.target("Shop") / "sequences.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    check_and_repair(home)
    assert path.read_bytes() == whole
    assert json.loads((home.target("Shop") / "card.json").read_text())["options"]["last"] == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"last": 2}, "--last 2: must be at least 3"),
        ({"last_cut": "before-core"}, "give --last N too"),
        ({"last": 4, "last_cut": "before-core"}, "--user-core asks for"),
    ],
)
def test_cuts_that_leave_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        IngestOptions(**options)
