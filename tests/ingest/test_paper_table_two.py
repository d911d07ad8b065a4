"""docs/paper.md on Table II: every number of that section is computed here from what is printed."""

import gzip
import json
import re
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pmm.ingest.targets.k_core import find_core
from pmm.ingest.targets.paper_table_two import TABLE_II, beside_paper, rules_in_words, statistics
from pmm.ingest.targets.rules import AMAZON_TARGETS, HM_TARGETS, LevelRule

PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
SOURCES = ("Bili", "Kwai", "HM", "Amazon")
PRINTED_SUM = (600_000, 232_772, 6_953_503, 11.59, 99.98)
"""Table II's row "Source"."""
NINEREC = {
    "Bili Food": (6_549, 1_579, 39_740),
    "Bili Movie": (16_525, 3_509, 115_576),
    "Bili Cartoon": (30_300, 4_724, 215_443),
    "Bili_500K": (500_000, 138_033, 7_845_805),
    "Bili_2M": (2_000_000, 144_146, 24_497_157),
}
"""Users, items, actions as NineRec's README prints them."""
GARMENTS, SHOES = 42_741 + 19_812 + 13_292, 5_283
"""Rows of H&M's articles.csv by product_group_name: garments (upper, lower, full body), shoes."""
CODE_KEEPS = 23
"""Last items of a user that the published code keeps: its length of 20, and three targets."""


def section() -> str:
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(r"### What Table II can have come from\n(.*?)\n### ", text, re.DOTALL)
    assert found
    return found.group(1)


def printed_as(value: Decimal, printed: float) -> str:
    """The printed figure, marked where it is not the rounded value."""
    step = Decimal("0.01")
    if value.quantize(step, ROUND_HALF_UP) == Decimal(str(printed)).quantize(step):
        return f"{printed:.2f}"
    cut = value.quantize(step, ROUND_DOWN) == Decimal(str(printed)).quantize(step)
    return f"{printed:.2f} ({'cut off' if cut else 'neither'})"


def per_user(name: str) -> Decimal:
    users, _, actions, *_ = TABLE_II[name]
    return Decimal(actions) / users


def sparsity(users: int, items: int, actions: int) -> Decimal:
    return 100 - Decimal(100 * actions) / (users * items)


