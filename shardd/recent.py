"""A map that keeps about the most recently used entries, cheaply."""

from typing import Generic, TypeVar

T = TypeVar("T")


class RecentMap(Generic[T]):
    """Two generations: a full young one becomes the old one, and what was old and unused goes.
    So it holds between half of `limit` and `limit`, and no use moves a list. Not thread-safe."""

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._young: dict[bytes, T] = {}
        self._old: dict[bytes, T] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: bytes) -> T | None:
        value = self._young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: T) -> None:
        self._old.pop(key, None)
        if len(self._young) >= self._half and key not in self._young:
            self._old, self._young = self._young, {}
        self._young[key] = value
