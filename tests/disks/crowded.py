"""A disk that says how much room it has, whose calls are recorded and may fail."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from common.units import GIB
from shardd.disk import DiskSpace
from shardd.store import StoreLimits, VolumeStore
from tests.disks.faulty import FaultyDisk, faulty
from tests.disks.recording import RecordingDisk
from tests.reopened import opened


class Crowded(RecordingDisk):
    """Says how much room it has."""

    space_left = 10 * GIB

    def space(self, path: Path) -> DiskSpace:
        return DiskSpace(10 * GIB, self.space_left)


@asynccontextmanager
async def scripted(
    path: Path, recorded: Crowded, limits: StoreLimits | None = None
) -> AsyncIterator[tuple[FaultyDisk, VolumeStore]]:
    """On a disk whose calls are recorded unless they were to fail."""
    with faulty(recorded) as disk:
        async with opened(path, limits, disk) as store:
            yield disk, store
