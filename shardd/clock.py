"""The node's clock: what orphans in quarantine are aged by.

The time of day may be wrong by days, and people set it. So it is asked once, for a new directory.
From then on this clock advances by the kernel's monotonic one, which nobody can set. After a
restart of the machine it goes on from where it was last kept, in `clock.json`: time in which
nothing ran does not count. So it may fall behind the time of day; an orphan is kept longer then,
never shorter. Nor is it if the file is damaged, or gone: the clock goes on from the last thing that
was put into quarantine.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from shardd.disk import Disk, read_file, write_durably
from shardd.identity import DataDirectory
from shardd.sealed_json import seal, unseal
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

    def __init__(
        self,
        directory: DataDirectory,
        disk: Disk,
        clocks: Clocks,
        last_used_s: Callable[[], float | None],
    ) -> None:
        """`last_used_s`, the latest time by this clock that is noted anywhere, is asked if the file
        tells none. A disk that does not take the file keeps no node from starting."""
        self._directory, self._disk, self._clocks = directory, disk, clocks
        self._path = directory.path / FILE_NAME
        last = self._load()
        if last is not None and last.boot == clocks.boot():
            self._began = self._kept = last
            return
        now_s = last_used_s() if last is None else last.now_s
        if now_s is None:
            now_s = clocks.wall_s()
        self._began = self._kept = _Tick(now_s, clocks.steady_s(), clocks.boot())
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
        write_durably(self._disk, self._path, seal(asdict(tick)))
        self._kept = tick

    def _keep_if_possible(self) -> None:
        try:
            self._keep()
        except OSError as error:
            log.warning("%s cannot be kept: %s", self._path, error)

    def _load(self) -> _Tick | None:
        """None if there is none, or if it is damaged."""
        try:
            tick = _Tick(**unseal(read_file(self._disk, self._path)))
            return replace(tick, now_s=float(tick.now_s), steady_s=float(tick.steady_s))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s: %s; orphans may be kept longer", self._path, error)
            return None
