"""Frames out of a byte stream, however the network cuts it."""

import asyncio
import random
from itertools import chain, combinations, cycle, repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.framing import (
    RECEIVE_BUFFER_BYTES,
    kind_name,
)
from common.units import KIB, MIB
from common.wire import FRAME, MAX_META_BYTES, MAX_PAYLOAD_BYTES, FrameKind
from tests.frames import (
    LARGE,
    SMALL,
    Recorder,
    cuts,
    feed,
    make_frame,
    make_frames,
    pack_all,
    parse,
    whole,
)

# However it is cut


def test_small_frames_cut_at_every_position() -> None:
    frames = make_frames((0, 0), (5, 0), (0, 7), (3, 40), (41, 0), (0, 0))
    stream = pack_all(frames)
    for positions in combinations(range(1, len(stream)), 2):
        assert parse(stream, cuts(stream, positions)).frames == frames


def test_a_large_frame_between_small_ones_cut_at_every_position_near_its_ends() -> None:
    frames = make_frames((3, 5), (9, LARGE), (2, 4), (0, 0))
    stream = pack_all(frames)
    ends = [*range(1, 80), *range(len(stream) - 80, len(stream))]
    for positions in chain(((end,) for end in ends), combinations(ends[::5], 2)):
        assert parse(stream, cuts(stream, positions)).frames == frames


@pytest.mark.parametrize(
    "sizes",
    [
        [(0, SMALL)],
        [(MAX_META_BYTES, SMALL)],
        [(1, 1), (MAX_META_BYTES, SMALL), (1, 1)],
        [(MAX_META_BYTES, SMALL)] * 5,
        [(MAX_META_BYTES, 0)] * 9,
        [(MAX_META_BYTES, LARGE), (MAX_META_BYTES, SMALL)] * 3,
        [(0, LARGE)] * 4,
        [(128, LARGE + 1), (128, SMALL), (128, MIB), (128, 100)] * 2,
        [(20, 4100)] * 200,
    ],
    ids=str,
)
@pytest.mark.parametrize("arrival", [1_000, 4_096, 65_537, RECEIVE_BUFFER_BYTES - 1, 1 << 30])
def test_frames_of_every_size(sizes: list[tuple[int, int]], arrival: int) -> None:
    frames = make_frames(*sizes)
    assert parse(pack_all(frames), repeat(arrival)).frames == frames


def test_the_largest_small_frame_byte_by_byte() -> None:
    frames = make_frames((7, 9), (MAX_META_BYTES, SMALL), (7, 9))
    assert parse(pack_all(frames), repeat(1)).frames == frames


def test_the_largest_frame() -> None:
    frames = make_frames((MAX_META_BYTES, MAX_PAYLOAD_BYTES), (1, 1))
    assert parse(pack_all(frames), whole()).frames == frames


meta_sizes = st.sampled_from([0, 1, 41, 128, 4000, MAX_META_BYTES])
payload_sizes = st.sampled_from([0, 1, 100, 4096, SMALL, LARGE, LARGE + 1, 300 * KIB])
arrivals_drawn = st.lists(
    st.integers(1, 30) | st.integers(1, 5000) | st.integers(1000, 2 * RECEIVE_BUFFER_BYTES),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(meta_sizes, payload_sizes), max_size=20), arrivals_drawn)
def test_any_frames_in_any_arrivals(sizes: list[tuple[int, int]], arrivals: list[int]) -> None:
    frames = make_frames(*sizes)
    arrivals.append(max(*arrivals, 200))  # so that the stream does end
    receiver = parse(pack_all(frames), cycle(arrivals))
    assert receiver.frames == frames
    assert not receiver.failures


