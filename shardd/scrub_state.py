"""How far scrub is: `scrub.json`, small and durable, so that a restart does not begin anew.

Not in index.db, which may be made anew at any time.
"""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shardd.disk import Disk, read_file, write_durably
from shardd.sealed_json import seal, unseal

log = logging.getLogger(__name__)
FILE_NAME = "scrub.json"


@dataclass(slots=True)
class ScrubState:
    """Times are Unix time in whole seconds, 0 never.

    A pass, begun at `started_at`, covers the volumes with numbers below `until`; `volume` is the
    one being read, up to `offset`, since `volume_started_at`. `verified_at` says for each volume
    when its last full verification began, `verified_bytes` where it ended then: what was appended
    later does not count as verified, nor what was there when the running one began,
    `volume_bytes`, and was appended since. `covered` is the `until` of the last complete pass, and
    `completed_at` when that began. `rotten` counts the shards that were ever found bad.
    """

    running: bool = False
    passes: int = 0
    started_at: int = 0
    until: int = 0
    scanned_bytes: int = 0
    total_bytes: int = 0
    volume: int = 0
    offset: int = 0
    volume_started_at: int = 0
    volume_bytes: int = 0
    covered: int = 0
    completed_at: int = 0
    rotten: int = 0
    verified_at: dict[int, int] = field(default_factory=dict)
    verified_bytes: dict[int, int] = field(default_factory=dict)

    @classmethod
    def load(cls, disk: Disk, path: Path) -> "ScrubState":
        """A new one if there is none, or if it is damaged: all is verified once more then."""
        try:
            values = unseal(read_file(disk, path))
            times = _by_number(values.pop("verified_at"))
            ends = _by_number(values.pop("verified_bytes", {}))
            return cls(**values, verified_at=times, verified_bytes=ends)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s: %s; scrub begins anew", path, error)
        return cls()

    def save(self, disk: Disk, path: Path) -> None:
        """Raises the disk's OSError."""
        write_durably(disk, path, seal(asdict(self)))


def _by_number(said: Any) -> dict[int, int]:
    """JSON has made text of the numbers of the volumes."""
    return {int(number): int(value) for number, value in said.items()}
