"""The volume file: its bytes, its alignment, and what it does when a disk will not."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import Corrupt, StorageFull
from common.record import HEADER_BYTES, RecordKind, shard_header, unpack_header
from common.shards import Buffer
from common.units import KIB
from shardd.disk import RealDisk
from shardd.identity import DataDirectory
from shardd.store import VolumeStore
from shardd.volume import SUPERBLOCK_BYTES, Superblock, Volume, VolumeClass, align_up, volume_name
from tests.disks.faulty import ENOSPC, faulty
from tests.reopened import opened, present
from tests.stores import make_shard

CLUSTER, NODE = bytes(range(16)), bytes(range(16, 32))


def test_the_superblock_has_these_bytes() -> None:
    packed = Superblock(VolumeClass.LARGE, CLUSTER, NODE, 0x01020304).pack()
    golden = (
        "36564f4c"  # 6VOL
        "0100"  # version
        "02"  # class
        "00"
        "000102030405060708090a0b0c0d0e0f"
        "101112131415161718191a1b1c1d1e1f"
        "04030201"
    )
    assert packed[:44].hex() == golden
    assert packed[44:4092] == bytes(4048)
    assert packed[4092:].hex() == "cc3be17f"
    assert len(packed) == SUPERBLOCK_BYTES


def test_a_superblock_comes_back() -> None:
    superblock = Superblock(VolumeClass.SMALL, CLUSTER, NODE, 7)
    assert Superblock.unpack(superblock.pack() + b"records") == superblock


@pytest.mark.parametrize("at", [0, 4, 6, 8, 24, 40, 100, 4091, 4095])
def test_a_flipped_bit_in_a_superblock_is_seen(at: int) -> None:
    packed = bytearray(Superblock(VolumeClass.SMALL, CLUSTER, NODE, 7).pack())
    packed[at] ^= 1
    with pytest.raises(Corrupt):
        Superblock.unpack(bytes(packed))


def test_a_short_superblock_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        Superblock.unpack(bytes(100))


@pytest.mark.parametrize(
    ("payload", "kind", "span"),
    [
        (0, VolumeClass.SMALL, 128),
        (1, VolumeClass.SMALL, 136),
        (8, VolumeClass.SMALL, 136),
        (64 * KIB - 1, VolumeClass.SMALL, 128 + 64 * KIB),
        (64 * KIB, VolumeClass.LARGE, 68 * KIB),
        (68 * KIB - 128, VolumeClass.LARGE, 68 * KIB),
        (68 * KIB - 127, VolumeClass.LARGE, 72 * KIB),
    ],
)
def test_classes_and_spans(payload: int, kind: VolumeClass, span: int) -> None:
    assert VolumeClass.of(payload) is kind
    assert kind.span(payload) == span
    assert align_up(span, kind.alignment) == span


async def test_records_lie_on_disk_as_the_format_says(tmp_path: Path) -> None:
    small, large = make_shard(5), make_shard(70_000)
    directory = DataDirectory(tmp_path)
    store = await VolumeStore.open(directory)
    await store.append([small, large])
    await store.delete([small.address])
    await store.close()
    directory.close()
    files = {f.name: f.read_bytes() for f in directory.volumes.iterdir()}
    small_file, large_file = files[volume_name(1)], files[volume_name(2)]
    at = SUPERBLOCK_BYTES
    assert small_file[at : at + 136] == shard_header(small.info, 1) + small.payload + bytes(3)
    grave = unpack_header(small_file[at + 136 :])
    assert (grave.kind, grave.sequence) == (RecordKind.TOMBSTONE, 3)
    assert len(small_file) == at + 136 + HEADER_BYTES
    record = shard_header(large.info, 2) + large.payload
    assert large_file[at:] == record + bytes(VolumeClass.LARGE.span(70_000) - len(record))


class _NoDirect(RealDisk):
    """A filesystem without O_DIRECT."""

    refused = 0

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            self.refused += 1
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return super().open(path, flags)


async def test_without_o_direct_large_records_go_through_the_page_cache(tmp_path: Path) -> None:
    disk, shard = _NoDirect(), make_shard(100_000)
    directory = DataDirectory(tmp_path)
    store = await VolumeStore.open(directory, disk=disk)
    await store.append([shard])
    assert disk.refused == 2  # to read, to write
    (found,) = await store.read([shard.address])
    assert bytes(getattr(found, "payload", b"")) == shard.payload
    await store.close()
    directory.close()


class _Log(RealDisk):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        self.calls.append("write")
        return super().pwritev(fd, buffers, offset)

    def fsync(self, fd: int) -> None:
        self.calls.append("fsync")
        super().fsync(fd)

    def fsync_dir(self, path: Path) -> None:
        self.calls.append("fsync_dir")
        super().fsync_dir(path)


def test_a_new_volume_is_durable_before_it_is_used(tmp_path: Path) -> None:
    disk = _Log()
    volume = Volume.create(disk, tmp_path, Superblock(VolumeClass.SMALL, CLUSTER, NODE, 1))
    assert disk.calls == ["write", "fsync", "fsync_dir"]
    assert volume.end == SUPERBLOCK_BYTES
    volume.close()


def test_many_pieces_are_written_in_order(tmp_path: Path) -> None:
    """More than one pwritev takes."""
    disk = RealDisk()
    volume = Volume.create(disk, tmp_path, Superblock(VolumeClass.SMALL, CLUSTER, NODE, 1))
    pieces = [number.to_bytes(8, "little") for number in range(3000)]
    volume.write(pieces, 24_000)
    volume.sync()
    volume.advance(24_000)
    volume.close()
    assert volume.path.read_bytes()[SUPERBLOCK_BYTES:] == b"".join(pieces)


async def test_what_a_failed_attempt_has_left_is_not_in_the_way(tmp_path: Path) -> None:
    """On some filesystems not even a removal has room when nothing has."""
    shard = make_shard(100)
    with faulty() as disk:
        async with opened(tmp_path, disk=disk) as store:
            disk.script("pwritev", ENOSPC, file_name=volume_name(1))
            disk.script("unlink", ENOSPC, file_name=volume_name(1))
            with pytest.raises(StorageFull):
                await store.append([shard])
            await store.append([shard])
            assert await present(store, [shard]) == [True]
    async with opened(tmp_path) as store:
        assert await present(store, [shard]) == [True]
        assert [path.name for path in store._directory.volumes.iterdir()] == [volume_name(2)]
