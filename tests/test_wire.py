"""Frames of a lane: their bytes, and what is refused."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import NotFound, ProtocolError, SixfoldError, Unreadable
from common.ids import KEY_BYTES, SegmentId, ShardAddress
from common.units import KIB, MIB
from common.wire import (
    CHALLENGE,
    EPOCH,
    FRAME,
    FRAME_HEADER_BYTES,
    HELLO,
    KEYS_PER_DELETE,
    MAX_META_BYTES,
    MAX_PAYLOAD_BYTES,
    NONCE_BYTES,
    PROOF_BYTES,
    PROTOCOL_VERSION,
    WELCOME,
    FrameKind,
    LaneKind,
    check_frame,
    pack_deletes,
    pack_error,
    pack_frame,
    unpack_deletes,
    unpack_error,
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
    assert hello.hex() == "02000200" + "63" * 16 + "6e" * 16 + "6f" * 32
    assert CHALLENGE.pack(b"n" * 32, b"p" * 32).hex() == "6e" * 32 + "70" * 32
    assert CHALLENGE.size == NONCE_BYTES + PROOF_BYTES == 64
    assert WELCOME.pack(0x01020304, 0x0102).hex() == "0403020102010000"


ADDRESSES = [ShardAddress(SegmentId(b"s" * 32), 0x0102030405060708, index) for index in (0, 8)]


def test_deletes_have_these_bytes() -> None:
    packed = pack_deletes(0x1112131415161718, ADDRESSES)
    golden = (
        "1817161514131211"  # epoch
        + "73" * 32 + "0102030405060708" + "00"  # segment, generation, index
        + "73" * 32 + "0102030405060708" + "08"
    )  # fmt: skip
    assert packed.hex() == golden
    assert unpack_deletes(memoryview(packed)) == (0x1112131415161718, ADDRESSES)
    assert unpack_deletes(pack_deletes(7, [])) == (7, [])


def test_as_many_deletes_as_a_frame_holds() -> None:
    most = ADDRESSES[:1] * KEYS_PER_DELETE
    assert unpack_deletes(pack_deletes(2**64 - 1, most)) == (2**64 - 1, most)


@pytest.mark.parametrize("meta_bytes", [0, 7, 41, 48, 50, 8 + 41 * 1025])
def test_other_metas_are_no_deletes(meta_bytes: int) -> None:
    with pytest.raises(ProtocolError, match=f"meta of {meta_bytes} bytes"):
        unpack_deletes(bytes(meta_bytes))


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
    check_frame(0, EPOCH.size + KEYS_PER_DELETE * KEY_BYTES)


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
