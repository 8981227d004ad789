"""Clients that go away in the middle of a request, at any byte of it or of its answer."""

import asyncio
import gc
import logging
import random
import resource
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import uvloop

from common.units import KIB, MIB
from coordinator.deleting import OutboxWorker
from tests.blobs import get, id_of, put
from tests.metadata_parts import seize_lease
from tests.torture.outcome import Outcome, scaled, scratch
from tests.whole_path import Bed, memory_bed

ROW = 16
PROMISE = "what a client leaves half done is not seen, and takes nothing with it"
CLIENTS = 1_000

AT_ONCE = 20
SEGMENT = 96 * KIB
LARGEST = 6 * SEGMENT
CHUNK = 10_000
SETTLE_S = 20.0
MOST_GROWTH_BYTES = 32 * MIB
TURNS = (0, 1, 5, 50, 500)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: the kernel sends RST


@dataclass
class Tally:
    puts: int = 0
    gets: int = 0
    violations: list[str] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)

    def figure(self) -> str:
        grown = (self.memory_bytes[-1] - self.memory_bytes[0]) / MIB
        return (
            f"{self.puts:,} PUTs and {self.gets:,} GETs reset, {len(self.violations)} violations; "
            f"buffers, tasks and sockets back each time, memory {grown:+.1f} MiB"
        )


def main(scale: float, seed: int) -> Outcome:
    rounds = -(-scaled(CLIENTS, scale) // AT_ONCE)
    with scratch("vanish") as directory, patch.object(logging, "lastResort", None):
        tally = uvloop.run(_run(directory, rounds, random.Random(seed)))
    return Outcome(tally.figure(), tally.violations)


async def _run(directory: Path, rounds: int, random_: random.Random) -> Tally:
    tally = Tally()
    settings = {"segment_bytes": SEGMENT, "cache_bytes": 0, "cache_segment_bytes": 0}
    async with memory_bed(directory, jobs=False, **settings) as bed:
        kept = {}
        for size in (1, 4 * KIB, SEGMENT, LARGEST):
            data = random_.randbytes(size)
            kept[await put(bed.http, data)] = data
        held, idle = _addresses(bed), _in_use(bed)
        for number in range(rounds + 1):  # the first only warms up
            gone = await _round(bed, list(kept.values()), random_, tally)
            await _settled(bed, idle, tally)
            await _check_unseen(bed, gone, tally)
            if number in (0, rounds):
                tally.memory_bytes.append(_memory_bytes())
        await _check_left(bed, held, tally)
        for id_, data in kept.items():
            if await get(bed.http, id_) != data:
                tally.violations.append(f"{id_} does not come back")
    if tally.memory_bytes[-1] - tally.memory_bytes[0] > MOST_GROWTH_BYTES:
        tally.violations.append(f"memory grew: {tally.memory_bytes}")
    return tally


async def _round(bed: Bed, kept: list[bytes], random_: random.Random, tally: Tally) -> list[str]:
    """Some clients at once. The ids of what was never sent whole."""
    gone, clients = [], []
    for _ in range(AT_ONCE):
        if random_.random() < 0.6:
            data = random_.randbytes(random_.randint(1, LARGEST))
            request = _put_request(data, random_.random() < 0.5)
            offset, turns = random_.randint(1, len(request) - 1), random_.choice(TURNS)
            clients.append(_send_part(bed, request, offset, turns))
            gone.append(id_of(data))
            tally.puts += 1
        else:
            data = random_.choice(kept)
            clients.append(_take_part(bed, id_of(data), random_.randint(0, len(data))))
            tally.gets += 1
    await asyncio.gather(*clients)
    return gone


def _put_request(data: bytes, chunked: bool) -> bytes:
    start = b"PUT /v1/blobs HTTP/1.1\r\nHost: x\r\n"
    if not chunked:
        return start + b"Content-Length: %d\r\n\r\n" % len(data) + data
    parts = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return start + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


async def _send_part(bed: Bed, request: bytes, offset: int, turns: int) -> None:
    """Only the first `offset` bytes, and `turns` turns of the event loop later a reset, which takes
    back what the server has not read by then."""
    client = await _connected(bed)
    try:
        await asyncio.get_running_loop().sock_sendall(client, request[:offset])
        for _ in range(turns):
            await asyncio.sleep(0)
    except OSError:
        pass  # it was refused meanwhile
    finally:
        client.close()


async def _take_part(bed: Bed, id_: str, offset: int) -> None:
    """A GET of which at least `offset` bytes are read, then a reset."""
    loop, got = asyncio.get_running_loop(), 0
    client = await _connected(bed)
    try:
        request = f"GET /v1/blobs/{id_} HTTP/1.1\r\nHost: x\r\n\r\n"
        await loop.sock_sendall(client, request.encode())
        while got < offset and (piece := await loop.sock_recv(client, 16 * KIB)):
            got += len(piece)
    finally:
        client.close()


async def _connected(bed: Bed) -> socket.socket:
    host, port = bed.url.removeprefix("http://").split(":")
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    return client


@dataclass(frozen=True, slots=True)
class InUse:
    """What a request may hold on to. The sockets are those of the whole process; it has no other
    descriptors that requests open."""

    buffer_bytes: int
    tasks: int
    sockets: int

    def beyond(self, other: "InUse") -> bool:
        """Whether it is more of anything."""
        return (
            self.buffer_bytes > other.buffer_bytes
            or self.tasks > other.tasks
            or self.sockets > other.sockets
        )


def _in_use(bed: Bed) -> InUse:
    return InUse(bed.coordinator.buffers.used_bytes, len(asyncio.all_tasks()), _sockets())


def _sockets() -> int:
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            count += str(descriptor.readlink()).startswith("socket:")
    return count


async def _settled(bed: Bed, idle: InUse, tally: Tally) -> None:
    """Until the coordinator holds nothing of them any more, and the nodes neither."""
    coordinator = bed.coordinator
    try:
        async with asyncio.timeout(SETTLE_S):
            while _in_use(bed).beyond(idle):
                await asyncio.sleep(0.005)
                gc.collect()  # as the coordinator does when somebody waits
    except TimeoutError:
        tally.violations.append(f"{_in_use(bed)} stay in use, not {idle}")
    await coordinator.writes.settle()
    await seize_lease(coordinator.metadata)
    outbox = OutboxWorker(coordinator.metadata, bed.cluster)
    while await outbox.step():
        pass


async def _check_unseen(bed: Bed, gone: list[str], tally: Tally) -> None:
    for id_ in gone:
        async with bed.http.head(f"/v1/blobs/{id_}") as answer:
            if answer.status != 404:
                tally.violations.append(f"{id_} is visible, but was never sent whole")


def _addresses(bed: Bed) -> set[str]:
    """All that the nodes hold."""
    return {str(address) for node in bed.cluster.memory.values() for address in node.records}


async def _check_left(bed: Bed, held: set[str], tally: Tally) -> None:
    left, lost = _addresses(bed) - held, held - _addresses(bed)
    if left or lost:
        tally.violations.append(f"{len(left)} shards were left on nodes, {len(lost)} are lost")


def _memory_bytes() -> int:
    """Of this process, now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
