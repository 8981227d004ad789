"""The handshake on the data port: who is let in, and how the others are told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.auth import ClusterSecret
from common.errors import (
    ProtocolError,
    SixfoldError,
    StoreReadOnly,
    Unauthorized,
    Unavailable,
    WrongCluster,
    WrongNode,
)
from common.units import MIB
from common.wire import (
    HELLO,
    PROTOCOL_VERSION,
    FrameKind,
    LaneKind,
    unpack_error,
)
from shardd.identity import DataDirectory
from shardd.lanes import LaneServer
from shardd.store import VolumeStore
from tests.lane_client import LIMITS, challenged, connect, hello, open_lane
from tests.stores import SECRET, ServedNode, make_shard, served_node


async def test_another_secret_is_refused(node: ServedNode) -> None:
    client, said = await connect(node.data_port), hello(node)
    nonce = await challenged(client, said)
    stranger = ClusterSecret(b"another secret altogether")
    client.send(FrameKind.PROOF, 0, stranger.lane_proof(b"coordinator", said, nonce))
    assert isinstance(await client.refusal(), Unauthorized)


async def test_the_nodes_own_proof_does_not_open_a_lane(node: ServedNode) -> None:
    client, said = await connect(node.data_port), hello(node)
    nonce = await challenged(client, said)
    client.send(FrameKind.PROOF, 0, SECRET.lane_proof(b"node", said, nonce))
    assert isinstance(await client.refusal(), Unauthorized)


async def test_a_proof_of_another_lane_is_refused(node: ServedNode) -> None:
    first, said = await connect(node.data_port), hello(node)
    proof = SECRET.lane_proof(b"coordinator", said, await challenged(first, said))
    second = await connect(node.data_port)
    await challenged(second, said)
    second.send(FrameKind.PROOF, 0, proof)
    assert isinstance(await second.refusal(), Unauthorized)
    first.transport.close()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cluster": b"x" * 16}, WrongCluster),
        ({"node_id": b"x" * 16}, WrongNode),
        ({"version": PROTOCOL_VERSION - 1}, ProtocolError),
        ({"kind": 3}, ProtocolError),
    ],
)
async def test_a_wrong_hello_is_refused(
    node: ServedNode, change: dict[str, Any], error: type[SixfoldError]
) -> None:
    client = await connect(node.data_port)
    client.send(FrameKind.HELLO, 0, hello(node, **change))
    assert type(await client.refusal()) is error


@pytest.mark.parametrize(
    ("kind", "meta", "payload"),
    [
        (FrameKind.PING, b"", b""),
        (FrameKind.PROOF, bytes(32), b""),
        (FrameKind.HELLO, b"short", b""),
        (FrameKind.HELLO, bytes(HELLO.size), b"payload"),
        (FrameKind.APPEND, bytes(128), bytes(MIB)),
        (FrameKind.APPEND, bytes(128), b"small"),
        (99, b"", b""),
    ],
)
async def test_nothing_but_a_handshake_is_taken_first(
    node: ServedNode, kind: int, meta: bytes, payload: bytes
) -> None:
    client = await connect(node.data_port)
    client.send(kind, 0, meta, payload)
    assert isinstance(await client.refusal(), ProtocolError)


async def test_requests_between_hello_and_proof_are_refused(node: ServedNode) -> None:
    client = await connect(node.data_port)
    await challenged(client, hello(node))
    client.append(1, make_shard(10))
    assert isinstance(await client.refusal(), ProtocolError)
    assert (await node.store.stat()).shards == 0


async def test_garbage_is_refused(node: ServedNode) -> None:
    client = await connect(node.data_port)
    client.transport.write(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
    assert isinstance(await client.refusal(), ProtocolError)


@pytest.mark.parametrize("after_hello", [False, True])
async def test_silence_is_not_waited_for(tmp_path: Path, after_hello: bool) -> None:
    async with served_node(tmp_path, replace(LIMITS, handshake_s=0.05)) as node:
        client = await connect(node.data_port)
        if after_hello:
            await challenged(client, hello(node))
        assert isinstance(await client.refusal(), ProtocolError)


async def test_a_lane_outlives_the_deadline_of_its_handshake(tmp_path: Path) -> None:
    async with served_node(tmp_path, replace(LIMITS, handshake_s=0.05)) as node:
        client, silent = await open_lane(node, LaneKind.WRITE), await connect(node.data_port)
        await silent.refusal()  # the deadline of one that came later has passed
        client.send(FrameKind.PING, 5)
        assert (await client.next())[:2] == (FrameKind.OK, 5)


async def test_a_node_that_has_not_joined_takes_no_lane(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    store = await VolumeStore.open(directory)
    lanes = LaneServer(store, directory, SECRET)
    client = await connect(await lanes.start("127.0.0.1", 0))
    said = HELLO.pack(
        PROTOCOL_VERSION, LaneKind.READ, bytes(16), directory.identity.node_bytes, bytes(32)
    )
    client.send(FrameKind.HELLO, 0, said)
    assert isinstance(await client.refusal(), Unavailable)
    await lanes.close()
    await store.close()
    directory.close()


async def test_a_node_whose_disk_was_swapped_opens_lanes_only_to_read(
    node: ServedNode, tmp_path: Path
) -> None:
    """One of it may have opened in the instant before, and serves on: so may those of a
    coordinator that came later."""
    await node.store.append([there := make_shard(10)])
    (tmp_path / "node.json").rename(tmp_path / "aside")
    assert (await node.store.stat()).detached  # as each report looks
    writer, reader = [await open_lane(node, kind) for kind in LaneKind]
    reader.send(FrameKind.READ, 1, there.address.key)
    assert (await reader.next())[3] == there.payload
    writer.append(1, make_shard(10, seed=2))
    kind, _, meta, _ = await writer.next()
    assert kind == FrameKind.ERROR
    assert isinstance(unpack_error(meta), StoreReadOnly)
