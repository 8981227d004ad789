"""The database itself: opening, schema versions, other processes, what is on disk."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import (
    BadSetting,
    Conflict,
    Unavailable,
    WrongCluster,
)
from common.ids import ContentId, SegmentId, ShardAddress
from coordinator.metadata import (
    DeleteReason,
    ShardsOnNode,
    checkpoints,
    database,
    migrations,
    open_metadata,
)
from coordinator.metadata.database import open_database
from coordinator.metadata.migrations import MIGRATIONS
from coordinator.metadata.packing import pack_layout
from tests.metadata_parts import GRACE_S, NINE, Clock, due_deletes, finish_deletes, segment, single
from tests.reports import incoming


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_asking_a_closed_database(tmp_path: Path) -> None:
    opened = open_metadata(tmp_path, "", GRACE_S)
    await opened.start()
    await opened.close()
    with pytest.raises(Unavailable):
        await opened.nodes()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'metadata.db'}"
    sql = open_database(url)
    sql.run("UPDATE cluster SET schema_version = ?", len(MIGRATIONS) + 1)
    sql.database.close()
    with pytest.raises(Conflict, match="newer"):
        open_database(url)


async def test_a_database_of_version_1_comes_forward(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'metadata.db'}"
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:1])
        patch.setattr(database._Times, "take_over", lambda times, sql: None)  # it knew no clock
        old = open_database(url, clock)
    kept, unpinned, composite = (bytes([fill]) * 32 for fill in (1, 2, 3))
    for number, segment_id in enumerate((kept, unpinned), 1):
        old.run("INSERT INTO layout VALUES (?, ?)", number, pack_layout(NINE[::number]))
        old.run("INSERT INTO layout_node VALUES (1, ?)", number)
        old.run(
            "INSERT INTO segment VALUES (?, 4096, 4096, 0, 6, 9, ?, ?, ?, 5)",
            segment_id, number, number, bytes(288),
        )  # fmt: skip
        old.run("INSERT INTO content VALUES (?, 4096, 1, NULL, ?)", segment_id, 70 + number)
        old.run("INSERT INTO content_segment VALUES (?, ?, ?)", composite, number, segment_id)
    old.run("INSERT INTO content VALUES (?, 8192, 2, ?, 75)", composite, kept)
    for content in (kept, composite):
        old.run("INSERT INTO pin VALUES (?, 0)", content)
    dead = [ShardAddress(SegmentId(unpinned), generation, 8) for generation in (6, 6, 7)]
    dead[1] = dead[1]._replace(index=2)
    old.run("INSERT INTO outbox VALUES (1, 4, 9, ?)", b"".join(address.key for address in dead))
    old.database.close()
    opened = open_metadata(tmp_path, "", GRACE_S, clock)
    await opened.start()
    for id_, size_bytes, created_at_s, segments in (
        (kept, 4096, 71, [kept]),
        (composite, 8192, 75, [kept, unpinned]),
    ):
        manifest = await opened.find_content(ContentId(id_))
        assert manifest is not None
        assert (manifest.size_bytes, manifest.created_at_s) == (size_bytes, created_at_s)
        assert [s.id for s in manifest.segments] == segments
    assert await opened.find_content(ContentId(unpinned)) is None
    counts = await opened.counts()
    assert (counts["content"], counts["pin"], counts["collect_queue"]) == (1, 2, 1)
    clock.now_s += GRACE_S
    due = [row.shards.addresses for row in await due_deletes(opened)]
    assert due == [tuple(dead[:2]), (dead[2],)]
    assert await opened.collect(10) == 1
    assert (await opened.counts())["segment"] == 2  # the composite needs both
    await opened.close()


async def test_what_a_database_of_version_7_knew_to_be_lost_is_still_taken_for_lost(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:7])
        old = open_database(f"sqlite:///{tmp_path / 'metadata.db'}", clock)
    old.run("INSERT INTO layout VALUES (1, ?)", pack_layout(NINE))
    ids = [bytes([survivors]) * 32 for survivors in (5, 6)]
    for id_ in ids:
        old.run(
            "INSERT INTO segment VALUES (?, 4096, 4096, 0, 6, 9, 1, 1, ?, 5, 0)", id_, bytes(288)
        )
        old.run("INSERT INTO pin VALUES (?, 0, 5)", id_)
        old.run("INSERT INTO repair_queue VALUES (?, 1, ?, 'x', 5, 1 << 40, 7)", id_, id_[0])
    old.database.close()
    opened = open_metadata(tmp_path, "", GRACE_S, clock)
    await opened.start()
    found = [await opened.find_content(ContentId(id_)) for id_ in ids]
    assert [f and f.segments[0].known_bad for f in found] == [0b111111111, 0]
    assert len(await opened.mending.due_repairs(range(10), 10)) == 2  # to see which it is
    await opened.close()


async def test_the_outbox_of_version_9_comes_forward(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its rows and their numbers; from now on no number comes again."""
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:9])
        old = open_metadata(tmp_path, "", GRACE_S, clock)
    await old.start()
    stored = segment(old)
    for node in (1, 2):
        await old.add_deletes([ShardsOnNode(node, (stored.address(node),))], DeleteReason.RETIRED)
    before = await due_deletes(old)
    await old.close()
    opened = open_metadata(tmp_path, "", GRACE_S, clock)
    await opened.start()
    assert await due_deletes(opened) == before
    await finish_deletes(opened, before)
    await opened.add_deletes([ShardsOnNode(3, (stored.address(3),))], DeleteReason.DOOMED)
    (later,) = await due_deletes(opened)
    assert later.id > before[-1].id
    await opened.close()


