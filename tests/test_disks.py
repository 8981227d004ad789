"""The contract of a disk, over all that there are; and what is particular to those of the tests."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from shardd.disk import Disk, RealDisk, file_size_bytes, make_folder, read_file, write_durably
from tests.disks.crashing import CrashDisk
from tests.disks.faulty import EIO, FaultyDisk, Flipped, Short, Torn, faulty
from tests.disks.filesystem import Image
from tests.disks.recording import RecordingDisk

KINDS: dict[str, Callable[[Path], Disk]] = {
    "real": lambda root: RealDisk(),
    "recording": lambda root: RecordingDisk(),
    "faulty": lambda root: FaultyDisk(),
    "crashing": CrashDisk,
}
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return KINDS[request.param](tmp_path)


def put(disk: Disk, path: Path, *pieces: bytes, offset: int = 0) -> None:
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT)
    assert disk.pwritev(fd, pieces, offset) == sum(map(len, pieces))
    disk.fdatasync(fd)
    disk.close(fd)


def test_what_is_written_is_read(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(disk, path, b"hello", b", ", b"world")
    put(disk, path, b"W", offset=7)
    put(disk, path, b"end", offset=14)
    assert read_file(disk, path) == b"hello, World\0\0end"
    assert file_size_bytes(disk, path) == 17


def test_reads_fill_buffers_in_order_and_stop_at_the_end(disk: Disk, tmp_path: Path) -> None:
    put(disk, tmp_path / "file", b"0123456789")
    fd = disk.open(tmp_path / "file", os.O_RDONLY)
    one, two = bytearray(3), bytearray(b"......")
    for read in (disk.preadv, disk.preadv_nowait):
        assert read(fd, [one, memoryview(two)], 4) == 6
        assert (bytes(one), bytes(two)) == (b"456", b"789...")
        assert read(fd, [one], 10) == 0
    disk.close(fd)


def test_a_truncated_file_keeps_its_beginning(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(disk, path, b"0123456789")
    fd = disk.open(path, os.O_WRONLY)
    disk.truncate(fd, 4)
    disk.truncate(fd, 6)
    disk.fsync(fd)
    disk.close(fd)
    assert read_file(disk, path) == b"0123\0\0"
    disk.close(disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    assert read_file(disk, path) == b""


def test_names(disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "one" / "two"
    make_folder(disk, folder)
    make_folder(disk, folder)
    put(disk, folder / "a", b"a")
    put(disk, folder / "b", b"b")
    disk.rename(folder / "a", folder / "b")
    put(disk, folder / "c", b"c")
    disk.unlink(folder / "c")
    disk.fsync_dir(folder)
    assert disk.names(folder) == ["b"]
    assert disk.names(tmp_path) == ["one"]
    assert read_file(disk, folder / "b") == b"a"


def test_a_file_that_is_removed_can_be_read_while_it_is_open(disk: Disk, tmp_path: Path) -> None:
    put(disk, tmp_path / "file", b"data")
    fd = disk.open(tmp_path / "file", os.O_RDONLY)
    disk.unlink(tmp_path / "file")
    found = bytearray(4)
    assert disk.preadv(fd, [found], 0) == 4
    assert found == b"data"
    disk.close(fd)


def test_what_is_not_possible_has_the_systems_errors(disk: Disk, tmp_path: Path) -> None:
    missing, there = tmp_path / "missing", tmp_path / "there"
    put(disk, there, b"")
    for absent in (
        lambda: disk.open(missing, os.O_RDONLY), lambda: disk.unlink(missing),
        lambda: disk.rename(missing, there), lambda: disk.names(missing),
        lambda: disk.fsync_dir(missing), lambda: disk.open(missing / "x", NEW),
        lambda: disk.mkdir(missing / "x"),
    ):  # fmt: skip
        with pytest.raises(FileNotFoundError):
            absent()
    with pytest.raises(FileExistsError):
        disk.open(there, NEW)
    make_folder(disk, missing)
    with pytest.raises(FileExistsError):
        disk.mkdir(missing)
    fd = disk.open(there, os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.pwritev(fd, [b"x"], 0)
    disk.close(fd)


def test_there_is_space(disk: Disk, tmp_path: Path) -> None:
    space = disk.space(tmp_path)
    assert 0 < space.free_bytes <= space.total_bytes


# Recording


def test_a_file_is_replaced_durably(tmp_path: Path) -> None:
    disk = RecordingDisk()
    write_durably(disk, tmp_path / "f", b"data")
    folder = tmp_path.name
    assert disk.changes() == ["pwritev f.tmp", "fsync f.tmp", "rename f", f"fsync_dir {folder}"]


# Faulty


def test_faults_come_when_the_script_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with faulty() as disk:
        disk.script("pwritev", EIO, at=2, file_name="file")
        put(disk, tmp_path / "other", b"1")
        put(disk, path, b"1")
        with pytest.raises(OSError, match="Input/output") as raised:
            put(disk, path, b"2")
        assert raised.value.errno == errno.EIO
        put(disk, path, b"3")
    assert path.read_bytes() == b"3"


def test_writes_may_be_short_torn_or_wrong(tmp_path: Path) -> None:
    path, data = tmp_path / "file", bytes([7]) * 1500
    with faulty() as disk:
        disk.script("pwritev", Short(1400))
        fd = disk.open(path, NEW)
        assert disk.pwritev(fd, [data[:50], data[50:]], 0) == 100
        assert path.read_bytes() == data[:100]
        disk.script("pwritev", Torn((2,)))
        with pytest.raises(OSError, match="Input/output"):
            disk.pwritev(fd, [data], 0)
        assert path.read_bytes() == data[:100] + bytes(924) + data[1024:]
        disk.script("pwritev", Flipped(8))
        assert disk.pwritev(fd, [data], 0) == 1500
        assert path.read_bytes() == b"\x07\x06" + data[2:]
        disk.close(fd)
        disk.script("preadv", Flipped(0))
        assert read_file(disk, path)[:2] == b"\x06\x06"


def test_a_fault_that_is_not_used_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="never used"), faulty() as disk:
        disk.script("fsync", EIO)


# Crashing


def possible(disk: CrashDisk, after: int | None = None) -> list[Image]:
    """What many power losses leave."""
    steps = len(disk.steps) if after is None else after
    found = [disk.lost_power(steps, random.Random(seed)).content for seed in range(300)]
    different = {(*sorted(image.files.items()), *sorted(image.folders)): image for image in found}
    return list(different.values())


def test_what_was_synced_is_there_after_a_power_loss(tmp_path: Path) -> None:
    disk = CrashDisk(tmp_path)
    write_durably(disk, tmp_path / "f", b"old")
    write_durably(disk, tmp_path / "f", b"new")
    assert [image.files for image in possible(disk)] == [{"f": b"new"}]
    for after in range(len(disk.steps)):
        for image in possible(disk, after):
            assert image.files.get("f") in ((None, b"old") if after < 6 else (b"old", b"new"))


def test_a_folder_that_was_made_is_there_after_a_power_loss(tmp_path: Path) -> None:
    """With what is above it; also if a process that was killed had made it before."""
    disk = CrashDisk(tmp_path)
    make_folder(disk, tmp_path / "a" / "b")
    assert {image.folders for image in possible(disk)} == {frozenset((".", "a", "a/b"))}
    disk.mkdir(tmp_path / "c")
    again = disk.killed(len(disk.steps))
    make_folder(again, tmp_path / "c")
    assert {image.folders for image in possible(again)} == {frozenset((".", "a", "a/b", "c"))}


def test_what_was_not_synced_may_be_torn_in_any_way(tmp_path: Path) -> None:
    disk = CrashDisk(tmp_path, Image({"f": b"o" * 1024}))
    put(disk, tmp_path / "f", b"synced")
    fd = disk.open(tmp_path / "f", os.O_WRONLY)
    disk.pwritev(fd, [b"n" * 1536], 0)
    found = {bytes(image.files["f"]) for image in possible(disk)}
    old, new = b"synced" + b"o" * 506, b"n" * 512
    assert {old + b"o" * 512, new * 3, old + b"o" * 512 + new, new + b"o" * 512} <= found
    assert any(len(each) == 1536 and each[1024:] != new for each in found)  # grown, not filled
    assert len(found) > 8


def test_names_that_were_not_synced_may_be_there_or_not(tmp_path: Path) -> None:
    disk = CrashDisk(tmp_path, Image({"gone": b"1", "kept": b"2"}))
    disk.unlink(tmp_path / "gone")
    put(disk, tmp_path / "new", b"3")  # which syncs the file, not its name
    found = [set(image.files) for image in possible(disk)]
    assert {frozenset(each) for each in found} == {
        frozenset(("kept", *more)) for more in ((), ("gone",), ("new",), ("gone", "new"))
    }


def test_a_kill_leaves_what_was_not_synced_as_it_is(tmp_path: Path) -> None:
    disk = CrashDisk(tmp_path)
    fd = disk.open(tmp_path / "f", NEW)
    disk.pwritev(fd, [b"data"], 0)
    after = disk.killed(len(disk.steps))
    assert after.content.files == {"f": b"data"}
    assert {} in [image.files for image in possible(after)]
    put(after, tmp_path / "f", b"D")  # its sync makes both durable
    after.fsync_dir(tmp_path)
    assert [image.files for image in possible(after)] == [{"f": b"Data"}]
