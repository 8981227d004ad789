"""The metadata database: the one package of the coordinator that knows peewee and SQL."""

from coordinator.metadata.inspecting import Lease
from coordinator.metadata.opening import open_metadata
from coordinator.metadata.rows import (
    COLLECT,
    OUTBOX,
    Bundled,
    Committed,
    DeleteReason,
    DueDeletes,
    JobState,
    KnownCopy,
    KnownSegment,
    Manifest,
    NewBundle,
    NewContent,
    NodeRow,
    OutboxRow,
    RepairNotice,
    ShardsOnNode,
    SharedReport,
    StoredSegment,
    Wish,
)
from coordinator.metadata.sharing import IncomingReport
from coordinator.metadata.store import Metadata

__all__ = [
    "COLLECT",
    "OUTBOX",
    "Bundled",
    "Committed",
    "DeleteReason",
    "DueDeletes",
    "IncomingReport",
    "JobState",
    "KnownCopy",
    "KnownSegment",
    "Lease",
    "Manifest",
    "Metadata",
    "NewBundle",
    "NewContent",
    "NodeRow",
    "OutboxRow",
    "RepairNotice",
    "ShardsOnNode",
    "SharedReport",
    "StoredSegment",
    "Wish",
    "open_metadata",
]
