"""The fence before all that coordinators delete: what was decided before something that this node
has seen already comes too late.

Deletes carry the cluster's epoch as it was when their holder of the job read them (common/wire.py).
When the job changes hands, the epoch grows. So once the next holder's deletes have come, those of a
holder that was paused in the middle are refused, however late they come. The highest epoch is kept
in memory only: a restart ends all lanes, and with them what was on its way.

Fencing tokens: M. Kleppmann, "How to do distributed locking" (2016); already in M. Burrows, "The
Chubby lock service for loosely-coupled distributed systems" (OSDI 2006), as sequencers.
"""

from common.errors import StaleEpoch


class Fence:
    """One for a node's process. Used from the event loop."""

    def __init__(self) -> None:
        self._highest = 0

    def check(self, epoch: int) -> None:
        """Raises StaleEpoch if a higher one has come before."""
        if epoch < self._highest:
            raise StaleEpoch(
                f"these deletes are of epoch {epoch}, this node has seen {self._highest}: "
                "another coordinator does them now"
            )
        self._highest = epoch
