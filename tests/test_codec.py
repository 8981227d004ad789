"""The erasure code: both backends give the same bytes, any k of n suffice."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codec import Codec
from common.units import MIB
from tests.codec_cases import (
    BACKENDS,
    OTHER_CODES,
    SIZES,
    SUBSETS,
    K,
    N,
    check_subset,
    make_segment,
    make_stripe,
    without,
)

# The same bytes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("k", "n", "golden"),
    [
        (6, 9, "0102 0304 0506 0708 090a 0b0c 6ec5 2280 5e20"),
        (1, 3, "0102 0102 0102"),
        (4, 6, "0102 0304 0506 0708 4513 135c"),
        (10, 14, "0102 0304 0506 0708 090a 0b0c 0d0e 0f10 1112 1314 77b3 ff9d bf01 33ba"),
    ],
)
def test_a_stripe_has_these_bytes(backend: str, k: int, n: int, golden: str) -> None:
    stripe = Codec(k, n, backend).encode(bytes(range(1, 2 * k + 1)))
    assert [bytes(shard).hex() for shard in stripe] == golden.split()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES)
def test_every_six_of_nine_give_everything_back(backend: str, size: int) -> None:
    segment = make_segment(size)
    stripe = make_stripe(segment)
    assert make_stripe(segment, backend=backend) == stripe
    codec = Codec(K, N, backend)
    for have in SUBSETS:
        check_subset(codec, segment, stripe, have)


def test_a_whole_segment_is_alike_in_both_backends() -> None:
    segment = make_segment(6 * MIB)
    stripe = make_stripe(segment, backend="isal")
    assert stripe == make_stripe(segment, backend="zfec")
    for have in SUBSETS:
        missing = [row for row in range(N) if row not in have]
        buffer = without(stripe, MIB, missing)
        Codec(K, N, "isal").recover_in_place(buffer, len(segment), have, missing)
        assert buffer == stripe
    check_subset(Codec(K, N, "zfec"), segment, stripe, SUBSETS[-1])


@pytest.mark.parametrize(("k", "n"), OTHER_CODES)
def test_other_codes(k: int, n: int) -> None:
    draw = random.Random(n)
    for size in (0, 1, k, 1000 * k - 1):
        segment = make_segment(size)
        stripe = make_stripe(segment, k, n, "zfec")
        assert make_stripe(segment, k, n, "isal") == stripe
        last = tuple(range(n - k, n))
        for have in {last, tuple(sorted(draw.sample(range(n), k)))}:
            for backend in BACKENDS:
                check_subset(Codec(k, n, backend), segment, stripe, have)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.binary(max_size=2000), st.integers(1, 12), st.integers(0, 6))
def test_any_code_any_bytes_any_survivors(
    data: st.DataObject, segment: bytes, k: int, parity: int
) -> None:
    n = k + parity
    stripe = make_stripe(segment, k, n, "zfec")
    assert make_stripe(segment, k, n, "isal") == stripe
    have = tuple(sorted(data.draw(st.permutations(range(n)))[:k]))
    for backend in BACKENDS:
        check_subset(Codec(k, n, backend), segment, stripe, have)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_code_is_systematic_and_padded_with_zeros(backend: str) -> None:
    segment = make_segment(64)
    shards = Codec(K, N, backend).encode(segment)
    assert [len(shard) for shard in shards] == [11] * N
    assert b"".join(shards[:K]) == segment + bytes(2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_overwrites_what_a_reused_buffer_held(backend: str) -> None:
    codec, segment = Codec(K, N, backend), make_segment(61)
    stripe = memoryview(bytearray(b"\xee" * (N * 11)))
    stripe[:61] = segment
    codec.encode_in_place(stripe, 61)
    assert stripe == make_stripe(segment)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_shards_than_needed_are_fine(backend: str) -> None:
    codec, segment = Codec(K, N, backend), make_segment(1000)
    shards = dict(enumerate(codec.encode(segment)))
    assert codec.decode(shards, 1000) == segment
    parity = shards.pop(8)
    assert codec.rebuild(shards, [8], 1000) == [parity]
    assert codec.rebuild(shards, [], 1000) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_codec_serves_many_threads(backend: str) -> None:
    codec, segment = Codec(K, N, backend), make_segment(50_000)
    shards = codec.encode(segment)

    def decode(have: tuple[int, ...]) -> bytes:
        return codec.decode({row: shards[row] for row in have}, len(segment))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(decode, SUBSETS)) == {segment}


# Whose memory it is


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("have", [SUBSETS[0], SUBSETS[40], SUBSETS[-1]])
def test_answers_do_not_refer_to_the_buffers_they_came_from(
    backend: str, have: tuple[int, ...]
) -> None:
    codec, segment = Codec(K, N, backend), make_segment(600)
    source = bytearray(segment)
    shards = codec.encode(source)
    kept = [bytes(shard) for shard in shards]
    source[:] = bytes(600)
    assert [bytes(shard) for shard in shards] == kept

    lent = {row: bytearray(kept[row]) for row in have}
    missing = [row for row in range(N) if row not in have]
    decoded, rebuilt = codec.decode(lent, 600), codec.rebuild(lent, missing, 600)
    for buffer in lent.values():
        buffer[:] = bytes(100)
    assert decoded == segment
    assert rebuilt == [kept[row] for row in missing]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_callers_sequences_stay_in_order(backend: str) -> None:
    codec, segment = Codec(K, N, backend), make_segment(60)
    shards = codec.encode(segment)
    numbers = [8, 1, 7, 3, 6, 5]
    lent = {row: bytes(shards[row]) for row in numbers}
    codec.decode(lent, 60)
    assert list(lent) == numbers
    stripe, missing = memoryview(bytearray(make_stripe(segment))), [4, 0, 2]
    codec.recover_in_place(stripe, 60, numbers, missing)
    assert (numbers, missing) == ([8, 1, 7, 3, 6, 5], [4, 0, 2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_recovery_touches_only_what_is_missing(backend: str) -> None:
    codec, stripe = Codec(K, N, backend), make_stripe(make_segment(600))
    buffer = without(stripe, 100, [2, 7])
    codec.recover_in_place(buffer, 600, [0, 1, 3, 4, 5, 6], [2])
    assert buffer == without(stripe, 100, [7])


@pytest.mark.parametrize("backend", BACKENDS)
def test_split_gives_views(backend: str) -> None:
    codec = Codec(K, N, backend)
    stripe = memoryview(bytearray(N * 10))
    codec.split(stripe, 10)[3][:] = b"0123456789"
    assert stripe[30:40].tobytes() == b"0123456789"
