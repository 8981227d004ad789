"""A coordinator that begins again beside nodes that take a moment to come back."""

import asyncio
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from common.units import GIB
from coordinator import settling
from tests.reports import report_of
from tests.whole_path import Bed, memory_bed

NONCE = 16  # bytes
DOWN_S = 100


@pytest.fixture
async def data(tmp_path: Path) -> bytes:
    """What an earlier process has stored on nine nodes, some time ago."""
    data = b"before" * 1000
    async with memory_bed(tmp_path, jobs=False) as bed:
        assert await put(bed, data) == (201, "9/9; survives=3")
    with closing(sqlite3.connect(tmp_path / "metadata.db", isolation_level=None)) as database:
        database.execute("UPDATE node_report SET reported_at = reported_at - ?", (DOWN_S,))
    return data


async def report(bed: Bed, numbers: Iterable[int]) -> None:
    for number in numbers:
        said = report_of(number, capacity_bytes=GIB, used_bytes=0, free_bytes=GIB)
        nonce = b"again" + number.to_bytes(NONCE - 5, "big")
        await bed.cluster.membership.report(said, nonce)


async def put(bed: Bed, data: bytes) -> tuple[int, str | None]:
    async with bed.http.put("/v1/blobs", data=data) as answer:
        await answer.read()
        return answer.status, answer.headers.get("Sixfold-Durability")


async def is_ready(bed: Bed) -> bool:
    async with bed.http.get("/-/ready") as answer:
        return answer.status == 200


@pytest.mark.parametrize("known", [True, False])
async def test_uploads_wait_for_nodes_that_come_back(
    tmp_path: Path, data: bytes, known: bool
) -> None:
    """Else they went to the few that were there, and so did what was stored well."""
    wanted = data if known else b"new" * 1000
    async with memory_bed(
        tmp_path, nodes=0, jobs=False, suspect_after_s=DOWN_S / 2, lost_after_s=DOWN_S * 2
    ) as bed:
        await report(bed, range(1, 6))
        storing = asyncio.create_task(put(bed, wanted))
        assert not await is_ready(bed)
        assert not storing.done()
        await report(bed, range(6, 10))
        assert await storing == (200 if known else 201, "9/9; survives=3")
        assert await is_ready(bed)


async def test_they_do_not_wait_for_ever(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "SETTLE_S", 0.1)
    async with memory_bed(
        tmp_path, nodes=0, jobs=False, suspect_after_s=DOWN_S / 2, lost_after_s=DOWN_S * 2
    ) as bed:
        await report(bed, range(1, 6))
        assert await put(bed, b"new" * 1000) == (201, "9/9; survives=1")
        assert await is_ready(bed)


async def test_nobody_waits_for_nodes_that_are_lost_or_removed(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "SETTLE_S", 1e9)
    async with memory_bed(
        tmp_path, nodes=0, jobs=False, suspect_after_s=1, lost_after_s=DOWN_S
    ) as bed:
        assert (await put(bed, data))[0] == 503


async def test_uploads_wait_when_most_nodes_have_just_gone(tmp_path: Path) -> None:
    """As after a pause of the machine: the lanes are there again in a moment."""
    async with memory_bed(tmp_path, jobs=False) as bed:
        assert await put(bed, b"stored" * 1000) == (201, "9/9; survives=3")
        await bed.cluster.membership.look()
        assert await is_ready(bed)
        bed.away(5, 6, 7)
        bed.cluster.on_loss()
        assert await is_ready(bed)
        bed.away(4, 5, 6, 7)
        bed.cluster.on_loss()
        storing = asyncio.create_task(put(bed, b"stored" * 1000))
        assert not await is_ready(bed)
        assert not storing.done()
        bed.away()
        assert await storing == (200, "9/9; survives=3")


async def test_what_has_been_away_for_longer_is_not_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_bed(tmp_path, jobs=False) as bed:
        monkeypatch.setattr(settling, "SETTLE_S", DOWN_S)
        await bed.cluster.membership.look()
        bed.away(4, 5, 6, 7)
        bed.clock.now_s += DOWN_S + 1
        bed.cluster.on_loss()
        assert await put(bed, b"new" * 1000) == (201, "9/9; survives=1")
