"""A node without its process: its volume store, and what may befall its directory."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from common.errors import Corrupt, SixfoldError, WrongNode
from common.ids import ShardAddress
from common.membership import NodeReport, ReportAnswer
from common.record import HEADER_BYTES, RecordKind, unpack_header
from common.shards import ShardInfo, ShardRecord
from common.units import KIB, MIB
from shardd.disk import RealDisk
from shardd.identity import DataDirectory
from shardd.store import StoreLimits, VolumeStore
from tests.reports import report_of

LIMITS = StoreLimits(
    reserve_bytes=MIB, volume_bytes=512 * KIB, write_buffer_bytes=MIB, read_buffer_bytes=MIB
)
SEGMENT_AT = 40  # of a record's header


class WithoutSync(RealDisk):
    """What an fsync guards against is tested elsewhere; here it would only cost time."""

    def fsync(self, fd: int) -> None:
        pass

    def fdatasync(self, fd: int) -> None:
        pass

    def fsync_dir(self, path: Path) -> None:
        pass


class StorageNode:
    """`store` is None while it is down. One that is `cut_off` reports but cannot be reached; one
    that is `mute` does not report."""

    def __init__(self, number: int, path: Path, zone: str = "default") -> None:
        self.number, self.path, self.zone = number, path, zone
        self.store: VolumeStore | None = None
        self.cut_off = self.mute = False
        self.starts = 0

    @property
    def reached(self) -> VolumeStore | None:
        return None if self.cut_off else self.store

    async def start(self, cluster_id: str) -> None:
        self.directory = DataDirectory(self.path, f"node-{self.number}", WithoutSync())
        self.directory.join(cluster_id, self.number)
        self.store = await VolumeStore.open(self.directory, LIMITS, WithoutSync())
        self.starts += 1

    async def stop(self) -> None:
        if self.store is not None:
            store, self.store = self.store, None
            await store.close()
            self.directory.close()

    async def report(self) -> NodeReport:
        assert self.store is not None
        stat, identity = await self.store.stat(), self.directory.identity
        return report_of(
            self.number, instance=f"{self.number:016x}{self.starts:016x}",
            zone=self.zone, cluster_id=identity.cluster_id, epoch=identity.epoch,
            capacity_bytes=stat.capacity_bytes, used_bytes=stat.used_bytes,
            free_bytes=stat.free_bytes, shards=stat.shards, failure=stat.failure,
            detached=stat.detached, bad_shards=self.store.upkeep.quarantine.bad_shards,
        )  # fmt: skip

    def hear(self, answer: ReportAnswer) -> None:
        with suppress(WrongNode):  # the directory was deleted under it
            self.directory.note_epoch(answer.epoch)

    async def shards(self) -> list[ShardInfo]:
        """All that it has."""
        assert self.store is not None
        return [info async for info in self.store.list()]

    async def has(self, address: ShardAddress) -> bool:
        """Whether it gives the right bytes for it."""
        assert self.store is not None
        try:
            (answer,) = await self.store.read([address])
        except SixfoldError:
            return False
        return isinstance(answer, ShardRecord) and answer.is_intact()

    # What a crash leaves, and rot

    def forget_index(self) -> None:
        """It is behind, or was torn: the volumes tell everything again."""
        for path in self.path.glob("index.db*"):
            path.unlink()

    def tear_tail(self, garbage: bytes) -> None:
        """The beginning of a write that was never acknowledged."""
        for path in self._volumes():
            with path.open("ab") as file:
                file.write(garbage)

    def flip(self, address: ShardAddress, bit: int) -> bool:
        """Change a bit of the payload of this shard, of every copy of it. False if there is no
        bit to change."""
        places = [place for path in self._volumes() for place in _places(path, address)]
        for path, at, size_bytes in places:
            with path.open("r+b") as file:
                file.seek(at + bit // 8 % size_bytes)
                (byte,) = file.read(1)
                file.seek(-1, 1)
                file.write(bytes([byte ^ 1 << bit % 8]))
        return bool(places)

    def _volumes(self) -> list[Path]:
        return sorted((self.path / "volumes").glob("*.vol"))


def _places(path: Path, address: ShardAddress) -> Iterator[tuple[Path, int, int]]:
    """Where payloads of this address lie in a volume, and how long they are, unless empty."""
    data, at = path.read_bytes(), -1
    while (at := data.find(bytes(address.segment), at + 1)) >= 0:
        start = at - SEGMENT_AT
        try:
            kind, _, info = unpack_header(data[start : start + HEADER_BYTES])
        except Corrupt:
            continue
        if kind is RecordKind.SHARD and info.address == address and info.payload_bytes:
            yield path, start + HEADER_BYTES, info.payload_bytes
