"""`quarantine/`: a file for each record that is out of service but still kept.

    <shard address>.<why>.<Unix time in seconds>

The file holds the record's bytes as they lay in the volume, or nothing if the disk was too full.
"""

import errno
import logging
import os
from enum import StrEnum
from typing import NamedTuple

from common.errors import Corrupt, MalformedId
from common.ids import ShardAddress
from common.record import HEADER_BYTES, RecordKind, unpack_header
from common.shards import Buffer, ShardRecord
from shardd.disk import Disk
from shardd.identity import DataDirectory
from shardd.volume import ShortWrite

log = logging.getLogger(__name__)


class Why(StrEnum):
    ROT = "rot"
    ORPHAN = "orphan"


class Quarantined(NamedTuple):
    """`at` is when it was put here, Unix time in seconds; `size_bytes` that of its file."""

    address: ShardAddress
    why: Why
    at: int
    size_bytes: int

    @property
    def file_name(self) -> str:
        return f"{self.address}.{self.why}.{self.at}"

    @classmethod
    def parse(cls, file_name: str, size_bytes: int) -> "Quarantined":
        """Raises MalformedId or ValueError unless it is a name as above."""
        address, why, at = file_name.rsplit(".", 2)
        return cls(ShardAddress.parse(address), Why(why), int(at), size_bytes)


class QuarantineFolder:
    """Methods raise the disk's OSError unless they say otherwise."""

    def __init__(self, directory: DataDirectory, disk: Disk) -> None:
        self._directory, self._disk = directory, disk
        self._path = directory.quarantine

    def scan(self) -> list[Quarantined]:
        """All that is there."""
        found = []
        with os.scandir(self._path) as files:
            for file in files:
                try:
                    found.append(Quarantined.parse(file.name, file.stat().st_size))
                except (MalformedId, ValueError):
                    log.warning("quarantine: %s is not ours; left alone", file.name)
        return found

    def write(self, kept: Quarantined, record: Buffer) -> None:
        """Durable once `sync` follows; an error leaves nothing. Raises WrongNode too."""
        self._directory.check()
        path = self._path / kept.file_name
        fd = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            if self._disk.pwritev(fd, [record], 0) != len(record):
                raise ShortWrite(errno.ENOSPC, f"{path} was written short")
            self._disk.fsync(fd)
        except OSError:
            self.unlink(kept)
            raise
        finally:
            self._disk.close(fd)

    def read(self, kept: Quarantined) -> ShardRecord:
        """Raises Corrupt unless it is the shard and intact."""
        data = (self._path / kept.file_name).read_bytes()
        kind, _, info = unpack_header(data)
        record = ShardRecord(info, data[HEADER_BYTES : HEADER_BYTES + info.payload_bytes])
        if kind is not RecordKind.SHARD or info.address != kept.address or not record.is_intact():
            raise Corrupt(f"{kept.file_name} does not hold the shard")
        return record

    def unlink(self, kept: Quarantined) -> None:
        """Durable once `sync` follows. Never raises: the file is found again at the next start."""
        try:
            self._disk.unlink(self._path / kept.file_name)
        except OSError as error:
            log.error("quarantine: %s cannot be removed: %s", kept.file_name, error)

    def sync(self) -> None:
        self._disk.fsync_dir(self._path)
