"""A node's volume store, on real files."""

import asyncio
import os
import random
from collections.abc import Awaitable, Iterator, Sequence
from functools import partial
from itertools import islice

from bench.micro.files import aligned, reads, synced_appends
from bench.micro.framing import info_of
from bench.micro.harness import Piece, Pieces, Stage, awaited
from common.ids import SegmentId
from common.shards import ShardRecord
from common.units import MIB
from shardd.identity import DataDirectory
from shardd.store import VolumeStore
from shardd.volume import VolumeClass

SIZES = {"700 B": 700, "1 MiB": MIB}
AT_ONCE = 64
RECORDS = 128  # of each size there are before anything is read


def volume_pieces(stage: Stage) -> Pieces:
    """Appends are durable; the least that they take is the same bytes, written and synced. These
    go in by the five verbs, which copy a large payload; a lane receives it where it goes."""
    directory = DataDirectory(stage.directory / "node")
    try:
        store = stage.runner.run(VolumeStore.open(directory))
        try:
            for size, size_bytes in SIZES.items():
                yield from _append_pieces(stage, store, size, size_bytes)
            yield from _read_pieces(stage, store)
        finally:
            stage.runner.run(store.close())
    finally:
        directory.close()


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
