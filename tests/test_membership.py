"""What a node reports: its bytes, and nothing that is not exactly that."""

import json
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadRequest
from common.membership import NodeReport, ReportAnswer

REPORT = NodeReport(
    node_id="0f" * 16,
    instance="ab" * 16,
    cluster_id="",
    name="node-1",
    zone="rack é",
    http_url="http://node-1:8601",
    data_host="node-1",
    data_port=8602,
    capacity_bytes=1 << 40,
    used_bytes=3,
    free_bytes=2,
    shards=1,
    epoch=7,
    bad_shards=3,
    verified_at=1_700_000_000,
    failure="fsync failed",
    detached=True,
    scrub_interval_s=604_800,
)
GOLDEN = (
    b'{"node_id": "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f", '
    b'"instance": "abababababababababababababababab", "cluster_id": "", "name": "node-1", '
    b'"zone": "rack \\u00e9", "http_url": "http://node-1:8601", "data_host": "node-1", '
    b'"data_port": 8602, "capacity_bytes": 1099511627776, "used_bytes": 3, "free_bytes": 2, '
    b'"shards": 1, "epoch": 7, "bad_shards": 3, '
    b'"verified_at": 1700000000, "failure": "fsync failed", "detached": true, '
    b'"scrub_interval_s": 604800}'
)
NAMES = [field.name for field in fields(NodeReport)]


def test_a_report_has_these_bytes() -> None:
    assert REPORT.to_json() == GOLDEN
    assert NodeReport.from_json(GOLDEN) == REPORT


def test_an_answer_has_these_bytes() -> None:
    answer = ReportAnswer("ab", 3, 4, True)
    assert answer.to_json() == b'{"cluster_id": "ab", "number": 3, "epoch": 4, "may_delete": true}'
    turned = b' {"number": 3, "may_delete": true, "epoch": 4, "cluster_id": "ab"}\n'
    assert ReportAnswer.from_json(turned) == answer


@given(st.from_regex(r"[a-zé日]{1,40}", fullmatch=True), st.integers(0, 2**63 - 1), st.booleans())
def test_reports_come_back(text: str, number: int, flag: bool) -> None:
    report = replace(REPORT, zone=text, used_bytes=number, detached=flag)
    assert NodeReport.from_json(report.to_json()) == report


@pytest.mark.parametrize("name", NAMES)
def test_a_report_without_a_field_is_refused(name: str) -> None:
    values = asdict(REPORT)
    del values[name]
    with pytest.raises(BadRequest, match="need exactly the fields"):
        NodeReport.from_json(json.dumps(values).encode())


def test_a_report_with_a_field_too_many_is_refused() -> None:
    with pytest.raises(BadRequest, match="need exactly the fields"):
        NodeReport.from_json(json.dumps(asdict(REPORT) | {"mood": "fine"}).encode())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, 1.0, [], {}, "1", 1, True], ids=repr)
def test_a_field_of_another_type_is_refused(name: str, value: object) -> None:
    """A bool is an int to Python, but not to us."""
    if type(value) is type(getattr(REPORT, name)):
        return
    with pytest.raises(BadRequest, match=f"NodeReport: {name} is not of type"):
        NodeReport.from_json(json.dumps(asdict(REPORT) | {name: value}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"node_id": ""},
        {"node_id": "0f" * 15 + "0"},
        {"node_id": "0F" * 16},
        {"node_id": "0g" * 16},
        {"node_id": "0f" * 15 + "١" * 2},
        {"instance": ""},
        {"instance": "ab" * 32},
        {"instance": "ab" * 15, "cluster_id": "ab"},  # the right length together
        {"cluster_id": "ab"},
        {"cluster_id": "ab" * 16 + "\n"},
        {"node_id": "0f" * 32, "cluster_id": "ab" * 16, "instance": ""},
    ],
    ids=str,
)
def test_ids_have_32_hex_digits(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="ids have 32 hex digits"):
        NodeReport.from_json(json.dumps(asdict(REPORT) | change).encode())


def test_a_node_that_joined_reports_its_cluster() -> None:
    report = replace(REPORT, cluster_id="cd" * 16)
    assert NodeReport.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    "change",
    [{"data_port": port} for port in (0, -1, 65_536)]
    + [{name: -1} for name in ("capacity_bytes", "used_bytes", "free_bytes", "shards")]
    + [{"capacity_bytes": 1 << 63}],
    ids=str,
)
def test_a_number_out_of_range_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match="a port or a size is out of range"):
        NodeReport.from_json(json.dumps(asdict(REPORT) | change).encode())


@pytest.mark.parametrize("field", ["name", "zone", "http_url", "data_host"])
@pytest.mark.parametrize("word", ["", "\udcff", "two\nlines", "x" * 256])
def test_a_name_that_cannot_be_shown_is_refused(field: str, word: str) -> None:
    with pytest.raises(BadRequest, match="printable"):
        NodeReport.from_json(json.dumps(asdict(REPORT) | {field: word}).encode())


@pytest.mark.parametrize("port", [1, 65_535])
def test_the_first_and_the_last_port(port: int) -> None:
    assert replace(REPORT, data_port=port, used_bytes=0).data_port == port


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b"5", b'"text"', b"\xff", b"[" * 100_000, b"9" * 5000],
    ids=lambda data: repr(data[:10]),
)
def test_what_is_not_a_report(data: bytes) -> None:
    with pytest.raises(BadRequest):
        NodeReport.from_json(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_report_or_a_bad_request(data: bytes) -> None:
    with pytest.raises(BadRequest):
        ReportAnswer.from_json(data)
