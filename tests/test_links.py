"""A link keeps both lanes to a node open, whatever becomes of them."""

import asyncio

import pytest

from common.errors import NodeUnreachable
from common.wire import LaneKind
from coordinator.lanes import Lane, LaneLimits
from coordinator.links import Link
from tests.lane_peer import CLUSTER, NODE, SECRET, Peer

LIMITS = dict.fromkeys(LaneKind, LaneLimits(request_s=30.0, ping_s=30.0, silence_s=30.0))


async def test_a_link_opens_both_lanes_again_when_one_falls() -> None:
    changes: asyncio.Queue[bool] = asyncio.Queue()
    async with Peer() as peer:
        link = Link("node-1", peer.address, CLUSTER, NODE, SECRET, LIMITS, changes.put_nowait)
        assert await changes.get() is True
        before = [link.lane(kind) for kind in LaneKind]
        assert peer.connection.transport is not None
        peer.connection.transport.abort()
        assert await changes.get() is False
        assert all(lane.closed.done() for lane in before)
        assert await changes.get() is True
        assert all(not link.lane(kind).closed.done() for kind in LaneKind)
        await link.close()
        assert await changes.get() is False
        with pytest.raises(NodeUnreachable):
            link.lane(LaneKind.READ)


async def test_a_link_follows_a_node_that_moves() -> None:
    changes: asyncio.Queue[bool] = asyncio.Queue()
    async with Peer() as old, Peer() as new:
        link = Link("node-1", old.address, CLUSTER, NODE, SECRET, LIMITS, changes.put_nowait)
        assert await changes.get() is True
        link.node_reported(new.address)
        assert await changes.get() is False
        assert await changes.get() is True
        assert len(new.connections) == 2
        await link.close()


async def test_a_link_outlives_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, changes = asyncio.Event(), asyncio.Queue[bool]()

    async def defective(*arguments: object) -> Lane:
        monkeypatch.undo()
        failed.set()
        raise RuntimeError("a defect")

    monkeypatch.setattr("coordinator.links.open_lane", defective)
    async with Peer() as peer:
        link = Link("node-1", peer.address, CLUSTER, NODE, SECRET, LIMITS, changes.put_nowait)
        assert await changes.get() is True
        assert failed.is_set()
        await link.close()
