"""What a coordinator asks a node about quarantine and scrub, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import BadRequest, MalformedId, ProtocolError, StaleEpoch, Unavailable
from common.shards import ShardMissing
from common.units import GIB
from common.upkeep import (
    Quarantined,
    ScrubReport,
    Why,
    addresses_from_json,
    addresses_to_json,
    orphans_from_json,
    orphans_to_json,
)
from coordinator.remote_store import ShardThere
from shardd.store import StoreLimits
from shardd.throttle import Clocks
from shardd.upkeep import UpkeepLimits
from tests.flips import flip_one, live_entries
from tests.remote_node import remote_to
from tests.stores import ServedNode, make_shard, served_node
from tests.upkeep import addresses_of

SHARDS = sorted((make_shard(200 + seed, seed) for seed in range(8)), key=lambda s: s.address)
FAST = UpkeepLimits(scrub_bytes_per_s=100 * GIB)
NOW_S = 1_800_000_000


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ServedNode]:
    clocks = Clocks(wall_s=lambda: NOW_S)
    async with served_node(tmp_path, None, StoreLimits(upkeep=FAST), clocks=clocks) as served:
        await served.store.append(SHARDS)
        yield served


async def test_orphans_there_and_back(node: ServedNode) -> None:
    async with remote_to(node) as remote:
        orphans = addresses_of(SHARDS[:5])
        assert await remote.quarantine([*orphans, make_shard(1).address]) == 5
        assert await remote.quarantine(orphans) == 0
        kept = [each async for each in remote.quarantined()]
        assert [(each.address, each.why) for each in kept] == [(a, Why.ORPHAN) for a in orphans]
        assert [each.size_bytes for each in kept] == [len(s.payload) + 128 for s in SHARDS[:5]]
        assert [each.address async for each in remote.quarantined(orphans[2])] == orphans[3:]
        assert await remote.read(orphans) == [ShardMissing(address) for address in orphans]
        assert await remote.restore(orphans[:2]) == 2
        await remote.drop_quarantined(orphans[2])
        await remote.drop_quarantined(orphans[2])
        assert [each.address async for each in remote.quarantined()] == orphans[3:]
        listed = [info.address async for info in remote.list()]
        assert listed == sorted([*orphans[:2], *addresses_of(SHARDS[5:])])


async def test_what_was_decided_before_something_that_came_already_is_refused(
    node: ServedNode,
) -> None:
    """Deletes and orphans alike, whichever came: a paused coordinator's come too late."""
    async with remote_to(node) as remote:
        first, second, third, *rest = addresses_of(SHARDS)
        await remote.delete([first], 7)
        await remote.delete([second], 7)
        for late in (remote.delete, remote.quarantine):
            with pytest.raises(StaleEpoch, match="epoch 6, this node has seen 7"):
                await late([third], 6)
        assert await remote.quarantine([third], 9) == 1
        for late in (remote.delete, remote.quarantine):
            with pytest.raises(StaleEpoch, match="epoch 8, this node has seen 9"):
                await late(rest, 8)
        assert [info.address async for info in remote.list()] == rest


async def test_orphans_that_waited_until_others_decided_stay(node: ServedNode) -> None:
    async with remote_to(node) as remote:
        first, second, *rest = addresses_of(SHARDS)
        quarantine = node.store.upkeep.quarantine
        async with quarantine._changing:  # as rot that takes long to be condemned
            late = asyncio.create_task(remote.quarantine([second], 6))
            while not quarantine._changing._waiters:
                await asyncio.sleep(0.001)
            await remote.delete([first], 7)
        with pytest.raises(StaleEpoch):
            await late
        assert [info.address async for info in remote.list()] == [second, *rest]