@pytest.mark.parametrize("seed", range(3))
async def test_through_a_real_socket(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [(draw.choice([0, 41, 128]), draw.choice([0, 4096, SMALL, LARGE, MIB]))] * 10
    frames = make_frames(*(sizes + [(draw.randrange(200), draw.randrange(9000))] * 500))

    class UntilLost(Recorder):
        def connection_lost(self, exc: Exception | None) -> None:
            ended.set()

    receiver, ended = UntilLost(), asyncio.Event()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: receiver, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        stream = pack_all(frames)
        while stream:
            size = draw.choice([1, 1000, 100_000, 1_000_000])
            writer.write(stream[:size])
            stream = stream[size:]
            await writer.drain()
        writer.close()
        await ended.wait()
    assert receiver.frames == frames


# Whose memory it is


def test_a_large_payload_is_received_in_its_place() -> None:
    frames = make_frames((1, 2), (10, MIB), (1, 2))
    stream = pack_all(frames)
    receiver = Recorder()
    head = len(frames[0].pack()) + 12 + 10 + 100  # and the first 100 bytes of the payload
    feed(receiver, stream[:head], whole())
    buffer = receiver.get_buffer(-1)
    assert buffer.obj is receiver.places[0].obj
    assert len(buffer) == MIB - 100, "nothing of the next frame may go there"
    feed(receiver, stream[head:], whole())
    assert receiver.frames == frames
    assert receiver.payloads[1].obj is receiver.places[0].obj
    assert len(receiver.places) == 1, "small payloads have no place of their own"


def test_a_large_payload_that_is_there_already_goes_to_its_place_as_well() -> None:
    frames = make_frames((10, LARGE), (10, LARGE), (1, 2))
    receiver = parse(pack_all(frames), whole())
    assert receiver.frames == frames
    assert [payload.obj for payload in receiver.payloads[:2]] == [
        place.obj for place in receiver.places
    ]
    assert receiver.turns == [3]


def test_the_rest_of_a_payload_can_be_redirected() -> None:
    frames = make_frames((1, 2), (10, MIB), (1, 2))
    stream = pack_all(frames)
    receiver, other = Recorder(), bytearray(MIB)
    feed(receiver, stream[:300_000], whole())
    before = bytes(receiver.places[0])
    receiver.redirect_payload(memoryview(other))
    feed(receiver, stream[300_000:], repeat(100_000))
    assert receiver.places[0] == before, "the first place is left alone from then on"
    received = 300_000 - len(frames[0].pack()) - 12 - 10
    assert other[received:] == frames[1].payload[received:]
    assert receiver.payloads[1].obj is other
    assert (receiver.frames[0], receiver.frames[2]) == (frames[0], frames[2])


@pytest.mark.parametrize("received", [0, 1, 5000, LARGE - 1])
def test_a_payload_can_be_redirected_wherever_it_stands(received: int) -> None:
    """Twice, as when the reader goes and the one who drains goes too; then one byte at a time."""
    frames = make_frames((10, LARGE), (1, 2))
    stream = pack_all(frames)
    at = 12 + 10 + received
    receiver, first, second = Recorder(), bytearray(LARGE), bytearray(LARGE)
    feed(receiver, stream[:at], [at])
    receiver.redirect_payload(memoryview(first))
    assert len(receiver.get_buffer(-1)) == LARGE - received
    receiver.redirect_payload(memoryview(second))
    feed(receiver, stream[at:], chain([1], whole()))
    assert not any(first)
    assert second == bytes(received) + frames[0].payload[received:]
    assert bytes(receiver.places[0]) == frames[0].payload[:received] + bytes(LARGE - received)
    assert receiver.frames[1:] == frames[1:]
    receiver.redirect_payload(memoryview(first))  # too late: nothing is under way
    feed(receiver, stream, whole())
    assert receiver.frames[2:] == frames


def test_the_largest_small_frame_fits_behind_a_whole_arrival() -> None:
    assert 2 * (12 + MAX_META_BYTES + SMALL) < RECEIVE_BUFFER_BYTES == 256 * KIB
    assert LARGE == 64 * KIB


def test_with_no_payload_in_progress_nothing_is_redirected() -> None:
    frames = make_frames((1, 2), (10, LARGE), (1, 2))
    receiver, other = Recorder(), bytearray(LARGE)
    for frame in frames:
        receiver.redirect_payload(memoryview(other))
        feed(receiver, frame.pack(), whole())
    assert receiver.frames == frames
    assert not any(other)


# Turns


def test_a_turn_ends_once_for_all_that_one_arrival_brought() -> None:
    frames = make_frames(*[(20, 100)] * 50)
    assert parse(pack_all(frames), whole()).turns == [50]


def test_a_turn_ends_after_the_frame_that_it_completes() -> None:
    frames = make_frames((20, 100), (20, MIB), (20, 100))
    receiver = Recorder()
    for frame in frames:
        feed(receiver, frame.pack(), whole())
        assert receiver.turns[-1] == len(receiver.frames)
    assert receiver.frames == frames


# What is refused


@pytest.mark.parametrize(
    ("payload_bytes", "meta_bytes"),
    [(MAX_PAYLOAD_BYTES + 1, 0), (2**32 - 1, 0), (0, MAX_META_BYTES + 1), (2**32 - 1, 2**16 - 1)],
)
@pytest.mark.parametrize("arrival", [1, 7, 1 << 30])
def test_an_oversize_frame_fails_at_its_header(
    payload_bytes: int, meta_bytes: int, arrival: int
) -> None:
    good = make_frames((3, 4), (5, 6))
    header = FRAME.pack(payload_bytes, 1, meta_bytes, FrameKind.APPEND)
    receiver = parse(pack_all(good) + header, repeat(arrival))
    assert receiver.frames == good, "what came before it counts"
    assert len(receiver.failures) == 1
    assert "frame too large" in receiver.failures[0]


@pytest.mark.parametrize("where", ["frame_received", "payload_place", "turn_ended"])
@pytest.mark.parametrize("arrival", [5_000, 1 << 30])
def test_a_subclass_may_refuse(where: str, arrival: int) -> None:
    receiver = Recorder()
    receiver.refuses = where
    stream = make_frame(0, 1, LARGE).pack()
    size = len(stream) if where == "frame_received" else 5_000
    feed(receiver, stream[:size], repeat(arrival))
    assert receiver.failures == [where]


@pytest.mark.parametrize("size", [100_000, RECEIVE_BUFFER_BYTES, 3 * MIB])
def test_after_a_failure_all_else_is_ignored(size: int) -> None:
    """The transport may hand over more before it is gone, several times in one turn."""
    frames = make_frames(*[(100, 1000)] * (size // 1000))
    receiver = parse(bytes([0xFF]) * 12 + pack_all(frames), whole())
    assert len(receiver.failures) == 1
    assert receiver.frames == []


@settings(deadline=None)
@given(st.binary(max_size=3000), arrivals_drawn)
def test_any_bytes_are_frames_or_fail(stream: bytes, arrivals: list[int]) -> None:
    receiver = parse(stream, cycle(arrivals))
    assert len(receiver.failures) <= 1


def test_kinds_have_names_for_messages() -> None:
    assert kind_name(FrameKind.HELLO) == kind_name(1) == "HELLO"
    assert kind_name(200) == "200"
