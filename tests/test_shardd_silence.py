"""Peers that are stopped, or gone without a word: a node ends their lanes, and what they had goes
to others."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.record import shard_header
from common.units import KIB, MIB
from common.wire import FrameKind, LaneKind, pack_frame
from shardd.silence import Silence
from shardd.store import StoreLimits
from tests.lane_client import LIMITS, Client, open_lane
from tests.stores import ServedNode, make_shard, served_node


class Peer:
    """What a lane knows of one, by a clock of its own. A look every second."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.silence = Silence(10.0, self.now_s)

    def look(
        self,
        after_s: float = 1.0,
        heard: bool = False,
        listening: bool = True,
        taken_bytes: int = 0,
        unsent_bytes: int = 0,
    ) -> str | None:
        self.now_s += after_s
        return self.silence.look(self.now_s, heard, listening, taken_bytes, unsent_bytes)


def test_a_silent_peer_is_given_up() -> None:
    peer = Peer()
    assert not any(peer.look(heard=True) for _ in range(20))
    assert not any(peer.look() for _ in range(10))
    assert peer.look() == "nothing came for 10 s"


def test_a_lane_that_is_not_read_from_is_not_silent() -> None:
    peer = Peer()
    assert not any(peer.look(listening=False) for _ in range(100))
    assert not any(peer.look() for _ in range(10))
    assert peer.look() is not None


@pytest.mark.parametrize("listening", [False, True])
def test_a_peer_that_takes_nothing_is_given_up(listening: bool) -> None:
    """Whether or not it is listened to, and although it says something."""
    peer = Peer()
    look = partial(peer.look, heard=True, listening=listening, taken_bytes=5)
    assert not any(look() for _ in range(20))  # there is nothing to take
    assert not any(look(unsent_bytes=7) for _ in range(10))
    assert look(unsent_bytes=7) == "7 bytes of answers were not taken for 10 s"


def test_a_slow_peer_is_not_given_up() -> None:
    peer = Peer()
    for taken_bytes in range(50):
        look = partial(peer.look, listening=False, taken_bytes=taken_bytes, unsent_bytes=MIB)
        assert not any(look() for _ in range(9))


def test_a_node_that_slept_gives_its_peers_time() -> None:
    """The process was stopped, or the machine: what came meanwhile lies unread."""
    peer = Peer()
    assert not any(peer.look(unsent_bytes=7) for _ in range(9))
    assert peer.look(after_s=3600, unsent_bytes=7) is None
    assert not any(peer.look(unsent_bytes=7) for _ in range(10))
    assert peer.look(unsent_bytes=7) is not None


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ServedNode]:
    """Of little memory and little patience."""
    limits = StoreLimits(write_buffer_bytes=MIB, read_buffer_bytes=MIB)
    async with served_node(tmp_path, replace(LIMITS, silence_s=0.3), limits) as served:
        yield served


async def keep_pinging(client: Client) -> None:
    while not client.transport.is_closing():
        client.send(FrameKind.PING)
        await asyncio.sleep(0.01)


async def test_peers_that_stop_in_a_payload_do_not_keep_its_buffers(node: ServedNode) -> None:
    shard, other = make_shard(600 * KIB), make_shard(600 * KIB, 1)
    head = pack_frame(FrameKind.APPEND, 1, shard_header(shard.info), 600 * KIB)
    stopped = [await open_lane(node, LaneKind.WRITE) for _ in range(3)]
    for client in stopped:
        client.transport.write(head + bytes(100 * KIB))
    while not node.store.write_buffers.exhausted:
        await asyncio.sleep(0.001)
    living = await open_lane(node, LaneKind.WRITE)
    living.append(1, other)
    assert (await living.next())[:2] == (FrameKind.OK, 1)
    for client in stopped:
        assert isinstance(await client.refusal(), Unavailable)
    await node.store.append([shard])
    assert node.store.write_buffers.lent_bytes == 0


async def test_peers_that_take_no_answers_do_not_keep_their_buffers(node: ServedNode) -> None:
    """They say something all the same: it is not silence that ends their lanes."""
    shards = [make_shard(900 * KIB, seed) for seed in range(40)]
    for shard in shards:
        await node.store.append([shard])
    stopped = await open_lane(node, LaneKind.READ)
    stopped.transport.pause_reading()
    for request, shard in enumerate(shards):
        stopped.send(FrameKind.READ, request, shard.address.key)
    pool = node.store._reader._buffers
    while not pool.exhausted:
        await asyncio.sleep(0.001)
    pinging = asyncio.create_task(keep_pinging(stopped))
    while node.lanes.lanes:
        await asyncio.sleep(0.001)
    living = await open_lane(node, LaneKind.READ)
    living.send(FrameKind.READ, 1, shards[0].address.key)
    assert (await living.next())[3] == shards[0].payload
    assert pool.lent_bytes == 0
    stopped.transport.abort()
    await pinging


async def test_pings_keep_a_lane_open(node: ServedNode) -> None:
    """Until others that say nothing have been ended."""
    living, silent = [await open_lane(node, LaneKind.READ) for _ in range(2)]
    pinging = asyncio.create_task(keep_pinging(living))
    assert isinstance(await silent.refusal(), Unavailable)
    assert len(node.lanes.lanes) == 1
    living.transport.abort()
    await pinging
