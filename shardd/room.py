"""How much room a node has, as it reports it, and whether the disk still is the node's."""

import logging
from collections.abc import Callable

from common.errors import Unavailable, WrongNode
from shardd.disk import passes
from shardd.volumes import VolumeSet

log = logging.getLogger(__name__)


class Room:
    """The figures are those of the last look that could be taken."""

    def __init__(self, volumes: VolumeSet, reserve_bytes: int, fail: Callable[[str], None]) -> None:
        """`fail` makes the store read-only."""
        self.capacity_bytes = self.free_bytes = 0
        self._volumes, self._reserve_bytes, self._fail = volumes, reserve_bytes, fail

    def look(self) -> bool:
        """Whether the files that are open are elsewhere by now. A shortage of descriptors or memory
        says nothing of the disk: the next report looks again."""
        try:
            self._volumes.check()
            self._measure()
        except Unavailable as error:
            log.warning("%s", error)
        except (WrongNode, OSError) as error:
            if isinstance(error, OSError) and passes(error):
                log.warning("how much room there is cannot be found out now: %s", error)
                return False
            self._fail(str(error))
            self.free_bytes = 0
            return isinstance(error, WrongNode)
        return False

    def _measure(self) -> None:
        self.capacity_bytes = self._volumes.capacity_bytes
        self.free_bytes = max(0, self._volumes.room_bytes() - self._reserve_bytes)