def arithmetic() -> list[str]:
    """Rows of the page's first table."""
    rows = []
    for name, (users, items, actions, length, empty) in TABLE_II.items():
        cells = [
            f"{per_user(name):.4f}",
            printed_as(per_user(name), length),
            f"{sparsity(users, items, actions):.4f}",
            printed_as(sparsity(users, items, actions), empty),
            f"{actions / items:.2f}",
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def lost(name: str) -> tuple[int, int, int]:
    """Users, items and actions that NineRec prints and Table II does not."""
    users, items, actions = (a - b for a, b in zip(NINEREC[name], TABLE_II[name][:3], strict=True))
    return users, items, actions


def beside_ninerec() -> list[str]:
    """Rows of the page's second table."""
    rows = []
    for name in ("Bili Food", "Bili Movie", "Bili Cartoon"):
        users, items, actions = lost(name)
        least = (actions - 4 * users) / items
        mean = NINEREC[name][2] / NINEREC[name][1]
        cells = [
            " / ".join(f"{each:,}" for each in NINEREC[name]),
            f"{users} / {items} / {actions:,}",
            f"{4 * (users + items)}",
            f"{least:.1f}",
            f"{mean:.1f}",
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def exactly_five(name: str) -> int:
    """Items of a core of five that have exactly five actions, at least: all others have six."""
    _, items, actions, *_ = TABLE_II[name]
    return max(0, 6 * items - actions)


def pairs_for(name: str, empty: float) -> float:
    """Distinct (user, item) that a sparsity in per cent asks for."""
    users, items, *_ = TABLE_II[name]
    return users * items * (1 - empty / 100)


def facts() -> set[str]:
    """Every number in the section's prose."""
    totals = [sum(TABLE_II[name][at] for name in SOURCES) for at in range(3)]
    found = [f"{each:,}" for each in (*PRINTED_SUM, *totals)]
    found += [f"{totals[2] / totals[0]:.2f}", f"{sparsity(*totals):.3f}"]
    found += [f"{TABLE_II[name][4]:.2f}" for name in TABLE_II]
    found += [f"{TABLE_II[name][0]:,}" for name in SOURCES]
    for name in ("Amazon Clothes", "Amazon Shoes"):
        share = 100 * exactly_five(name) / TABLE_II[name][1]
        found += [f"{exactly_five(name):,}", f"{TABLE_II[name][1]:,}", f"{share:.1f}"]
        found += [f"{TABLE_II[name][2]:,}", f"{TABLE_II[name][2] / TABLE_II[name][1]:.2f}"]
    repeats = [
        1 - pairs_for("HM Shoes", empty) / TABLE_II["HM Shoes"][2] for empty in (99.805, 99.815)
    ]
    found += [f"{100 * each:.1f}" for each in repeats]
    found += [f"{pairs_for('Kwai Movie', 99.99) / TABLE_II['Kwai Movie'][0]:.2f}", "99.90"]
    found += [f"{TABLE_II['HM'][3]:.2f}", str(CODE_KEEPS)]
    for name, known in (("HM Clothes", GARMENTS), ("HM Shoes", SHOES)):
        items = TABLE_II[name][1]
        found += [f"{known:,}", f"{items:,}", f"{100 * items / known:.1f}"]
    for name in ("Bili_500K", "Bili_2M"):
        users, _, actions = NINEREC[name]
        found.append(f"{actions / users:.2f}")
    found += [f"{TABLE_II['Bili'][3]:.2f}"]
    return {*found, *REAL_HM, *REAL_AMAZON}


REAL_HM = {"0.1": "per cent", "33.19": "all", "16.00": "cut", "15.73": "cut, repeats once"}
"""Numbers that `test_the_numbers_of_the_real_sample` measures."""
REAL_AMAZON = ("9.5", "13.6")
"""Per cent of items with exactly five actions in the core of five of two categories."""


def test_the_tables_of_the_page_are_the_arithmetic_of_table_two() -> None:
    rows = [line for line in section().splitlines() if re.match(r"\| (Bili|Kwai|HM|Amazon)", line)]
    assert rows == [*arithmetic(), *beside_ninerec()]


def test_every_number_in_the_sections_prose_is_computed() -> None:
    prose = "\n".join(line for line in section().splitlines() if not line.startswith("|"))
    prose = re.sub(r"`[^`]*`|Bili_\w+|R\d+", "", prose)
    assert set(re.findall(r"\d(?:[\d,]*\d)?(?:\.\d+)?", prose)) <= facts()
    assert len(facts()) > 30


def test_the_row_source_is_the_sum_of_the_sources_but_for_its_sparsity() -> None:
    sums = tuple(sum(TABLE_II[name][at] for name in SOURCES) for at in range(3))
    assert sums == PRINTED_SUM[:3]
    assert round(sums[2] / sums[0], 2) == PRINTED_SUM[3]
    assert round(float(sparsity(*sums)), 2) > PRINTED_SUM[4]


def test_no_core_of_five_leads_from_ninerecs_files_to_the_bili_targets() -> None:
    for name in ("Bili Food", "Bili Movie", "Bili Cartoon"):
        users, items, actions = lost(name)
        assert actions > 4 * (users + items)


def test_the_printed_sparsities_that_nothing_explains_are_those_the_page_names() -> None:
    neither = [row.split(" | ")[0][2:] for row in arithmetic() if "neither" in row]
    assert neither == ["Bili Cartoon", "Kwai Movie", "HM Clothes", "HM Shoes"]
    for name in ("Bili Cartoon", "HM Clothes"):  # more pairs than actions
        assert pairs_for(name, TABLE_II[name][4] + 0.005) > TABLE_II[name][2]
    assert printed_as(sparsity(*TABLE_II["Kwai Movie"][:3]), 99.90) == "99.90"


def test_the_numbers_of_the_real_sample(hm_data: Path) -> None:
    rows = pl.read_csv(hm_data / "transactions_train.csv", infer_schema=False)
    counts = rows.group_by("customer_id").len()["len"]
    pairs = rows.unique(["customer_id", "article_id"]).group_by("customer_id").len()["len"]
    users, once = counts.filter(counts >= 5), pairs.filter(pairs >= 5)
    measured = [users.mean(), users.clip(upper_bound=CODE_KEEPS).mean()]
    measured.append(once.clip(upper_bound=CODE_KEEPS).mean())
    assert [f"{each:.2f}" for each in measured] == list(REAL_HM)[1:]


@pytest.mark.parametrize(
    ("category", "share"),
    [*zip(("Gift_Cards", "Magazine_Subscriptions"), REAL_AMAZON, strict=True)],
)
def test_a_real_core_of_five_has_few_items_with_exactly_five(
    hm_data: Path, category: str, share: str
) -> None:
    path = hm_data.parent / "amazon2018" / f"{category}_5.json.gz"
    if not path.exists():
        pytest.skip(f"real Amazon files are not in {path.parent}")
    with gzip.open(path) as file:
        pairs = {(row["reviewerID"], row["asin"]) for row in map(json.loads, file)}
    users = np.unique([user for user, _ in pairs], return_inverse=True)[1].astype(np.int32)
    items = np.unique([item for _, item in pairs], return_inverse=True)[1].astype(np.int32)
    counts = np.bincount(items[find_core(users, items, 5, 5).rows])
    assert f"{100 * (counts == 5).sum() / (counts > 0).sum():.1f}" == share


@pytest.mark.parametrize("name", TABLE_II)
def test_a_target_of_the_papers_size_differs_only_where_the_print_does(name: str) -> None:
    users, items, actions, *_ = TABLE_II[name]
    beside = beside_paper(name, statistics(users, items, actions, actions))
    assert [beside["difference_per_cent"][each] for each in ("users", "items", "actions")] == [
        0
    ] * 3
    assert abs(beside["difference_per_cent"]["average_length"]) < 0.1
    assert abs(beside["difference_per_cent"]["sparsity_per_cent"]) < 0.1


def test_a_target_that_the_paper_lacks_stands_alone() -> None:
    assert beside_paper("Shop", statistics(1, 1, 1, 1)) == {}


OPTIONS = {
    "user_core": 5,
    "item_core": 5,
    "repeats": "keep",
    "users": None,
    "seed": 0,
    "missing_image": "drop",
}


def rules(rule: object = None, rounds: int = 2, **options: object) -> list[str]:
    return rules_in_words({"options": OPTIONS | options, "rule": rule, "core": [{}] * rounds})


def test_the_rules_of_a_whole_source_in_words() -> None:
    assert rules() == [
        "core: users with at least 5 and items with at least 5 interactions in the whole source, "
        "until nothing changes (2 rounds)",
        "carving: none, the whole source",
        "sample: none, all users",
        "repeats: every row of the same user and item counts",
        "items without picture: dropped before the core",
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"user_core": 0, "item_core": 0}, "core: none"),
        ({"item_core": 0, "rounds": 1}, "core: users with at least 5 interactions in the whole "
         "source, until nothing changes (1 round)"),
        ({"users": 2000, "seed": 7}, "sample: 2,000 users, by the hash of their ids with seed 7"),
        ({"repeats": "first"}, "repeats: only the earliest row of the same user and item counts"),
        ({"missing_image": "text-only"}, "items without picture: kept where they have a text"),
        ({"rule": {"hashtag": "food"}, "user_core": 0}, "carving: items of which hashtag: food; "
         "items inside have no least number"),
    ],
)  # fmt: skip
def test_each_option_is_told_in_its_own_words(options: dict[str, object], line: str) -> None:
    assert line in rules(**options)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (HM_TARGETS["HM Shoes"], "product_group_name is Shoes"),
        (AMAZON_TARGETS["Amazon Shoes"], "a category at a level >= 2 is Shoes"),
        (
            LevelRule(least_level=0, values=("food", "eat"), match="begins"),
            "a category or tag begins with food or eat",
        ),
    ],
)
def test_the_rules_of_carving_read_as_sentences(rule: object, words: str) -> None:
    described = rule.describe()  # type: ignore[attr-defined]
    assert rules(described)[1] == (
        f"carving: items of which {words}; then users with at least 5 interactions inside; "
        "items inside have no least number"
    )
