"""A coordinator's lane against a real socket whose other end does all that nodes may do."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from common.auth import ClusterSecret
from common.errors import (
    Corrupt,
    NodeTimeout,
    NodeUnreachable,
    ProtocolError,
    StorageFull,
    Unauthorized,
)
from common.hashing import blake3_digest
from common.ids import SegmentId, ShardAddress
from common.record import shard_header
from common.shards import Encoding, ShardInfo, ShardMissing, ShardRecord
from common.units import KIB
from common.wire import FrameKind, LaneKind, pack_error, pack_frame
from coordinator.handshake import open_lane
from coordinator.lanes import Lane, LaneLimits
from tests.lane_peer import CLUSTER, NODE, SECRET, Asked, Peer, PeerProtocol, settled

PATIENT = LaneLimits(request_s=30.0, ping_s=30.0, silence_s=30.0)
ADDRESS = ShardAddress(SegmentId(bytes(32)), 1, 0)


async def lane_to(
    peer: Peer,
    limits: LaneLimits = PATIENT,
    secret: ClusterSecret = SECRET,
    kind: LaneKind = LaneKind.READ,
) -> Lane:
    return await open_lane("node-1", peer.address, kind, secret, CLUSTER, NODE, limits)


def record(payload: bytes, address: ShardAddress = ADDRESS) -> ShardRecord:
    info = ShardInfo(
        address, 6, 9, 6 * len(payload), Encoding.PLAIN, len(payload), blake3_digest(payload)
    )
    return ShardRecord(info, payload)


def read(lane: Lane, into: memoryview | None = None) -> "asyncio.Future[list[object]]":
    return lane.ask(FrameKind.READ, ADDRESS.key, address=ADDRESS, into=into)


def serve(payload: bytes, address: ShardAddress = ADDRESS) -> Callable[[PeerProtocol, Asked], None]:
    header = shard_header(record(payload, address).info)
    return lambda peer, asked: peer.send(FrameKind.RECORD, asked.request, header, payload)


async def test_answers_find_their_requests_in_any_order() -> None:
    async with Peer() as peer:
        lane = await lane_to(peer)
        first, second, third = read(lane), read(lane), read(lane)
        await peer.arrived(3)
        one, two, three = peer.asked
        peer.connection.send(FrameKind.MISSING, three.request)
        serve(b"second")(peer.connection, two)
        peer.connection.send(FrameKind.ERROR, one.request, pack_error(Corrupt("rotten")))
        assert await third == [ShardMissing(ADDRESS)]
        assert await second == [record(b"second")]
        with pytest.raises(Corrupt, match="rotten"):
            await first
        lane.fail(NodeUnreachable("end"))


async def test_errors_keep_their_type() -> None:
    async with Peer() as peer:
        lane = await lane_to(peer, kind=LaneKind.WRITE)
        answer = lane.ask(FrameKind.APPEND, shard_header(record(b"x").info), b"x")
        await peer.arrived(1)
        refusal = pack_error(StorageFull("no room"))
        peer.connection.send(FrameKind.ERROR, peer.asked[0].request, refusal)
        with pytest.raises(StorageFull, match="no room"):
            await answer
        lane.fail(NodeUnreachable("end"))


async def test_small_requests_of_one_turn_leave_together() -> None:
    async with Peer() as peer:
        lane = await lane_to(peer)
        answers = [read(lane) for _ in range(50)]
        await peer.arrived(50)
        assert peer.connection.turns == [50]
        for asked in peer.asked:
            peer.connection.send(FrameKind.MISSING, asked.request)
        await asyncio.gather(*answers)
        lane.fail(NodeUnreachable("end"))


async def test_at_most_two_batches_are_unanswered() -> None:
    async with Peer() as peer:
        lane = await lane_to(peer)
        for batch in range(1, 3):
            read(lane)
            await peer.arrived(batch)
        held = [read(lane) for _ in range(7)]
        await settled()
        assert len(peer.asked) == 2
        peer.connection.send(FrameKind.MISSING, peer.asked[0].request)
        await peer.arrived(9)
        assert peer.connection.turns == [1, 1, 7]
        for asked in peer.asked[1:]:
            peer.connection.send(FrameKind.MISSING, asked.request)
        await asyncio.gather(*held)
        lane.fail(NodeUnreachable("end"))


async def test_credits_bound_what_is_in_flight() -> None:
    async with Peer(window=(300 * KIB, 1000)) as peer:
        lane = await lane_to(peer, kind=LaneKind.WRITE)
        payload = bytes(100 * KIB)
        header = shard_header(record(payload).info)
        answers = [lane.ask(FrameKind.APPEND, header, payload) for _ in range(5)]
        await peer.arrived(2)
        await settled()
        assert len(peer.asked) == 2  # a third would not fit with its header
        for done in range(5):
            await peer.arrived(done + 1)
            peer.connection.send(FrameKind.OK, peer.asked[done].request)
        await asyncio.gather(*answers)
        assert [asked.payload for asked in peer.asked] == [payload] * 5
        lane.fail(NodeUnreachable("end"))


async def test_a_payload_larger_than_the_window_still_goes() -> None:
    async with Peer(window=(100 * KIB, 10)) as peer:
        lane = await lane_to(peer, kind=LaneKind.WRITE)
        payload = bytes(200 * KIB)
        answer = lane.ask(FrameKind.APPEND, shard_header(record(payload).info), payload)
        await peer.arrived(1)
        peer.connection.send(FrameKind.OK, peer.asked[0].request)
        await answer
        lane.fail(NodeUnreachable("end"))


@pytest.mark.parametrize("size", [1, 1000, 64 * KIB - 1, 64 * KIB, 300 * KIB])
async def test_payloads_arrive_in_their_place(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with Peer(script=serve(payload)) as peer:
        lane = await lane_to(peer)
        place = memoryview(bytearray(size))
        (answer,) = await read(lane, place)
        assert isinstance(answer, ShardRecord)
        assert answer.payload is place
        assert place == payload
        lane.fail(NodeUnreachable("end"))


async def test_a_payload_of_another_length_leaves_the_place_alone() -> None:
    async with Peer(script=serve(bytes(100 * KIB))) as peer:
        lane = await lane_to(peer)
        place = memoryview(bytearray(b"\xff" * 50))
        (answer,) = await read(lane, place)
        assert isinstance(answer, ShardRecord)
        assert len(answer.payload) == 100 * KIB
        assert place == b"\xff" * 50
        lane.fail(NodeUnreachable("end"))


async def test_an_abandoned_read_writes_nothing_more_into_its_place() -> None:
    """The buffer of a read that was given up is used elsewhere at once: not a byte of the late
    answer may reach it."""
    payload = b"\x01" * (300 * KIB)
    async with Peer() as peer:
        lane = await lane_to(peer)
        place = memoryview(bytearray(len(payload)))
        answer = read(lane, place)
        await peer.arrived(1)
        header = shard_header(record(payload).info)
        frame = bytearray(peer_frame(peer.asked[0].request, header, payload))
        peer.connection.send_raw(bytes(frame[: 100 * KIB]))
        while place[50 * KIB] == 0:
            await settled()
        answer.cancel()
        place[:] = b"\x02" * len(place)
        peer.connection.send_raw(bytes(frame[100 * KIB :]))
        following = read(lane)  # the lane goes on
        await peer.arrived(2)
        peer.connection.send(FrameKind.MISSING, peer.asked[1].request)
        assert await following == [ShardMissing(ADDRESS)]
        assert place == b"\x02" * len(place)
        lane.fail(NodeUnreachable("end"))


def peer_frame(request: int, header: bytes, payload: bytes) -> bytes:
    return pack_frame(FrameKind.RECORD, request, header, len(payload)) + payload


async def test_a_silent_node_fails_its_waiters() -> None:
    async with Peer(answers_pings=False) as peer:
        lane = await lane_to(peer, LaneLimits(request_s=30.0, ping_s=0.01, silence_s=0.1))
        with pytest.raises(NodeTimeout, match="silent"):
            await read(lane)
        with pytest.raises(NodeTimeout):
            await read(lane)  # and those who come later, at once
        await peer.lost.wait()


async def test_a_node_that_answers_pings_but_not_requests_meets_the_deadline() -> None:
    async with Peer() as peer:
        lane = await lane_to(peer, LaneLimits(request_s=0.1, ping_s=0.01, silence_s=30.0))
        with pytest.raises(NodeTimeout, match="did not answer"):
            await read(lane)


async def test_a_dripping_node_meets_the_deadline() -> None:
    payload = bytes(100 * KIB)
    frame = peer_frame(1, shard_header(record(payload).info), payload)

    def drip(peer: PeerProtocol, asked: Asked) -> None:
        async def drop() -> None:
            for byte in frame:
                peer.send_raw(bytes([byte]))
                await asyncio.sleep(0.005)

        dripping.append(asyncio.create_task(drop()))

    dripping: list[asyncio.Task[None]] = []
    async with Peer(script=drip, answers_pings=False) as peer:
        lane = await lane_to(peer, LaneLimits(request_s=0.2, ping_s=0.02, silence_s=30.0))
        with pytest.raises(NodeTimeout):
            await read(lane, memoryview(bytearray(len(payload))))
        for task in dripping:
            task.cancel()


async def test_pings_keep_an_idle_lane_open() -> None:
    async with Peer() as peer:
        lane = await lane_to(peer, LaneLimits(request_s=30.0, ping_s=0.01, silence_s=0.2))
        await asyncio.wait([lane.closed], timeout=0.5)
        assert not lane.closed.done()
        lane.fail(NodeUnreachable("end"))


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda peer, asked: peer.send_raw(b"\xff" * 100),
        lambda peer, asked: peer.send(FrameKind.MISSING, asked.request + 1),
        lambda peer, asked: peer.send(FrameKind.OK, asked.request),
        lambda peer, asked: peer.send(FrameKind.WELCOME, asked.request),
        lambda peer, asked: peer.send(FrameKind.RECORD, 0, bytes(128)),
        serve(b"x", ShardAddress(SegmentId(bytes(32)), 2, 0)),
        serve(b"x", ShardAddress(SegmentId(bytes(32)), 1, 1)),
    ],
)
async def test_nonsense_closes_the_lane(nonsense: Callable[[PeerProtocol, Asked], None]) -> None:
    async with Peer(script=nonsense) as peer:
        lane = await lane_to(peer)
        with pytest.raises(ProtocolError):
            await read(lane)
        assert isinstance(await lane.closed, ProtocolError)
        await peer.lost.wait()


async def test_a_record_with_a_broken_header_fails_its_request_only() -> None:
    async with Peer(script=lambda p, a: p.send(FrameKind.RECORD, a.request, bytes(128))) as peer:
        lane = await lane_to(peer)
        with pytest.raises(Corrupt):
            await read(lane)
        assert not lane.closed.done()
        lane.fail(NodeUnreachable("end"))


async def test_a_node_that_closes_fails_everyone() -> None:
    async with Peer() as peer:
        lane = await lane_to(peer)
        answers = [read(lane) for _ in range(5)]
        await peer.arrived(5)
        assert peer.connection.transport is not None
        peer.connection.transport.abort()
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NodeUnreachable] * 5
        assert len({id(outcome) for outcome in outcomes}) == 5


async def test_a_stranger_is_refused_by_us() -> None:
    other = ClusterSecret(b"another secret of another cluster")
    async with Peer(secret=other) as peer:
        with pytest.raises(Unauthorized):
            await lane_to(peer)
        await peer.lost.wait()


async def test_nobody_listens() -> None:
    async with Peer() as peer:
        address = peer.address
    with pytest.raises(NodeUnreachable):
        await open_lane("node-1", address, LaneKind.READ, SECRET, CLUSTER, NODE, PATIENT)


async def test_a_port_that_never_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.handshake.HANDSHAKE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listening:  # connects, but nobody accepts
        address = listening.getsockname()
        with pytest.raises(NodeTimeout):
            await open_lane("node-1", address, LaneKind.READ, SECRET, CLUSTER, NODE, PATIENT)
