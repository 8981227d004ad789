"""Ids and addresses: one text form, one key, and nothing else is taken for one."""

import pytest
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import MalformedId
from common.hashing import blake3_digest
from common.ids import KEY_BYTES, ContentId, SegmentId, ShardAddress

HEX = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"  # printf '' | b3sum

digests = st.binary(min_size=32, max_size=32)
addresses = st.builds(
    ShardAddress, digests.map(SegmentId), st.integers(0, 2**64 - 1), st.integers(0, 255)
)


def test_an_id_is_what_b3sum_prints() -> None:
    assert str(ContentId(blake3_digest(b""))) == EMPTY
    data = bytes(300_000)
    assert (
        blake3_digest(memoryview(data)) == blake3_digest(bytearray(data)) == blake3(data).digest()
    )


@given(digests)
def test_ids_come_back(digest: bytes) -> None:
    for kind in (ContentId, SegmentId):
        parsed = kind.parse(str(kind(digest)))
        assert type(parsed) is kind
        assert parsed == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX[:-1],
        HEX + "0",
        HEX.upper(),
        HEX[:-1] + "g",
        HEX[:-1] + "١",  # a digit, but not an ASCII one
        " " + HEX[1:],
        HEX[:-1] + "\n",
        HEX + "\n",
        "0x" + HEX[2:],
        "é" * 64,
        "a" * 100_000,
    ],
)
def test_what_is_not_an_id(text: str) -> None:
    with pytest.raises(MalformedId, match="not an id") as caught:
        ContentId.parse(text)
    assert len(str(caught.value)) < 200


def test_the_text_and_the_key_of_an_address() -> None:
    address = ShardAddress(SegmentId(bytes.fromhex(HEX)), 0x1122334455667788, 7)
    assert str(address) == HEX + ".1122334455667788.7"
    assert address.key.hex() == HEX + "1122334455667788" + "07"
    assert len(address.key) == KEY_BYTES
    assert str(ShardAddress(SegmentId(bytes(32)), 1, 255)) == "0" * 64 + ".0000000000000001.255"


@given(addresses)
def test_addresses_come_back(address: ShardAddress) -> None:
    assert ShardAddress.parse(str(address)) == address
    assert ShardAddress.from_key(address.key) == address
    assert type(ShardAddress.from_key(memoryview(address.key)).segment) is SegmentId


@given(addresses, addresses)
def test_keys_sort_as_addresses_do(one: ShardAddress, other: ShardAddress) -> None:
    assert (one.key < other.key) == (one < other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        HEX + ".1122334455667788",
        HEX + ".1122334455667788.",
        HEX + ".1122334455667788.256",
        HEX + ".1122334455667788.07",
        HEX + ".1122334455667788.+7",
        HEX + ".1122334455667788.-7",
        HEX + ".1122334455667788.7 ",
        HEX + ".1122334455667788.7.7",
        HEX + ".1122334455667788.²",
        HEX + ".1122334455667788." + "9" * 5000,
        HEX + ".112233445566778.7",
        HEX + ".11223344556677AA.7",
        HEX + ".-122334455667788.7",
        HEX + ".-000000000000001.0",
        HEX + ".+122334455667788.7",
        HEX + ".0x22334455667788.7",
        HEX + ".11_2334455667788.7",
        HEX + ". 122334455667788.7",
        HEX.upper() + ".1122334455667788.7",
        HEX[1:] + ".1122334455667788.7",
    ],
)
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(MalformedId):
        ShardAddress.parse(text)


@given(st.text(alphabet="0123456789abcdefA.-+_x ²\n", max_size=90))
@example("." * 90)
def test_text_is_an_address_only_if_the_address_is_that_text(text: str) -> None:
    try:
        address = ShardAddress.parse(HEX + text)
    except MalformedId:
        return
    assert str(address) == HEX + text
    assert ShardAddress.from_key(address.key) == address
