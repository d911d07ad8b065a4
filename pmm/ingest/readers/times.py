"""Times in raw files: which unit a column has, and its values as UTC seconds and nanoseconds.

A value is read by its own size, so that one column may hold several units: what makes a plausible
date is the unit. Of a date written 07/04/2017 the whole column decides which number is the day.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pmm.errors import InputError
from pmm.ingest.readers.date_forms import read_date, year_last

Unit = Literal["s", "ms", "us", "ns", "date"]
TimesAre = Literal["s", "ms", "us", "ns", "numbers", "day-first", "month-first"]
"""What a user can say of a column of times."""

UNITS: tuple[Unit, ...] = ("s", "ms", "us", "ns", "date")
ZERO, IMPLAUSIBLE, UNREADABLE = 5, 6, 7
"""In `ParsedTimes.code`, after the places in `UNITS`."""
_COMPACT, _YEAR_LAST = 8, 9  # while a column is looked at: 20170714, and dates with the year last

_PER_SECOND = (1, 10**3, 10**6, 10**9)
# No log of interactions is older than the web. 2^31 - 1 is what clocks of 32 bits give for "never".
# A limit by today's clock would make another table of the same file next year.
EARLIEST, LATEST = 631_152_000, 2**31 - 1
"""UTC seconds from which on, and before which, a time is plausible: 1990 to January 2038."""

ACCEPTED = (
    "seconds, milliseconds, microseconds or nanoseconds since 1970, or dates, also with a time "
    "(2020-09-22, 20200922, 2020/09/22 08:30:00, 22 Sep 2020, 22/09/2020) and a zone (Z, UTC, "
    "+01:00; without one it is UTC)"
)

_SURE = 100
"""How many times as many dates must say one order of day and month as say the other."""
_WHOLE_NUMBER = "[0-9]{1,18}|[1-8][0-9]{18}"
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,15})?")
# Days that some months do not have are left to Python: one 30 February would make Arrow refuse all.
_DAY = r"(?:19|20)[0-9]{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
_DAY += r"|(?:19|20)[0-9]{2}-(?:0[13-9]|1[0-2])-(?:29|30)|(?:19|20)[0-9]{2}-(?:0[13578]|1[02])-31"
_COMPACT_FORMS = (
    (r"^([0-9]{4})([0-9]{2})([0-9]{2})$", r"\1-\2-\3"),
    (r"^([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})$", r"\1-\2-\3 \4:\5"),
    (r"^([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})$", r"\1-\2-\3 \4:\5:\6"),
)
_DIGITS = (8, 12, 14, 17)
"""Lengths of dates in digits alone."""
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?"
_ISO = rf"^(?:{_DAY})(?:[ T]{_CLOCK})?$"
_ZONED = rf"^((?:{_DAY})[ T]{_CLOCK}) ?([+-])((?:0[0-9]|1[0-7])):?([0-5][0-9])?$"


@dataclass(frozen=True, kw_only=True)
class TimeForm:
    """How a column of times is read."""

    unit: Unit
    """In which most of its values are."""
    day_first: bool | None = None
    """Of dates with the year last; None where the column has none."""
    numbers: bool = False
    """Its values are numbers that grow with time, and no times since 1970."""
    fixed: bool = False
    """Whether all values are in `unit`, as the user says."""
    compact: bool = True
    """Whether 20170714, no plausible time as a number, is a day."""

    def describe(self) -> str:
        """The form in words, for the card."""
        if self.day_first is None:
            return self.unit
        return f"{self.unit}, {'day' if self.day_first else 'month'} first"


@dataclass(frozen=True, kw_only=True)
class ParsedTimes:
    """N values as times; those that are none have 0."""

    seconds: NDArray[np.int64]
    """[N] UTC seconds, floored."""
    nanoseconds: NDArray[np.int64]
    """[N] 0 to 999,999,999 above `seconds`."""
    code: NDArray[np.int8]
    """[N] place of the value's unit in `UNITS`, or `ZERO`, `IMPLAUSIBLE`, `UNREADABLE`."""

    def at(self, indices: NDArray[np.int32]) -> "ParsedTimes":
        """The values at some places."""
        return ParsedTimes(
            seconds=self.seconds[indices],
            nanoseconds=self.nanoseconds[indices],
            code=self.code[indices],
        )


