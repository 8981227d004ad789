"""The listing of shards as lines of JSON: their bytes, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.ids import SegmentId, ShardAddress
from common.shards import Encoding, ShardInfo
from common.shards_json import shard_info_from_json, shard_info_to_json

ADDRESS_TEXT = "00" * 31 + "ff" + ".0000000000000001.8"
INFO = ShardInfo(
    ShardAddress(SegmentId(bytes(31) + b"\xff"), 1, 8), 6, 9, 60, Encoding.ENCRYPTED, 10, bytes(32)
)
LINE = (
    b'{"address": "' + ADDRESS_TEXT.encode() + b'", "k": 6, "n": 9, "segment_bytes": 60, '
    b'"encoding": 2, "payload_bytes": 10, "checksum": "' + b"00" * 32 + b'"}'
)


def test_a_listed_shard_has_these_bytes() -> None:
    assert shard_info_to_json(INFO) == LINE
    assert shard_info_from_json(LINE) == INFO


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 7), st.integers(0, 255))
def test_listed_shards_come_back(generation: int, size: int, flags: int, index: int) -> None:
    address = ShardAddress(INFO.address.segment, generation, index)
    info = INFO._replace(address=address, segment_bytes=size, encoding=Encoding(flags))
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


def test_cut_anywhere_it_is_refused() -> None:
    for end in range(len(LINE)):
        with pytest.raises(ProtocolError, match="not a shard listing"):
            shard_info_from_json(LINE[:end])


@pytest.mark.parametrize("name", list(json.loads(LINE)))
def test_a_listing_without_a_field_is_refused(name: str) -> None:
    said = json.loads(LINE)
    del said[name]
    with pytest.raises(ProtocolError, match="not a shard listing"):
        shard_info_from_json(json.dumps(said).encode())


@pytest.mark.parametrize("name", list(json.loads(LINE)))
@pytest.mark.parametrize("value", [None, True, [], {}, 1.0, "1", "\udcff"], ids=repr)
def test_a_field_of_another_kind_is_refused(name: str, value: object) -> None:
    """A bool, which Python takes for a number, is none."""
    said = json.loads(LINE) | {name: value}
    with pytest.raises(ProtocolError, match="not a shard listing"):
        shard_info_from_json(json.dumps(said).encode())


@pytest.mark.parametrize(
    "line",
    [
        LINE + b"\n",
        b" " + LINE,
        LINE.replace(b": 6", b":6"),
        LINE.replace(b'"k": 6, "n": 9', b'"n": 9, "k": 6'),
        LINE.replace(b'"k": 6', b'"k": 5, "k": 6'),
        LINE.replace(b'"k": 6', b'"k": 06'),
        LINE.replace(b'"k": 6', b'"k": 6, "more": 1'),
        LINE.replace(b"ff", b"FF"),
        LINE.replace(b"ff", b"\\u0066f"),
        b"\xef\xbb\xbf" + LINE,
        LINE.decode().encode("utf-16"),
    ],
    ids=range(11),
)
def test_another_way_to_say_the_same_is_refused(line: bytes) -> None:
    assert line != LINE
    with pytest.raises(ProtocolError, match="not a shard listing"):
        shard_info_from_json(line)


@given(st.binary(max_size=60), st.integers(0, len(LINE)), st.integers(0, len(LINE)))
def test_any_bytes_are_a_listing_or_a_protocol_error(data: bytes, start: int, end: int) -> None:
    """Anywhere in a good line. What is read is exactly what would be written."""
    line = LINE[:start] + data + LINE[end:]
    try:
        info = shard_info_from_json(line)
    except ProtocolError as error:
        assert len(str(error)) < 1000
        return
    assert shard_info_to_json(info) == line


@pytest.mark.parametrize(
    "change",
    [
        {"k": 0},
        {"k": 10},
        {"n": 256},
        {"n": 10**12},
        {"encoding": 4096},
        {"payload_bytes": 1 << 32},
        {"segment_bytes": 1 << 64},
        {"k": True},
    ],
    ids=str,
)
def test_numbers_that_fit_no_record_header_are_refused(change: dict[str, object]) -> None:
    """A rebuild would make lists as long as n says."""
    line = json.dumps(json.loads(LINE) | change).encode()
    with pytest.raises(ProtocolError, match="not a shard listing"):
        shard_info_from_json(line)
