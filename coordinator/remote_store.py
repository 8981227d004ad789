"""The shard store of a node, through its lanes: a ShardStore like any other."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from common.auth import HEADER, ClusterSecret
from common.errors import Corrupt, NodeTimeout, NodeUnreachable, SixfoldError, revive
from common.ids import ShardAddress
from common.record import HEADER_BYTES, shard_header
from common.shards import ShardInfo, ShardMissing, ShardRecord, StoreStat
from common.shards_json import shard_info_from_json
from common.upkeep import (
    MAX_ADDRESSES,
    Quarantined,
    ScrubReport,
    addresses_to_json,
    orphans_to_json,
)
from common.wire import KEYS_PER_DELETE, FrameKind, LaneKind, pack_deletes
from coordinator.links import Link

LIST_PAGE = 1000
VERIFIED_AT = "Sixfold-Verified-At"  # whole seconds since 1970
# Globals: looking an enum's member up on its class is dear, and done for every shard.
_READ_LANE, _WRITE_LANE = LaneKind.READ, LaneKind.WRITE
_READ, _APPEND = FrameKind.READ, FrameKind.APPEND


@dataclass(frozen=True, slots=True)
class ShardThere:
    """A node's word that it has a shard, and when it last read it and found it good, in seconds
    since 1970; None if it does not know."""

    verified_at_s: int | None


class RemoteStore:
    """Appends, reads and deletes go over lanes; listing and figures over the node's HTTP."""

    def __init__(
        self, link: Link, http_url: str, secret: ClusterSecret, http: aiohttp.ClientSession
    ) -> None:
        self.link, self.http_url = link, http_url
        self._secret, self._http = secret, http

    def append(self, records: Sequence[ShardRecord]) -> Awaitable[None]:
        if len(records) == 1:
            return self._append_one(records[0])
        # Each record is a request of its own: only here all of them can be judged together.
        for record in records:
            if not record.is_intact():
                return _failed(Corrupt(f"{record.address} does not match its checksum"))
        return _all_done([self._append_one(record) for record in records])

    def _append_one(self, record: ShardRecord) -> "asyncio.Future[None]":
        try:
            lane = self.link.lane(_WRITE_LANE)
        except NodeUnreachable as error:
            return _failed(error)
        return lane.ask(_APPEND, shard_header(record.info), record.payload)

    def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> Awaitable[list[ShardRecord | ShardMissing]]:
        places: Sequence[memoryview | None] = into or [None] * len(addresses)
        if len(addresses) == 1:
            return self._read_one(addresses[0], places[0])
        return _gather([self._read_one(a, p) for a, p in zip(addresses, places, strict=True)])

    def _read_one(
        self, address: ShardAddress, into: memoryview | None
    ) -> "asyncio.Future[list[ShardRecord | ShardMissing]]":
        try:
            lane = self.link.lane(_READ_LANE)
        except NodeUnreachable as error:
            return _failed(error)
        answer_bytes = HEADER_BYTES + (len(into) if into is not None else 0)
        return lane.ask(_READ, address.key, answer_bytes=answer_bytes, address=address, into=into)

    def delete(self, addresses: Sequence[ShardAddress], epoch: int = 0) -> Awaitable[None]:
        """`epoch` as of when it was decided: a node that has seen a higher one refuses with
        StaleEpoch."""
        try:
            lane = self.link.lane(_WRITE_LANE)
        except NodeUnreachable as error:
            return _failed(error)
        starts = range(0, len(addresses), KEYS_PER_DELETE)
        parts = [pack_deletes(epoch, addresses[at : at + KEYS_PER_DELETE]) for at in starts]
        return _all_done([lane.ask(FrameKind.DELETE, part) for part in parts])

    async def stat(self) -> StoreStat:
        return StoreStat(**json.loads(await self._get("/v1/stat")))

    async def list(self, after: ShardAddress | None = None) -> AsyncIterator[ShardInfo]:
        while True:
            start = f"&after={after}" if after else ""
            page = (await self._get(f"/v1/shards?limit={LIST_PAGE}{start}")).splitlines()
            for line in page:
                info = shard_info_from_json(line)
                yield info
                after = info.address
            if len(page) < LIST_PAGE:
                return

    async def head(self, address: ShardAddress) -> ShardThere | ShardMissing:
        """Whether the node has this shard, without its bytes. Raises as `stat`."""
        async with self._request("HEAD", f"/v1/shards/{address}") as answer:
            if answer.status == 404:
                return ShardMissing(address)
            if answer.status != 200 or answer.headers.get("Sixfold-Address") != str(address):
                raise _refusal(answer.status, b"")
            at = answer.headers.get(VERIFIED_AT, "")
            return ShardThere(int(at) or None if at.isdecimal() else None)

    # Upkeep: each raises as `stat`

    async def quarantined(self, after: ShardAddress | None = None) -> AsyncIterator[Quarantined]:
        """What the node keeps out of service, in order of address from `after` on."""
        while True:
            start = f"&after={after}" if after else ""
            page = (await self._get(f"/v1/quarantine?limit={LIST_PAGE}{start}")).splitlines()
            for line in page:
                kept = Quarantined.from_json(line)
                yield kept
                after = kept.address
            if len(page) < LIST_PAGE:
                return

    async def quarantine(self, addresses: Sequence[ShardAddress], epoch: int = 0) -> int:
        """Take orphans out of service: how many there were. Absent ones are fine. `epoch` as
        `delete`."""
        return await self._post_addresses(
            "/v1/quarantine", addresses, "moved", partial(orphans_to_json, epoch)
        )

    async def restore(self, addresses: Sequence[ShardAddress]) -> int:
        """Put what is intact of these back into service: how many."""
        return await self._post_addresses(
            "/v1/quarantine/restore", addresses, "restored", addresses_to_json
        )

    async def drop_quarantined(self, address: ShardAddress) -> None:
        """Delete it for good. An absent one is fine."""
        await self._ask("DELETE", f"/v1/quarantine/{address}", expected=204)

    async def start_scrub(self) -> None:
        """A pass over everything begins now."""
        await self._ask("POST", "/v1/scrub", expected=202)

    async def scrub_state(self) -> ScrubReport:
        return ScrubReport.from_json(await self._get("/v1/scrub"))

    async def _post_addresses(
        self,
        path: str,
        addresses: Sequence[ShardAddress],
        counted: str,
        to_json: Callable[[Sequence[ShardAddress]], bytes],
    ) -> int:
        total = 0
        for at in range(0, len(addresses), MAX_ADDRESSES):
            body = to_json(addresses[at : at + MAX_ADDRESSES])
            said = json.loads(await self._ask("POST", path, body))
            total += int(said[counted])
        return total

    async def _get(self, path: str) -> bytes:
        """Raises what the node answered, or NodeUnreachable, or NodeTimeout."""
        return await self._ask("GET", path)

    async def _ask(self, method: str, path: str, body: bytes = b"", expected: int = 200) -> bytes:
        async with self._request(method, path, body) as answer:
            said = await answer.read()
            if answer.status == expected:
                return said
            raise _refusal(answer.status, said)

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: bytes = b""
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        signature = self._secret.sign(method, path, body, time.time(), secrets.token_hex(16))
        headers, url = {HEADER: signature}, self.http_url + path
        try:
            async with self._http.request(method, url, headers=headers, data=body) as answer:
                yield answer
        except TimeoutError:
            raise NodeTimeout(f"{self.http_url}{path}: no answer in time") from None
        except aiohttp.ClientError as error:
            raise NodeUnreachable(f"{self.http_url}{path}: {error}") from None


def _refusal(status: int, body: bytes) -> SixfoldError:
    try:
        said = json.loads(body)
        return revive(said["code"], said["message"])
    except (ValueError, KeyError, TypeError):
        return SixfoldError(f"the node answered {status}")


def _failed(error: SixfoldError) -> "asyncio.Future[Any]":
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


async def _gather(
    futures: "Sequence[asyncio.Future[list[ShardRecord | ShardMissing]]]",
) -> list[ShardRecord | ShardMissing]:
    try:
        return [answer for answers in await asyncio.gather(*futures) for answer in answers]
    finally:
        _abandon(futures)


async def _all_done(futures: "Sequence[asyncio.Future[None]]") -> None:
    try:
        await asyncio.gather(*futures)
    finally:
        _abandon(futures)


def _abandon(futures: "Sequence[asyncio.Future[Any]]") -> None:
    """After a failure nobody waits for the rest; its outcome is looked at, so as not to warn."""
    for future in futures:
        if not future.cancel() and not future.cancelled():
            future.exception()