def detect_times(
    samples: Sequence[str],
    place: str,
    *,
    whole: Callable[[], Iterator[pa.Array]] | None = None,
    asked: TimesAre | None = None,
    option: str = "",
) -> TimeForm | None:
    """How a column of times is read; None where all of it is empty.

    The first values decide where they are clear. Else the whole column is looked at: where none of
    the first values is a plausible time, and where a date may begin with the day or the month.

    >>> detect_times(["1588687728923", "1588687728"], "t").unit
    'ms'
    >>> detect_times(["14/07/2017", "07/04/2017"], "t").describe()
    'date, day first'

    Args:
        samples: its first values.
        place: the file and column, for errors.
        whole: gives all values, in pieces of strings.
        asked: what the user says of it.
        option: under which option they can say so, for errors.

    Raises:
        InputError: no value is a time, or nothing tells the day from the month.
    """
    if asked == "numbers":
        return TimeForm(unit="s", numbers=True)
    if asked in ("s", "ms", "us", "ns"):
        return TimeForm(unit=asked, fixed=True)
    survey = _Survey()
    survey.add(pa.array(list(samples), pa.string()))
    if whole is not None and not survey.is_clear():
        survey = _Survey()
        for values in whole():
            survey.add(values)
    if not survey.any:
        return None
    return survey.decide(place, asked, option)


