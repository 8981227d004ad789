"""The client: talks HTTP to a coordinator and believes no byte that does not hash to its id."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from blake3 import blake3

from common.errors import (
    BadSetting,
    Corrupt,
    IdMismatch,
    IncompleteBody,
    NotFound,
    ProtocolError,
    SixfoldError,
    Unavailable,
    revive,
)
from common.ids import ContentId
from common.units import KIB, MIB
from sixfold.files import Sink, file_sink, read_file, size_of

CONNECT_S = 10.0
SILENCE_S = 60.0
READ_BUFFER_BYTES = 2 * MIB
EXPECT_ABOVE_BYTES = 64 * KIB  # up to here a refusal costs less than asking first

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if that is known
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a PUT was answered. `new` is False if the cluster had the content already."""

    id: ContentId
    size_bytes: int
    durability: str
    new: bool


@dataclass(frozen=True, slots=True)
class ContentStat:
    """What a HEAD was answered. `created` is ISO 8601."""

    id: ContentId
    size_bytes: int
    segments: int
    created: str
    durability: str


@dataclass(frozen=True, slots=True)
class NodeStat:
    """A storage node as the coordinator sees it; None where it has not reported since."""

    number: int
    name: str
    zone: str
    state: str
    http_url: str | None
    data: str | None
    capacity_bytes: int | None
    used_bytes: int | None
    free_bytes: int | None
    shards: int | None
    last_seen_s: float | None


@dataclass(frozen=True, slots=True)
class ClusterStat:
    cluster_id: str
    codec: str
    nodes: tuple[NodeStat, ...]


class Client:
    """`async with Client(url) as client`. Every method raises the SixfoldError that the server
    names, or Unavailable for a server that cannot be reached or falls silent."""

    def __init__(self, base_url: str, silence_s: float = SILENCE_S) -> None:
        self._base_url, self._silence_s = base_url.rstrip("/"), silence_s

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            headers={"Accept-Encoding": "identity"},
            read_bufsize=READ_BUFFER_BYTES,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.close()

    async def put_file(self, path: Path, progress: Progress | None = None) -> Stored:
        """Store the file as long as it is now. Raises OSError as well."""
        size_bytes = size_of(path)
        return await self.put(read_file(path, size_bytes), size_bytes, progress)

    async def put(
        self,
        source: AsyncIterable[bytes],
        size_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> Stored:
        """Store the bytes of `source`, declaring their length if it is given.

        Raises IncompleteBody if there are fewer, IdMismatch if the server computes another id
        than this side, and whatever `source` raises.
        """
        silence = _Silence(self._silence_s)
        upload = _Upload(source, size_bytes, silence, progress)
        try:
            said = await self._send(upload, silence)
        except Unavailable:
            if upload.error is not None:
                raise upload.error from None
            raise
        stored = _understand(_stored, said)
        if stored.id != upload.id:
            raise IdMismatch(f"the server stored {stored.id}, but what was sent is {upload.id}")
        return stored

    async def _send(self, upload: "_Upload", silence: "_Silence") -> Any:
        size = upload.size_bytes
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        ask_first = size is None or size > EXPECT_ABOVE_BYTES
        options = {"data": upload, "headers": headers, "expect100": ask_first}
        async with self._request("PUT", "/v1/blobs", silence, **options) as response:
            return await _json(response)

    async def get_file(
        self, id_: ContentId, path: Path, progress: Progress | None = None
    ) -> int:
        """Write the content to `path`, which holds all of it, verified and durable, or is left as
        it was. Returns the size in bytes. Raises OSError as well."""
        async with file_sink(path) as sink:
            return await self.get(id_, sink, progress)

    async def get(self, id_: ContentId, sink: Sink, progress: Progress | None = None) -> int:
        """Write the content to `sink` as it arrives. Returns the size in bytes.

        Only after the last byte it is known whether they were right: raises Corrupt then.
        """
        silence, hasher, done_bytes = _Silence(self._silence_s), blake3(), 0
        async with self._request("GET", f"/v1/blobs/{id_}", silence) as response:
            async for chunk in response.content.iter_any():
                silence.pause()
                hasher.update(chunk)
                await sink(chunk)
                done_bytes += len(chunk)
                _tell(progress, done_bytes, response.content_length)
                silence.restart()
        if hasher.digest() != id_:
            raise Corrupt(f"the server sent other bytes than {id_}: they are {hasher.hexdigest()}")
        return done_bytes

    async def stat(self, id_: ContentId) -> ContentStat:
        async with self._request("HEAD", f"/v1/blobs/{id_}") as response:
            return _understand(lambda said: _content_stat(id_, said), response.headers)

    async def delete(self, id_: ContentId) -> None:
        async with self._request("DELETE", f"/v1/blobs/{id_}"):
            pass

    async def nodes(self) -> ClusterStat:
        async with self._request("GET", "/-/admin/nodes") as response:
            return _understand(_cluster_stat, await _json(response))

    async def ready(self) -> bool:
        """Whether the cluster takes uploads; False also if it says why it does not."""
        try:
            async with self._request("GET", "/-/ready") as response:
                return response.status == 200
        except _NotReady:
            return False

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, silence: "_Silence | None" = None, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, if it is a good one. Turns whatever else happens between here
        and the server into a SixfoldError; what the block itself raises passes through."""
        url = self._base_url
        try:
            async with (
                silence or _Silence(self._silence_s),
                self._http.request(method, url + path, **options) as response,
            ):
                if response.status >= 400:
                    raise await _error_in(response, url)
                yield response
        except aiohttp.InvalidURL:
            raise BadSetting(f"not a URL: {url!r}") from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise Unavailable(f"cannot reach {url}: is the cluster up?") from None
        except aiohttp.ClientPayloadError:
            raise Unavailable(f"{url} cut its answer short: it may be able to tell why") from None
        except _Silence.Broken:
            raise Unavailable(f"{url} has been silent for {self._silence_s:.0f} s") from None
        except aiohttp.ClientError as error:
            raise Unavailable(f"lost the connection to {url}: {error}") from None
