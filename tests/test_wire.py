"""Frames of a lane and the listing of shards: their bytes, and what is refused."""

import json
import struct
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import NotFound, ProtocolError, SixfoldError, Unreadable
from common.ids import SegmentId, ShardAddress
from common.shards import Encoding, ShardInfo
from common.shards_json import shard_info_from_json, shard_info_to_json
from common.units import KIB, MIB
from common.wire import (
    CHALLENGE,
    FRAME,
    FRAME_HEADER_BYTES,
    HELLO,
    MAX_META_BYTES,
    MAX_PAYLOAD_BYTES,
    PROTOCOL_VERSION,
    WELCOME,
    FrameKind,
    LaneKind,
    check_frame,
    pack_error,
    pack_frame,
    unpack_error,
)

ADDRESS_TEXT = "00" * 31 + "ff" + ".0000000000000001.8"
INFO = ShardInfo(
    ShardAddress(SegmentId(bytes(31) + b"\xff"), 1, 8), 6, 9, 60, Encoding.ENCRYPTED, 10, bytes(32)
)
LINE = (
    b'{"address": "' + ADDRESS_TEXT.encode() + b'", "k": 6, "n": 9, "segment_bytes": 60, '
    b'"encoding": 2, "payload_bytes": 10, "checksum": "' + b"00" * 32 + b'"}'
)


# Frames


def test_a_frame_has_these_bytes() -> None:
    packed = pack_frame(FrameKind.APPEND, 0x01020304, b"meta", 0x0A0B0C)
    golden = (
        "0c0b0a00"  # payload length
        "04030201"  # request
        "0400"  # meta length
        "10"  # APPEND
        "00"
        "6d657461"  # meta
    )
    assert packed.hex() == golden
    assert FRAME.size == FRAME_HEADER_BYTES
    assert FRAME.unpack(packed[:12]) == (0x0A0B0C, 0x01020304, 4, FrameKind.APPEND)


def test_the_opening_of_a_lane_has_these_bytes() -> None:
    hello = HELLO.pack(PROTOCOL_VERSION, LaneKind.READ, b"c" * 16, b"n" * 16, b"o" * 32)
    assert hello.hex() == "01000200" + "63" * 16 + "6e" * 16 + "6f" * 32
    assert CHALLENGE.pack(b"n" * 32, b"p" * 32).hex() == "6e" * 32 + "70" * 32
    assert WELCOME.pack(0x01020304, 0x0102).hex() == "0403020102010000"


def test_an_error_has_these_bytes() -> None:
    packed = pack_frame(FrameKind.ERROR, 1, pack_error(Unreadable("né")))
    assert packed.hex() == "00000000010000000e002300756e7265616461626c65006ec3a9"


def test_the_numbers_of_kinds_never_change() -> None:
    assert {kind.name: int(kind) for kind in FrameKind} == {
        "HELLO": 1,
        "CHALLENGE": 2,
        "PROOF": 3,
        "WELCOME": 4,
        "APPEND": 16,
        "DELETE": 17,
        "READ": 18,
        "PING": 19,
        "OK": 32,
        "RECORD": 33,
        "MISSING": 34,
        "ERROR": 35,
    }
    assert [*LaneKind] == [1, 2]
    assert (LaneKind.WRITE, LaneKind.READ) == (1, 2)


def test_a_frame_may_have_these_sizes() -> None:
    assert (MAX_META_BYTES, MAX_PAYLOAD_BYTES) == (60 * KIB, 16 * MIB)
    check_frame(0, 0)
    check_frame(MAX_PAYLOAD_BYTES, MAX_META_BYTES)


@pytest.mark.parametrize(
    ("payload_bytes", "meta_bytes"),
    [(MAX_PAYLOAD_BYTES + 1, 0), (2**32 - 1, 0), (0, MAX_META_BYTES + 1), (0, 2**16 - 1)],
)
def test_larger_frames_are_refused(payload_bytes: int, meta_bytes: int) -> None:
    with pytest.raises(ProtocolError, match=f"meta {meta_bytes}, payload {payload_bytes} bytes"):
        check_frame(payload_bytes, meta_bytes)


def test_a_meta_over_sixteen_bits_cannot_be_packed() -> None:
    with pytest.raises(struct.error):
        pack_frame(FrameKind.DELETE, 1, bytes(2**16))


# Errors


@given(st.text())
@example("a\0b")
def test_an_error_keeps_its_type_and_message(message: str) -> None:
    message = message.encode(errors="replace").decode()  # lone surrogates are no UTF-8
    error = unpack_error(memoryview(pack_error(NotFound(message))))
    assert type(error) is NotFound
    assert str(error) == message


def test_a_long_message_is_cut_to_fit_a_frame() -> None:
    packed = pack_error(NotFound("é" * MAX_META_BYTES))
    assert len(packed) == MAX_META_BYTES
    assert type(unpack_error(packed)) is NotFound


def test_a_message_that_is_no_utf8_can_still_be_sent() -> None:
    """The name of a file, for one, comes with surrogates where it is not UTF-8."""
    assert type(unpack_error(pack_error(NotFound("no such file: \udcff")))) is NotFound


@given(st.binary(max_size=100))
def test_any_bytes_are_an_error(data: bytes) -> None:
    assert isinstance(unpack_error(data), SixfoldError)


# The listing of shards


def test_a_listed_shard_has_these_bytes() -> None:
    assert shard_info_to_json(INFO) == LINE
    assert shard_info_from_json(LINE) == INFO


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 7), st.integers(0, 255))
def test_listed_shards_come_back(generation: int, size: int, flags: int, index: int) -> None:
    address = ShardAddress(INFO.address.segment, generation, index)
    info = replace(INFO, address=address, segment_bytes=size, encoding=Encoding(flags))
    line = shard_info_to_json(info)
    assert b"\n" not in line
    assert shard_info_from_json(line) == info


@pytest.mark.parametrize(
    "change",
    [
        {"address": None},
        {"address": 5},
        {"address": ADDRESS_TEXT + "000"},
        {"k": "six"},
        {"k": [6]},
        {"k": 6.9},
        {"k": float("inf")},
        {"n": float("nan")},
        {"segment_bytes": -1},
        {"payload_bytes": None},
        {"encoding": "plain"},
        {"encoding": -1},
        {"encoding": 1.5},
        {"checksum": "zz"},
        {"checksum": "00" * 31},
        {"checksum": " 00" * 32},
        {"checksum": 5},
    ],
    ids=str,
)
def test_a_listing_with_a_wrong_field_is_refused(change: dict[str, object]) -> None:
    line = json.dumps(json.loads(LINE) | change).encode()
    with pytest.raises(ProtocolError, match="not a shard listing"):
        shard_info_from_json(line)


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"5", b"null", LINE[:-1], LINE + b"}", b"\xff", b"[" * 100_000],
    ids=lambda line: repr(line[:10]),
)
def test_what_is_not_a_listing(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a shard listing"):
        shard_info_from_json(line)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists), st.data())
def test_any_json_is_a_listing_or_a_protocol_error(value: object, data: st.DataObject) -> None:
    said = json.loads(LINE)
    said[data.draw(st.sampled_from([*said]))] = value
    try:
        info = shard_info_from_json(json.dumps(said).encode())
    except ProtocolError:
        return
    assert isinstance(info, ShardInfo)
