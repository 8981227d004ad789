"""Proofs of the cluster secret: literally, and every way to come without one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.auth import MIN_SECRET_BYTES, VALID_S, ClusterSecret, NonceMemory
from common.errors import BadSetting, Unauthorized

SECRET = ClusterSecret(bytes(range(32)))
OTHER = ClusterSecret(bytes(32))
NOW_S = 1_700_000_000.0
REQUEST = ("PUT", "/x?y=1", b"body")
SIGNED = "v1 1700000000 nonce 3e13c7ffdabe498d4d166125962b9d97d8c22c5534d14c889c8e5acbab729847"


def test_a_signature_lives_a_minute() -> None:
    assert VALID_S == 60


# The secret


@pytest.mark.parametrize("size", [0, 1, MIN_SECRET_BYTES - 1])
def test_a_short_secret_is_refused(size: int) -> None:
    with pytest.raises(BadSetting, match="at least 16 bytes"):
        ClusterSecret(b"s" * size)
    ClusterSecret(b"s" * MIN_SECRET_BYTES)


def test_a_secret_is_never_shown() -> None:
    shown = f"{SECRET} {SECRET!r} {[SECRET]}"
    assert SECRET.key.hex() not in shown
    assert repr(SECRET.key) not in shown


# Lanes


def test_a_lane_proof_has_these_bytes() -> None:
    proof = SECRET.lane_proof(b"node", b"hello", bytes(32))
    assert proof.hex() == "c9604dd4d83b3b05467423e04538d4c58a9590dc0a4cc6610fa0bae9ee757b78"


def test_a_lane_proof_depends_on_all_it_proves() -> None:
    proofs = [
        SECRET.lane_proof(b"node", b"hello", b"n" * 32),
        SECRET.lane_proof(b"coordinator", b"hello", b"n" * 32),
        SECRET.lane_proof(b"node", b"hellO", b"n" * 32),
        SECRET.lane_proof(b"node", b"hello", b"m" * 32),
        SECRET.lane_proof(b"nodeh", b"ello", b"n" * 32),  # the same bytes, cut elsewhere
        SECRET.lane_proof(b"node", b"hellon", b"n" * 31),
        OTHER.lane_proof(b"node", b"hello", b"n" * 32),
    ]
    assert len(set(proofs)) == len(proofs)


# Requests


def test_a_signature_has_these_bytes() -> None:
    assert SECRET.sign(*REQUEST, NOW_S + 0.9, "nonce") == SIGNED


def test_a_signed_request_is_accepted() -> None:
    assert SECRET.verify(SIGNED, *REQUEST, NOW_S) == "nonce"


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "/x?y=1", b"body"),
        ("PUT", "/x?y=2", b"body"),
        ("PUT", "/x", b"body"),
        ("PUT", "/x?y=1", b"Body"),
        ("PUT", "/x?y=1", b""),
        ("PUT/", "x?y=1", b"body"),
    ],
    ids=str,
)
def test_a_signature_serves_no_other_request(request_: tuple[str, str, bytes]) -> None:
    with pytest.raises(Unauthorized, match="signature is wrong"):
        SECRET.verify(SIGNED, *request_, NOW_S)


def test_a_signature_of_another_cluster() -> None:
    with pytest.raises(Unauthorized, match="another cluster secret"):
        OTHER.verify(SIGNED, *REQUEST, NOW_S)


@pytest.mark.parametrize(
    "header",
    [
        SIGNED.replace("1700000000", "1700000001"),
        SIGNED.replace("nonce", "other"),
        SIGNED[:-1] + "8",
        SIGNED[:-1],
        SIGNED + "0",
        SIGNED.upper().replace("V1", "v1"),
        "v1 1700000000 nonce ",
        "v1 1700000000 nonce é",
        "v1 ² nonce abc",  # a digit, but no number
        "v1 " + "9" * 5000 + " nonce abc",
    ],
)
def test_a_forged_signature(header: str) -> None:
    with pytest.raises(Unauthorized, match="signature is wrong"):
        SECRET.verify(header, *REQUEST, NOW_S)


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "v1",
        "v1   ",
        SIGNED.replace("v1", "v2"),
        SIGNED.replace(" ", "  "),
        SIGNED + " ",
        " " + SIGNED,
        SIGNED.replace("1700000000", "-170000000"),
        SIGNED.replace("1700000000", "1.7e9"),
        "Basic dXNlcjpwYXNz",
    ],
)
def test_a_header_that_is_no_signature(header: str) -> None:
    with pytest.raises(Unauthorized, match="not signed"):
        SECRET.verify(header, *REQUEST, NOW_S)


@pytest.mark.parametrize(
    ("header", "path"),
    [
        ("v1 1700000000 nonce \udcff", "/x"),
        ("v1 1700000000 \udcff abc", "/x"),
        (SIGNED, "/\udcff"),
    ],
)
def test_bytes_that_are_no_utf8_are_no_signature(header: str, path: str) -> None:
    """HTTP servers hand them on as lone surrogates, from callers who hold no secret."""
    with pytest.raises(Unauthorized):
        SECRET.verify(header, "PUT", path, b"body", NOW_S)


@given(st.text(), st.text(), st.binary())
def test_any_header_is_refused(header: str, path: str, body: bytes) -> None:
    with pytest.raises(Unauthorized):
        SECRET.verify(f"v1 1 {header}", "GET", path, body, NOW_S)


@pytest.mark.parametrize("late_s", [-VALID_S, -1, 0, 1, VALID_S])
def test_clocks_may_differ_a_little(late_s: float) -> None:
    assert SECRET.verify(SIGNED, *REQUEST, NOW_S + late_s) == "nonce"


@pytest.mark.parametrize("late_s", [-VALID_S - 0.1, VALID_S + 0.1, 1e6])
def test_an_expired_signature(late_s: float) -> None:
    with pytest.raises(Unauthorized, match="expired"):
        SECRET.verify(SIGNED, *REQUEST, NOW_S + late_s)


# Replays


def test_a_replay_is_refused() -> None:
    memory = NonceMemory()
    memory.check("one", NOW_S)
    memory.check("two", NOW_S)
    for nonce in ("one", "two"):
        with pytest.raises(Unauthorized, match="replay"):
            memory.check(nonce, NOW_S + 1)


@pytest.mark.parametrize("ahead_s", [-VALID_S, 0, VALID_S])
@pytest.mark.parametrize("waited_s", [0, VALID_S, 2 * VALID_S - 1, 2 * VALID_S])
def test_a_nonce_is_remembered_while_its_signature_would_be_accepted(
    ahead_s: float, waited_s: float
) -> None:
    """The sender's clock may be ahead of ours by as much as is tolerated."""
    memory = NonceMemory()
    header = SECRET.sign(*REQUEST, NOW_S + ahead_s, "nonce")
    memory.check(SECRET.verify(header, *REQUEST, NOW_S), NOW_S)
    with pytest.raises(Unauthorized):
        memory.check(SECRET.verify(header, *REQUEST, NOW_S + waited_s), NOW_S + waited_s)


def test_old_nonces_are_forgotten() -> None:
    memory = NonceMemory()
    for second in range(1000):
        memory.check(str(second), NOW_S + second)
    assert len(memory._until_s) <= 2 * VALID_S + 1


def test_a_clock_that_is_set_back_forgets_nothing_early() -> None:
    memory = NonceMemory()
    memory.check("before", NOW_S)
    memory.check("after", NOW_S - 1000)
    for nonce in ("before", "after"):
        with pytest.raises(Unauthorized, match="replay"):
            memory.check(nonce, NOW_S - 999)
