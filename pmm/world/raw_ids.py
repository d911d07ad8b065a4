"""Raw ids of items and users in the form that each platform's real dumps have."""

import numpy as np

from pmm.world.platforms import Platform

_BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def item_ids(platform: Platform, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Distinct ids in no telling order: H&M's article ids, Amazon's ASINs, `v` numbers of the video
    platforms.

    >>> item_ids("HM", 1, np.random.Generator(np.random.PCG64(0)))[0][0]
    '0'
    """
    numbers = [100_000 + number for number in _distinct(count, 900_000, rng)]
    match platform:
        case "HM":
            variants = rng.integers(1, 30, size=count)
            return tuple(f"0{n}{v:03d}" for n, v in zip(numbers, variants, strict=True))
        case "Amazon":
            return tuple(f"B0{_base36(n * 1741, 8)}" for n in numbers)
        case "Bili" | "Kwai":
            return tuple(f"v{n}" for n in numbers)


def user_ids(platform: Platform, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Distinct ids: 64 hex digits for H&M, `A` and 13 characters for Amazon, else `u` numbers."""
    numbers = _distinct(count, 10_000_000, rng)
    match platform:
        case "HM":
            return tuple(rng.bytes(29).hex() + f"{n:06x}" for n in numbers)
        case "Amazon":
            return tuple(f"A{_base36(n * 514_229, 13)}" for n in numbers)
        case "Bili" | "Kwai":
            return tuple(f"u{n}" for n in numbers)


def _distinct(count: int, below: int, rng: np.random.Generator) -> list[int]:
    numbers: list[int] = rng.choice(below, size=count, replace=False).tolist()
    return numbers


def _base36(number: int, width: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
    return digits.rjust(width, "0")
