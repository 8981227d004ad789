"""The client: talks HTTP to a coordinator and believes no byte that does not hash to its id."""

from collections.abc import AsyncIterable, AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from blake3 import blake3

from common.errors import BadSetting, Corrupt, IdMismatch, Unavailable
from common.ids import ContentId
from common.units import KIB, MIB
from sixfold.admin_client import AdminClient
from sixfold.answers import ClusterStat, ContentStat, Stored, error_of, json_of
from sixfold.files import Sink, file_sink, file_source
from sixfold.transfer import Progress, Silence, Upload, sent_once

CONNECT_S = 10.0
SILENCE_S = 60.0
REBUILD_S = 24 * 3600.0
READ_BUFFER_BYTES = 2 * MIB
EXPECT_ABOVE_BYTES = 64 * KIB  # up to here a refusal costs less than asking first


class Client(AdminClient):
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
        async with file_source(path) as (source, size_bytes):
            return await self.put(source, size_bytes, progress)

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
        upload = Upload(source, size_bytes, Silence(self._silence_s), progress)
        try:
            stored = Stored.of(await self._send(upload))
        except Unavailable:
            if upload.error is not None:
                raise upload.error from None
            raise
        if stored.id != upload.id:
            raise IdMismatch(f"the server stored {stored.id}, but what was sent is {upload.id}")
        return stored

    async def _send(self, upload: Upload) -> Any:
        headers = {"Content-Type": "application/octet-stream"}
        if upload.size_bytes is not None:
            headers["Content-Length"] = str(upload.size_bytes)
        options: dict[str, Any] = {
            "data": upload,
            "headers": headers,
            "expect100": upload.size_bytes is None or upload.size_bytes > EXPECT_ABOVE_BYTES,
        }
        async with self._request("PUT", "/v1/blobs", upload.silence, **options) as response:
            return await json_of(response)

    async def get_file(self, id_: ContentId, path: Path, progress: Progress | None = None) -> int:
        """Write the content to `path`, which then holds all of it, verified and durable, or is
        left as it was. Returns the size in bytes. Raises OSError as well."""
        async with file_sink(path) as sink:
            return await self.get(id_, sink, progress)

    async def get(self, id_: ContentId, sink: Sink, progress: Progress | None = None) -> int:
        """Write the content to `sink` as it arrives. Returns the size in bytes.

        Only after the last byte it is known whether they were right: raises Corrupt then.
        """
        silence, hasher, done_bytes = Silence(self._silence_s), blake3(), 0
        async with self._request("GET", f"/v1/blobs/{id_}", silence) as response:
            async for chunk in response.content.iter_any():
                silence.pause()
                hasher.update(chunk)
                await sink(chunk)
                done_bytes += len(chunk)
                if progress is not None:
                    progress(done_bytes, response.content_length)
                silence.restart()
        if hasher.digest() != id_:
            raise Corrupt(f"what was sent as {id_} hashes to {hasher.hexdigest()}")
        return done_bytes

    async def stat(self, id_: ContentId) -> ContentStat:
        async with self._request("HEAD", f"/v1/blobs/{id_}") as response:
            return ContentStat.of(id_, response.headers)

    async def delete(self, id_: ContentId) -> None:
        once = (sent_once,)
        async with self._request("DELETE", f"/v1/blobs/{id_}", middlewares=once):
            pass

    async def nodes(self) -> ClusterStat:
        async with self._request("GET", "/-/admin/nodes") as response:
            return ClusterStat.of(await json_of(response))

    async def rebuild_metadata(self) -> dict[str, int]:
        """Fill an empty metadata database from what the nodes hold; what was found."""
        silence = Silence(REBUILD_S)  # it answers when it is done
        async with self._request("POST", "/-/admin/rebuild-metadata", silence) as response:
            found: dict[str, int] = await json_of(response)
            return found

    async def ready(self) -> bool:
        """Whether the cluster has enough nodes to take uploads."""
        async with self._request("GET", "/-/ready", accept=(503,)) as response:
            return response.status == 200

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        silence: Silence | None = None,
        accept: Collection[int] = (),
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, if it is a good one or of a status to `accept`. Turns what goes wrong
        between here and the server into a SixfoldError; what the block raises passes through."""
        url, silence = self._base_url, silence or Silence(self._silence_s)
        try:
            async with silence, self._http.request(method, url + path, **options) as response:
                if response.status >= 400 and response.status not in accept:
                    raise await error_of(response)
                yield response
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise BadSetting(f"not an http or https URL: {url!r}") from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise Unavailable(f"cannot reach {url}: is the cluster up?") from None
        except aiohttp.ClientPayloadError:
            raise Unavailable(f"{url} broke off in the middle of its answer") from None
        except TimeoutError:
            if not silence.broken:
                raise
            raise Unavailable(f"{url} has been silent for {silence.limit_s:.0f} s") from None
        except aiohttp.ClientError as error:
            raise Unavailable(f"lost the connection to {url}: {error}") from None
