"""A node's shards as files, a file each: what a coordinator's death leaves, the next one finds."""

from collections.abc import Sequence
from pathlib import Path

from common.ids import ShardAddress
from common.record import HEADER_BYTES, shard_header, unpack_header
from common.shards import ShardRecord
from tests.memory_cluster import KeepingStore


class FileStore(KeepingStore):
    """Survives the process, not the machine. Deleted and quarantined shards are only gone."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        path.mkdir(exist_ok=True)
        for file in path.iterdir():
            if not file.name.endswith(".new"):
                record = _unpacked(file.read_bytes())
                self.records[record.address] = record

    async def append(self, records: Sequence[ShardRecord]) -> None:
        await super().append(records)
        for record in records:
            file = self._file(record.address)
            new = file.with_name(file.name + ".new")
            new.write_bytes(shard_header(record.info) + bytes(record.payload))
            new.replace(file)

    async def delete(self, addresses: Sequence[ShardAddress], epoch: int | None = None) -> None:
        await super().delete(addresses, epoch)
        self._unlink(addresses)

    async def quarantine(self, addresses: Sequence[ShardAddress], epoch: int | None = None) -> int:
        found = await super().quarantine(addresses, epoch)
        self._unlink(addresses)
        return found

    def _unlink(self, addresses: Sequence[ShardAddress]) -> None:
        for address in addresses:
            self._file(address).unlink(missing_ok=True)

    def _file(self, address: ShardAddress) -> Path:
        return self._path / str(address)


def _unpacked(data: bytes) -> ShardRecord:
    info = unpack_header(data)[2]
    return ShardRecord(info, data[HEADER_BYTES:])
