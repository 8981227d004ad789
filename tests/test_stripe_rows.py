"""Where shards go as they are read: both kinds hold the same."""

import itertools
import os
from collections.abc import Callable

import pytest

from common.codec import Codec
from common.ids import SegmentId
from common.shards import Encoding
from coordinator.metadata import StoredSegment
from coordinator.stripe_rows import FewRows, Rows, WholeStripe

K, N = 6, 9
CODEC = Codec(K, N)
SIZES = (1, 5, 6, 7, 131, 4096)


def stored(size_bytes: int) -> StoredSegment:
    layout = tuple(range(1, N + 1))
    return StoredSegment(
        SegmentId(bytes(32)), size_bytes, Encoding.BUNDLE, K, N, 1, layout, bytes(32 * N)
    )


def whole(segment: StoredSegment) -> WholeStripe:
    return WholeStripe(CODEC, memoryview(bytearray(N * segment.shard_bytes)), segment)


def few(segment: StoredSegment) -> FewRows:
    return FewRows(CODEC, segment)


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("make", [whole, few])
@pytest.mark.parametrize("in_place", [True, False])
def test_what_is_missing_is_computed_from_any_others(
    make: Callable[[StoredSegment], Rows], size_bytes: int, in_place: bool
) -> None:
    shards = CODEC.encode(os.urandom(size_bytes))
    for missing in itertools.combinations(range(K), 3):
        rows = make(stored(size_bytes))
        have = [index for index in range(N) if index not in missing]
        for index in have:
            if in_place:
                place = rows.place(index)
                place[:] = shards[index]
                rows.put(index, place)
            else:
                rows.put(index, bytes(shards[index]))
        rows.recover(have, list(missing))
        assert [bytes(rows[index]) for index in range(N)] == [bytes(shard) for shard in shards]


def test_few_rows_take_no_memory_for_what_nobody_asks_for() -> None:
    rows = FewRows(CODEC, stored(4096))
    assert len(rows.place(2)) == stored(4096).shard_bytes
    assert rows.place(2) is rows.place(2)
    with pytest.raises(KeyError):
        rows[1]
