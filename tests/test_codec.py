"""The erasure code: both backends give the same bytes, any k of n suffice, bad calls fail."""

import ctypes
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import isal
from common.codec import Codec
from common.units import MIB

K, N = 6, 9
SIZES = [0, 1, 5, 6, 7, 63, 64, 65, 383, 384, 385, 4096, 100_003]
SUBSETS = list(combinations(range(N), K))
BACKENDS = ["isal", "zfec"]
OTHER_CODES = [(1, 1), (1, 3), (4, 6), (10, 14), (3, 3), (32, 40), (1, 256)]


def make_segment(size_bytes: int) -> bytes:
    return random.Random(size_bytes).randbytes(size_bytes)


def make_stripe(segment: bytes, k: int = K, n: int = N, backend: str = "zfec") -> bytes:
    return b"".join(Codec(k, n, backend).encode(segment))


def without(stripe: bytes, shard_bytes: int, rows: list[int]) -> memoryview:
    """A stripe buffer with `rows` overwritten: what was in them must not matter."""
    buffer = memoryview(bytearray(stripe))
    for row in rows:
        buffer[row * shard_bytes : (row + 1) * shard_bytes] = b"\xa5" * shard_bytes
    return buffer


def check_subset(codec: Codec, segment: bytes, stripe: bytes, have: tuple[int, ...]) -> None:
    """All three ways back from the shards `have`, which are k."""
    size = len(segment)
    length = codec.shard_bytes(size)
    rows = [stripe[row * length : (row + 1) * length] for row in range(codec.n)]
    shards = {row: rows[row] for row in have}
    missing = [row for row in range(codec.n) if row not in shards]
    assert codec.decode(shards, size) == segment
    assert codec.rebuild(shards, missing[::-1], size) == [rows[row] for row in missing[::-1]]
    buffer = without(stripe, length, missing)
    codec.recover_in_place(buffer, size, have[::-1], missing[::-1])
    assert buffer == stripe


@pytest.fixture
def no_libisal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which nothing can be loaded."""

    def refuse(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    isal.load_isal.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    yield
    isal.load_isal.cache_clear()


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


# What is refused


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("have", "missing"),
    [
        ([0, 1, 2, 3, 4], [5]),  # too few
        ([], [0]),
        ([0, 1, 2, 3, 4, 4], [5]),  # repeated: zfec would loop for ever, holding the GIL
        ([0, 1, 2, 3, 4, 5, 5], [6]),
        ([0, 1, 2, 3, 4, 5], [6, 6]),
        ([0, 1, 2, 3, 4, 5], [5]),  # both there and missing
        ([0, 1, 2, 3, 4, 9], [5]),  # not below n: zfec would give garbage
        ([0, 1, 2, 3, 4, 256], [5]),
        ([-1, 0, 1, 2, 3, 4], [5]),
        ([0, 1, 2, 3, 4, 5], [9]),
        ([0, 1, 2, 3, 4, 5], [-1]),
    ],
)
def test_bad_shard_numbers(backend: str, have: list[int], missing: list[int]) -> None:
    codec = Codec(K, N, backend)
    stripe = memoryview(bytearray(make_stripe(make_segment(60))))
    before = bytes(stripe)
    with pytest.raises(ValueError, match=r"need 6 shards|bad shard numbers"):
        codec.recover_in_place(stripe, 60, have, missing)
    assert stripe == before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", [-1, 9, 1000])
def test_decode_and_rebuild_refuse_a_number_that_is_none(backend: str, number: int) -> None:
    codec = Codec(K, N, backend)
    shards = {row: bytes(10) for row in [0, 1, 2, 3, 4, number]}
    with pytest.raises(ValueError, match="shard"):
        codec.decode(shards, 60)
    with pytest.raises(ValueError, match="shard"):
        codec.rebuild(shards, [5], 60)
    with pytest.raises(ValueError, match="bad shard numbers"):
        codec.rebuild({row: bytes(10) for row in range(6)}, [number], 60)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [9, 11, 0])
def test_a_shard_of_another_size(backend: str, size: int) -> None:
    shards = {**{row: bytes(10) for row in range(5)}, 7: bytes(size)}
    with pytest.raises(ValueError, match=f"shard 7 of {size} bytes, expected 10"):
        Codec(K, N, backend).decode(shards, 60)


@pytest.mark.parametrize("backend", BACKENDS)
def test_too_few_shards(backend: str) -> None:
    codec = Codec(K, N, backend)
    with pytest.raises(ValueError, match="need 6 shards, have 5"):
        codec.decode({row: bytes(10) for row in range(5)}, 60)
    with pytest.raises(ValueError, match="need 6 shards, have 0"):
        codec.decode({}, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("stripe", "size"),
    [
        (memoryview(bytes(90)), 60),  # read-only
        (memoryview(bytearray(89)), 60),
        (memoryview(bytearray(91)), 60),
        (memoryview(bytearray(90)), 61),
        (memoryview(bytearray(90)), 54),
        (memoryview(bytearray(90)), -1),
        (memoryview(bytearray(0)), -1),
    ],
)
def test_what_is_no_stripe_buffer(backend: str, stripe: memoryview, size: int) -> None:
    codec = Codec(K, N, backend)
    with pytest.raises(ValueError, match="a stripe buffer for"):
        codec.encode_in_place(stripe, size)
    with pytest.raises(ValueError, match="a stripe buffer for"):
        codec.recover_in_place(stripe, size, range(6), [7])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "stripe",
    [
        memoryview(bytearray(180))[::2],
        memoryview(bytearray(90))[::-1],
        memoryview(bytearray(72)).cast("I"),
    ],
    ids=["every other byte", "backwards", "words"],
)
def test_a_stripe_buffer_is_contiguous_bytes(backend: str, stripe: memoryview) -> None:
    """Anything else has the right number of bytes at other addresses."""
    with pytest.raises(ValueError, match="a stripe buffer for"):
        Codec(K, N, backend).encode_in_place(stripe, stripe.nbytes * K // N)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (0, 3), (4, 3), (-1, 3), (1, 257), (257, 257)])
def test_no_such_code(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="need 1 <= k <= n <= 256"):
        Codec(k, n)


# Which backend


def test_isal_is_taken_where_it_can_be_loaded() -> None:
    assert Codec(K, N).backend_name == "isal"
    assert Codec(K, N, "zfec").backend_name == "zfec"


@pytest.mark.usefixtures("no_libisal")
def test_without_libisal_zfec_does_it() -> None:
    codec, segment = Codec(K, N), make_segment(100)
    assert codec.backend_name == "zfec"
    check_subset(codec, segment, b"".join(codec.encode(segment)), SUBSETS[-1])
    with pytest.raises(ValueError, match="no libisal could be loaded"):
        Codec(K, N, "isal")


@pytest.mark.usefixtures("no_libisal")
def test_without_pyeclib_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert Codec(K, N).backend_name == "zfec"


def test_a_libisal_that_lacks_what_we_call_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    isal.load_isal.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda name: object())
        assert Codec(K, N).backend_name == "zfec"
    isal.load_isal.cache_clear()


def test_an_unknown_backend() -> None:
    with pytest.raises(ValueError, match="unknown codec backend 'fast'"):
        Codec(K, N, "fast")
