"""Random histories of a store (one_process.py): contents come and go, time passes, jobs work."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from common.errors import NotFound, SixfoldError
from common.hashing import blake3_digest
from common.ids import ContentId
from coordinator import sweep
from tests.torture.one_process import GRACE_S, SEGMENT_BYTES, Store

SIZES = (0, 1, 700, 20_000, SEGMENT_BYTES, 2 * SEGMENT_BYTES + 5)
JOBS = ("collect", "rebundle", "outbox", "sweep", "repair")


@contextmanager
def no_rest() -> Iterator[None]:
    """Jobs do not spare anybody."""
    with patch.object(sweep, "PAGE_REST_S", 0):
        yield


class History:
    """`contents` are those that must be there, `deleted` those that must not. With `moves`, nodes
    are drained and taken back: shards may share a node then for a while. With `pieces`, segments
    of larger contents are stored as contents, too."""

    def __init__(
        self, store: Store, rng: random.Random, moves: bool = False, pieces: bool = False
    ) -> None:
        self.store, self.rng = store, rng
        self._steps = [
            self.put, self.put, self.put_together, self.delete, self.put_again, self.let_pass,
        ]  # fmt: skip
        if moves:
            self._steps.append(self.move)
        if pieces:
            self._steps.append(self.put_piece)
        self.contents: dict[ContentId, bytes] = {}
        self.deleted: dict[ContentId, bytes] = {}

    async def go_on(self, steps: int) -> None:
        for _ in range(steps):
            await self.rng.choice(self._steps)()

    async def put(self) -> None:
        await self._put(self.rng.randbytes(self.rng.choice(SIZES)))

    async def put_together(self) -> None:
        """Small contents that share a bundle; most of them soon go."""
        contents = [self.rng.randbytes(self.rng.randint(1, 900)) for _ in range(5)]
        front = self.rng.choice(self.store.fronts)
        for data, stored in zip(contents, await front.put_together(*contents), strict=True):
            if isinstance(stored, BaseException):
                raise stored
            self.contents[stored.id] = data
        for data in self.rng.sample(contents, self.rng.choice([0, 3, 4])):
            await self._delete(ContentId(blake3_digest(data)))

    async def put_again(self) -> None:
        """What is there already, or was."""
        known = [*self.contents.values(), *self.deleted.values()]
        if known:
            await self._put(self.rng.choice(known))

    async def put_back(self) -> None:
        """What was deleted."""
        for data in list(self.deleted.values()):
            await self._put(data)

    async def put_piece(self) -> None:
        """What is a segment of a larger content already, or will be one of it."""
        large = self.rng.randbytes(2 * SEGMENT_BYTES + 700)
        first = self.rng.choice([0, SEGMENT_BYTES, 2 * SEGMENT_BYTES])
        both = [large, large[first : first + SEGMENT_BYTES]]
        for data in self.rng.sample(both, 2):
            await self._put(data)

    async def settle(self) -> None:
        """Until what failed uploads have left is on its way out."""
        for front in self.store.fronts:
            await front.settle()

    async def _put(self, data: bytes) -> None:
        stored = await self.rng.choice(self.store.fronts).put(data)
        self.contents[stored.id] = data
        self.deleted.pop(stored.id, None)

    async def delete(self) -> None:
        if self.contents:
            await self._delete(self.rng.choice(list(self.contents)))

    async def _delete(self, id_: ContentId) -> None:
        self.deleted[id_] = self.contents.pop(id_)
        await self.rng.choice(self.store.fronts).metadata.unpin(id_)

    async def let_pass(self) -> None:
        """Time, often more than it takes to collect."""
        await self.store.pass_time(self.rng.choice([5, 70, GRACE_S + 1]))
        for job in JOBS:
            await self.rng.choice(self.store.fronts).work(job)

    async def move(self) -> None:
        """Nodes are drained and taken back."""
        draining = self.rng.choice(self.store.fronts).draining
        sample = self.rng.sample(self.store.up, self.rng.randint(1, 4))
        names = [f"node-{number}" for number in sample]
        for name in names:
            await draining.drain(name, force=True, dry_run=False)
        for job in ("repair", "outbox"):
            await self.rng.choice(self.store.fronts).work(job)
        for name in names:
            await draining.undrain(name)

    async def wrong(self) -> list[str]:
        """What is not there and should be, or is there and should not."""
        said = []
        for id_, data in self.contents.items():
            try:
                if await self.rng.choice(self.store.fronts).get(id_) != data:
                    said.append(f"content {id_}: wrong bytes")
            except SixfoldError as error:
                said.append(f"content {id_} of {len(data)} bytes: {error}")
        for id_ in self.deleted:
            try:
                await self.rng.choice(self.store.fronts).get(id_)
                said.append(f"content {id_} was deleted and is there")
            except NotFound:
                pass
            except SixfoldError as error:
                said.append(f"content {id_} was deleted: {error}")
        return said
