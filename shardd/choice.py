"""Which volume to compact: the emptiest of those that are worth it."""

from collections.abc import Iterable
from dataclasses import dataclass

from common.units import KIB
from shardd.volume import PAGE_BYTES

_TIGHT_DEAD_PART = 0.01  # for less, what is copied is out of proportion
_OPEN_DEAD_BYTES = 64 * KIB  # for less, a volume that is still appended to is left alone


@dataclass(frozen=True, slots=True)
class Candidate:
    """`size_bytes` is what its records occupy, `kept_bytes` what of it must be copied."""

    number: int
    size_bytes: int
    kept_bytes: int
    is_open: bool

    @property
    def dead_bytes(self) -> int:
        return self.size_bytes - self.kept_bytes

    @property
    def dead_part(self) -> float:
        return self.dead_bytes / self.size_bytes if self.size_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Situation:
    """`dead_part` is from what part on a volume is worth it; while the node is `tight`, nearly any
    is. `room_bytes` is what copies may take."""

    dead_part: float
    tight: bool
    room_bytes: int


def choose(candidates: Iterable[Candidate], situation: Situation) -> Candidate | None:
    """The volume to compact now, or None."""
    worth = [candidate for candidate in candidates if _is_worth_it(candidate, situation)]
    return max(worth, key=lambda each: (each.dead_part, -each.number), default=None)


def _is_worth_it(candidate: Candidate, situation: Situation) -> bool:
    if not candidate.size_bytes or candidate.kept_bytes > situation.room_bytes:
        return False
    if not candidate.kept_bytes:
        return True
    if situation.tight:
        return candidate.dead_bytes >= PAGE_BYTES and candidate.dead_part >= _TIGHT_DEAD_PART
    if candidate.is_open:
        mostly_dead = candidate.dead_part > max(0.5, situation.dead_part)
        return mostly_dead and candidate.dead_bytes >= _OPEN_DEAD_BYTES
    return candidate.dead_part > situation.dead_part
