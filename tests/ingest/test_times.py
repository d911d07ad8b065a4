import itertools
import random
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_FLOOR, Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pmm.errors import InputError
from pmm.ingest.readers.date_forms import read_date
from pmm.ingest.readers.times import (
    EARLIEST,
    IMPLAUSIBLE,
    LATEST,
    UNITS,
    UNREADABLE,
    ZERO,
    TimeForm,
    detect_times,
    parse_times,
)

MOMENT = datetime(2020, 9, 22, 8, 30, tzinfo=UTC)
SECONDS = int(MOMENT.timestamp())
AUTO = TimeForm(unit="s")


def times_of(values, form=None):
    """(seconds, nanoseconds) of each value, or the code of one that is no time."""
    read = parse_times(pa.array(values, pa.string()), form or detect_times(values, "t"))
    rows = zip(read.seconds.tolist(), read.nanoseconds.tolist(), read.code.tolist(), strict=True)
    return [(s, ns) if code <= ZERO else code for s, ns, code in rows]


@pytest.mark.parametrize(
    ("raw", "seconds", "nanoseconds"),
    [
        (str(SECONDS), SECONDS, 0),
        (f"{SECONDS}.0", SECONDS, 0),
        (f"{SECONDS}.25", SECONDS, 250_000_000),
        (f"{SECONDS}.123456789999", SECONDS, 123_456_789),
        (f"{SECONDS}987", SECONDS, 987_000_000),
        (f"{SECONDS}987.5", SECONDS, 987_500_000),
        (f"{SECONDS}987654", SECONDS, 987_654_000),
        (f"{SECONDS}987654321", SECONDS, 987_654_321),
        (f"{SECONDS / 1e9}e9", SECONDS, 0),
        (f"{SECONDS}123E-3", SECONDS, 123_000_000),
        (f"+{SECONDS}", SECONDS, 0),
        ("2020-09-22T08:30:00", SECONDS, 0),
        ("2020-09-22 08:30:00", SECONDS, 0),
        ("2020-09-22 8:30", SECONDS, 0),
        ("2020-09-22T08:30:00.75Z", SECONDS, 750_000_000),
        ("2020-09-22T08:30:00.123456789+00:00", SECONDS, 123_456_789),
        ("2020-09-22T08:30:00,5", SECONDS, 500_000_000),
        ("2020-09-22T10:30:00+02:00", SECONDS, 0),
        ("2020-09-22T10:30:00+0200", SECONDS, 0),
        ("2020-09-22T10:30:00+02", SECONDS, 0),
        ("2020-09-22 04:30:00 -0400", SECONDS, 0),
        ("2020-09-22 09:30:00 UTC+1", SECONDS, 0),
        ("2020/09/22 08:30:00", SECONDS, 0),
        ("2020/9/22 08:30:00 UTC", SECONDS, 0),
        ("2020-09-22 08:30:00 GMT", SECONDS, 0),
        ("2020.09.22 08:30:00.5", SECONDS, 500_000_000),
        ("2020年9月22日 08:30", SECONDS, 0),
        ("09/22/2020 08:30:00 AM", SECONDS, 0),
        ("22/09/2020 8:30 a.m.", SECONDS, 0),
        ("22.09.2020 08:30", SECONDS, 0),
        ("22-09-2020T08:30:00Z", SECONDS, 0),
        ("22 Sep 2020 08:30:00", SECONDS, 0),
        ("22-September-2020 08:30", SECONDS, 0),
        ("Sep 22, 2020, 8:30 AM", SECONDS, 0),
        ("Tue, 22 Sep 2020 08:30:00 GMT", SECONDS, 0),
        ("Tue Sep 22 08:30:00 +0000 2020", SECONDS, 0),
        ("22/Sep/2020:08:30:00 +0000", SECONDS, 0),
        ("20200922083000", SECONDS, 0),
        ("202009220830", SECONDS, 0),
        ("20200922083000123", SECONDS, 123_000_000),
        ("20200922T083000Z", SECONDS, 0),
        ("2020-09-22", SECONDS - 30600, 0),
        ("20200922", SECONDS - 30600, 0),
        ("2020/9/22", SECONDS - 30600, 0),
    ],
)
def test_every_form_is_read_to_the_nanosecond(raw, seconds, nanoseconds):
    assert times_of([raw, f" {raw} "]) == [(seconds, nanoseconds)] * 2


@pytest.mark.parametrize(
    "raw",
    [
        *("soon", "nan", "1e400", "inf", "12:30", "2020-02-30", "2020-13-01", "20201301"),
        *("2020-09-22 13:30 PM", "2020-09-22 08:30:00 EST", "2020-09-22 08:30+99:00"),
        *("2020/09-22", "2020-09-22T25:00", "0000-00-00 00:00:00", "0x5F5E100", "160_000_0000"),
        *("22 Foo 2020", "32 Sep 2020", "--1", "1600000000,5", "\u0000", "9" * 400, "1" * 70),
    ],
)
@pytest.mark.parametrize("beside", [str(SECONDS), "2020-09-22", f"{SECONDS}000"])
def test_what_is_no_time_does_not_spoil_the_others(raw, beside):
    alone, other = times_of([raw, beside], AUTO)
    assert alone in (UNREADABLE, IMPLAUSIBLE)
    assert other == times_of([beside], AUTO)[0]


def test_units_are_told_value_by_value():
    values = [
        f"{SECONDS}",
        f"{SECONDS}250",
        f"{SECONDS}250000",
        f"{SECONDS}250000000",
        "2020-09-22",
    ]
    for order in itertools.permutations(values, 3):
        read = parse_times(pa.array(order), detect_times(order, "t"))
        assert [UNITS[code] for code in read.code] == [
            ("s", "ms", "us", "ns", "date")[values.index(each)] for each in order
        ]
        assert set(read.seconds.tolist()) <= {SECONDS, SECONDS - 30600}


@pytest.mark.parametrize(
    "absurd",
    [
        *("-1", "-1600000000000", "1", "5.5", "315532800", "2147483647", "9999999999"),
        *("1900-01-01", "1970-01-02", "9999-12-31 23:59:59", "2099-01-01", "1e17", "19000101"),
        *("1e999", "1e99900000000"),
    ],
)
def test_absurd_times_are_none(absurd):
    assert times_of([str(SECONDS), absurd], AUTO) == [(SECONDS, 0), IMPLAUSIBLE]
    assert detect_times([str(SECONDS), *[absurd] * 5], "t").numbers is False


def test_the_bounds_of_what_is_plausible_hold_in_every_unit():
    for digits in ("", "000", "000000", "000000000"):
        values = [f"{EARLIEST}{digits}", f"{LATEST - 1}{digits}", f"{LATEST}{digits}"]
        assert times_of(values, AUTO) == [(EARLIEST, 0), (LATEST - 1, 0), IMPLAUSIBLE]
        assert times_of([str(int(values[0]) - 1)], AUTO) == [IMPLAUSIBLE]


def test_numbers_that_only_grow_are_numbers():
    values = ["3", "1.5", "0", "70", "636355824000000001"]
    form = detect_times(values[:4], "t")
    assert form.numbers
    assert times_of(values, form) == [
        *((3, 0), (1, 500_000_000), (0, 0), (70, 0)),
        (636_355_824_000_000_001, 0),
    ]
    assert times_of(["-4", "2020-09-22"], form) == [IMPLAUSIBLE, UNREADABLE]


def test_numbers_whose_later_values_are_times_are_times():
    early = ["1", "2", "3"]
    form = detect_times(early, "t", whole=lambda: iter([pa.array([*early, f"{SECONDS}000"])]))
    assert (form.numbers, form.unit) == (False, "ms")


@pytest.mark.parametrize("asked", ["s", "ms", "us", "ns"])
def test_a_unit_that_is_asked_for_holds_for_every_value(asked):
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[asked]
    form = detect_times(["1", "2"], "t", asked=asked)
    assert times_of([str(SECONDS * per), str(SECONDS), "2020-09-22"], form)[0] == (SECONDS, 0)
    assert times_of(["2020-09-22"], form) == [UNREADABLE]
    if asked != "s":
        assert times_of([str(SECONDS)], form) == [IMPLAUSIBLE]


def test_the_whole_column_tells_the_day_from_the_month():
    ambiguous = ["07/04/2017", "01/02/2017"]
    for clear, day_first in (("14/07/2017 02:40", True), ("07/14/2017", False)):
        form = detect_times(ambiguous, "t", whole=lambda clear=clear: iter([pa.array([clear])]))
        assert form.day_first is day_first
        month = 4 if day_first else 7
        day = 7 if day_first else 4
        expected = int(datetime(2017, month, day, tzinfo=UTC).timestamp())
        assert times_of(ambiguous[:1], form) == [(expected, 0)]


def test_what_could_be_day_or_month_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"'07/04/2017' may begin with the day.*--t day-first or"):
        detect_times(["07/04/2017"], "f.csv", option="--t")
    with pytest.raises(InputError, match=r"some .* day \('14/04/2017'\), some .* \('04/14/2017'\)"):
        detect_times(["14/04/2017", "04/14/2017"], "f.csv")
    form = detect_times(["07/04/2017"], "f.csv", asked="month-first")
    assert form.describe() == "date, month first"
    assert times_of(["07/04/2017", "14/07/2017"], form) == [(1_499_126_400, 0), UNREADABLE]


def test_one_slip_among_hundreds_does_not_decide():
    days = [f"{day:02}/0{month}/2017" for day in range(13, 29) for month in range(1, 10)]
    form = detect_times([*days, "04/14/2017"], "t")
    assert form.day_first is True
    assert times_of(["04/14/2017"], form) == [UNREADABLE]


