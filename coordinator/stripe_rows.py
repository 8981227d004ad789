"""Where the shards of one stripe go as they are read: into a stripe buffer, or one by one."""

from collections.abc import Sequence
from typing import Protocol

from common.codec import Codec
from common.shards import Buffer
from coordinator.metadata import StoredSegment


class Rows(Protocol):
    """The shards of a stripe by their number."""

    def place(self, index: int) -> memoryview:
        """Where this shard may be received."""

    def put(self, index: int, payload: Buffer) -> None:
        """It was received, there or elsewhere. It has the length of a shard."""

    def __getitem__(self, index: int) -> Buffer:
        """A shard that was put here, or recovered."""

    def recover(self, have: Sequence[int], missing: Sequence[int]) -> None:
        """Compute the shards `missing` from those in `have`, k of them."""


class WholeStripe:
    """In `stripe`, n shards one behind another, where the plain bytes are in the end."""

    def __init__(self, codec: Codec, stripe: memoryview, segment: StoredSegment) -> None:
        self._codec, self._segment_bytes, self._stripe = codec, segment.size_bytes, stripe
        self._rows = codec.split(stripe, segment.shard_bytes)

    def place(self, index: int) -> memoryview:
        return self._rows[index]

    def put(self, index: int, payload: Buffer) -> None:
        row = self._rows[index]
        if payload is not row:
            row[:] = payload

    def __getitem__(self, index: int) -> memoryview:
        return self._rows[index]

    def recover(self, have: Sequence[int], missing: Sequence[int]) -> None:
        self._codec.recover_in_place(self._stripe, self._segment_bytes, have, missing)


class FewRows:
    """Only those that are asked for: of a bundle one or two are wanted, and fresh memory for all of
    the stripe would cost more than all else."""

    def __init__(self, codec: Codec, segment: StoredSegment) -> None:
        self._codec, self._segment = codec, segment
        self._rows: dict[int, memoryview] = {}

    def place(self, index: int) -> memoryview:
        row = self._rows.get(index)
        if row is None:
            row = self._rows[index] = memoryview(bytearray(self._segment.shard_bytes))
        return row

    def put(self, index: int, payload: Buffer) -> None:
        self._rows[index] = memoryview(payload)

    def __getitem__(self, index: int) -> memoryview:
        return self._rows[index]

    def recover(self, have: Sequence[int], missing: Sequence[int]) -> None:
        known = {index: self._rows[index] for index in have}
        rebuilt = self._codec.rebuild(known, missing, self._segment.size_bytes)
        self._rows.update((i, memoryview(row)) for i, row in zip(missing, rebuilt, strict=True))
