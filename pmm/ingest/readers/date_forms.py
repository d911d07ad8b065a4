"""Dates and times of day as programs and people write them, to the nanosecond.

With the year first (2017-07-14, 2017/7/14, 20170714, 20170714024000), with a month's name (14 Jul
2017, Jul 14, 2017), or with the year last (14/07/2017), of which only a whole column can tell
whether the day or the month is first.
"""

import re
from datetime import UTC, datetime, timedelta

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_NAME = rf"(?P<name>(?:{'|'.join(_MONTHS)})[a-z]*)"
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
    r"(?:\s*(?P<half>[ap])\.?m\.?)?"
)
_ZONE = r"(?:\s*(?P<zone>z|(?:utc|gmt)?(?:[+-]\d{1,2}(?::?\d\d)?)|utc|gmt))?"
_TIME = rf"(?:(?:[t:,]|\s)\s*{_CLOCK}{_ZONE})?"
_COMPACT = re.compile(
    r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
    rf"(?:[t ]?(?P<hour>\d\d)(?P<minute>\d\d)(?:(?P<second>\d\d)\.?(?P<fraction>\d+)?)?{_ZONE})?",
    re.IGNORECASE,
)
_FORMS = [
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"(?P<year>\d{{4}})(?P<mark>[-/.])(?P<month>\d{{1,2}})(?P=mark)(?P<day>\d{{1,2}}){_TIME}",
        rf"(?P<year>\d{{4}})年(?P<month>\d{{1,2}})月(?P<day>\d{{1,2}})日(?:\s*{_CLOCK}{_ZONE})?",
        rf"{_WEEKDAY}(?P<day>\d{{1,2}})[-/ ]{_NAME}\.?,?[-/ ](?P<year>\d{{4}}){_TIME}",
        rf"{_WEEKDAY}{_NAME}\.?\s+(?P<day>\d{{1,2}}),?\s+(?P<year>\d{{4}}){_TIME}",
        # As C and Twitter write it: Fri Jul 14 02:40:00 +0000 2017
        rf"{_WEEKDAY}{_NAME}\s+(?P<day>\d{{1,2}})\s+{_CLOCK}{_ZONE}\s+(?P<year>\d{{4}})",
    )
]
_YEAR_LAST = re.compile(
    rf"(?P<one>\d{{1,2}})(?P<mark>[-/.])(?P<two>\d{{1,2}})(?P=mark)(?P<year>\d{{4}}){_TIME}",
    re.IGNORECASE,
)
_LONGEST = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = (8, 12, 14, 17)
"""Lengths of dates that are written in digits alone: of a day, a minute, a second, a millisecond.
"""


def read_date(text: str, day_first: bool | None = None) -> int | None:
    """A date or time as nanoseconds since 1970, None where it is none; without a zone it is UTC.

    Args:
        text: without white space around it.
        day_first: of a date with the year last, whether the day stands first; None = unknown, and
            such dates are not read.

    >>> read_date("2017/07/14 02:40:00 UTC"), read_date("14 Jul 2017 4:40 AM +0200")
    (1500000000000000000, 1500000000000000000)
    >>> read_date("14/07/2017", day_first=True), read_date("07/14/2017", day_first=True)
    (1499990400000000000, None)
    """
    if len(text) > _LONGEST:
        return None
    if text.isdecimal():
        found = _COMPACT.fullmatch(text) if len(text) in _DIGITS else None
        return _nanoseconds(found) if found else None
    for form in (*_FORMS, _COMPACT):
        if found := form.fullmatch(text):
            return _nanoseconds(found)
    if found := _YEAR_LAST.fullmatch(text):
        return None if day_first is None else _nanoseconds(found, day_first)
    return _by_python(text)


def year_last(text: str) -> tuple[int, int, str] | None:
    """The two numbers before the year and the mark between them, of a date with the year last.

    >>> year_last("14/07/2017 02:40"), year_last("2017-07-14")
    ((14, 7, '/'), None)
    """
    found = _YEAR_LAST.fullmatch(text) if len(text) <= _LONGEST else None
    return (int(found["one"]), int(found["two"]), found["mark"]) if found else None


def _nanoseconds(found: re.Match[str], day_first: bool | None = None) -> int | None:
    named = found.groupdict()
    if day_first is not None:
        day, month = (named["one"], named["two"]) if day_first else (named["two"], named["one"])
    else:
        day, month = named["day"], named.get("month")
    number = int(month) if month else _MONTHS.index(named["name"][:3].lower()) + 1
    hour = _hour(int(named["hour"] or 0), named.get("half"))
    zone = _offset(named["zone"])
    if hour is None or zone is None:
        return None
    clock = (hour, int(named["minute"] or 0), int(named["second"] or 0))
    try:
        moment = datetime(int(named["year"]), number, int(day), *clock, tzinfo=UTC)
    except ValueError:
        return None
    whole = (moment - _EPOCH) // timedelta(seconds=1) - zone
    return whole * 10**9 + int((named["fraction"] or "")[:9].ljust(9, "0"))


def _hour(hour: int, half: str | None) -> int | None:
    """The hour of 24, of a clock of 12 hours where a half of the day is named."""
    if half is None:
        return hour
    return hour % 12 + (12 if half in "pP" else 0) if 1 <= hour <= 12 else None


def _offset(zone: str | None) -> int | None:
    """Seconds east of UTC; None where no zone is so far from it.

    >>> _offset("Z"), _offset("+0130"), _offset("UTC-1"), _offset("+99:00")
    (0, 5400, -3600, None)
    """
    shift = (zone or "").upper().removeprefix("UTC").removeprefix("GMT").removeprefix("Z")
    if not shift:
        return 0
    digits = shift[1:].replace(":", "")
    hours, minutes = (digits, "0") if len(digits) <= 2 else (digits[:-2], digits[-2:])
    seconds = int(hours) * 3600 + int(minutes) * 60
    if int(minutes) > 59 or seconds > 18 * 3600:
        return None
    return -seconds if shift[0] == "-" else seconds


def _by_python(text: str) -> int | None:
    """Further forms of ISO 8601, such as 2017-W28-5 and 20170714T02."""
    if not text[:4].isdecimal() or "_" in text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
