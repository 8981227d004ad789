"""What a coordinator answers, as values. Understands them or raises ProtocolError."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from common.errors import NotFound, ProtocolError, SixfoldError, Unavailable, revive
from common.ids import ContentId


@dataclass(frozen=True, slots=True)
class Stored:
    """What a PUT was answered. `new` is False if the cluster had the content already."""

    id: ContentId
    size_bytes: int
    durability: str
    new: bool

    @property
    def is_complete(self) -> bool:
        """Every shard is durable: `9/9; survives=3`, where `8/9; survives=2` is not."""
        durable, _, every = self.durability.partition(";")[0].partition("/")
        return durable == every

    @classmethod
    def of(cls, said: Any) -> "Stored":
        try:
            id_ = ContentId.parse(said["id"])
            return cls(id_, int(said["size_bytes"]), str(said["durability"]), bool(said["new"]))
        except (LookupError, TypeError, ValueError, SixfoldError):
            raise _not_sixfold(said) from None


@dataclass(frozen=True, slots=True)
class ContentStat:
    """What a HEAD was answered. `created` is ISO 8601."""

    id: ContentId
    size_bytes: int
    segments: int
    created: str
    durability: str

    @classmethod
    def of(cls, id_: ContentId, headers: Mapping[str, str]) -> "ContentStat":
        try:
            return cls(
                id_,
                int(headers["Content-Length"]),
                int(headers["Sixfold-Segments"]),
                headers["Sixfold-Created"],
                headers["Sixfold-Durability"],
            )
        except (LookupError, ValueError):
            raise _not_sixfold(dict(headers)) from None


@dataclass(frozen=True, slots=True)
class NodeStat:
    """A storage node as the coordinator sees it; None where it has not reported since."""

    number: int
    name: str
    node_id: str
    zone: str
    state: str
    http_url: str | None
    data: str | None
    capacity_bytes: int | None
    used_bytes: int | None
    free_bytes: int | None
    shards: int | None
    last_seen_s: float | None
    wish: str  # of the operator: active, draining or removed
    failure: str | None  # why it takes no writes, empty if it does


@dataclass(frozen=True, slots=True)
class ClusterStat:
    cluster_id: str
    codec: str
    nodes: tuple[NodeStat, ...]
    deletes_stopped: str = ""  # why, if they are

    @classmethod
    def of(cls, said: Any) -> "ClusterStat":
        """Fields that a newer coordinator adds are left out."""
        names = [field.name for field in dataclasses.fields(NodeStat)]
        try:
            nodes = [NodeStat(*(node[name] for name in names)) for node in said["nodes"]]
            stopped = said.get("deletes_stopped", "")
            return cls(said["cluster_id"], said["codec"], tuple(nodes), stopped)
        except (LookupError, TypeError):
            raise _not_sixfold(said) from None


async def json_of(response: aiohttp.ClientResponse) -> Any:
    try:
        return await response.json(content_type=None)
    except ValueError:
        raise _not_sixfold(response.content_type) from None


async def error_of(response: aiohttp.ClientResponse) -> SixfoldError:
    """The error that the server names, as the class that it raised; without its words (HEAD, a
    proxy in between) the nearest by status."""
    where = f"{response.method} {response.url.path}"
    try:
        said = await response.json(content_type=None)
        return revive(said["code"], said["message"])
    except (ValueError, LookupError, TypeError, aiohttp.ClientError):
        answer = f"{where} was answered {response.status} {response.reason}"
    if response.status == 404 and response.method == "HEAD":
        return NotFound(f"no such content: {response.url.name}")
    if response.status in (502, 503, 504):
        return Unavailable(answer)
    return ProtocolError(f"{answer}: is this a sixfold coordinator?")


def _not_sixfold(said: object) -> ProtocolError:
    return ProtocolError(f"this is not a sixfold coordinator's answer: {str(said)[:200]}")
