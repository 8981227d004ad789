"""A lane's reads: small records at once and together, large ones as they come from the disk."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence

from common.errors import ProtocolError, SixfoldError
from common.framing import LARGE_PAYLOAD_BYTES, kind_name
from common.ids import KEY_BYTES
from common.record import HEADER_BYTES
from common.units import MIB
from common.wire import FRAME, FrameKind, pack_error, pack_frame
from shardd.reader import RawRecord
from shardd.service import Connection, LaneLimits, Window
from shardd.store import VolumeStore

# Globals: looking an enum's member up on its class takes nearly as long as to unpack a frame.
_READ, _RECORD = FrameKind.READ, FrameKind.RECORD
_READS_AT_ONCE = 64
_SEND_BYTES = MIB  # about so much of small answers is joined and sent at a time


class ReadService:
    """Takes READ and PING. Requests wait here, 41 bytes each, while answers cannot leave."""

    def __init__(self, lane: Connection, store: VolumeStore, limits: LaneLimits) -> None:
        self._lane, self._store, self._limits = lane, store, limits
        self._window = Window(limits)
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def payload_place(self, kind: int, payload_bytes: int) -> memoryview:
        raise ProtocolError(f"{kind_name(kind)} with a payload on a read lane")

    def request(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        if payload:
            raise ProtocolError(f"{kind_name(kind)} with a payload on a read lane")
        if kind == _READ and len(meta) == KEY_BYTES:
            self._window.enter()
            self._waiting.append((request, bytes(meta)))
        elif kind == FrameKind.PING:
            self._lane.answer(pack_frame(FrameKind.OK, request))
        else:
            raise ProtocolError(f"{kind_name(kind)} with {len(meta)} bytes on a read lane")

    def turn_ended(self) -> None:
        self._serve()

    def writable(self) -> None:
        self._serve()

    def _serve(self) -> None:
        """Answer what waits, as far as the peer takes the answers. What is left is served when a
        read ends (`_done`) or the answers have left (`writable`)."""
        while self._waiting and len(self._tasks) < _READS_AT_ONCE:
            if self._lane.unsent_bytes > self._limits.unsent_bytes:
                break
            self._serve_some()

    def _serve_some(self) -> None:
        small: list[memoryview | bytes] = []
        small_bytes = 0
        unknown: list[tuple[int, bytes]] = []
        while self._waiting and len(self._tasks) < _READS_AT_ONCE and small_bytes < _SEND_BYTES:
            request, key = self._waiting.popleft()
            record = self._store.read_raw_now(key)
            if record is None:
                if self._store.knows(key):
                    self._start(self._read(request, key))
                else:
                    unknown.append((request, key))
                continue
            self._window.leave()
            small += (_frame(request, record), record.data)
            small_bytes += len(record.data)
        if small:
            self._lane.send([b"".join(small)])
        if unknown:
            self._start(self._locate(unknown))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lane.fail(SixfoldError(f"a read failed: {error!r}"))
        elif not task.cancelled():
            self._serve()

    async def _locate(self, asked: Sequence[tuple[int, bytes]]) -> None:
        """One visit to SQLite for all that came together; then they wait again, for `_done`."""
        try:
            found = await self._store.locate([key for _, key in asked])
        except SixfoldError as error:
            for request, _ in asked:
                self._refuse(request, error)
            return
        for (request, key), there in zip(asked, found, strict=True):
            if there:
                self._waiting.append((request, key))
            else:
                self._deny(request)

    async def _read(self, request: int, key: bytes) -> None:
        try:
            record = await self._store.read_raw(key)
        except SixfoldError as error:
            self._refuse(request, error)
            return
        self._window.leave()
        if record is None:
            self._lane.answer(pack_frame(FrameKind.MISSING, request))
        elif len(record.payload) < LARGE_PAYLOAD_BYTES:
            self._lane.answer(_frame(request, record))
            self._lane.answer(record.data)
        else:
            buffers = [record.buffer] if record.buffer is not None else []
            self._lane.send([_frame(request, record), record.data], buffers)

    def _deny(self, request: int) -> None:
        """There is no such shard, unless that is not certain."""
        try:
            self._store.check_absence()
        except SixfoldError as error:
            self._refuse(request, error)
        else:
            self._window.leave()
            self._lane.answer(pack_frame(FrameKind.MISSING, request))

    def _refuse(self, request: int, error: SixfoldError) -> None:
        self._window.leave()
        self._lane.answer(pack_frame(FrameKind.ERROR, request, pack_error(error)))

    def closed(self) -> None:
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()


def _frame(request: int, record: RawRecord) -> bytes:
    """All of the RECORD frame but its meta and payload, which lie together in the record."""
    return FRAME.pack(len(record.payload), request, HEADER_BYTES, _RECORD)
