"""Commits in groups leave the database as commits one after another do."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import NotOurTurn, SessionLost
from common.ids import ContentId, SegmentId, ShardAddress
from common.shards import Encoding
from coordinator.metadata import Committed, open_metadata, turns
from coordinator.metadata.commits import Outcome, commit_contents
from coordinator.metadata.database import open_database
from coordinator.metadata.reads import known_segments
from coordinator.metadata.rows import (
    GENERATION_COUNTER_BITS,
    NewContent,
    ShardsOnNode,
    StoredSegment,
)
from coordinator.metadata.sessions import open_session
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import Layouts, commit_content
from tests.metadata_parts import Clock

FIRST = 1 << GENERATION_COUNTER_BITS  # of the first session
Shard = tuple[int, bytes]  # node and shard key
TABLES = ("segment", "content", "content_segment", "pin", "layout", "outbox_delete", "repair_queue")


def opened(path: Path) -> tuple[Sql, Layouts, int]:
    sql = open_database(f"sqlite:///{path}", Clock(), "ab" * 16)
    return sql, Layouts(sql), open_session(sql, 60)


def contents(sql: Sql) -> dict[str, list[Any]]:
    """Every row, but for numbers that the order of inserting decides."""
    rows = {table: sql.rows(f"SELECT * FROM {table}") for table in TABLES}
    layouts = dict(sql.rows("SELECT id, nodes FROM layout"))
    rows["layout"] = sorted(layouts.values())
    rows["segment"] = sorted((*row[:7], layouts[row[7]], *row[8:]) for row in rows["segment"])
    rows["outbox_delete"] = sorted(row[1:] for row in rows["outbox_delete"])
    return {table: sorted(found, key=repr) for table, found in rows.items()}


def upload(rng: random.Random, generation: int) -> NewContent:
    """Of few segments, so that uploads meet; sometimes short of a shard, in doubt, or large."""
    layout = tuple(rng.sample(range(1, 11), 9))
    if rng.random() < 0.2:
        layout = (*layout[:8], 0)
    segments = [
        StoredSegment(
            SegmentId(bytes([number]) * 32), 4096, Encoding.PLAIN, 6, 9,
            generation + number, layout, bytes([number]) * 288,
        )
        for number in rng.sample(range(40), rng.choice([1, 1, 1, 1, 3]))
    ]  # fmt: skip
    if len(segments) == 1:
        new = NewContent(ContentId(segments[0].id), 4096, segments, None, segments)
    else:
        listed = replace(segments[0], id=SegmentId(rng.randbytes(32)), generation=generation + 99)
        new = NewContent(ContentId(rng.randbytes(32)), 12288, segments, listed, [*segments, listed])
    if rng.random() < 0.2:
        new = replace(new, unconfirmed=[ShardsOnNode(11, (segments[0].address(3),))])
    return new


def written_by(new: NewContent) -> set[Shard]:
    confirmed = {shard for stored in new.written for shard in shards_of(stored)}
    return confirmed | {(s.node, a.key) for s in new.unconfirmed for a in s.addresses}


def shards_of(stored: StoredSegment) -> set[Shard]:
    return {(n, stored.address(i).key) for i, n in enumerate(stored.layout) if n}


def live_shards(sql: Sql) -> set[Shard]:
    ids = [SegmentId(id_) for (id_,) in sql.rows("SELECT id FROM segment")]
    known = known_segments(sql, ids, 0).values()
    return {shard for segment in known for shard in shards_of(segment.stored)}


def doomed_shards(sql: Sql) -> set[Shard]:
    rows = sql.rows("SELECT node, segment, generation, indexes FROM outbox_delete")
    return {
        (node, ShardAddress(segment, generation, index).key)
        for node, segment, generation, indexes in rows
        for index in indexes
    }


def said(outcome: Outcome) -> str:
    """Of two uploads that write the same segment either may be the first."""
    return repr(outcome.new if isinstance(outcome, Committed) else outcome)


@pytest.mark.parametrize("seed", range(30))
def test_a_group_leaves_what_one_after_another_leaves(tmp_path: Path, seed: int) -> None:
    rng, everything = random.Random(seed), set[Shard]()
    together, alone = opened(tmp_path / "together.db"), opened(tmp_path / "alone.db")
    for group in range(6):
        uploads = [
            upload(rng, FIRST + 1000 * group + 100_000 * n)
            for n in range(rng.choice([1, 2, 7, 70]))
        ]
        with together[0].database.atomic():
            found = commit_contents(*together, uploads)
        with alone[0].database.atomic():
            expected = [commit_content(*alone, new) for new in uploads]
        assert sorted(map(said, found)) == sorted(map(said, expected))
        assert contents(together[0])["content"] == contents(alone[0])["content"]
        assert contents(together[0])["pin"] == contents(alone[0])["pin"]
        everything |= {shard for new in uploads for shard in written_by(new)}
        for sql in (together[0], alone[0]):
            live, doomed = live_shards(sql), doomed_shards(sql)
            assert live.isdisjoint(doomed)
            assert live | doomed == everything  # not a shard is forgotten, or both kept and deleted
    ids = {row[0] for row in contents(together[0])["segment"]}
    assert ids == {row[0] for row in contents(alone[0])["segment"]}


def test_plain_uploads_leave_the_very_same_rows(tmp_path: Path) -> None:
    rng = random.Random(7)
    plain = [
        NewContent(ContentId(stored.id), 4096, [stored], None, [stored])
        for number in range(150)
        for stored in [
            StoredSegment(
                SegmentId(rng.randbytes(32)), 4096, Encoding.PLAIN, 6, 9, FIRST + number,
                tuple(rng.sample(range(1, 11), 9)), rng.randbytes(288),
            )
        ]
    ]  # fmt: skip
    together, alone = opened(tmp_path / "together.db"), opened(tmp_path / "alone.db")
    assert commit_contents(*together, plain) == 150 * [Committed(new=True)]
    assert [commit_content(*alone, new) for new in plain] == 150 * [Committed(new=True)]
    assert contents(together[0]) == contents(alone[0])


def test_a_lost_session_refuses_the_whole_group(tmp_path: Path) -> None:
    sql, layouts, session = opened(tmp_path / "m.db")
    uploads = [upload(random.Random(n), 1000 * n) for n in range(3)]
    answers = commit_contents(sql, layouts, session + 1, uploads)
    assert [type(answer) for answer in answers] == [SessionLost] * 3
    assert not any(contents(sql).values())


async def test_a_commit_that_never_had_its_turn_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "WAIT_S", 0.01)
    metadata = open_metadata(tmp_path, "", 3600)
    await metadata.start()
    new = upload(random.Random(3), metadata.new_generation())
    with turns.turn(str(tmp_path / "metadata.db")):
        both = [metadata.commit_content(new), metadata.commit_content(new)]
        found = await asyncio.gather(*both, return_exceptions=True)
    assert [type(each) for each in found] == [NotOurTurn] * 2
    assert found[0] is not found[1]  # an error is raised in one place only
    assert (await metadata.counts())["segment"] == 0
    assert (await metadata.commit_content(new)).new
    await metadata.close()
