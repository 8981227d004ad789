"""Peers that fall silent: what they have of a node's buffers comes back; who is slow stays."""

import asyncio
from pathlib import Path

import pytest

from common.record import shard_header
from common.units import KIB, MIB
from common.wire import FrameKind, LaneKind, pack_frame
from shardd.service import LaneLimits
from shardd.silence import Silence
from shardd.store import StoreLimits
from tests.lane_client import Client, open_lane
from tests.stores import ServedNode, make_shard, served_node

LIMITS = LaneLimits(silence_s=0.2)
STORE_LIMITS = StoreLimits(write_buffer_bytes=4 * MIB, read_buffer_bytes=4 * MIB)


async def append(client: Client, request: int) -> None:
    """A large one, and pings until it is answered, as coordinators send them."""
    client.append(request, make_shard(MIB, request))
    await answered(client, request)


async def answered(client: Client, request: int) -> None:
    while True:
        try:
            frame = await asyncio.wait_for(client.next(), 0.02)
        except TimeoutError:
            client.send(FrameKind.PING, 0)
            continue
        if frame[1] == request:
            return


async def test_who_vanishes_in_a_payload_leaves_its_buffer(tmp_path: Path) -> None:
    """Without a word, as a machine does that loses its power."""
    async with served_node(tmp_path, LIMITS, STORE_LIMITS) as node:
        shard = make_shard(MIB, 1000)
        head = pack_frame(FrameKind.APPEND, 1, shard_header(shard.info), MIB)
        silent = [await open_lane(node, LaneKind.WRITE) for _ in range(9)]
        for client in silent:
            client.transport.write(head + bytes(100 * KIB))
        await append(await open_lane(node, LaneKind.WRITE), 1)
        while len(node.lanes.lanes) > 1:
            await asyncio.sleep(0.001)
        assert node.store.write_buffers.lent_bytes == 0


async def test_who_takes_no_answers_leaves_the_buffers(tmp_path: Path) -> None:
    async with served_node(tmp_path, LIMITS, STORE_LIMITS) as node:
        shards = [make_shard(MIB, seed) for seed in range(30)]
        await node.store.append(shards)
        stopped = [await open_lane(node, LaneKind.READ) for _ in range(2)]
        for client in stopped:
            client.transport.pause_reading()
            for request, shard in enumerate(shards):
                client.send(FrameKind.READ, request, shard.address.key)
        while not node.store._reader._buffers.exhausted:
            await asyncio.sleep(0.001)
        reader = await open_lane(node, LaneKind.READ)
        reader.send(FrameKind.READ, 7, shards[0].address.key)
        await answered(reader, 7)
        await only(node, reader)
        for client in stopped:
            client.transport.abort()


async def only(node: ServedNode, alive: Client) -> None:
    while len(node.lanes.lanes) > 1:
        alive.send(FrameKind.PING, 0)
        await asyncio.sleep(0.01)


def silent_for(
    silence: Silence, looks: int, *, moved_bytes: int = 0, is_ours: bool = False
) -> bool:
    """Whether it is over long after so many looks, every second."""
    return any(
        silence.is_over_long(silence._looked_s + 1.0, moved_bytes, is_ours) for _ in range(looks)
    )


def test_silence_lasts_as_long_as_nothing_moves() -> None:
    assert not silent_for(Silence(4.0, 100.0), 3)
    assert silent_for(Silence(4.0, 100.0), 4)


@pytest.mark.parametrize("moved_bytes", [1, MIB])
def test_whatever_moves_ends_it(moved_bytes: int) -> None:
    silence = Silence(4.0, 100.0)
    assert not silent_for(silence, 3)
    assert not silent_for(silence, 4, moved_bytes=moved_bytes)
    assert silent_for(silence, 1, moved_bytes=moved_bytes)


def test_who_is_not_read_cannot_be_heard() -> None:
    silence = Silence(4.0, 100.0)
    assert not silent_for(silence, 100, is_ours=True)
    assert not silent_for(silence, 3)
    assert silent_for(silence, 1)


def test_a_node_that_was_stopped_does_not_blame_its_peers() -> None:
    silence = Silence(4.0, 100.0)
    assert not silence.is_over_long(500.0, 0, is_ours=False)
    assert not silent_for(silence, 3)
    assert silent_for(silence, 1)


def test_the_default_outlasts_several_pings() -> None:
    assert LaneLimits().silence_s >= 10.0
