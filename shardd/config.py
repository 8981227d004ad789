"""The settings of a node, read once at start."""

from dataclasses import dataclass
from pathlib import Path

from common.auth import ClusterSecret
from common.errors import BadSetting
from common.settings import bytes_setting, seconds_setting, setting
from common.units import GIB, MIB, parse_bytes
from shardd.service import LaneLimits
from shardd.store import StoreLimits
from shardd.upkeep import DAY_S, UpkeepLimits


def _parse_urls(text: str) -> tuple[str, ...]:
    urls = tuple(url.strip().rstrip("/") for url in text.split(","))
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise BadSetting(f"not a URL: {url!r}")
    return urls


def _parse_port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise BadSetting(f"not a port: {text!r}")
    return int(text)


def _parse_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise BadSetting(f"not a number above zero: {text!r}")
    return int(text)


def _parse_rate(text: str) -> int:
    if (bytes_per_s := parse_bytes(text)) < 1:
        raise BadSetting(f"not a size above zero: {text!r}")
    return bytes_per_s


def _parse_percent(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 99:
        raise BadSetting(f"not a number from 1 to 99: {text!r}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Config:
    """A storage node: keeps shards on one disk."""

    join: tuple[str, ...] = setting("URLs of coordinators, separated by commas", parse=_parse_urls)
    data: Path = setting("data directory, normally on a disk of its own", parse=Path)
    secret_file: Path = setting("file with the cluster secret", parse=Path)
    name: str = setting("what the node is called (default: made from its id)", "")
    zone: str = setting("failure domain: rack, host or site", "default")
    host: str = setting("address to listen on", "127.0.0.1")
    port: int = setting("port for HTTP; 0 takes a free one", 0, _parse_port)
    data_port: int = setting("port for lanes; 0 takes a free one", 0, _parse_port)
    advertise_host: str = setting("host that coordinators reach us by (default: --host)", "")
    capacity: int = bytes_setting("what volumes may occupy; 0 for the whole filesystem", 0)
    reserve: int = bytes_setting("of that, kept free for deletes and compaction", 64 * MIB)
    volume_bytes: int = bytes_setting("when to begin a new volume", GIB)
    write_buffers: int = bytes_setting("memory for large shards on their way to disk", 32 * MIB)
    read_buffers: int = bytes_setting("memory for large shards on their way from disk", 16 * MIB)
    compact_percent: int = setting(
        "volumes of which more than this is dead are compacted", 30, _parse_percent
    )
    compact_bytes_per_s: int = setting("how fast compaction copies", 32 * MIB, _parse_rate)
    scrub_bytes_per_s: int = setting("how fast scrub reads", 8 * MIB, _parse_rate)
    scrub_interval_s: float = seconds_setting("from one scrub of the disk to the next", 7 * DAY_S)
    quarantine_s: float = seconds_setting("how long orphans are kept", 7 * DAY_S)
    window_bytes: int = bytes_setting("what one lane may have unanswered", 16 * MIB)
    window_requests: int = setting("how many requests, likewise", 1024, _parse_count)

    @property
    def reached_at(self) -> str:
        return self.advertise_host or self.host

    @property
    def store_limits(self) -> StoreLimits:
        upkeep = UpkeepLimits(
            self.compact_percent / 100,
            self.compact_bytes_per_s,
            self.scrub_bytes_per_s,
            self.scrub_interval_s,
            self.quarantine_s,
        )
        return StoreLimits(
            self.capacity,
            self.reserve,
            self.volume_bytes,
            self.write_buffers,
            self.read_buffers,
            upkeep,
        )

    @property
    def lane_limits(self) -> LaneLimits:
        return LaneLimits(self.window_bytes, self.window_requests)


def read_secret(path: Path) -> ClusterSecret:
    """The file's content without white space around it. Raises BadSetting."""
    try:
        return ClusterSecret(path.read_bytes().strip())
    except OSError as error:
        raise BadSetting(f"the secret file {path} cannot be read: {error.strerror}") from None
