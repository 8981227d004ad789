"""The database's clock: what grace periods and leases are counted by.

SQLite has none of its own, and the time of day that a process believes in may be wrong by days, or
jump. So the time of day is asked once, for a new database. From then on its clock advances by the
kernel's monotonic clock, which nobody can set and which all processes of a machine share; SQLite
needs one machine anyhow. After a restart of the machine it goes on from its last tick (a session
ticks when it is renewed, each 15 s): time in which nothing ran does not count. So the clock may
fall behind the time of day. A grace period then lasts longer, never shorter.

What people read (when a content was created) is the time of day of the process that wrote it.
"""

import time
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """What a process knows of time. Called, it gives seconds that only ever grow, in a sequence
    that `boot` names: within one, all processes have the same."""

    @property
    def boot(self) -> str: ...

    def __call__(self) -> float: ...

    def wall(self) -> float:
        """Seconds since 1970, as well as this process knows."""


class MachineClock:
    """The kernel's."""

    def __init__(self) -> None:
        self.boot = _BOOT_ID.read_text().strip()

    def __call__(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
