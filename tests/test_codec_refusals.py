"""What the erasure code refuses, and which backend it takes."""

import ctypes
from collections.abc import Iterator

import pytest

from common import isal
from common.codec import Codec
from tests.codec_cases import (
    BACKENDS,
    SUBSETS,
    K,
    N,
    check_subset,
    make_segment,
    make_stripe,
)


@pytest.fixture
def no_libisal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which nothing can be loaded."""

    def refuse(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    isal.load_isal.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    yield
    isal.load_isal.cache_clear()


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