async def test_orphans_that_were_copied_until_others_decided_stay(
    node: ServedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with remote_to(node) as remote:
        orphan, folder = SHARDS[0].address, node.store.upkeep.quarantine._folder
        sync = folder.sync

        def sync_late() -> None:
            sync()
            node.store.fence.check(7)

        monkeypatch.setattr(folder, "sync", sync_late)
        with pytest.raises(StaleEpoch):
            await remote.quarantine([orphan], 6)
        assert await node.store.locate([orphan.key]) == [True]
        assert not list(node.directory.quarantine.iterdir())


async def test_more_than_one_request_holds(node: ServedNode) -> None:
    async with remote_to(node) as remote:
        many = [make_shard(10, 1000 + seed) for seed in range(1500)]
        await node.store.append(many)
        assert await remote.quarantine(addresses_of(many)) == 1500
        assert len([each async for each in remote.quarantined()]) == 1500
        assert await remote.restore(addresses_of(many)) == 1500
        assert (await remote.stat()).shards == len(SHARDS) + 1500


async def test_scrub_from_afar(node: ServedNode) -> None:
    async with remote_to(node) as remote:
        before = await remote.scrub_state()
        assert (before.running, before.passes, before.verified_at) == (False, 0, 0)
        rotten = live_entries(node.store)[3].info.address
        assert await remote.head(rotten) == ShardThere(None)
        flip_one(node.store, live_entries(node.store)[3], 150)
        await remote.start_scrub()
        assert (await remote.scrub_state()).running
        node.store.upkeep.start()
        while (after := await remote.scrub_state()).passes < 1:
            await asyncio.sleep(0.001)
        assert (after.bad, after.running) == (1, False)
        assert after.started_at == after.verified_at == NOW_S
        assert after.scanned_bytes == after.total_bytes > 0
        assert [each.why async for each in remote.quarantined()] == [Why.ROT]
        assert await remote.head(rotten) == ShardMissing(rotten)
        other = next(s.address for s in SHARDS if s.address != rotten)
        there = await remote.head(other)
        assert isinstance(there, ShardThere)
        assert there.verified_at_s == NOW_S
        await remote.delete([rotten])
        assert (await remote.scrub_state()).bad == 0


async def test_a_node_that_still_reads_its_volumes_says_so(node: ServedNode) -> None:
    async with remote_to(node) as remote:
        node.http.store = None
        with pytest.raises(Unavailable, match="still reads"):
            await remote.quarantine([SHARDS[0].address])
        with pytest.raises(Unavailable, match="still reads"):
            await remote.scrub_state()


def test_a_quarantined_shard_has_these_bytes() -> None:
    kept = Quarantined(SHARDS[0].address, Why.ROT, 1_700_000_000, 300)
    line = kept.to_json()
    assert json.loads(line) == {
        "address": str(SHARDS[0].address), "why": "rot", "at": 1_700_000_000, "size_bytes": 300,
    }  # fmt: skip
    assert Quarantined.from_json(line) == kept


@pytest.mark.parametrize(
    "change", [{"why": "mood"}, {"at": 1.5}, {"address": "x"}, {"more": 1}, {"size_bytes": "1"}]
)
def test_other_lines_are_no_quarantined_shards(change: dict[str, object]) -> None:
    said = json.loads(Quarantined(SHARDS[0].address, Why.ROT, 1, 2).to_json())
    for line in (json.dumps(said | change).encode(), b"", b"[]", b"{}"):
        with pytest.raises(ProtocolError):
            Quarantined.from_json(line)


def test_reports_on_scrub() -> None:
    report = ScrubReport(True, 1, 2, 3, 4, 5, 6, 7)
    assert ScrubReport.from_json(report.to_json()) == report
    for said in (b"", b"{}", b"[]", report.to_json().replace(b"true", b"1")):
        with pytest.raises(ProtocolError):
            ScrubReport.from_json(said)


def test_orphans_in_a_request() -> None:
    addresses = addresses_of(SHARDS[:2])
    body = orphans_to_json(2**63, addresses)
    assert json.loads(body) == {"epoch": 2**63, "addresses": [str(each) for each in addresses]}
    assert orphans_from_json(body) == (2**63, addresses)
    for epoch in (None, -1, 1.0, True, "1", 2**64):
        with pytest.raises(BadRequest, match="epoch"):
            orphans_from_json(json.dumps(json.loads(body) | {"epoch": epoch}).encode())
    for other in (b"", b"[]", b'{"epoch": 1}', addresses_to_json(addresses)):
        with pytest.raises(BadRequest):
            orphans_from_json(other)


def test_addresses_in_a_request() -> None:
    addresses = addresses_of(SHARDS)
    assert addresses_from_json(addresses_to_json(addresses)) == addresses
    with pytest.raises(MalformedId):
        addresses_from_json(b'{"addresses": ["../node.json"]}')
    for body in (b"", b"[]", b"{}", b'{"addresses": "x"}', b'{"addresses": [1]}', b"[" * 9999):
        with pytest.raises(BadRequest):
            addresses_from_json(body)
    with pytest.raises(BadRequest):
        addresses_from_json(addresses_to_json(addresses[:1] * 1001))
