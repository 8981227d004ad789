"""The metadata database: the one package of the coordinator that knows peewee and SQL."""

from coordinator.metadata.inspecting import Lease
from coordinator.metadata.rows import (
    COLLECT,
    OUTBOX,
    DeleteReason,
    DueDeletes,
    JobState,
    KnownSegment,
    Manifest,
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
from coordinator.metadata.store import Metadata, open_metadata

__all__ = [
    "COLLECT",
    "OUTBOX",
    "DeleteReason",
    "DueDeletes",
    "IncomingReport",
    "JobState",
    "KnownSegment",
    "Lease",
    "Manifest",
    "Metadata",
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
