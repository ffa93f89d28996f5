"""Sizes and durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenas.base.errors import BadInput
from mobilenas.base.units import (
    format_image_size,
    format_ms,
    format_size,
    parse_duration,
    parse_image_size,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500M", 500_000_000),
        ("0.5G", 500_000_000),
        ("12k", 12_000),
        ("300000", 300_000),
        (" 4.6 M ", 4_600_000),
        ("0.3M", 300_000),
        ("1.1G", 1_100_000_000),
        ("0", 0),
    ],
)
def test_parse(text: str, number: int) -> None:
    assert parse_size(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "M", "500m", "500MB", "5K", "-5M", "1e6", ".5G", "1,000", "5 0", "nan", "inf", "5M5"],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"is not a size: write a number with k, M or G"):
        parse_size(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (388_122_848, "388.1M"),
        (10_474_602, "10.47M"),
        (1_500_000_000, "1.5G"),
        (999_950_000, "1G"),
        (999, "999"),
        (0, "0"),
        (12_345, "12.35k"),
    ],
)
def test_format(value: float, text: str) -> None:
    assert format_size(value) == text


@given(st.integers(0, 9 * 10**12))
def test_a_formatted_size_reads_back_to_three_digits(value: int) -> None:
    assert parse_size(format_size(value)) == pytest.approx(value, rel=5.1e-4)


@pytest.mark.parametrize(
    ("text", "ms"),
    [("20ms", 20), ("1.5s", 1500), ("800us", 0.8), (" 0.25 ms ", 0.25), ("0s", 0)],
)
def test_parse_duration(text: str, ms: float) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text", ["", "ms", "20", "20xs", "20MS", "-5ms", "1e3ms", ".5s", "2 0ms", "nanms", "5m", "1min"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"is not a duration: write a number with us, ms or s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.3456, "12.35 ms"),
        (20, "20 ms"),
        (0.0123, "0.0123 ms"),
        (9999, "9999 ms"),
        (9999.9, "10000 ms"),
        (123_456.7, "123457 ms"),
        (-0.5, "-0.5 ms"),
    ],
)
def test_format_ms(value: float, text: str) -> None:
    assert format_ms(value) == text


@pytest.mark.parametrize(
    ("text", "size", "written"),
    [("320", (320, 320), "320"), ("800x1280", (800, 1280), "800x1280"), ("9x9", (9, 9), "9")],
)
def test_image_sizes(text: str, size: tuple[int, int], written: str) -> None:
    assert parse_image_size(text) == size
    assert format_image_size(size) == written


@pytest.mark.parametrize("text", ["", "0", "0x5", "5x0", "800x", "x8", "800 x 1280", "-3", "3.5"])
def test_what_is_no_image_size_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"is not an image size: write 320, or 800x1280"):
        parse_image_size(text)
