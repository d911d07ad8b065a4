"""The paper's Table II: users, items and actions of its fourteen datasets after preprocessing."""

from typing import Any

TABLE_II: dict[str, tuple[int, int, int]] = {
    "Bili": (100_000, 44_887, 1_537_850),
    "Kwai": (200_000, 39_410, 1_512_646),
    "HM": (200_000, 85_019, 3_160_543),
    "Amazon": (100_000, 63_456, 742_464),
    "Bili Food": (6_485, 1_574, 39_152),
    "Bili Movie": (16_452, 3_493, 114_239),
    "Bili Cartoon": (30_102, 4_702, 211_497),
    "Kwai Food": (8_549, 2_097, 72_741),
    "Kwai Movie": (8_477, 7_024, 60_208),
    "Kwai Cartoon": (17_429, 7_284, 131_733),
    "HM Clothes": (27_883, 2_742, 185_297),
    "HM Shoes": (21_666, 3_743, 164_621),
    "Amazon Clothes": (5_009, 5_855, 30_383),
    "Amazon Shoes": (15_264, 16_852, 93_999),
}
"""Target -> (users, items, actions)."""


def statistics(users: int, items: int, actions: int) -> dict[str, float]:
    """The columns of Table II.

    >>> statistics(6485, 1574, 39152)["average_length"]
    6.0373
    """
    cells = users * items
    return {
        "users": users,
        "items": items,
        "actions": actions,
        "average_length": round(actions / users, 4) if users else 0.0,
        "sparsity_per_cent": round(100 * (1 - actions / cells), 4) if cells else 100.0,
    }


def beside_paper(target: str, ours: dict[str, float]) -> dict[str, Any]:
    """The paper's figures of a target and our difference from them in per cent of theirs.

    Average length and sparsity are computed from the paper's counts. Empty where the paper has no
    such target.
    """
    if target not in TABLE_II:
        return {}
    theirs = statistics(*TABLE_II[target])
    difference = {
        name: round(100 * (ours[name] - value) / value, 2) for name, value in theirs.items()
    }
    return {"paper": theirs, "difference_per_cent": difference}
