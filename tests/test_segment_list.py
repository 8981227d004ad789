"""The segment list of a long content: its bytes, and what is not one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Corrupt
from common.ids import ContentId, SegmentId
from common.segment_list import SegmentList

LIST = SegmentList(
    ContentId(bytes(range(32, 64))),
    0x0102030405,
    ((SegmentId(bytes(range(32))), 0x0102030404), (SegmentId(bytes(32)), 1)),
)
GOLDEN = (
    "364c5354"  # 6LST
    "01000000"  # version
    "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
    "0504030201000000"  # content size
    "02000000"  # segments
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
    "0404030201000000" + "00" * 32 + "0100000000000000"
)

digests = st.binary(min_size=32, max_size=32)
entries = st.lists(st.tuples(digests.map(SegmentId), st.integers(0, 2**40)), max_size=20).map(tuple)


def test_a_segment_list_has_these_bytes() -> None:
    assert LIST.pack().hex() == GOLDEN
    assert SegmentList.unpack(bytes.fromhex(GOLDEN)) == LIST


@given(digests.map(ContentId), entries)
def test_lists_come_back(content: ContentId, segments: tuple[tuple[SegmentId, int], ...]) -> None:
    whole = SegmentList(content, sum(size for _, size in segments), segments)
    back = SegmentList.unpack(whole.pack())
    assert back == whole
    assert type(back.content) is ContentId
    assert all(type(segment) is SegmentId for segment, _ in back.segments)


def test_cut_anywhere_it_is_refused() -> None:
    packed = LIST.pack()
    for end in range(len(packed)):
        with pytest.raises(Corrupt):
            SegmentList.unpack(packed[:end])
    with pytest.raises(Corrupt):
        SegmentList.unpack(packed + b"\0")


@pytest.mark.parametrize(
    ("at", "byte", "message"),
    [
        (0, 0x37, "not a segment list"),
        (4, 2, "not a segment list"),
        (4, 0, "not a segment list"),
        (40, 0x06, "does not add up"),
        (48, 1, "has 132 bytes"),
        (48, 3, "has 132 bytes"),
        (51, 0xFF, "has 132 bytes"),  # four thousand million entries
        (84, 0, "does not add up"),
    ],
)
def test_changed_bytes_are_refused(at: int, byte: int, message: str) -> None:
    packed = bytearray(LIST.pack())
    packed[at] = byte
    with pytest.raises(Corrupt, match=message):
        SegmentList.unpack(bytes(packed))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_list_or_corrupt(data: bytes, headed: bool) -> None:
    if headed:
        data = bytes.fromhex(GOLDEN)[:8] + data
    try:
        read = SegmentList.unpack(data)
    except Corrupt:
        return
    assert read.pack() == data
