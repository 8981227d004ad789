"""What one group commit writes: jobs, and the records that they become."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.errors import BadRequest, Corrupt, SixfoldError
from common.failpoints import Point, failpoint
from common.ids import ShardAddress
from common.record import (
    HEADER_BYTES,
    RecordHeader,
    RecordKind,
    pack_header,
    tombstone_header,
    unpack_header,
)
from common.shards import Buffer, ShardRecord
from shardd.buffers import AlignedBuffer
from shardd.catalog import Catalog
from shardd.entries import Entry, Location
from shardd.volume import Volume, VolumeClass, is_plausible
from shardd.volumes import VolumeSet

_SHARD = RecordKind.SHARD
_PADDING = bytes(VolumeClass.SMALL.alignment)


class Incoming(NamedTuple):
    """A shard to store. A large one's payload lies in its buffer, where the header has room."""

    record: ShardRecord
    buffer: AlignedBuffer | None = None


class Move(NamedTuple):
    """A record that shall leave its `place`, None if the index knows of none: only if the address
    still is there, or else what has happened to it meanwhile would be undone.

    `record`, header to padding, is written anew as it is, its sequence number included, since that
    orders what happened to the address; if the number is not certain, the record gets one now,
    in place. Without a record a tombstone is written: the shard is deleted.
    """

    key: bytes
    place: Location | None
    record: memoryview | None = None
    is_certain: bool = True


class WriteJob:
    """Stored as a whole or not at all, and answered once; `error` is the answer if not None.
    `moved` are those of the `moves` that were still in their place."""

    __slots__ = (
        "appends", "deletes", "error", "moved", "moves", "payload_bytes", "request", "seal",
        "size_bytes",
    )  # fmt: skip

    def __init__(
        self,
        appends: Sequence[Incoming] = (),
        deletes: Sequence[ShardAddress] = (),
        request: int = 0,
        moves: Sequence[Move] = (),
        seal: int = 0,
    ) -> None:
        """`request` is the lane's number for it; `seal` a volume to append no more to, or 0."""
        self.appends, self.deletes, self.request = appends, deletes, request
        self.moves, self.moved, self.seal = moves, list[Move](), seal
        self.error: SixfoldError | None = None
        self.payload_bytes = 0
        self.size_bytes = HEADER_BYTES * len(deletes)  # what it may take on disk
        for move in moves:
            self.size_bytes += HEADER_BYTES if move.record is None else len(move.record)
        for incoming in appends:
            payload_bytes = len(incoming.record.payload)
            self.payload_bytes += payload_bytes
            self.size_bytes += VolumeClass.of(payload_bytes).span(payload_bytes)

    @property
    def most_records(self) -> int:
        """So many sequence numbers it takes at most."""
        return len(self.appends) + len(self.deletes) + len(self.moves)

    def verify(self) -> None:
        """Raises Corrupt for a payload that is not what its checksum says, and BadRequest for what
        no coordinator could make of a segment, and so would not take from a listing either."""
        for record, _ in self.appends:
            info = record.info
            if not is_plausible(info):
                raise BadRequest(f"{record.address}: no shard has such a size")
            if not 1 <= info.k <= info.n:
                raise BadRequest(f"{record.address}: no such shard of a code {info.k}/{info.n}")
            if not record.is_intact():
                raise Corrupt(f"{record.address}: the payload does not match its checksum")

    def release(self) -> None:
        """Give the buffers back."""
        for _, buffer in self.appends:
            if buffer is not None:
                buffer.release()


@dataclass(slots=True, eq=False)
class _Batch:
    """What goes to one volume, in one write."""

    pieces: list[Buffer] = field(default_factory=list)
    size_bytes: int = 0
    volume: Volume | None = None
    placed: list[tuple[RecordHeader, int]] = field(default_factory=list)  # offset in the batch

    def add(self, header: RecordHeader, pieces: Sequence[Buffer], span: int) -> None:
        self.placed.append((header, self.size_bytes))
        self.pieces += pieces
        self.size_bytes += span