@pytest.mark.parametrize("values", [["07.04.2017"], ["04/04/2017", "05/05/2017"]])
def test_dates_whose_order_is_known_or_does_not_matter_are_read(values):
    assert detect_times(values, "t").day_first is True


def test_a_filler_of_zero_does_not_change_the_unit():
    form = detect_times(["0", "1588687728923", "1588687728924"], "t")
    assert form.unit == "ms"
    assert times_of(["0", "0.0", "1970-01-01"], form) == [(0, 0)] * 3


def test_a_column_without_times_is_refused_with_an_example():
    with pytest.raises(InputError, match=r"f\.csv: 'red' is no time; accepted: seconds"):
        detect_times(["red", "blue"], "f.csv")
    assert detect_times(["", " "], "f.csv") is None


FORMS = (
    *("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y.%m.%d %H:%M:%S"),
    *("%d %b %Y %H:%M:%S", "%b %d, %Y %H:%M:%S", "%Y%m%dT%H%M%S", "%Y%m%d%H%M%S"),
    *("%Y-%m-%d %I:%M:%S %p", "%a, %d %b %Y %H:%M:%S"),
)


def random_time(rng):
    """A time as some program writes it, and its nanoseconds, by datetime and Decimal alone."""
    moment = datetime(1990, 1, 2, tzinfo=UTC) + timedelta(seconds=rng.randrange(48 * 365 * 86_400))
    seconds = int(moment.timestamp())
    kind = rng.randrange(4)
    if kind == 0:
        per = rng.choice([0, 3, 6, 9])
        number = seconds * 10**per + rng.randrange(10**per)
        return str(number), number * 10 ** (9 - per)
    if kind == 1:
        per = rng.choice([0, 3, 6])
        number = Decimal(seconds * 10**per) + Decimal(rng.randrange(10**12)).scaleb(-12)
        exact = (number * 10 ** (9 - per)).to_integral_value(ROUND_FLOOR)
        return str(number), int(exact)
    form = rng.choice(FORMS)
    zone = rng.choice(["", "Z", " UTC", "+01:00", " +0530", "-08:00", " -03"])
    digits = "".join(rng.choices("0123456789", k=rng.randrange(10)))
    if form.endswith(("%p", "%S%H")) or form == "%Y%m%d%H%M%S":
        zone, digits = "", ""
    shift = re.sub(r"[^-+0-9]", "", zone)
    shift = timezone(datetime.strptime(shift.ljust(5, "0"), "%z").utcoffset()) if shift else UTC
    text = moment.astimezone(shift).strftime(form) + (f".{digits}" if digits else "") + zone
    return text, seconds * 10**9 + int(digits.ljust(9, "0"))


def mutated(rng, text):
    """A text with one character changed, gone or twice there."""
    at = rng.randrange(len(text))
    return (
        text[:at]
        + rng.choice(["", text[at] * 2, rng.choice("0123456789-/:. TZ+eAx")])
        + text[at:][1:]
    )


def fuzz(seed, count):
    rng = random.Random(seed)
    values = [random_time(rng) for _ in range(count)]
    read = times_of([text for text, _ in values], AUTO)
    for (text, exact), found in zip(values, read, strict=True):
        assert found == divmod(exact, 10**9), text
    odd = [mutated(rng, text) for text, _ in values]
    together = times_of(odd, AUTO)
    for text, found in zip(odd, together, strict=True):
        assert found == times_of([text], AUTO)[0], text
        if isinstance(found, tuple) and found != (0, 0):
            assert EARLIEST <= found[0] < LATEST
            assert found == slowly(text), text


def slowly(text):
    """A value by Decimal, or by the reader of dates alone."""
    text = text.strip()
    try:
        number = Decimal(text)
    except ArithmeticError:
        return divmod(read_date(text), 10**9)
    for per in (0, 3, 6, 9):
        if EARLIEST <= number.scaleb(-per) < LATEST:
            return divmod(int(number.scaleb(9 - per).to_integral_value(ROUND_FLOOR)), 10**9)
    return divmod(read_date(text), 10**9)


def test_random_times_are_what_datetime_and_decimal_say():
    fuzz(7, 300)


CLOCK = r"[ T][012]\d:[0-5]\d(:[0-5]\d(\.\d{1,9})?)?"
DATE = rf"(0{{4}}|19[6-9]\d|20\d\d)[-/][01]\d[-/][0-3]\d({CLOCK})?( UTC|Z)?"


@given(st.lists(st.from_regex(DATE, fullmatch=True)))
@example(["0000-01-01", "0000-12-31 23:59"])
def test_dates_read_the_same_whatever_stands_beside_them(dates):
    alone = [times_of([each], AUTO)[0] for each in dates]
    assert times_of([*dates, "2020-02-30"], AUTO) == [*alone, UNREADABLE]
    assert times_of(dates, AUTO) == alone
