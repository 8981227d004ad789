"""What the background work of a store has of it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeVar

from common.shards import ShardRecord
from shardd.catalog import Catalog
from shardd.disk import Disk
from shardd.group import Incoming, WriteJob
from shardd.identity import DataDirectory
from shardd.reader import RawRecord
from shardd.volumes import VolumeSet

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreParts:
    """`write` hands a job to the writer and returns when it is durable, or raises what the job was
    refused with; the writer has it before anything else happens on the event loop. `placed` makes
    records ready for that. `fail` makes the store read-only; `failure` says why it is, if it is.
    `read` is as the store's. `reserve_bytes` of the room are for deletes and compaction."""

    directory: DataDirectory
    disk: Disk
    volumes: VolumeSet
    catalog: Catalog
    write: Callable[[WriteJob], Awaitable[None]]
    fail: Callable[[str], None]
    failure: Callable[[], str | None]
    placed: Callable[[Sequence[ShardRecord]], list[Incoming]]
    read: Callable[[bytes], Awaitable[RawRecord | None]]
    reserve_bytes: int


async def to_the_end(work: Callable[[], T]) -> T:
    """Run `work` on a thread. Whoever is cancelled meanwhile still waits for it, so that what the
    thread uses can be closed after."""
    return await uncut(asyncio.to_thread(work))


async def uncut(work: Coroutine[None, None, T]) -> T:
    """As `work`, to its end: whoever is cancelled meanwhile learns of that after it."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
