"""A small content that is cut into several segments, put again by a coordinator that cuts it no
more: alone, or together with others in a bundle."""

import asyncio
import random
from pathlib import Path

import pytest

from common.hashing import blake3_digest
from common.ids import ContentId
from coordinator.metadata import Metadata
from coordinator.write_upload import Stored
from tests.bundles import all_wait, another_on_its_way, begun, bundled, small
from tests.memory_cluster import MemoryCluster, body, get, paths
from tests.reports import incoming
from tests.test_strays import copy_database, restore
from tests.torture.one_process import GRACE_S, Store

DATA = random.Random(1).randbytes(10_000)
ID = ContentId(blake3_digest(DATA))
BEFORE, NOW = 4_096, 65_536  # bytes of a segment

together = pytest.mark.parametrize("together", [False, True])


@together
async def test_its_nodes_are_away(metadata: Metadata, together: bool) -> None:
    nodes = MemoryCluster(18)
    for number in nodes.stores:
        await metadata.save_report(incoming(number))
    with paths(metadata, nodes, BEFORE) as (writes, _):
        await writes.store(body(DATA), len(DATA))
    manifest = await metadata.find_content(ID)
    assert manifest is not None
    nodes.away = set(manifest.segments[0].layout[:4])
    with paths(metadata, nodes, NOW) as ends:
        others = small(3) if together else []
        stored, *_ = await bundled(ends, [DATA, *others])
        assert str(stored.durability) == "9/9; survives=3"
        assert not stored.new
        assert await get(ends[1], ID) == DATA


@together
async def test_it_was_collected_since_the_backup(
    store: Store, tmp_path: Path, together: bool
) -> None:
    await store.restart_front(0, BEFORE)
    await store.restart_front(1, NOW)
    front = store.fronts[0]
    await front.put(DATA)
    copy_database(store.database, tmp_path / "backup.db")
    await front.metadata.unpin(ID)
    await store.pass_time(GRACE_S + 100)
    await front.put(b"in another session")
    while (await front.metadata.counts())["collect_queue"]:
        await front.work("collect")
    await front.work("outbox")
    await store.pass_time(5)
    await restore(store, tmp_path / "backup.db")
    second = store.fronts[1]
    assert "older than the nodes" in await second.metadata.deletes_stopped()
    others = small(3) if together else []
    stored, *_ = await second.put_together(DATA, *others)
    assert isinstance(stored, Stored)
    assert str(stored.durability) == "9/9; survives=3"
    assert await second.get(ID) == DATA


async def test_the_old_segments_give_their_room_back(
    metadata: Metadata, nodes: MemoryCluster
) -> None:
    with paths(metadata, nodes, BEFORE) as (writes, _):
        await writes.store(body(DATA), len(DATA))
    with paths(metadata, nodes, NOW) as ends:
        await bundled(ends, [DATA, *small(3)])
    assert (await metadata.counts())["collect_queue"] == 4  # three, and the list of them


async def test_what_was_restored_meanwhile_and_is_in_doubt_is_not_relied_on(
    metadata: Metadata, nodes: MemoryCluster
) -> None:
    """It was not there when the upload looked."""
    data, others = small(1)[0], small(3)
    id_ = ContentId(blake3_digest(data))
    with paths(metadata, nodes) as ends:
        async with another_on_its_way(ends[0]):
            puts = begun(ends[0], [data, *others])
            await all_wait(ends[0], puts)
            with paths(metadata, nodes) as (writes, _):
                await writes.store(body(data), len(data))
            await metadata._write(lambda sql: sql.run("UPDATE cluster SET doubted_epoch = 1000"))
        await asyncio.gather(*puts)
        assert (await ends[1].find(id_)).start_bytes is not None
