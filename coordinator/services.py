"""What the write path, the read path and the jobs work with, put together once at start."""

from dataclasses import dataclass

from common.codec import Codec
from coordinator.buffers import StripeBuffers
from coordinator.cluster import Cluster
from coordinator.config import Config
from coordinator.metadata import Metadata
from coordinator.offload import Offload


@dataclass(frozen=True, slots=True)
class Services:
    """One for the process."""

    config: Config
    codec: Codec
    cluster: Cluster
    metadata: Metadata
    buffers: StripeBuffers
    offload: Offload
