"""A disk that fails when its script says so."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from common.shards import Buffer
from shardd.disk import Disk
from tests.disks.layered import Call, LayeredDisk

T = TypeVar("T")
SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Fails:
    """The call raises, and nothing of it is done."""

    number: int

    @property
    def error(self) -> OSError:
        return OSError(self.number, os.strerror(self.number))


@dataclass(frozen=True, slots=True)
class Short:
    """A write takes all but its last bytes, and says so."""

    missing_bytes: int


@dataclass(frozen=True, slots=True)
class Torn:
    """A write raises after only some of its sectors, those numbers, have reached the disk."""

    sectors: tuple[int, ...]
    number: int = errno.EIO


@dataclass(frozen=True, slots=True)
class Flipped:
    """A write or a read goes well but for one bit."""

    bit: int


Fault = Fails | Short | Torn | Flipped
EIO, ENOSPC = Fails(errno.EIO), Fails(errno.ENOSPC)


@dataclass(slots=True)
class _Scripted:
    method: str
    fault: Fault
    left: int  # calls before it
    file_name: str

    def is_due(self, call: Call) -> bool:
        if call.name != self.method or not call.path.name.endswith(self.file_name):
            return False
        self.left -= 1
        return self.left == 0


class FaultyDisk(LayeredDisk):
    """Without a script it is the disk below."""

    def __init__(self, inner: Disk | None = None) -> None:
        super().__init__(inner)
        self._script: list[_Scripted] = []
        self._due: dict[int, Fault] = {}

    def script(self, method: str, fault: Fault, at: int = 1, file_name: str = "") -> None:
        """The `at`th call of `method` from now on, on files whose names end so, has this fault;
        the calls after it go well."""
        self._script.append(_Scripted(method, fault, at, file_name))

    @property
    def unused(self) -> list[str]:
        """Faults that never came to pass."""
        return [f"{each.fault} at {each.method}" for each in self._script]

    def _take(self, call: Call) -> Fault | None:
        with self._lock:
            due = [each for each in self._script if each.is_due(call)]
            self._script = [each for each in self._script if each not in due]
        return due[0].fault if due else None

    def _around(self, call: Call, work: Callable[[], T]) -> T:
        fault = self._take(call)
        if fault is not None:
            if not isinstance(fault, Fails):
                raise AssertionError(f"{call.name} cannot be {fault}")
            raise fault.error
        return work()

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        call = self._on("pwritev", fd, offset, sum(map(len, buffers)))
        match self._take(call):
            case None:
                return self.inner.pwritev(fd, buffers, offset)
            case Fails() as fails:
                raise fails.error
            case Short(missing_bytes):
                taken_bytes = max(0, call.size_bytes - missing_bytes)
                return self._write(call, b"".join(buffers)[:taken_bytes])
            case Torn(sectors, number):
                for sector in sectors:
                    self._write(call, b"".join(buffers), sector)
                raise OSError(number, os.strerror(number))
            case Flipped(bit):
                return self._write(call, flipped(b"".join(buffers), bit))

    def _write(self, call: Call, data: bytes, sector: int | None = None) -> int:
        """All of `data`, or one sector of it. Not by the caller's descriptor: with O_DIRECT it
        takes aligned memory only."""
        at = 0
        if sector is not None:
            at = sector * SECTOR_BYTES
            data = data[at : at + SECTOR_BYTES]
        fd = self.inner.open(call.path, os.O_WRONLY)
        try:
            return self.inner.pwritev(fd, [data], call.offset + at)
        finally:
            self.inner.close(fd)

    def preadv(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        call = self._on("preadv", fd, offset, sum(map(len, buffers)))
        match self._take(call):
            case None:
                return self.inner.preadv(fd, buffers, offset)
            case Fails() as fails:
                raise fails.error
            case Flipped(bit):
                found = self.inner.preadv(fd, buffers, offset)
                buffers[0][bit // 8] ^= 1 << bit % 8
                return found
            case fault:
                raise AssertionError(f"a read cannot be {fault}")


def flipped(data: bytes, bit: int) -> bytes:
    """`data` with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@contextmanager
def faulty(inner: Disk | None = None) -> Iterator[FaultyDisk]:
    """A FaultyDisk; leaving the block fails the test if a scripted fault was not used."""
    disk = FaultyDisk(inner)
    yield disk
    if disk.unused:
        raise AssertionError(f"scripted faults were never used: {disk.unused}")
