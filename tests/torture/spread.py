"""The longest tests use all cores: each case is by itself, so processes can share them."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

T = TypeVar("T")
C = TypeVar("C")

WORTH_PROCESSES = 1_000  # cases; fewer are done before these have started


class Share(NamedTuple):
    """Every how manyth case, and from which on."""

    first: int
    of: int

    def cases(self, cases: Iterable[C]) -> Iterator[C]:
        """Those that are in this share."""
        return islice(cases, self.first, None, self.of)


def spread(work: Callable[[Share], T], cases: int) -> list[T]:
    """What `work`, which must be picklable, makes of all shares, in their order."""
    processes = os.cpu_count() or 1 if cases >= WORTH_PROCESSES else 1
    shares = [Share(first, processes) for first in range(processes)]
    if processes == 1:
        return [work(share) for share in shares]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, _end_with_the_parent) as pool:
        return list(pool.map(work, shares))


def _end_with_the_parent() -> None:
    """A process of the pool would go on with its share after the parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
