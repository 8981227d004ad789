"""The ring and placement, on a small cluster and on a large one."""

import os
import time
from collections import deque
from functools import partial
from itertools import islice

from bench.micro.harness import Piece, Pieces, Stage, repeated
from common.ids import SegmentId
from common.membership import NodeReport
from common.units import GIB, MIB
from coordinator.config import ALL_SHARDS, DATA_SHARDS
from coordinator.membership import Membership
from coordinator.metadata import Metadata, open_metadata
from coordinator.metadata.rows import NodeRow
from coordinator.node import Node
from coordinator.placement import CANDIDATES_PER_SHARD, candidates, place
from coordinator.ring import Ring, RingNode

NODES = (9, 1000)
ZONES = 10
GRACE_S = 3600
SHARD_BYTES = 2 * MIB
CANDIDATES = CANDIDATES_PER_SHARD * ALL_SHARDS
SEGMENTS = 256  # so that no cache knows all the answers
FOREVER_S = float("inf")


def placing_pieces(stage: Stage) -> Pieces:
    """Placement as a coordinator does it, judging each node that the walk comes to."""
    metadata = stage.runner.run(_opened(stage))
    try:
        for count in NODES:
            members = _members(metadata, count)
            yield from _pieces_of(members, count)
    finally:
        stage.runner.run(metadata.close())


async def _opened(stage: Stage) -> Metadata:
    return open_metadata(stage.directory, "", GRACE_S)


def _members(metadata: Metadata, count: int) -> Membership:
    members = Membership(metadata, time.monotonic, FOREVER_S, FOREVER_S)
    now_s = time.monotonic()
    for number in range(1, count + 1):
        report = _report(number)
        row = NodeRow(number, report.node_id, report.name, report.zone)
        members.nodes[number] = Node(row, report, reported_at_s=now_s, reachable=True)
    return members


def _report(number: int) -> NodeReport:
    return NodeReport(
        node_id=f"{number:032x}",
        instance=f"{1:032x}",
        cluster_id="",
        name=f"node-{number}",
        zone=f"zone-{number % ZONES}",
        http_url=f"http://127.0.0.1:{number}",
        data_host="127.0.0.1",
        data_port=1,
        capacity_bytes=1000 * GIB,
        used_bytes=number % 100 * GIB,
        free_bytes=900 * GIB,
        shards=0,
    )


def _pieces_of(members: Membership, count: int) -> Pieces:
    segments = deque(SegmentId(os.urandom(32)) for _ in range(SEGMENTS))

    def segment() -> SegmentId:
        segments.rotate()
        return segments[0]

    def walk() -> None:
        for _ in islice(members.ring.walk(segment()), CANDIDATES):
            pass

    def place_one() -> None:
        target = partial(members.target, SHARD_BYTES)
        zones = partial(members.zone_sizes, SHARD_BYTES)
        found = candidates(members.ring, target, zones, segment(), DATA_SHARDS, ALL_SHARDS)
        place(found, DATA_SHARDS, ALL_SHARDS)

    nodes = [RingNode(node.number, node.row.node_id, 1000 * GIB) for node in members.nodes.values()]
    yield Piece(f"ring walk, {count} nodes", "µs", repeated(walk))
    yield Piece(f"placement, {count} nodes", "µs", repeated(place_one))
    yield Piece(f"ring build, {count} nodes", "ms", repeated(partial(Ring, nodes)))
