"""What the write path, the read path and the jobs work with, put together once at start."""

import asyncio
from dataclasses import dataclass, field

from common.codec import Codec
from coordinator.buffers import StripeBuffers
from coordinator.cluster import Cluster
from coordinator.config import Config
from coordinator.metadata import Metadata
from coordinator.offload import Offload

PROOFS_AT_ONCE = 8  # each holds a shard in memory


@dataclass(frozen=True, slots=True)
class Services:
    """One for the process. `proofs` are let in a few at a time (proof.py)."""

    config: Config
    codec: Codec
    cluster: Cluster
    metadata: Metadata
    buffers: StripeBuffers
    offload: Offload
    proofs: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PROOFS_AT_ONCE))
