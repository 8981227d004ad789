"""The metadata database: the one package of the coordinator that knows peewee and SQL."""

from coordinator.metadata.rows import (
    KnownSegment,
    Manifest,
    NewContent,
    NodeRow,
    OutboxRow,
    RepairNotice,
    ShardsOnNode,
    SharedReport,
    StoredSegment,
)
from coordinator.metadata.sharing import IncomingReport
from coordinator.metadata.store import Metadata, open_metadata

__all__ = [
    "IncomingReport",
    "KnownSegment",
    "Manifest",
    "Metadata",
    "NewContent",
    "NodeRow",
    "OutboxRow",
    "RepairNotice",
    "ShardsOnNode",
    "SharedReport",
    "StoredSegment",
    "open_metadata",
]
