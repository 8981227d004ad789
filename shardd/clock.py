"""The node's clock: what orphans in quarantine are aged by.

The time of day may be wrong by days, and people set it. So it is asked once, for a new directory.
From then on this clock advances by the kernel's monotonic one, which nobody can set. After a
restart of the machine it goes on from where it was last kept, in `clock.json`: time in which
nothing ran does not count. So it may fall behind the time of day; an orphan is kept longer then,
never shorter.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

from shardd.disk import Disk, read_file, write_durably
from shardd.identity import DataDirectory
from shardd.throttle import Clocks

log = logging.getLogger(__name__)
FILE_NAME = "clock.json"
KEEP_EVERY_S = 600.0


@dataclass(frozen=True, slots=True)
class _Tick:
    """That it was `now_s` when the monotonic clock of `boot`, one run of the machine, was
    `steady_s`."""

    now_s: float
    steady_s: float
    boot: str


class NodeClock:
    """Called, it gives Unix time in seconds, as far as the node can know it."""

    def __init__(self, directory: DataDirectory, disk: Disk, clocks: Clocks) -> None:
        """A disk that does not take the file keeps no node from starting."""
        self._directory, self._disk, self._clocks = directory, disk, clocks
        self._path = directory.path / FILE_NAME
        now = _Tick(clocks.wall_s(), clocks.steady_s(), clocks.boot())
        last = self._load()
        self._began = self._kept = last or now
        if last is None or last.boot != now.boot:
            self._began = replace(now, now_s=self._began.now_s)
            self._keep_if_possible()

    def __call__(self) -> float:
        return self._began.now_s + self._clocks.steady_s() - self._began.steady_s

    def tick(self) -> None:
        """Keep from time to time how far it is. Raises the disk's OSError, or WrongNode."""
        if self() >= self._kept.now_s + KEEP_EVERY_S:
            self._keep()

    def _keep(self) -> None:
        self._directory.check()
        tick = replace(self._began, now_s=self(), steady_s=self._clocks.steady_s())
        write_durably(self._disk, self._path, json.dumps(asdict(tick)).encode())
        self._kept = tick

    def _keep_if_possible(self) -> None:
        try:
            self._keep()
        except OSError as error:
            log.warning("%s cannot be kept: %s", self._path, error)

    def _load(self) -> _Tick | None:
        """None if there is none, or if it is damaged."""
        try:
            said: Any = json.loads(read_file(self._disk, self._path))
            return _Tick(float(said["now_s"]), float(said["steady_s"]), str(said["boot"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s: %s; it is set by the time of day", self._path, error)
            return None
