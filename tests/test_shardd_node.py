"""A node put together: what it reports of its own upkeep."""

import asyncio
from pathlib import Path

from common.units import GIB
from shardd.config import Config
from shardd.node import running
from tests.flips import flip_one, live_entries
from tests.stores import SECRET
from tests.upkeep import shards_of


async def test_a_node_reports_rot_and_its_age(tmp_path: Path) -> None:
    config = Config(
        join=("http://127.0.0.1:1",),
        data=tmp_path / "data",
        secret_file=tmp_path / "secret",
        scrub_bytes_per_s=GIB,
    )
    async with running(config, SECRET) as node:
        while node.store.upkeep.scrub_report().passes < 1:
            await asyncio.sleep(0.001)
        await node.store.append(shards_of(range(8)))
        flip_one(node.store, live_entries(node.store)[2], 140)
        node.store.upkeep.scrubber.start()
        while node.store.upkeep.scrub_report().passes < 2:
            await asyncio.sleep(0.001)
        report = await node.heartbeat._report()
        assert report.bad_shards == 1
        assert report.scrub_interval_s == 7 * 86_400
        assert report.verified_at == node.store.upkeep.scrubber.verified_at > 0
        assert report.shards == 7
