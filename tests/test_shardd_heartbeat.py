"""Joining and reporting, to coordinators that answer, refuse, or are not there."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from common.auth import HEADER
from common.errors import (
    Conflict,
    NodeRemoved,
    NodeUnreachable,
    SixfoldError,
    Unauthorized,
    WrongCluster,
)
from common.membership import REPORT_PATH, NodeReport, ReportAnswer
from shardd import heartbeat as heartbeat_module
from shardd.heartbeat import Heartbeat
from shardd.identity import FILE_NAME, DataDirectory
from tests.stores import SECRET

CLUSTER = "ab" * 16


@dataclass
class Coordinator:
    """Answers with `answer`, or refuses with the error that it is."""

    answer: ReportAnswer | SixfoldError = field(default_factory=lambda: ReportAnswer(CLUSTER, 7))
    reports: list[NodeReport] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        header = request.headers[HEADER]
        SECRET.verify(header, "POST", REPORT_PATH, body, int(header.split()[1]))
        self.reports.append(NodeReport.from_json(body))
        if isinstance(self.answer, SixfoldError):
            refusal = {"code": self.answer.code, "message": str(self.answer)}
            return web.json_response(refusal, status=self.answer.http_status)
        return web.Response(body=self.answer.to_json())


@asynccontextmanager
async def serving(coordinator: Coordinator) -> AsyncIterator[Coordinator]:
    app = web.Application()
    app.router.add_post(REPORT_PATH, coordinator.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    coordinator.url = f"http://{host}:{port}"
    try:
        yield coordinator
    finally:
        await runner.cleanup()


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    async with serving(Coordinator()) as running:
        yield running


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    opened = DataDirectory(tmp_path, "node1")
    yield opened
    opened.close()


@pytest.fixture
async def made(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Heartbeat]]:
    """Makes heartbeats that retry without delay."""
    monkeypatch.setattr(heartbeat_module, "_RETRY_S", (0.001, 0.001))
    monkeypatch.setattr(heartbeat_module, "HEARTBEAT_S", 0.001)

    async def report() -> NodeReport:
        identity = directory.identity
        return NodeReport(
            identity.node_id, "cd" * 16, identity.cluster_id, identity.name, "zone",
            "http://127.0.0.1:1", "127.0.0.1", 2, 100, 10, 90, 5, identity.epoch,
        )  # fmt: skip

    async with aiohttp.ClientSession() as http:
        yield lambda *urls: Heartbeat(urls, directory, SECRET, report, http)


@pytest.fixture
async def dead_url() -> str:
    """Nobody listens there."""
    async with serving(Coordinator()) as gone:
        return gone.url


async def test_joining_is_remembered(
    coordinator: Coordinator, directory: DataDirectory, made: Callable[..., Heartbeat],
    tmp_path: Path,
) -> None:  # fmt: skip
    await made(coordinator.url).join()
    assert coordinator.reports[0].cluster_id == ""
    assert (directory.identity.cluster_id, directory.identity.number) == (CLUSTER, 7)
    await made(coordinator.url).join()
    assert coordinator.reports[1].cluster_id == CLUSTER
    directory.close()
    again = DataDirectory(tmp_path)
    assert (again.identity.cluster_id, again.identity.number) == (CLUSTER, 7)
    again.close()


async def test_the_highest_epoch_is_remembered_and_reported(
    coordinator: Coordinator, directory: DataDirectory, made: Callable[..., Heartbeat]
) -> None:
    beats = made(coordinator.url)
    for epoch in (5, 9, 6):
        coordinator.answer = ReportAnswer(CLUSTER, 7, epoch)
        await beats.beat()
    await beats.beat()
    assert [report.epoch for report in coordinator.reports] == [0, 5, 9, 9]
    assert json.loads((directory.path / FILE_NAME).read_text())["epoch"] == 9


async def test_without_an_answer_nothing_may_be_deleted(
    coordinator: Coordinator, made: Callable[..., Heartbeat]
) -> None:
    beats = made(coordinator.url)
    allowed = [beats.may_delete]
    for answer in (ReportAnswer(CLUSTER, 7, 1, True), Conflict("no"), ReportAnswer(CLUSTER, 7, 1)):
        coordinator.answer = ReportAnswer(CLUSTER, 7, 1, True)
        await beats.beat()
        coordinator.answer = answer
        with suppress(Conflict):
            await beats.beat()
        allowed.append(beats.may_delete)
    assert allowed == [False, True, False, False]


async def test_a_disk_that_takes_no_epoch_does_not_silence_the_node(
    coordinator: Coordinator, directory: DataDirectory, made: Callable[..., Heartbeat],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(epoch: int) -> None:
        raise OSError("no space")

    await made(coordinator.url).beat()
    monkeypatch.setattr(directory, "note_epoch", refuse)
    coordinator.answer = ReportAnswer(CLUSTER, 7, 5)
    await made(coordinator.url).beat()
    assert directory.identity.epoch == 0


async def test_a_stop_waits_for_the_epoch_that_is_being_written(
    coordinator: Coordinator, directory: DataDirectory, made: Callable[..., Heartbeat],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Else a thread writes into a directory that another process may have by then."""
    writing, free, note = threading.Event(), threading.Event(), directory.note_epoch

    def note_slowly(epoch: int) -> None:
        writing.set()
        free.wait(60)
        note(epoch)

    await made(coordinator.url).beat()
    monkeypatch.setattr(directory, "note_epoch", note_slowly)
    coordinator.answer = ReportAnswer(CLUSTER, 7, 5)
    beat = asyncio.create_task(made(coordinator.url).beat())
    await asyncio.to_thread(writing.wait, 60)
    beat.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    was_done = beat.done()
    free.set()
    with pytest.raises(asyncio.CancelledError):
        await beat
    assert not was_done
    assert directory.identity.epoch == 5


