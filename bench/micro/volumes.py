"""A node's volume store, on real files."""

import asyncio
import os
import random
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path

from bench.micro.files import aligned, reads, synced_appends, synced_appends_at_once
from bench.micro.framing import info_of
from bench.micro.harness import Piece, Pieces, Stage, awaited
from common.ids import SegmentId
from common.shards import ShardRecord
from common.units import MIB
from coordinator.config import ALL_SHARDS
from shardd.identity import DataDirectory
from shardd.store import VolumeStore
from shardd.volume import VolumeClass

SMALL, SMALL_BYTES = "700 B", 700
SIZES = {SMALL: SMALL_BYTES, "2 MiB": 2 * MIB}
AT_ONCE = 64
RECORDS = 128  # of each size there are before anything is read


def volume_pieces(stage: Stage) -> Pieces:
    """Appends are durable; the least that they take is the same bytes, written and synced. These
    go in by the five verbs, which copy a large payload; a lane receives it where it goes."""
    with ExitStack() as opened:
        store = _opened(opened, stage, stage.directory / "node")
        for size, size_bytes in SIZES.items():
            yield from _append_pieces(stage, store, size, size_bytes)
        yield from _read_pieces(stage, store)
    yield from _stripe_pieces(stage)


def _stripe_pieces(stage: Stage) -> Pieces:
    """A shard on each node of a stripe, whose disks are one and the same here."""
    with ExitStack() as opened:
        stores = [_opened(opened, stage, stage.directory / str(n)) for n in range(ALL_SHARDS)]
        new = _new_records(os.urandom(SMALL_BYTES))

        async def append() -> None:
            await asyncio.gather(*(store.append([next(new)]) for store in stores))

        buffer = aligned(VolumeClass.of(SMALL_BYTES).span(SMALL_BYTES))
        floor = opened.enter_context(synced_appends_at_once(stage.directory, buffer, len(stores)))
        name = f"volume append {SMALL}, on {len(stores)} nodes at once"
        yield Piece(name, "µs", awaited(stage, append), floor=floor)


def _opened(opened: ExitStack, stage: Stage, path: Path) -> VolumeStore:
    directory = opened.enter_context(closing(DataDirectory(path)))
    store = stage.runner.run(VolumeStore.open(directory))
    opened.callback(lambda: stage.runner.run(store.close()))
    return store


def _append_pieces(stage: Stage, store: VolumeStore, size: str, size_bytes: int) -> Pieces:
    new = _new_records(os.urandom(size_bytes))

    def append() -> Awaitable[None]:
        return store.append([next(new)])

    kind = VolumeClass.of(size_bytes)
    buffer, direct = aligned(kind.span(size_bytes)), kind is VolumeClass.LARGE
    path, name = stage.directory / "floor", f"volume append {size}"
    with synced_appends(path, [buffer], direct) as floor:
        yield Piece(name, "µs", awaited(stage, append), floor=floor)
    with synced_appends(path, [buffer] * AT_ONCE, direct) as floor:
        together = awaited(stage, append, AT_ONCE)
        yield Piece(f"{name}, {AT_ONCE} at once", "ops/s", together, AT_ONCE, floor)


def _new_records(payload: bytes) -> Iterator[ShardRecord]:
    """Shards that differ in nothing but their segments: hashing payloads is no part of it."""
    info = info_of(payload)
    while True:
        address = info.address._replace(segment=SegmentId(os.urandom(32)))
        yield ShardRecord(info._replace(address=address), payload)


def _read_pieces(stage: Stage, store: VolumeStore) -> Pieces:
    """As a lane reads: small records from the page cache, large ones past it."""
    for size, size_bytes in SIZES.items():
        keys = stage.runner.run(_filled(store, os.urandom(size_bytes)))
        kind = VolumeClass.of(size_bytes)
        name = f"volume read {size}, {'O_DIRECT' if kind is VolumeClass.LARGE else 'hot'}"
        read = awaited(stage, partial(_read, store, keys))
        path, direct = stage.directory / "floor", kind is VolumeClass.LARGE
        with reads(path, kind.span(size_bytes), RECORDS, direct) as floor:
            yield Piece(name, "µs", read, floor=floor)


async def _read(store: VolumeStore, keys: Sequence[bytes]) -> None:
    record = await store.read_raw(random.choice(keys))
    if record is None:
        raise LookupError("a record that was appended is not there")
    record.release()


async def _filled(store: VolumeStore, payload: bytes) -> list[bytes]:
    """The keys of records that are there."""
    records = list(islice(_new_records(payload), RECORDS))
    await asyncio.gather(*(store.append([record]) for record in records))
    return [record.address.key for record in records]
