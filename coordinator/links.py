"""A link keeps both lanes to one node open for as long as the node is a member."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping

from common.auth import ClusterSecret
from common.errors import NodeUnreachable, SixfoldError
from common.wire import LaneKind
from coordinator.handshake import open_lane
from coordinator.lanes import Lane, LaneLimits

log = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 2.0


class Link:
    """Opens the lanes, and opens them again when they fail. When one falls, both do: a node that
    is silent on one is not to be trusted on the other."""

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        cluster: bytes,
        node: bytes,
        secret: ClusterSecret,
        limits: Mapping[LaneKind, LaneLimits],
        on_change: Callable[[bool], None],
    ) -> None:
        self._name, self.address = name, address
        self._cluster, self._node, self._secret = cluster, node, secret
        self._limits, self._on_change = limits, on_change
        self._lanes: dict[LaneKind, Lane] = {}
        self._down = "not connected yet"
        self._heard = asyncio.Event()
        self._task = asyncio.create_task(self._keep_open(), name=f"link {name}")

    def lane(self, kind: LaneKind) -> Lane:
        """Raises NodeUnreachable, at once, while there is none."""
        lane = self._lanes.get(kind)
        if lane is None:
            raise NodeUnreachable(f"{self._name}: {self._down}")
        return lane

    def node_reported(self, address: tuple[str, int]) -> None:
        """The node is alive, perhaps elsewhere: do not wait any longer to connect."""
        if address != self.address:
            self.address = address
            self._fall(NodeUnreachable(f"{self._name} moved to {address[0]}:{address[1]}"))
        self._heard.set()

    async def close(self) -> None:
        """Close the lanes and stop."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def _fall(self, error: SixfoldError) -> None:
        for lane in self._lanes.values():
            lane.fail(error)

    async def _keep_open(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                await self._open_both()
                retry_s = FIRST_RETRY_S
                await self._until_one_falls()
            except SixfoldError as error:
                self._note_down(str(error))
            except Exception:  # a defect: it must be seen, and not end the link for good
                log.exception("%s: the link failed, and is opened again", self._name)
            self._heard.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(retry_s * random.uniform(0.5, 1.5)):
                    await self._heard.wait()
            retry_s = min(LAST_RETRY_S, retry_s * 2)

    async def _open_both(self) -> None:
        opened: dict[LaneKind, Lane] = {}
        try:
            for kind in LaneKind:
                opened[kind] = await open_lane(
                    self._name, self.address, kind, self._secret, self._cluster, self._node,
                    self._limits[kind],
                )  # fmt: skip
        except BaseException:
            for lane in opened.values():
                lane.fail(NodeUnreachable(f"{self._name}: its other lane did not open"))
            raise
        self._lanes = opened
        self._down = ""
        log.info("%s: lanes open to %s:%d", self._name, *self.address)
        self._on_change(True)

    async def _until_one_falls(self) -> None:
        lanes = self._lanes
        try:
            await asyncio.wait(
                [lane.closed for lane in lanes.values()], return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self._lanes = {}
            self._on_change(False)
            ended = [lane.closed.result() for lane in lanes.values() if lane.closed.done()]
            cause = ended[0] if ended else NodeUnreachable(f"{self._name}: the link is closed")
            for lane in lanes.values():
                lane.fail(cause)
        self._note_down(str(cause))

    def _note_down(self, reason: str) -> None:
        if reason != self._down:
            log.warning("%s: %s", self._name, reason)
            self._down = reason
