"""All volumes of a node: which are open for appending, when to roll, how much room is left."""

import errno
import logging
import re
from pathlib import Path

from common.errors import Corrupt, Unavailable, WrongCluster, WrongNode
from common.record import unpack_header
from common.units import MIB
from shardd.direct import DirectFile, aligned
from shardd.disk import Disk, file_size_bytes, is_bad_place, passes
from shardd.identity import DataDirectory, Identity
from shardd.volume import (
    PAGE_BYTES,
    SUPERBLOCK_BYTES,
    Superblock,
    SyncFailed,
    Volume,
    VolumeClass,
)

log = logging.getLogger(__name__)

_NAME = re.compile(r"\d{8}\.vol")
# A disk of this many volumes has one that is nearly empty long before it is full of dead space.
_LEAST_VOLUMES = 256
_LEAST_BYTES = MIB


class VolumeSet:
    """Written by one thread; looked up by all."""

    def __init__(
        self,
        directory: DataDirectory,
        disk: Disk,
        capacity_bytes: int,
        volume_bytes: int,
        reserve_bytes: int,
    ) -> None:
        """`capacity_bytes` is 0 for all that the filesystem has. Volumes get `volume_bytes`, or
        less: on a full disk the live part of one must fit into the reserve, to be compacted."""
        self.by_number: dict[int, Volume] = {}
        self.failure: str | None = None  # why nothing may be written beside what is there
        self.unopened: set[int] = set()  # volumes that are there, with whatever is in them
        # Such in which something could not be read at this start, and may be at another: records
        # that were acknowledged, perhaps. So they are kept as they are, behind their checkpoints,
        # and so is every tombstone, which may bury something in them.
        self.unread: set[int] = set()
        self.set_aside_bytes = 0  # in quarantine/: counts as used
        self._directory, self._disk = directory, disk
        self._capacity_bytes = capacity_bytes
        parts_bytes = self.capacity_bytes // _LEAST_VOLUMES
        self.volume_bytes = min(volume_bytes, max(reserve_bytes, parts_bytes, _LEAST_BYTES))
        self._open: dict[VolumeClass, Volume] = {}
        self._next_number = 1

    def load(self) -> None:
        """Open the volumes that the directory holds; each `end` is provisionally the file's size.
        One that the disk cannot open, also when it is asked again, is left out; `failure` says so.

        Raises WrongNode or WrongCluster for a volume that is not this node's.
        """
        for name in sorted(self._disk.names(self._directory.volumes)):
            if _NAME.fullmatch(name):
                path = self._directory.volumes / name
                self._next_number = max(self._next_number, int(path.stem) + 1)
                self._load_if_possible(path)

    def _load_if_possible(self, path: Path) -> None:
        failure = ""
        for _ in range(2):
            try:
                self._load_one(path)
            except OSError as error:
                if not is_bad_place(error):
                    raise
                failure = f"{path} cannot be opened: {error}"
                log.error("%s", failure)
            else:
                return
        self.failure = self.failure or failure
        self.unopened.add(int(path.stem))

    def sync_names(self) -> None:
        """A process that was killed may have made volumes whose names are not durable. Raises the
        disk's OSError."""
        self._disk.fsync_dir(self._directory.volumes)

    def _load_one(self, path: Path) -> None:
        number = int(path.stem)
        size_bytes = file_size_bytes(self._disk, path)
        try:
            superblock = self._read_superblock(path)
        except Corrupt as error:
            # Whatever its class: one before it may have been replaced by it, because of a hole.
            self._open.clear()
            if size_bytes <= SUPERBLOCK_BYTES:
                log.warning("%s: %s; it holds no record, removing it", path, error)
                self._disk.unlink(path)
                self._disk.fsync_dir(path.parent)
                return
            # A rotten superblock must not hide records; the volume is never appended to.
            log.error("%s: %s; searching it for records all the same", path, error)
            volume_class = self._class_of_first_record(path)
            self.by_number[number] = Volume(self._disk, path, number, volume_class, size_bytes)
            return
        _check_owner(path, superblock, self._directory.identity)
        volume = Volume(self._disk, path, number, superblock.volume_class, size_bytes)
        self.by_number[number] = volume
        self._open[superblock.volume_class] = volume

    def _read_superblock(self, path: Path) -> Superblock:
        """Raises Corrupt too if the disk cannot read it: that is no reason not to start."""
        place = aligned(SUPERBLOCK_BYTES)
        with DirectFile(self._disk, path) as file:
            if file.read(memoryview(place), 0):
                raise Corrupt("the superblock cannot be read")
        return Superblock.unpack(bytes(place))

    def _class_of_first_record(self, path: Path) -> VolumeClass:
        """Small if there is no telling: its alignment finds the records of both classes."""
        place = aligned(PAGE_BYTES)
        with DirectFile(self._disk, path) as file:
            file.read(memoryview(place), SUPERBLOCK_BYTES)
        try:
            return VolumeClass.of(unpack_header(bytes(place)).info.payload_bytes)
        except Corrupt:
            return VolumeClass.SMALL

    def appendable(self, volume_class: VolumeClass, size_bytes: int) -> Volume:
        """The open volume of the class, rolled if `size_bytes` more do not fit any longer.

        Raises the disk's OSError, WrongNode if the directory is no longer this node's, or
        Unavailable if that cannot be found out just now.
        """
        volume = self._open.get(volume_class)
        if volume is not None:
            empty = volume.end <= SUPERBLOCK_BYTES
            if empty or volume.end + size_bytes <= self.volume_bytes:
                return volume
            volume.seal()
        return self._create(volume_class)

    def _create(self, volume_class: VolumeClass) -> Volume:
        identity, number = self._directory.identity, self._next_number
        superblock = Superblock(volume_class, identity.cluster_bytes, identity.node_bytes, number)
        # The others are open files, this one goes by its path: another disk may be mounted there.
        self._directory.check()
        # Taken even if creating fails: what a failed attempt left behind must not be in the way.
        self._next_number += 1
        volume = Volume.create(self._disk, self._directory.volumes, superblock)
        self.by_number[number] = volume
        self._open[volume_class] = volume
        return volume

    def seal(self, number: int) -> None:
        """Append no more to this volume, nor after a restart, when the newest of each class goes
        on. One that is to be removed leaves its place to an older one otherwise, behind a hole
        perhaps; and the highest number of all, which must not go with its volume, would be given
        again, to a file that an old index takes for the old one. So a new volume takes over first.
        Nothing is done if it is gone. Raises as `appendable`."""
        volume = self.by_number.get(number)
        if volume is None:
            return
        if self.is_open(volume):
            del self._open[volume.volume_class]
            volume.seal()
        known = list(self.by_number.values())  # others may remove one meanwhile
        if number == max(v.number for v in known if v.volume_class is volume.volume_class):
            self._create(volume.volume_class)

    def roll(self, volume: Volume) -> None:
        """If records are appended to this volume, append them to a new one from now on; if that
        cannot be begun now, when the next record comes. Raises as `appendable`."""
        if self.is_open(volume):
            del self._open[volume.volume_class]
            volume.seal()
            self._create(volume.volume_class)

    def check(self) -> None:
        """Raises WrongNode unless the directory is this node's and holds every volume that is
        open, Unavailable if that cannot be found out just now, or the disk's OSError."""
        self._directory.check()
        known = list(self.by_number.values())
        names = self._names()
        for volume in known:  # compaction may have removed some since
            if volume.path.name not in names and volume.number in self.by_number:
                raise WrongNode(f"{volume.path} is no longer there")

    def _names(self) -> set[str]:
        try:
            return set(self._disk.names(self._directory.volumes))
        except OSError as error:
            if passes(error):
                raise Unavailable(f"the volumes cannot be listed now: {error}") from None
            raise

    def is_open(self, volume: Volume) -> bool:
        """Whether records are appended to it."""
        return self._open.get(volume.volume_class) is volume

    def remove(self, number: int) -> None:
        """Delete a sealed volume, durably. Raises the disk's OSError, or as DataDirectory.check.
        If it was done but for being durable, only that is left to do."""
        self._directory.check()
        if (volume := self.by_number.pop(number, None)) is not None:
            try:
                self._disk.unlink(volume.path)
            finally:
                volume.retire()
        self._disk.fsync_dir(self._directory.volumes)

    @property
    def are_all_read(self) -> bool:
        """Whether the index knows all that they hold."""
        return not (self.unread or self.unopened)

    @property
    def used_bytes(self) -> int:
        return self.set_aside_bytes + sum(each.end for each in list(self.by_number.values()))

    @property
    def capacity_bytes(self) -> int:
        return self._capacity_bytes or self._disk.space(self._directory.volumes).total_bytes

    def room_bytes(self) -> int:
        """What may still be written, the reserve included."""
        free_bytes = self._disk.space(self._directory.volumes).free_bytes
        if self._capacity_bytes:
            return min(free_bytes, self._capacity_bytes - self.used_bytes)
        return free_bytes

    def close(self) -> None:
        for volume in self.by_number.values():
            volume.close()
        self.by_number.clear()
        self._open.clear()


def _check_owner(path: Path, superblock: Superblock, identity: Identity) -> None:
    if superblock.node != identity.node_bytes:
        raise WrongNode(f"{path} was written by another node, {superblock.node.hex()}")
    both_joined = any(superblock.cluster) and identity.cluster_id
    if both_joined and superblock.cluster != identity.cluster_bytes:
        raise WrongCluster(f"{path} was written in another cluster, {superblock.cluster.hex()}")


def is_full(error: OSError) -> bool:
    """Whether it is only a lack of room: a sync that failed is more, whatever for."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, SyncFailed)


def is_passing(error: OSError) -> bool:
    """Whether the process only lacks something for a moment, likewise."""
    return passes(error) and not isinstance(error, SyncFailed)
