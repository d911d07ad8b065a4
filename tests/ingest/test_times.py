from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pmm.errors import InputError
from pmm.ingest.readers.times import detect_unit, parse_times

MOMENT = datetime(2020, 9, 22, 8, 30, tzinfo=UTC)
SECONDS = int(MOMENT.timestamp())


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (str(SECONDS), SECONDS),
        (f"{SECONDS}.0", SECONDS),
        (f"{SECONDS}987", SECONDS),
        (f"{SECONDS}987654", SECONDS),
        (f"{SECONDS}987654321", SECONDS),
        ("2020-09-22T08:30:00", SECONDS),
        ("2020-09-22 08:30:00", SECONDS),
        ("2020-09-22T08:30:00.75Z", SECONDS),
        ("2020-09-22T10:30:00+02:00", SECONDS),
        ("2020-09-22", SECONDS - 30600),
        ("20200922", SECONDS - 30600),
    ],
)
def test_every_unit_gives_utc_seconds(raw, seconds):
    unit = detect_unit([raw], "t")
    assert parse_times(pa.array([raw, raw]), unit).to_pylist() == [seconds, seconds]


def test_one_bad_time_does_not_spoil_the_others():
    values = pa.array(["5", "", "soon", "nan", "1e400", "7.9", "-1"])
    assert parse_times(values, "s").to_pylist() == [5, None, None, None, None, 7, -1]


@given(st.lists(st.integers(-(10**14), 10**14 - 1), min_size=1))
def test_milliseconds_are_floored(numbers):
    parsed = parse_times(pa.array([str(number) for number in numbers]), "ms").to_pylist()
    assert parsed == [number // 1000 for number in numbers]


def test_a_filler_of_zero_does_not_change_the_unit():
    assert detect_unit(["0", "1588687728923", "1588687728924"], "t") == "ms"


def test_a_column_without_times_is_refused_with_examples():
    with pytest.raises(InputError, match=r"f\.csv: 'red', 'blue' are no times; accepted: seconds"):
        detect_unit(["red", "blue"], "f.csv")


@pytest.mark.parametrize("mixed", ["978300760123", "978300760123.5"])
def test_milliseconds_among_seconds_are_no_times(mixed):
    read = parse_times(pa.array(["978300760", mixed, "978300761"]), "s")
    assert read.to_pylist() == [978300760, None, 978300761]


@pytest.mark.parametrize("form", ["0x5F5E100", "978_300_760", "0X10", "978300760_"])
@pytest.mark.parametrize("beside", ["978300761", "soon"])
def test_what_python_or_arrow_alone_takes_for_a_number_is_no_time(form, beside):
    assert parse_times(pa.array([form, beside]), "s")[0].as_py() is None


@pytest.mark.parametrize("beside", [[], ["soon"]])
@pytest.mark.parametrize("number", [1_599_999_999_999_999_999, -1, 0, -(10**18) - 1])
def test_nanoseconds_are_floored_whatever_stands_beside_them(beside, number):
    parsed = parse_times(pa.array([str(number), *beside]), "ns").to_pylist()
    assert parsed[0] == number // 10**9


DATE = r"(0{4}|19[6-9]\d|20\d\d)-[01]\d-[0-3]\d([ T][012]\d:[0-5]\d(:[0-5]\d)?)?"


@given(st.lists(st.from_regex(DATE, fullmatch=True)))
@example(["0000-01-01", "0000-12-31 23:59"])
def test_dates_read_the_same_whatever_stands_beside_them(dates):
    alone = [parse_times(pa.array([each]), "date")[0].as_py() for each in dates]
    assert parse_times(pa.array([*dates, "soon"]), "date").to_pylist() == [*alone, None]
