"""Verified bytes that are read often. Addressed by content, so never stale."""

from collections import OrderedDict
from typing import Generic, TypeVar

from common.shards import Buffer

K = TypeVar("K")


class Cache(Generic[K]):
    """Least recently used goes first; the bytes are counted."""

    def __init__(self, budget_bytes: int, largest_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self.largest_bytes = min(largest_bytes, budget_bytes)
        self._kept: OrderedDict[K, bytes] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: K) -> bytes | None:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def put(self, key: K, plain: Buffer) -> None:
        """Keep a copy, if it is not too large."""
        if len(plain) > self.largest_bytes or key in self._kept:
            return
        self._kept[key] = bytes(plain)
        self.used_bytes += len(plain)
        while self.used_bytes > self._budget_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.used_bytes -= len(oldest)

    def drop(self, key: K) -> None:
        self.used_bytes -= len(self._kept.pop(key, b""))