class Group:
    """Used once: add, write, sync, publish; or, after a failure, cut."""

    def __init__(
        self,
        volumes: VolumeSet,
        catalog: Catalog,
        sequence: int,
        is_bad: Callable[[ShardAddress], bool],
    ) -> None:
        """`is_bad` tells of shards that the index does not know, but a volume may hold."""
        self.jobs: list[WriteJob] = []
        self.next_sequence = sequence
        self._volumes, self._catalog, self._is_bad = volumes, catalog, is_bad
        self._batches: dict[VolumeClass, _Batch] = {kind: _Batch() for kind in VolumeClass}
        self._written: dict[ShardAddress, bool] = {}  # in this group; whether it is live then
        self.size_bytes = 0

    def add(self, job: WriteJob) -> None:
        """Give the job's records their sequence numbers and places. Raises Unavailable if the
        index cannot say what there is to delete."""
        present = self._to_bury(job.deletes) if job.deletes else ()
        job.moved = self._unmoved(job.moves) if job.moves else []
        self.jobs.append(job)
        for incoming in job.appends:
            self._add_shard(incoming)
        for address in present:
            self._add_tombstone(address)
        for move in job.moved:
            if move.record is None:
                self._add_tombstone(ShardAddress.from_key(move.key))
            else:
                self._add_again(move.record, move.is_certain)

    def _to_bury(self, addresses: Sequence[ShardAddress]) -> Sequence[ShardAddress]:
        """Only what is there needs a tombstone, so a delete that is repeated costs nothing; and
        what could not be read, but may be one day."""
        if self._volumes.unread:
            return addresses
        found = self._catalog.find([address.key for address in addresses])
        pairs = zip(addresses, found, strict=True)
        return [a for a, at in pairs if self._written.get(a, at is not None or self._is_bad(a))]

    def _unmoved(self, moves: Sequence[Move]) -> list[Move]:
        places = self._catalog.places([move.key for move in moves])
        return [
            move
            for move, place in zip(moves, places, strict=True)
            if place == move.place and ShardAddress.from_key(move.key) not in self._written
        ]

    def _sequence(self) -> int:
        self.next_sequence += 1
        return self.next_sequence - 1

    def _add_shard(self, incoming: Incoming) -> None:
        record, size = incoming.record, len(incoming.record.payload)
        header = RecordHeader(_SHARD, self._sequence(), record.info)
        volume_class = VolumeClass.of(size)
        span = volume_class.span(size)
        pieces: list[Buffer]
        if incoming.buffer is None:
            pieces = [pack_header(header), record.payload]
            if padding := span - HEADER_BYTES - size:
                pieces.append(_PADDING[:padding])
        else:
            incoming.buffer.view[:HEADER_BYTES] = pack_header(header)
            pieces = [incoming.buffer.padded(size)]
        self._batches[volume_class].add(header, pieces, span)
        self.size_bytes += span
        self._written[record.address] = True

    def _add_tombstone(self, address: ShardAddress) -> None:
        packed = tombstone_header(address, self._sequence())
        self._batches[VolumeClass.SMALL].add(unpack_header(packed), [packed], HEADER_BYTES)
        self.size_bytes += HEADER_BYTES
        self._written[address] = False

    def _add_again(self, record: memoryview, is_certain: bool) -> None:
        header, span = unpack_header(record), len(record)
        if not is_certain:
            header = header._replace(sequence=self._sequence())
            record[:HEADER_BYTES] = pack_header(header)
        volume_class = VolumeClass.of(header.info.payload_bytes)
        self._batches[volume_class].add(header, [record], span)
        self.size_bytes += span
        self._written[header.info.address] = header.kind is _SHARD

    def write(self) -> None:
        """Raises the disk's OSError, or as VolumeSet.appendable; then `cut` must follow."""
        for volume_class, batch in self._batches.items():
            if batch.size_bytes:
                volume = self._volumes.appendable(volume_class, batch.size_bytes)
                volume.unseal()
                batch.volume = volume
                volume.write(batch.pieces, batch.size_bytes)
                failpoint(Point.GROUP_WRITTEN)

    def sync(self) -> None:
        for batch in self._batches.values():
            if batch.volume is not None:
                batch.volume.sync()
                failpoint(Point.GROUP_SYNCED)

    def publish(self) -> None:
        """All is durable: let readers see it."""
        entries, scanned = [], {}
        for batch in self._batches.values():
            volume = batch.volume
            if volume is not None:
                base = volume.end
                entries += [Entry.of(h, volume.number, base + at) for h, at in batch.placed]
                volume.advance(batch.size_bytes)
                scanned[volume.number] = volume.end
        entries.sort(key=lambda entry: entry.sequence)
        self._catalog.apply(entries, scanned, self.next_sequence)
        failpoint(Point.GROUP_PUBLISHED)

    def cut(self) -> None:
        """Take back what `write` may have put after the volumes' ends, wherever that can be done.
        Raises the disk's OSError."""
        failed: OSError | None = None
        for batch in self._batches.values():
            try:
                if batch.volume is not None:
                    batch.volume.cut(batch.volume.end)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed
