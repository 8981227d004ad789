"""What a node tells a coordinator when it joins and every heartbeat after: one message.

`POST /-/cluster/report`, signed with the cluster secret (common/auth.py), a `NodeReport` as JSON;
the answer is a `ReportAnswer` as JSON. Reporting is idempotent, so a coordinator that restarts
learns everything again within one heartbeat.
"""

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from common.errors import BadRequest

REPORT_PATH = "/-/cluster/report"
HEARTBEAT_S = 2.0
MAX_EPOCH = (1 << 31) - 2  # sessions are numbered by it; see the generations in common/ids.py
MAX_WORD = 255  # characters of a name, a zone, a URL
MAX_FAILURE = 500


@dataclass(frozen=True, slots=True)
class _JsonMessage:
    """A flat dataclass that travels as a JSON object with exactly its fields."""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises BadRequest unless `data` has exactly the fields, each of its type."""
        try:
            values: Any = json.loads(data)
        except (ValueError, RecursionError):
            raise BadRequest(f"{cls.__name__}: not JSON") from None
        kinds = {field.name: field.type for field in fields(cls)}
        if not isinstance(values, dict) or values.keys() != kinds.keys():
            raise BadRequest(f"{cls.__name__}: need exactly the fields {', '.join(kinds)}")
        for name, kind in kinds.items():
            if type(values[name]) is not kind:
                raise BadRequest(f"{cls.__name__}: {name} is not of type {kind}")
        return cls(**values)


@dataclass(frozen=True, slots=True)
class NodeReport(_JsonMessage):
    """Ids are 32 hex digits. `cluster_id` is empty on a node that never joined. `instance` names
    the process, so that two processes claiming to be one node are told apart. `epoch` is the
    highest that a coordinator has told the node, 0 if none has. `bad_shards` are rotten and wait
    for repair; `verified_at` is when the oldest verification of a volume began, in Unix time, 0
    never, and `scrub_interval_s` how long after one pass the next begins. `failure` and `detached`
    are those of StoreStat (common/shards.py)."""

    node_id: str
    instance: str
    cluster_id: str
    name: str
    zone: str
    http_url: str
    data_host: str
    data_port: int
    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    shards: int
    epoch: int = 0
    bad_shards: int = 0
    verified_at: int = 0
    failure: str = ""
    detached: bool = False
    scrub_interval_s: int = 0

    def __post_init__(self) -> None:
        """Raises BadRequest for what no node reports."""
        ids = (self.node_id, self.instance, self.cluster_id or self.node_id)
        sizes = (
            self.capacity_bytes, self.used_bytes, self.free_bytes, self.shards,
            self.bad_shards, self.verified_at, self.scrub_interval_s,
        )  # fmt: skip
        if not all(re.fullmatch("[0-9a-f]{32}", name) for name in ids):
            raise BadRequest("NodeReport: ids have 32 hex digits")
        if not 0 < self.data_port < 65_536 or min(sizes) < 0 or max(sizes) >= 1 << 63:
            raise BadRequest("NodeReport: a port or a size is out of range")
        if not 0 <= self.epoch <= MAX_EPOCH:
            raise BadRequest("NodeReport: the epoch is out of range")
        words = (self.name, self.zone, self.http_url, self.data_host)
        if not all(word.isprintable() and 0 < len(word) <= MAX_WORD for word in words):
            raise BadRequest(f"NodeReport: names have 1 to {MAX_WORD} printable characters")
        if not self.failure.isprintable() or len(self.failure) > MAX_FAILURE:
            raise BadRequest(f"NodeReport: a failure has up to {MAX_FAILURE} printable characters")


@dataclass(frozen=True, slots=True)
class ReportAnswer(_JsonMessage):
    """`number` is the node's short name inside layouts: 1 to 65535, never used twice. `epoch` is
    that of the metadata database, for the node to remember. `may_delete` says that deletes are not
    stopped: else nothing in quarantine may be dropped."""

    cluster_id: str
    number: int
    epoch: int = 0
    may_delete: bool = False
