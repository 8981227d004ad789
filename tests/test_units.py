"""Sizes as people write and read them."""

import re
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import BadSetting
from common.units import GIB, KIB, MIB, TIB, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("64KiB", 64 * KIB),
        ("64 KiB", 64 * KIB),
        ("64k", 64 * KIB),
        ("64K", 64 * KIB),
        ("64Ki", 64 * KIB),
        ("64KB", 64_000),
        ("64kb", 64_000),
        ("1.5MiB", 3 * MIB // 2),
        ("512MB", 512_000_000),
        (" 10GiB ", 10 * GIB),
        ("10gib", 10 * GIB),
        ("2T", 2 * TIB),
        ("2TB", 2 * 10**12),
        ("9007199254740993", 2**53 + 1),  # no float holds it
        ("16777215TiB", 16777215 * TIB),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "B", "KiB", "-1", "1e3", "1,5MiB", "1.MiB", ".5MiB", "1PiB", "1 K B", "0x10", "nan", "inf",
     "10 GiB 5", "ten", "1\n2"],
)  # fmt: skip
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(BadSetting, match="not a size"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5000, "9" * 400 + "TiB"], ids=len)
def test_a_size_beyond_all_bounds_is_an_error_or_a_number(text: str) -> None:
    with suppress(BadSetting):
        assert parse_bytes(text) > 10**300


@given(st.integers(0, 2**64))
@example(2**53 + 1)
def test_a_plain_number_is_itself(size: int) -> None:
    assert parse_bytes(str(size)) == size


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_bad_setting(text: str) -> None:
    with suppress(BadSetting):
        assert parse_bytes(text) >= 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (99.9 * KIB, "99.9 KiB"),
        (100 * KIB, "100 KiB"),
        (6 * MIB, "6.0 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (250 * TIB, "250 TiB"),
        (5000 * TIB, "5000 TiB"),
        (-1536, "-1.5 KiB"),
        (0.4, "0 B"),
    ],
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert format_bytes(size) == text


@given(st.floats(0, 999 * TIB))
@example(99.96 * KIB)
@example(999.6 * MIB)
@example(999.6)
def test_three_digits_at_most(size: float) -> None:
    text = format_bytes(size)
    assert re.fullmatch(r"(\d{1,3}|\d{1,2}\.\d) ([KMGT]i)?B", text), text


@given(st.integers(0, 999 * TIB))
def test_what_is_shown_is_near(size: int) -> None:
    assert abs(parse_bytes(format_bytes(size)) - size) <= max(0.051 * size, 1)
