"""One storage node as this process sees it."""

from dataclasses import dataclass
from enum import StrEnum

from common.membership import NodeReport
from coordinator.metadata import NodeRow


class NodeState(StrEnum):
    ACTIVE = "active"
    READ_ONLY = "read-only"
    DETACHED = "detached"  # it serves files that are gone from its directory
    DRAINING = "draining"
    DRAINED = "drained"  # nothing is left on it
    SUSPECT = "suspect"
    LOST = "lost"
    REMOVED = "removed"


@dataclass(slots=True)
class Node:
    """One node. `reachable` says whether its lanes are open, and `reached_at_s` when they were
    last seen to be; `sent_bytes` counts what this process appended since its last report, which the
    reported figures do not show yet; `version` is that of the report in the database."""

    row: NodeRow
    report: NodeReport | None = None
    version: int = 0
    reported_at_s: float = float("-inf")
    reachable: bool = False
    reached_at_s: float = float("-inf")
    sent_bytes: int = 0
    detached_at_s: float = float("inf")  # when it first said so
    trouble: str = ""  # what operators were told last

    @property
    def number(self) -> int:
        return self.row.number

    def fill(self) -> float:
        """The used fraction of what the node could hold."""
        assert self.report is not None
        used_bytes = self.report.used_bytes + self.sent_bytes
        total_bytes = self.report.used_bytes + self.report.free_bytes
        return used_bytes / total_bytes if total_bytes else 1.0
