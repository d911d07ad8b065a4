"""Times in raw files: which unit a column has, and its values as UTC seconds."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pmm.errors import InputError

Unit = Literal["s", "ms", "us", "ns", "date"]

_PER_SECOND: dict[Unit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_TOO_LATE = 10**11
_YEAR_ONE = -62_135_596_800
ACCEPTED = (
    "seconds, milliseconds, microseconds or nanoseconds since 1970, ISO dates (2020-09-22, "
    "20200922) or ISO times (2020-09-22T08:30:00, with or without a zone; without one it is UTC)"
)


def detect_unit(samples: Sequence[str], place: str) -> Unit:
    """The unit of a column from its first values.

    Numbers are told apart by their median size: seconds stay below 1e11 until the year 5138.

    >>> detect_unit(["978300760"], "t"), detect_unit(["1588687728923"], "t")
    ('s', 'ms')
    >>> detect_unit(["2018-09-20"], "t"), detect_unit(["20180920"], "t")
    ('date', 'date')

    Raises:
        InputError: no value is a time.
    """
    dates = sum(_is_date(sample) for sample in samples)
    numbers = sorted(abs(value) for value in map(_number, samples) if value is not None)
    if not dates and not numbers:
        shown = ", ".join(repr(sample) for sample in samples[:3])
        raise InputError(f"{place}: {shown} are no times; accepted: {ACCEPTED}")
    if dates >= len(numbers):
        return "date"
    size = numbers[len(numbers) // 2]
    if size < _TOO_LATE:
        return "s"
    if size < 1e14:
        return "ms"
    return "us" if size < 1e17 else "ns"


def parse_times(values: pa.Array, unit: Unit) -> pa.Array:
    """Strings as int64 UTC seconds, null where a value is no time; fractions are cut off (floor).

    No time either is what lies beyond the year 5138: a row in milliseconds among seconds.

    >>> parse_times(pa.array(["1588687728923", "x"]), "ms").to_pylist()
    [1588687728, None]
    >>> parse_times(pa.array(["2018-09-20", "2018-09-20T00:00:01+01:00"]), "date").to_pylist()
    [1537401600, 1537398001]
    """
    seconds = _parse_any(values, unit)
    return pc.if_else(pc.less(seconds, _TOO_LATE), seconds, pa.scalar(None, pa.int64()))


def _parse_any(values: pa.Array, unit: Unit) -> pa.Array:
    try:
        return _parse_all(values, unit)
    except pa.ArrowInvalid:  # one value is not of the plain form: each by itself
        parse = _date_seconds if unit == "date" else _number
        per = _PER_SECOND.get(unit, 1)
        numbers = [parse(value) for value in values.to_pylist()]
        return pa.array([None if n is None else math.floor(n // per) for n in numbers], pa.int64())


def _parse_all(values: pa.Array, unit: Unit) -> pa.Array:
    if unit == "date":
        seconds = values.cast(pa.timestamp("s")).cast(pa.int64())
        # Arrow knows a year 0; a date must mean the same in every column.
        return pc.if_else(pc.less(seconds, _YEAR_ONE), pa.scalar(None, pa.int64()), seconds)
    if pc.any(pc.match_substring(values, "x", ignore_case=True)).as_py():
        raise pa.ArrowInvalid("Arrow takes 0x1F for a number; no time is written so")
    numbers = values.cast(pa.int64())
    if unit == "s":
        return numbers
    per = _PER_SECOND[unit]
    whole = pc.divide(numbers, per)
    below = pc.less(pc.subtract(numbers, pc.multiply(whole, per)), 0)
    return pc.subtract(whole, below.cast(pa.int64()))


def _number(value: str | None) -> float | int | None:
    text = (value or "").strip()
    if "_" in text:  # Python takes 1_000 for a number
        return None
    try:
        number = int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and abs(number) < 2**63 else None


def _date_seconds(value: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat((value or "").strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_date(value: str) -> bool:
    """Whether a value is a date; a bare number only where it reads as a year of our age."""
    if _date_seconds(value) is None:
        return False
    text = value.strip()
    return not text.isdecimal() or (len(text) == 8 and "1970" <= text[:4] <= "2100")
