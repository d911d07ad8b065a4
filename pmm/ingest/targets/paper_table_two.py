"""The paper's Table II: users, items and actions of its fourteen datasets after preprocessing.

And what a target's card has beside it: the difference, and our rules in words.
"""

from collections.abc import Mapping
from typing import Any

TABLE_II: dict[str, tuple[int, int, int, float, float]] = {
    "Bili": (100_000, 44_887, 1_537_850, 15.38, 99.97),
    "Kwai": (200_000, 39_410, 1_512_646, 7.56, 99.98),
    "HM": (200_000, 85_019, 3_160_543, 15.80, 99.98),
    "Amazon": (100_000, 63_456, 742_464, 7.42, 99.98),
    "Bili Food": (6_485, 1_574, 39_152, 6.04, 99.61),
    "Bili Movie": (16_452, 3_493, 114_239, 6.94, 99.80),
    "Bili Cartoon": (30_102, 4_702, 211_497, 7.03, 99.84),
    "Kwai Food": (8_549, 2_097, 72_741, 8.51, 99.59),
    "Kwai Movie": (8_477, 7_024, 60_208, 7.10, 99.99),
    "Kwai Cartoon": (17_429, 7_284, 131_733, 7.56, 99.89),
    "HM Clothes": (27_883, 2_742, 185_297, 6.65, 99.71),
    "HM Shoes": (21_666, 3_743, 164_621, 7.60, 99.81),
    "Amazon Clothes": (5_009, 5_855, 30_383, 6.06, 99.89),
    "Amazon Shoes": (15_264, 16_852, 93_999, 6.16, 99.96),
}
"""Target -> users, items, actions, average length, sparsity in per cent, as printed.

Some printed sparsities do not follow from the printed counts (Kwai Movie: 99.90, not 99.99).
"""


def statistics(users: int, items: int, actions: int, pairs: int) -> dict[str, float]:
    """The columns of Table II. Sparsity is the share of user-item cells in which nothing happened.

    Args:
        users: users.
        items: items.
        actions: interactions, repeats included.
        pairs: distinct (user, item) among them. The paper divides the actions by the cells, which
            is the same where nothing repeats; with repeats that could fall below zero.

    >>> statistics(6485, 1574, 39152, 39152)["sparsity_per_cent"]
    99.6164
    """
    cells = users * items
    return {
        "users": users,
        "items": items,
        "actions": actions,
        "average_length": round(actions / users, 4) if users else 0.0,
        "sparsity_per_cent": round(100 * (1 - pairs / cells), 4) if cells else 100.0,
    }


def beside_paper(target: str, ours: dict[str, float]) -> dict[str, Any]:
    """The paper's printed figures of a target and our difference from them in per cent of theirs.

    Empty where the paper has no such target.
    """
    if target not in TABLE_II:
        return {}
    theirs = dict(zip(ours, TABLE_II[target], strict=True))
    difference = {
        name: round(100 * (ours[name] - value) / value, 2) for name, value in theirs.items()
    }
    return {"paper": theirs, "difference_per_cent": difference}


def rules_in_words(card: Mapping[str, Any]) -> list[str]:
    """The rules that led to a target, a line each: core, carving, sample, repeats, pictures.

    Histories have one where they were cut.

    Args:
        card: a target's; read are "options", "rule" and "core".
    """
    options = card["options"]
    return [
        f"core: {_core(options, len(card['core']))}",
        f"carving: {_rule_in_words(card['rule'], options)}",
        f"sample: {_sample(options)}",
        *_last(options),
        "repeats: " + _REPEATS[options["repeats"]],
        "items without picture: " + _UNPICTURED[options["missing_image"]],
    ]


_REPEATS = {
    "keep": "every row of the same user and item counts",
    "first": "only the earliest row of the same user and item counts",
}
_UNPICTURED = {
    "drop": "dropped before the core",
    "text-only": "kept where they have a text",
    "keep": "kept",
}


def _core(options: Mapping[str, Any], rounds: int) -> str:
    least = [
        f"{who} with at least {options[name]}"
        for who, name in (("users", "user_core"), ("items", "item_core"))
        if options[name]
    ]
    if not least:
        return "none"
    again = f"{rounds} round{'s'[: rounds != 1]}"
    return (
        f"{' and '.join(least)} interactions in the whole source, until nothing changes ({again})"
    )


def _rule_in_words(rule: Mapping[str, Any] | None, options: Mapping[str, Any]) -> str:
    if rule is None:
        return "none, the whole source"
    values = " or ".join(map(str, rule.get("values", ())))
    match rule:
        case {"column": column, "operator": operator}:
            items = f"{column} {'is not' if operator == 'not in' else 'is'} {values}"
        case {"level": level, "match": how}:
            begins = "begins with" if how == "begins" else "is"
            where = "category or tag" if level == ">= 0" else f"category at a level {level}"
            items = f"a {where} {begins} {values}"
        case _:
            items = ", ".join(f"{key}: {value}" for key, value in rule.items())
    least = options["user_core"]
    users = f"; then users with at least {least} interactions inside" if least else ""
    return f"items of which {items}{users}; items inside have no least number"


def _last(options: Mapping[str, Any]) -> list[str]:
    if options.get("last") is None:
        return []
    when = {
        "after-core": "cut after core, carving and sample, so items may be left with fewer",
        "before-core": "cut before the core, in the whole source, whatever is carved",
    }
    return [f"histories: only the last {options['last']} of each user, {when[options['last_cut']]}"]


def _sample(options: Mapping[str, Any]) -> str:
    if options["users"] is None:
        return "none, all users"
    return f"{options['users']:,} users, by the hash of their ids with seed {options['seed']}"
