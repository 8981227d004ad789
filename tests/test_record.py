"""The 128 bytes before a shard: literally, there and back, and never with a bit flipped."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Corrupt
from common.ids import SegmentId, ShardAddress
from common.record import (
    HEADER_BYTES,
    RecordHeader,
    RecordKind,
    pack_header,
    shard_header,
    tombstone_header,
    unpack_header,
)
from common.shards import Encoding, ShardInfo

ADDRESS = ShardAddress(SegmentId(bytes(range(32))), 0x1122334455667788, 7)
INFO = ShardInfo(
    address=ADDRESS,
    k=6,
    n=9,
    segment_bytes=0x0102030405060708,
    encoding=Encoding.COMPRESSED | Encoding.SEGMENT_LIST,
    payload_bytes=0x0A0B0C0D,
    checksum=bytes(range(0xE0, 0x100)),
)
HEADER = RecordHeader(RecordKind.SHARD, 0x1112131415161718, INFO)
SEGMENT_HEX = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
GOLDEN = (
    "36524543"  # 6REC
    "01"  # version
    "01"  # shard
    "07"  # index
    "06"  # k
    "09"  # n
    "05"  # compressed segment list
    "0000"
    "0d0c0b0a"  # payload length
    "1817161514131211"  # sequence number
    "8877665544332211"  # generation
    "0807060504030201"  # segment size
    + SEGMENT_HEX
    + "e0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
    + "00" * 20
    + "d4a69503"  # CRC
)
GOLDEN_TOMBSTONE = (
    "36524543"
    "01"
    "02"  # tombstone
    "07"
    "000000"
    "0000"
    "00000000"
    "0500000000000000"  # sequence number
    "8877665544332211"
    "0000000000000000"
    + SEGMENT_HEX
    + "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"  # BLAKE3 of nothing
    + "00" * 20
    + "104cf5be"
)

digests = st.binary(min_size=32, max_size=32)
bytes_ = st.integers(0, 255)
longs = st.integers(0, 2**64 - 1)
infos = st.builds(
    ShardInfo,
    st.builds(ShardAddress, digests.map(SegmentId), longs, bytes_),
    bytes_,
    bytes_,
    longs,
    st.integers(0, 7).map(Encoding),
    st.integers(0, 2**32 - 1),
    digests,
)
headers = st.builds(RecordHeader, st.sampled_from(RecordKind), longs, infos)


def with_crc(fields: bytes) -> bytes:
    return fields + struct.pack("<I", zlib.crc32(fields))


def test_a_shard_header_has_these_bytes() -> None:
    assert pack_header(HEADER).hex() == GOLDEN
    assert unpack_header(bytes.fromhex(GOLDEN)) == HEADER
    assert len(bytes.fromhex(GOLDEN)) == HEADER_BYTES


def test_a_tombstone_has_these_bytes() -> None:
    assert tombstone_header(ADDRESS, 5).hex() == GOLDEN_TOMBSTONE
    buried = unpack_header(bytes.fromhex(GOLDEN_TOMBSTONE))
    assert (buried.kind, buried.sequence) == (RecordKind.TOMBSTONE, 5)
    assert (buried.info.address, buried.info.payload_bytes) == (ADDRESS, 0)


def test_on_the_wire_the_sequence_number_is_zero() -> None:
    assert shard_header(INFO) == pack_header(HEADER._replace(sequence=0))
    assert shard_header(INFO, 3) == pack_header(HEADER._replace(sequence=3))


@given(headers)
def test_headers_come_back(header: RecordHeader) -> None:
    packed = pack_header(header)
    assert len(packed) == HEADER_BYTES
    for data in (packed, bytearray(packed), memoryview(packed + b"payload")):
        assert unpack_header(data) == header
    assert type(unpack_header(packed).info.checksum) is bytes


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_TOMBSTONE])
def test_every_flipped_bit_is_refused(golden: str) -> None:
    for bit in range(8 * HEADER_BYTES):
        data = bytearray.fromhex(golden)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt, match="CRC"):
            unpack_header(data)


@pytest.mark.parametrize("length", [0, 1, 123, 124, 127])
def test_a_header_cut_short_is_refused(length: int) -> None:
    with pytest.raises(Corrupt, match=f"cut short: {length} of 128"):
        unpack_header(bytes.fromhex(GOLDEN)[:length])


@pytest.mark.parametrize(
    ("at", "value"), [(0, 0x37), (4, 0), (4, 2), (5, 0), (5, 3), (5, 255)], ids=str
)
def test_another_magic_version_or_kind_is_refused_even_with_a_good_crc(at: int, value: int) -> None:
    fields = bytearray.fromhex(GOLDEN)[:124]
    fields[at] = value
    with pytest.raises(Corrupt, match="not a record header"):
        unpack_header(with_crc(bytes(fields)))


def test_zeros_are_no_header() -> None:
    with pytest.raises(Corrupt):
        unpack_header(bytes(HEADER_BYTES))
    with pytest.raises(Corrupt):
        unpack_header(with_crc(bytes(124)))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_header_or_corrupt(data: bytes, sign: bool) -> None:
    if sign:
        data = with_crc(b"6REC\x01" + data[:119].ljust(119, b"\0"))
    try:
        header = unpack_header(data)
    except Corrupt:
        return
    assert isinstance(header, RecordHeader)