@pytest.mark.parametrize("error", [WrongCluster("no"), Conflict("no"), Unauthorized("no")])
async def test_a_refusal_at_the_first_join_is_final(
    coordinator: Coordinator, made: Callable[..., Heartbeat], error: SixfoldError
) -> None:
    coordinator.answer = error
    with pytest.raises(type(error), match="refuses this node: no"):
        await made(coordinator.url).join()


async def test_a_member_that_restarts_waits_until_it_is_no_longer_an_impostor(
    coordinator: Coordinator, directory: DataDirectory, made: Callable[..., Heartbeat]
) -> None:
    directory.join(CLUSTER, 7)
    coordinator.answer = Conflict("already served by another process")
    joining = asyncio.create_task(made(coordinator.url).join())
    while len(coordinator.reports) < 3:
        await asyncio.sleep(0.001)
    coordinator.answer = ReportAnswer(CLUSTER, 7)
    await joining


async def test_a_node_that_was_removed_gives_up(
    coordinator: Coordinator, directory: DataDirectory, made: Callable[..., Heartbeat]
) -> None:
    """Whether it hears of it when it starts or while it runs."""
    await made(coordinator.url).join()
    coordinator.answer = NodeRemoved("removed for good")
    for life in (made(coordinator.url).join(), made(coordinator.url).run()):
        with pytest.raises(NodeRemoved, match="refuses this node: removed for good"):
            await life


async def test_another_clusters_answer_is_refused(
    coordinator: Coordinator, directory: DataDirectory, made: Callable[..., Heartbeat]
) -> None:
    directory.join("cd" * 16, 3)
    with pytest.raises(WrongCluster):
        await made(coordinator.url).join()
    assert directory.identity.number == 3


async def test_the_next_coordinator_is_tried(
    coordinator: Coordinator, made: Callable[..., Heartbeat], dead_url: str
) -> None:
    heartbeat = made(dead_url, coordinator.url)
    await heartbeat.beat()
    await heartbeat.beat()
    assert len(coordinator.reports) == 2


async def test_joining_waits_for_a_coordinator(
    directory: DataDirectory, made: Callable[..., Heartbeat], coordinator: Coordinator,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It is starting, or has trouble of its own: neither is a refusal; the log says it once."""
    coordinator.answer = SixfoldError("internal trouble")
    joining = asyncio.create_task(made(coordinator.url).join())
    while len(coordinator.reports) < 5:
        await asyncio.sleep(0.001)
    coordinator.answer = ReportAnswer(CLUSTER, 7)
    await joining
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1


async def test_an_unreachable_coordinator_is_an_error_of_its_own(
    made: Callable[..., Heartbeat], dead_url: str
) -> None:
    with pytest.raises(NodeUnreachable):
        await made(dead_url).beat()


async def test_beating_goes_on_through_trouble(
    coordinator: Coordinator, made: Callable[..., Heartbeat]
) -> None:
    beating = asyncio.create_task(made(coordinator.url).run())
    for answer in (Unauthorized("no"), ReportAnswer("cd" * 16, 1), ReportAnswer(CLUSTER, 7)):
        seen = len(coordinator.reports)
        coordinator.answer = answer
        while len(coordinator.reports) < seen + 3:
            await asyncio.sleep(0.001)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_nonsense_is_not_an_answer(
    coordinator: Coordinator, made: Callable[..., Heartbeat], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReportAnswer, "to_json", lambda self: b"<html>")
    with pytest.raises(SixfoldError):
        await made(coordinator.url).beat()
