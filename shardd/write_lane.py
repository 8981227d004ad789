"""A lane's appends and deletes, on their way to the writer and back.

What one turn of the event loop brought is submitted together; each request has its own answer,
and those of one group commit leave in one write.
"""

from collections.abc import Sequence

from common.errors import Corrupt, ProtocolError, SixfoldError, StaleEpoch
from common.framing import LARGE_PAYLOAD_BYTES, kind_name
from common.record import HEADER_BYTES, RecordKind, unpack_header
from common.shards import ShardRecord
from common.wire import FrameKind, pack_error, pack_frame, unpack_deletes
from shardd.buffers import AlignedBuffer
from shardd.group import Incoming, WriteJob
from shardd.service import Connection, LaneLimits, Window
from shardd.store import VolumeStore

# Globals: looking an enum's member up on its class takes nearly as long as to unpack a frame.
_APPEND, _OK, _SHARD = FrameKind.APPEND, FrameKind.OK, RecordKind.SHARD


class WriteService:
    """Takes APPEND, DELETE and PING."""

    def __init__(self, lane: Connection, store: VolumeStore, limits: LaneLimits) -> None:
        self._lane, self._store = lane, store
        self._window = Window(limits)
        self._jobs: list[WriteJob] = []  # of this turn
        self._receiving: AlignedBuffer | None = None
        self._closed = False

    def payload_place(self, kind: int, payload_bytes: int) -> memoryview:
        if kind != _APPEND:
            raise ProtocolError(f"{kind_name(kind)} with a payload")
        hold = object()
        buffer = self._store.write_buffers.lend(payload_bytes, lambda: self._lane.resume(hold))
        if not buffer.counted:
            self._lane.hold(hold)
        self._receiving = buffer
        return buffer.payload(payload_bytes)

    def request(
        self, kind: int, request: int, meta: memoryview | bytes, payload: memoryview
    ) -> None:
        if kind == _APPEND:
            self._append(request, meta, payload)
        elif payload:
            raise ProtocolError(f"{kind_name(kind)} with a payload")
        elif kind == FrameKind.DELETE:
            self._delete(request, meta)
        elif kind == FrameKind.PING:
            self._lane.answer(pack_frame(_OK, request))
        else:
            raise ProtocolError(f"{kind_name(kind)} on a write lane")

    def _append(self, request: int, meta: memoryview | bytes, payload: memoryview) -> None:
        payload_bytes = len(payload)
        self._window.enter(payload_bytes)
        buffer = None
        if payload_bytes >= LARGE_PAYLOAD_BYTES:
            buffer, self._receiving = self._receiving, None
        kept = payload if buffer is not None else bytes(payload)
        try:
            if len(meta) != HEADER_BYTES:
                raise ProtocolError(f"APPEND with a meta of {len(meta)} bytes")
            header = unpack_header(meta)
            if header.kind is not _SHARD:
                raise Corrupt("APPEND of what is not a shard")
        except SixfoldError as error:
            if buffer is not None:
                buffer.release()
            self._refuse(request, error, payload_bytes)
            return
        incoming = Incoming(ShardRecord(header.info, kept), buffer)
        self._jobs.append(WriteJob((incoming,), request=request))

    def _delete(self, request: int, meta: memoryview | bytes) -> None:
        self._window.enter()
        epoch, deletes = unpack_deletes(meta)
        try:
            self._store.fence.check(epoch)
        except StaleEpoch as error:
            self._refuse(request, error, 0)
            return
        self._jobs.append(WriteJob(deletes=deletes, request=request))

    def _refuse(self, request: int, error: SixfoldError, payload_bytes: int) -> None:
        self._window.leave(payload_bytes)
        self._lane.answer(pack_frame(FrameKind.ERROR, request, pack_error(error)))

    def turn_ended(self) -> None:
        if not self._jobs:
            return
        jobs, self._jobs = self._jobs, []
        try:
            self._store.submit(jobs, self._answered)
        except SixfoldError as error:
            for job in jobs:
                job.error = error
            self._answered(jobs)

    def _answered(self, jobs: Sequence[WriteJob]) -> None:
        for job in jobs:
            job.release()
            if self._closed:
                continue
            if job.error is not None:
                self._refuse(job.request, job.error, job.payload_bytes)
            else:
                self._window.leave(job.payload_bytes)
                self._lane.answer(pack_frame(_OK, job.request))

    def writable(self) -> None:
        pass

    def closed(self) -> None:
        self._closed = True
        if self._receiving is not None:
            self._receiving.release()
            self._receiving = None
        for job in self._jobs:
            job.release()
        self._jobs.clear()
