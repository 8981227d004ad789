"""The metadata database: the one package of the coordinator that knows peewee and SQL."""

from coordinator.metadata.rows import (
    KnownSegment,
    Manifest,
    NewContent,
    NodeRow,
    OutboxRow,
    RepairNotice,
    ShardsOnNode,
    StoredSegment,
)
from coordinator.metadata.store import Metadata, open_metadata

__all__ = [
    "KnownSegment",
    "Manifest",
    "Metadata",
    "NewContent",
    "NodeRow",
    "OutboxRow",
    "RepairNotice",
    "ShardsOnNode",
    "StoredSegment",
    "open_metadata",
]