class _Survey:
    """What the values of a column are, as far as they have been seen."""

    def __init__(self) -> None:
        self.any = False
        self._codes = np.zeros(_YEAR_LAST + 1, np.int64)
        self._numbers = self._day = self._month = self._either = self._dotted = 0
        self._examples: dict[str, str] = {}

    def add(self, values: pa.Array) -> None:
        """Look at further values."""
        text = pc.utf8_trim_whitespace(values.fill_null(""))
        text = text.filter(pc.not_equal(text, ""))
        if not len(text):
            return
        self.any = True
        code = parse_times(text, TimeForm(unit="s", compact=False)).code.copy()
        odd = np.flatnonzero(code >= IMPLAUSIBLE)
        small = (code == IMPLAUSIBLE) & ~np.isin(_lengths(text), _DIGITS)
        small &= np.array(pc.match_substring_regex(text, r"^[0-9]+(\.[0-9]*)?$"), bool)
        self._numbers += int(np.count_nonzero(small))
        odd = odd[~small[odd]]
        for at, raw in zip(odd, text.take(pa.array(odd)).to_pylist(), strict=True):
            self._examples.setdefault("first", raw)
            code[at] = self._look(raw, int(code[at]))
        self._codes += np.bincount(code, minlength=len(self._codes))

    def _look(self, raw: str, code: int) -> int:
        """What a value is that is no plausible time as it stands."""
        if _NUMBER.fullmatch(raw):
            moment = read_date(raw) if raw.isdecimal() else None
            if moment is not None and _is_plausible(moment // 10**9):
                return _COMPACT
            self._numbers += 1
            return code
        found = year_last(raw)
        if found is None:
            return code
        one, two, mark = found
        first, second = (read_date(raw, day_first=each) is not None for each in (True, False))
        if not first and not second:
            return UNREADABLE
        self._day += first and not second
        self._month += second and not first
        self._either += first and second and one != two
        self._dotted += mark == "."
        kind = "either" if first and second else "day" if first else "month"
        self._examples.setdefault(kind, raw)
        return _YEAR_LAST

    def is_clear(self) -> bool:
        """Whether further values cannot change how the column is read."""
        return bool(self._codes[: len(UNITS)].sum()) and not self._codes[_YEAR_LAST]

    def decide(self, place: str, asked: TimesAre | None, option: str) -> TimeForm:
        """How the column is read."""
        count = self._codes[: len(UNITS)].copy()
        plausible = int(count.sum())
        count[-1] += self._codes[_COMPACT] + self._codes[_YEAR_LAST]
        if not count.sum() and not self._codes[ZERO] + self._codes[IMPLAUSIBLE]:
            shown = repr(self._examples["first"])
            raise InputError(f"{place}: {shown} is no time; accepted: {ACCEPTED}")
        day_first = self._day_first(place, asked, option) if self._codes[_YEAR_LAST] else None
        if asked in ("day-first", "month-first"):
            day_first = asked == "day-first"
        dates = int(self._codes[_COMPACT] + self._codes[_YEAR_LAST])
        if not plausible and self._numbers > dates:
            return TimeForm(unit="s", numbers=True)
        # Of as many dates as numbers it is dates; zeros alone are taken for seconds.
        most = int(np.argmax(count[::-1])) if count.sum() or not self._codes[ZERO] else -1
        return TimeForm(unit=UNITS[::-1][most], day_first=day_first)

    def _day_first(self, place: str, asked: TimesAre | None, option: str) -> bool | None:
        if asked is not None:
            return None
        if self._day > _SURE * self._month or self._month > _SURE * self._day:
            return self._day > self._month
        if not self._day and not self._month:
            # With full stops the day is first wherever dates are written so (DIN 5008 and kin).
            dotted = self._dotted == self._codes[_YEAR_LAST]
            if dotted or not self._either:
                return True
            shown = f"{self._examples['either']!r} may begin with the day or the month"
            shown += ", and no date of the column tells which"
        else:
            shown = f"some dates begin with the day ({self._examples['day']!r}), "
            shown += f"some with the month ({self._examples['month']!r})"
        advice = f": say which with {option} day-first or {option} month-first" if option else ""
        raise InputError(f"{place}: {shown}{advice or '; write dates as 2017-07-14'}")


def parse_times(values: pa.Array, form: TimeForm) -> ParsedTimes:
    """Strings as times, exact to the nanosecond and floored below it.

    >>> parsed = parse_times(pa.array(["1588687728923", "1588687728", "5", "x"]),
    ...                      TimeForm(unit="ms"))
    >>> parsed.seconds.tolist(), parsed.nanoseconds.tolist(), parsed.code.tolist()
    ([1588687728, 1588687728, 0, 0], [923000000, 0, 0, 0], [1, 0, 6, 7])
    """
    text = pc.utf8_trim_whitespace(values.fill_null(""))
    parsed = ParsedTimes(
        seconds=np.zeros(len(text), np.int64),
        nanoseconds=np.zeros(len(text), np.int64),
        code=np.full(len(text), UNREADABLE, np.int8),
    )
    left = _read_numbers(text, form, parsed)
    left = _read_iso(text, left, parsed) if not (form.fixed or form.numbers) else left
    for at, raw in zip(left, text.take(pa.array(left)).to_pylist(), strict=True):
        _put(parsed, int(at), *_read_one(raw, form))
    none = parsed.code > ZERO
    parsed.seconds[none] = parsed.nanoseconds[none] = 0
    return parsed


def _put(parsed: ParsedTimes, at: int, nanoseconds: int, code: int) -> None:
    parsed.code[at] = code
    if code <= ZERO:
        parsed.seconds[at], parsed.nanoseconds[at] = divmod(nanoseconds, 10**9)


def _read_numbers(text: pa.Array, form: TimeForm, parsed: ParsedTimes) -> NDArray[np.int64]:
    """Read what is written as a plain number; the places of all else, and of what may be a day."""
    plain = pc.match_substring_regex(text, rf"^({_WHOLE_NUMBER})(\.[0-9]*)?$").to_numpy(
        zero_copy_only=False
    )
    at = np.flatnonzero(plain)
    if not len(at):
        return np.arange(len(text))
    numbers = text.take(pa.array(at))
    below = np.zeros(len(at), np.int64)  # 1e-9 of a unit
    if pc.any(pc.match_substring(numbers, ".")).as_py():
        digits = pc.replace_substring_regex(numbers, r"^[0-9]*\.?", "")
        padded = pc.utf8_rpad(pc.utf8_slice_codeunits(digits, 0, 9), 9, "0")
        below = padded.cast(pa.int64()).to_numpy()
        numbers = pc.replace_substring_regex(numbers, r"\..*$", "")
    whole = numbers.cast(pa.int64()).to_numpy()
    code = _codes_of(whole, below, form)
    per = np.array([*_PER_SECOND, 1, 1], np.int64)[np.minimum(code, ZERO)]
    parsed.code[at] = code
    parsed.seconds[at] = whole // per
    parsed.nanoseconds[at] = whole % per * (10**9 // per) + below // per
    if form.fixed or form.numbers or not form.compact:
        return np.flatnonzero(~plain)
    days = (code == IMPLAUSIBLE) & np.isin(_lengths(text)[at], _DIGITS)
    return np.sort(np.concatenate([np.flatnonzero(~plain), at[days]]))


def _lengths(text: pa.Array) -> NDArray[np.int32]:
    lengths: NDArray[np.int32] = pc.utf8_length(text).to_numpy(zero_copy_only=False)
    return lengths


def _codes_of(
    whole: NDArray[np.int64], below: NDArray[np.int64], form: TimeForm
) -> NDArray[np.int8]:
    """What numbers that are not negative are, by their size or as the user says."""
    code = np.full(len(whole), IMPLAUSIBLE, np.int8)
    if form.numbers:
        code[:] = 0
    for place, (unit, per) in enumerate(zip(UNITS, _PER_SECOND, strict=False)):
        if not form.fixed or form.unit == unit:
            code[(whole >= EARLIEST * per) & (whole < LATEST * per)] = 0 if form.numbers else place
    code[(whole == 0) & (below == 0)] = ZERO
    return code


def _read_iso(text: pa.Array, left: NDArray[np.int64], parsed: ParsedTimes) -> NDArray[np.int64]:
    """Read what is written as 2017-07-14 or 2017/07/14, as a rule with a time; the places left."""
    if not len(left):
        return left
    texts = text.take(pa.array(left))
    for form, iso in _COMPACT_FORMS:
        texts = pc.replace_substring_regex(texts, form, iso)
    for mark in ("/", r"\."):
        dated = rf"^([0-9]{{4}}){mark}([0-9]{{2}}){mark}([0-9]{{2}})($|[^0-9])"
        texts = pc.replace_substring_regex(texts, dated, r"\1-\2-\3\4")
    texts = pc.replace_substring_regex(texts, r"(:[0-9.]+)\s*(Z|UTC|GMT)$", r"\1")
    offsets = np.zeros(len(texts), np.int64)
    zoned = pc.match_substring_regex(texts, _ZONED)
    if pc.any(zoned).as_py():
        sign, hours, minutes = (
            pc.replace_substring_regex(texts.filter(zoned), _ZONED, part)
            for part in (r"\2", r"\3", r"0\4")
        )
        seconds = np.array(hours.cast(pa.int64())) * 3600 + np.array(minutes.cast(pa.int64())) * 60
        offsets[np.array(zoned)] = np.where(pc.equal(sign, "-"), -seconds, seconds)
        texts = pc.replace_substring_regex(texts, _ZONED, r"\1")
    plain = pc.match_substring_regex(texts, _ISO).to_numpy(zero_copy_only=False)
    moments = texts.filter(pa.array(plain)).cast(pa.timestamp("ns")).cast(pa.int64()).to_numpy()
    moments = moments - offsets[plain] * 10**9
    at = left[plain]
    parsed.seconds[at], parsed.nanoseconds[at] = moments // 10**9, moments % 10**9
    parsed.code[at] = np.where(_is_plausible(parsed.seconds[at]), UNITS.index("date"), IMPLAUSIBLE)
    parsed.code[at[moments == 0]] = ZERO
    rest: NDArray[np.int64] = left[~plain]
    return rest


def _is_plausible(seconds: NDArray[np.int64] | int) -> NDArray[np.bool_]:
    return np.logical_and(np.asarray(seconds) >= EARLIEST, np.asarray(seconds) < LATEST)


def _read_one(raw: str, form: TimeForm) -> tuple[int, int]:
    """One value as nanoseconds and what it is."""
    if form.compact and not (form.fixed or form.numbers) and raw.isdecimal() and len(raw) < 18:
        # Only what is no plausible time as a number comes here so.
        moment = read_date(raw)
        if moment is not None and _is_plausible(moment // 10**9):
            return moment, UNITS.index("date")
    number = _number(raw)
    if number is not None and number < 0:
        return 0, IMPLAUSIBLE
    if number is not None:
        whole = int(number)
        below = int((number - whole) * 10**9)
        if whole >= 2**63:
            return 0, IMPLAUSIBLE
        code = int(_codes_of(np.array([whole]), np.array([below]), form)[0])
        per = _PER_SECOND[code] if code < len(_PER_SECOND) else 1
        return whole // per * 10**9 + whole % per * (10**9 // per) + below // per, code
    if form.fixed or form.numbers:
        return 0, UNREADABLE
    moment = read_date(raw, form.day_first)
    if moment is None:
        return 0, UNREADABLE
    if moment == 0:
        return 0, ZERO
    plausible = bool(_is_plausible(moment // 10**9))
    return moment, UNITS.index("date") if plausible else IMPLAUSIBLE


def _number(raw: str) -> Decimal | None:
    """A number as it is written, floored to 1e-9 of it; None where it is none."""
    # Python takes 1_000 and Arrow 0x1F for numbers; no time is written so.
    if len(raw) > 60 or not _NUMBER.fullmatch(raw):
        return None
    with localcontext() as context:
        context.prec = 400
        number = Decimal(raw)
        if number.adjusted() > 20:
            return Decimal(2**63)
        return number.quantize(Decimal("1e-9"), ROUND_FLOOR)
