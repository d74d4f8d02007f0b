from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamspace_agent.units import format_bytes, format_seconds, parse_duration, parse_quantity

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("45", 45), (" 8h ", 28800), ("1.5m", 90), ("2d", 172800), ("0", 0)],
)
def test_a_duration_is_read_as_operators_write_it(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "30 s", "-5s", "5x", "1m30", "1h-2m", "inf", "nan", "1e9", "٣s", "9" * 400, "9" * 400 + "s"]
)
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write for example 30s, 1m30s"):
        parse_duration(text)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(UNITS))), min_size=1, max_size=5))
def test_the_parts_of_a_duration_add_up(parts):
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert parse_duration(text) == pytest.approx(sum(number * UNITS[unit] for number, unit in parts))


@pytest.mark.parametrize("parse", [parse_duration, parse_quantity])
@given(text=st.text(max_size=30))
def test_any_text_is_either_a_number_or_a_value_error(parse, text):
    try:
        number = parse(text)
    except ValueError:
        return
    assert number == number  # noqa: PLR0124 - not NaN
    assert abs(number) < float("inf")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", Decimal("0.5")),
        ("2", Decimal(2)),
        ("1.5", Decimal("1.5")),
        ("512Mi", Decimal(512 * 2**20)),
        ("2Gi", Decimal(2 * 2**30)),
        ("1G", Decimal(10**9)),
        ("100M", Decimal(10**8)),
        ("1e3", Decimal(1000)),
        ("1E3", Decimal(1000)),
        ("1E", Decimal(10**18)),
        ("1Ei", Decimal(2**60)),
        (".5", Decimal("0.5")),
        ("5.", Decimal(5)),
        (2, Decimal(2)),
        (0.5, Decimal("0.5")),
        ("100n", Decimal("1e-7")),
        ("1k", Decimal(1000)),
    ],
)
def test_a_quantity_is_read_as_kubernetes_writes_it(text, number):
    assert parse_quantity(text) == number


@pytest.mark.parametrize(
    "text", ["", "Gi", "2gi", "2 Gi", "1K", "1e999999999", "e3", "0x10", "1ei", "--1", "1GiB", "NaN", "٣"]
)
def test_what_is_no_quantity_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write for example 500m"):
        parse_quantity(text)


@given(st.integers(0, 10**9), st.sampled_from(["m", "", "k", "M", "G", "Ki", "Mi", "Gi"]))
def test_a_quantity_is_exact(number, suffix):
    scale = {"m": Decimal("0.001"), "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    assert parse_quantity(f"{number}{suffix}") == number * scale[suffix]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2 * 2**30, "2 GiB"), (5 * 2**40, "5 TiB"), (2**52, "4096 TiB")],
)
def test_bytes_are_shown_with_the_unit_that_fits(number, text):
    assert format_bytes(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.35, "350 ms"), (2.4, "2.4 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (119.9, "119.9 s")],
)
def test_seconds_are_shown_with_the_unit_that_fits(seconds, text):
    assert format_seconds(seconds) == text
