"""Verified segments that are read often. Addressed by content, so never stale."""

from collections import OrderedDict

from common.ids import SegmentId
from common.shards import Buffer


class SegmentCache:
    """Least recently used goes first; the bytes are counted."""

    def __init__(self, budget_bytes: int, largest_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self.largest_bytes = min(largest_bytes, budget_bytes)
        self._segments: OrderedDict[SegmentId, bytes] = OrderedDict()
        self.used_bytes = 0

    def get(self, id_: SegmentId) -> bytes | None:
        segment = self._segments.get(id_)
        if segment is not None:
            self._segments.move_to_end(id_)
        return segment

    def put(self, id_: SegmentId, plain: Buffer) -> None:
        """Keep a copy, if it is not too large."""
        if len(plain) > self.largest_bytes or id_ in self._segments:
            return
        self._segments[id_] = bytes(plain)
        self.used_bytes += len(plain)
        while self.used_bytes > self._budget_bytes:
            _, oldest = self._segments.popitem(last=False)
            self.used_bytes -= len(oldest)
