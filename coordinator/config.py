"""The coordinator's settings, read once at start (common/settings.py)."""

import re
from dataclasses import dataclass

from common.errors import BadSetting
from common.settings import bytes_setting, flag_setting, seconds_setting, setting
from common.units import GIB, KIB, MIB

DATA_SHARDS = 6
ALL_SHARDS = 9
LEAST_NODES = -(-ALL_SHARDS // (ALL_SHARDS - DATA_SHARDS))  # with fewer, no PUT is durable

# Large enough that what a shard costs a node whatever its size, some 0.3 ms, is little beside what
# its bytes cost; small enough that ten stripes of segment and parity fit into `buffer_bytes`.
SEGMENT_BYTES = 12 * MIB
MAX_SEGMENT_BYTES = 64 * MIB

LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Config:
    """Runs a sixfold coordinator: HTTP in, shards out to the nodes that join."""

    data: str = setting("directory for the metadata database")
    secret_file: str = setting("file with the cluster secret")
    host: str = setting("address to listen on", "127.0.0.1")
    port: int = setting("port to listen on; 0 takes a free one", 8600, int)
    allow_unauthenticated: bool = flag_setting(
        "listen beyond loopback although anyone who reaches the port may store and delete"
    )
    workers: int = setting(
        "processes that serve the port together, one for each core to use; what is said of memory "
        "and of transfers counts for each of them",
        1,
        int,
    )
    database: str = setting("sqlite:///path; empty: metadata.db in the data directory", "")
    adopt_cluster: str = setting(
        "cluster id for a new database: that of the nodes whose metadata was lost", ""
    )
    codec: str = setting("erasure code backend: auto, isal or zfec", "auto")

    segment_bytes: int = bytes_setting("largest segment", SEGMENT_BYTES)
    max_upload_bytes: int = bytes_setting("largest upload", 10 * GIB)
    buffer_bytes: int = bytes_setting("memory for all transfers together", 192 * MIB)
    segments_in_flight: int = setting("segments of one transfer handled at once", 4, int)
    cache_bytes: int = bytes_setting("memory for verified hot segments", 32 * MIB)
    cache_segment_bytes: int = bytes_setting("largest segment that is cached", 256 * KIB)

    admission_wait_s: float = seconds_setting("how long a request waits for memory", 5.0)
    body_idle_s: float = seconds_setting(
        "a transfer in which the client does nothing for so long is ended", 30.0
    )
    write_timeout_s: float = seconds_setting("deadline of one append to a node", 15.0)
    read_timeout_s: float = seconds_setting("deadline of one read from a node", 6.0)
    straggler_s: float = seconds_setting(
        "how long an acknowledgement waits for the last shard", 2.0
    )
    suspect_after_s: float = seconds_setting("silence after which a node is suspect", 10.0)
    lost_after_s: float = seconds_setting("silence after which a node is lost", 900.0)
    scrub_interval_s: float = seconds_setting(
        "how often all shards are read and compared with their checksums", 30 * 86_400.0
    )
    scrub_bytes_per_s: int = bytes_setting("how much of that is read in a second", 16 * MIB)
    repair_bytes_per_s: int = bytes_setting(
        "how much repair, drain and rebalance may mend per second", 64 * MIB
    )
    no_rebalance: bool = flag_setting("leave shards where they are, however uneven nodes fill up")
    grace_s: int = setting("how long deleted content keeps its space", 3600, int)
    sweep_every_s: float = seconds_setting(
        "rest between two searches of the nodes for shards that nothing refers to", 21_600.0
    )

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK_HOSTS and not self.allow_unauthenticated:
            raise BadSetting(
                f"host {self.host} is not loopback, and this coordinator asks nobody who they "
                "are: put it behind something that does, and say --allow-unauthenticated"
            )
        if self.adopt_cluster and not re.fullmatch("[0-9a-f]{32}", self.adopt_cluster):
            raise BadSetting("adopt_cluster: need the 32 hex digits that a node.json holds")
        if not DATA_SHARDS <= self.segment_bytes <= MAX_SEGMENT_BYTES:
            raise BadSetting(f"segment_bytes must be {DATA_SHARDS} to {MAX_SEGMENT_BYTES}")
        if self.buffer_bytes < 2 * self.segment_bytes * ALL_SHARDS // DATA_SHARDS:
            raise BadSetting("buffer_bytes must hold two segments with their parity")
        if self.grace_s < 0:
            raise BadSetting("grace_s must not be negative")
        if not 0 <= self.port < 65_536:
            raise BadSetting("port must be 0 to 65535")
        if self.workers < 1:
            raise BadSetting("workers must be at least 1")
        for name in (
            "repair_bytes_per_s",
            "scrub_bytes_per_s",
            "max_upload_bytes",
            "segments_in_flight",
            "write_timeout_s",
            "read_timeout_s",
        ):
            if getattr(self, name) <= 0:
                raise BadSetting(f"{name} must be greater than 0")
