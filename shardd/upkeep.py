"""The background work of a store: compaction, and what has been put aside."""

from dataclasses import dataclass

from common.units import MIB
from shardd.compaction import Compactor
from shardd.parts import StoreParts
from shardd.quarantine import Quarantine
from shardd.throttle import Clocks, Throttle


@dataclass(frozen=True, slots=True)
class UpkeepLimits:
    """From what dead part on a volume is compacted, and how fast."""

    compact_dead_part: float = 0.3
    compact_bytes_per_s: int = 32 * MIB


class Upkeep:
    """Used from the event loop."""

    def __init__(
        self, parts: StoreParts, limits: UpkeepLimits, tight_bytes: int, clocks: Clocks
    ) -> None:
        """With less than `tight_bytes` of room, any dead space is worth a compaction."""
        self.quarantine = Quarantine(parts, lambda: None, clocks.wall_s)
        throttle = Throttle(limits.compact_bytes_per_s, clocks)
        self.compactor = Compactor(
            parts, self.quarantine.condemn, throttle, limits.compact_dead_part, tight_bytes
        )

    def suspect(self, key: bytes) -> None:
        """This shard could not be read as it should."""