async def test_what_was_committed_goes_to_its_place_while_the_database_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a commit doing it: the log is far from its limit."""
    monkeypatch.setattr(checkpoints, "ROWS_BETWEEN", 10)
    metadata = open_metadata(tmp_path, "", GRACE_S)
    await metadata.start()
    stored = segment(metadata)
    await metadata.commit_content(single(stored))
    async with asyncio.timeout(10):
        while stored.checksums not in (tmp_path / "metadata.db").read_bytes():
            await metadata.commit_content(single(segment(metadata)))
    await metadata.close()


async def test_a_commit_waits_for_another_process_that_writes(tmp_path: Path) -> None:
    metadata = open_metadata(tmp_path, "", GRACE_S)
    await metadata.start()
    with closing(sqlite3.connect(tmp_path / "metadata.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        commit = asyncio.ensure_future(metadata.commit_content(single(segment(metadata))))
        await metadata.nodes()  # by now the writer has begun, or would have failed
        done, _ = await asyncio.wait([commit], timeout=0.2)
        assert not done
        other.execute("COMMIT")
    assert (await commit).new
    await metadata.close()


def test_only_known_databases(tmp_path: Path) -> None:
    for url in ("mysql:///x", "sqlite:/x", "sqlite:///", "x"):
        with pytest.raises(BadSetting):
            open_database(url)


def test_adopting_a_cluster(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'metadata.db'}"
    open_database(url, cluster_id="ab" * 16).database.close()
    open_database(url, cluster_id="ab" * 16).database.close()
    with pytest.raises(WrongCluster):
        open_database(url, cluster_id="cd" * 16)


async def test_sqlite_is_durable(tmp_path: Path) -> None:
    sql = open_database(f"sqlite:///{tmp_path / 'metadata.db'}")
    assert sql.row("PRAGMA synchronous") == (2,)
    assert sql.row("PRAGMA journal_mode") == ("wal",)
    sql.database.close()


async def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    first = open_metadata(tmp_path, "", GRACE_S)
    await first.start()
    stored, taken = segment(first), await first.save_report(incoming(1))
    await first.commit_content(single(stored))
    await first.close()
    again = open_metadata(tmp_path, "", GRACE_S)
    await again.start()
    assert again.cluster_id == first.cluster_id
    assert await again.nodes() == [taken.node]
    manifest = await again.find_content(ContentId(stored.id))
    assert manifest is not None
    assert manifest.segments == (stored,)
    await again.close()


async def test_generations_never_repeat(tmp_path: Path) -> None:
    seen: set[int] = set()
    for _ in range(3):
        opened = open_metadata(tmp_path, "", GRACE_S)
        await opened.start()
        made = {opened.new_generation() for _ in range(100)}
        assert len(made) == 100
        assert seen.isdisjoint(made)
        seen |= made
        await opened.close()


async def test_layouts_are_shared_also_by_the_next_process(tmp_path: Path) -> None:
    for _ in range(2):
        opened = open_metadata(tmp_path, "", GRACE_S)
        await opened.start()
        for layout in (NINE, NINE[::-1], NINE):
            await opened.commit_content(single(segment(opened, layout)))
        assert (await opened.counts())["layout"] == 2
        await opened.close()
