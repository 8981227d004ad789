"""The bytes of a bundle: several small contents in one segment."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.bundle import MAGIC, SALT_BYTES, Part, bundle_bytes, fill_bundle, parts_of
from common.errors import Corrupt

SALT = bytes(range(SALT_BYTES))


def bundle(*contents: bytes, salt: bytes = SALT) -> bytes:
    into = bytearray(bundle_bytes([len(content) for content in contents]) + 7)
    fill_bundle(memoryview(into), salt, contents)
    return bytes(into[:-7])


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_there_and_back(contents: list[bytes]) -> None:
    whole = bundle(*contents)
    parts = parts_of(whole)
    assert [whole[part.start : part.end] for part in parts] == contents
    assert len(whole) == bundle_bytes([len(content) for content in contents])


def test_where_they_are_is_told_when_it_is_filled() -> None:
    into = bytearray(200)
    parts = fill_bundle(memoryview(into), SALT, [b"abc", b"", b"defg"])
    assert parts == parts_of(bundle(b"abc", b"", b"defg")) == [(40, 43), (43, 43), (43, 47)]
    assert isinstance(parts[0], Part)


def test_golden_bytes() -> None:
    assert bundle(b"abc", b"d") == bytes.fromhex(
        "3642444c" "01000000" "000102030405060708090a0b0c0d0e0f" "02000000" "03000000" "01000000"
        "61626364"
    )  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        bundle(b"abc")[:-1],
        bundle(b"abc") + b"d",
        bundle(b"abc")[:29],
        b"6LST" + bundle(b"abc")[4:],
        MAGIC + b"\x02\0\0\0" + bundle(b"abc")[8:],
        MAGIC + struct.pack("<I16sI", 1, SALT, 2**32 - 1),
        MAGIC + struct.pack("<I16sII", 1, SALT, 1, 2**32 - 1) + b"abc",
    ],
)
def test_what_is_no_bundle_is_refused(broken: bytes) -> None:
    with pytest.raises(Corrupt, match="bundle"):
        parts_of(broken)


def test_the_salt_makes_equal_contents_different_bundles() -> None:
    one, other = (bundle(b"abc", salt=os.urandom(SALT_BYTES)) for _ in range(2))
    assert one != other
    assert parts_of(one) == parts_of(other)
