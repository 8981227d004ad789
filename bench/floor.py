"""The floor: what the unavoidable work of each request costs with the same libraries.

A bare aiohttp application with the paths of `/v1/blobs`. A large PUT is received, hashed, encoded
and written durably across nine files; a large GET is read, verified and sent, also with parity in
the place of data shards. Small ones are appended to one file by group commit, and read back with
one pread. There is no metadata, no second process, no placement, no recovery, no limit.
"""

import argparse
import asyncio
import mmap
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from aiohttp import web
from blake3 import blake3

from common.codec import Codec
from common.units import KIB, MIB

K, N = 6, 9
SHARD_BYTES = 2 * MIB
SEGMENT_BYTES = K * SHARD_BYTES
STRIPE_BYTES = N * SHARD_BYTES
SEGMENTS_IN_FLIGHT = 4
SMALL_BYTES = 64 * KIB


@dataclass(slots=True)
class Large:
    """Where a large content is: the offset in every file, for each segment."""

    size_bytes: int
    offsets: list[int] = field(default_factory=list)
    checksums: list[list[bytes]] = field(default_factory=list)


class NineFiles:
    """The disks: O_DIRECT and fdatasync, a thread for each file."""

    def __init__(self, directory: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_DIRECT
        self._files = [os.open(directory / f"shards-{i}", flags) for i in range(N)]
        self._pools = [ThreadPoolExecutor(1) for _ in range(N)]
        self._end = 0

    def empty(self) -> None:
        self._end = 0
        for file in self._files:
            os.ftruncate(file, 0)

    async def write(self, stripe: memoryview) -> int:
        """Durable on return: the offset."""
        offset, self._end = self._end, self._end + SHARD_BYTES
        await self._each(range(N), lambda row: self._write(row, _row(stripe, row), offset))
        return offset

    def _write(self, row: int, shard: memoryview, offset: int) -> None:
        os.pwrite(self._files[row], shard, offset)
        os.fdatasync(self._files[row])

    async def read(self, stripe: memoryview, rows: Sequence[int], offset: int) -> None:
        await self._each(rows, lambda row: os.preadv(self._files[row], [_row(stripe, row)], offset))

    async def _each(self, rows: Sequence[int], work: Callable[[int], object]) -> None:
        hop = asyncio.get_running_loop().run_in_executor
        await asyncio.gather(*(hop(self._pools[row], work, row) for row in rows))


class OneFile:
    """Small contents: one file, one writer thread, one fdatasync for all that wait."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[int]]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, daemon=True).start()

    async def append(self, body: bytes) -> int:
        """Durable on return: the offset."""
        future: asyncio.Future[int] = self._loop.create_future()
        self._queue.put((body, future))
        return await future

    def read(self, offset: int, size_bytes: int) -> bytes:
        return os.pread(self._file, size_bytes, offset)

    def _run(self) -> None:
        end = 0
        while True:
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            offsets = []
            for body, _ in waiting:
                offsets.append(end)
                end += len(body)
            os.pwrite(self._file, b"".join(body for body, _ in waiting), offsets[0])
            os.fdatasync(self._file)
            self._loop.call_soon_threadsafe(_resolve, [future for _, future in waiting], offsets)


def _resolve(futures: Sequence["asyncio.Future[int]"], offsets: Sequence[int]) -> None:
    for future, offset in zip(futures, offsets, strict=True):
        future.set_result(offset)


class Floor:
    """The handlers. `lost` data shards are read as parity and decoded; with `dedup`, what comes
    is received and hashed and nothing else."""

    def __init__(self, directory: Path) -> None:
        self._files, self._one = NineFiles(directory), OneFile(directory / "small")
        self._codec = Codec(K, N)
        self._threads = ThreadPoolExecutor(os.cpu_count())
        self._buffers: list[memoryview] = []
        self._large: dict[str, Large] = {}
        self._small: dict[str, tuple[int, int]] = {}
        self.lost, self.dedup = 0, False

    async def put(self, request: web.Request) -> web.Response:
        assert request.content_length is not None
        if self.dedup:
            id_ = await self._hash_only(request)
        elif request.content_length > SMALL_BYTES:
            id_ = await self._put_large(request)
        else:
            body = await request.read()
            id_ = blake3(body).hexdigest()
            self._small[id_] = (await self._one.append(body), len(body))
        return web.Response(status=201, text=id_)

    async def _put_large(self, request: web.Request) -> str:
        content, digest = Large(request.content_length or 0), blake3()
        running: deque[asyncio.Task[None]] = deque()
        turn, buffer, filled = asyncio.Lock(), self._buffer(), 0
        async for chunk in request.content.iter_any():
            rest = memoryview(chunk)
            while rest:
                fits = min(len(rest), SEGMENT_BYTES - filled)
                buffer[filled : filled + fits] = rest[:fits]
                filled, rest = filled + fits, rest[fits:]
                if filled == SEGMENT_BYTES:
                    running.append(self._store(content, digest, buffer, filled, turn))
                    if len(running) >= SEGMENTS_IN_FLIGHT:
                        await running.popleft()
                    buffer, filled = self._buffer(), 0
        if filled:
            running.append(self._store(content, digest, buffer, filled, turn))
        for task in running:
            await task
        id_ = digest.hexdigest()
        self._large[id_] = content
        return id_

    async def _hash_only(self, request: web.Request) -> str:
        """Receives the next pieces while a thread hashes the last."""
        digest, pieces, held = blake3(), list[bytes](), 0
        hashing = asyncio.get_running_loop().run_in_executor(self._threads, _update, digest, [])
        async for chunk in request.content.iter_any():
            pieces.append(chunk)
            held += len(chunk)
            if held >= SEGMENT_BYTES:
                await hashing
                hashing = asyncio.get_running_loop().run_in_executor(
                    self._threads, _update, digest, pieces
                )
                pieces, held = [], 0
        await hashing
        _update(digest, pieces)
        return digest.hexdigest()

    def _store(
        self, content: Large, digest: blake3, buffer: memoryview, size: int, turn: asyncio.Lock
    ) -> "asyncio.Task[None]":
        async def store(number: int) -> None:
            hop = asyncio.get_running_loop().run_in_executor
            async with turn:
                await hop(self._threads, digest.update, buffer[:size])
            content.checksums[number] = await hop(self._threads, self._encode, buffer)
            content.offsets[number] = await self._files.write(buffer)
            self._buffers.append(buffer)

        content.offsets.append(0)
        content.checksums.append([])

        return asyncio.create_task(store(len(content.offsets) - 1))

    def _encode(self, buffer: memoryview) -> list[bytes]:
        self._codec.encode_in_place(buffer, SEGMENT_BYTES)
        return [blake3(_row(buffer, row)).digest() for row in range(N)]

    async def get(self, request: web.Request) -> web.StreamResponse:
        id_ = request.match_info["id"]
        if id_ in self._small:
            body = self._one.read(*self._small[id_])
            if blake3(body).hexdigest() != id_:
                raise web.HTTPInternalServerError
            return web.Response(body=body)
        content = self._large[id_]
        response = web.StreamResponse(headers={"Content-Length": str(content.size_bytes)})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.set_write_buffer_limits(high=0)  # drained means that the kernel has it
        ahead: deque[asyncio.Task[memoryview]] = deque()
        left, waiting = (
            content.size_bytes,
            deque(zip(content.offsets, content.checksums, strict=True)),
        )
        while waiting or ahead:
            while waiting and len(ahead) < SEGMENTS_IN_FLIGHT:
                ahead.append(asyncio.create_task(self._fetch(*waiting.popleft())))
            buffer = await ahead.popleft()
            await response.write(buffer[: min(left, SEGMENT_BYTES)])
            left -= min(left, SEGMENT_BYTES)
            self._buffers.append(buffer)
        return response

    async def _fetch(self, offset: int, checksums: list[bytes]) -> memoryview:
        buffer, rows = self._buffer(), range(self.lost, K + self.lost)
        await self._files.read(buffer, rows, offset)

        def verify() -> None:
            for row in rows:
                if blake3(_row(buffer, row)).digest() != checksums[row]:
                    raise ValueError("not what was written")
            self._codec.recover_in_place(buffer, SEGMENT_BYTES, rows, range(self.lost))

        await asyncio.get_running_loop().run_in_executor(self._threads, verify)
        return buffer

    async def mode(self, request: web.Request) -> web.Response:
        """`lost/3` or `dedup/1`, from now on; `empty/1` forgets the large contents."""
        name, value = request.match_info["name"], int(request.match_info["value"])
        if name == "empty":
            self._large.clear()
            self._files.empty()
        self.lost = value if name == "lost" else self.lost
        self.dedup = bool(value) if name == "dedup" else self.dedup
        return web.Response()

    def _buffer(self) -> memoryview:
        return self._buffers.pop() if self._buffers else memoryview(mmap.mmap(-1, STRIPE_BYTES))


def _update(digest: blake3, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        digest.update(piece)


def _row(stripe: memoryview, row: int) -> memoryview:
    return stripe[row * SHARD_BYTES : (row + 1) * SHARD_BYTES]


async def serve(directory: Path) -> None:
    """Prints the URL; returns on SIGTERM."""
    floor, stop = Floor(directory), asyncio.Event()
    app = web.Application(client_max_size=SMALL_BYTES)
    app.router.add_put("/v1/blobs", floor.put)
    app.router.add_get("/v1/blobs/{id}", floor.get)
    app.router.add_post("/mode/{name}/{value}", floor.mode)
    runner = web.AppRunner(app, access_log=None, read_bufsize=256 * KIB)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("http://{}:{}".format(*runner.addresses[0]), flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser("bench.floor", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    directory = parser.parse_args().dir
    directory.mkdir(parents=True, exist_ok=True)
    uvloop.run(serve(directory))


if __name__ == "__main__":
    main()
