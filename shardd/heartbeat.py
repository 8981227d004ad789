"""Tells a coordinator, every heartbeat, that this node is there and how it is.

The first answer makes the node a member: it brings the cluster id and the node's number, which
are kept in the data directory. Every later one must be of the same cluster.
"""

import asyncio
import json
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from common.auth import HEADER, ClusterSecret
from common.errors import (
    BadRequest,
    Conflict,
    NodeRemoved,
    NodeUnreachable,
    SixfoldError,
    Unauthorized,
    WrongCluster,
    WrongNode,
    revive,
)
from common.membership import HEARTBEAT_S, REPORT_PATH, NodeReport, ReportAnswer
from shardd.identity import DataDirectory
from shardd.parts import to_the_end

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_RETRY_S = (0.1, 5.0)  # first and longest wait while no coordinator can be reached


class Heartbeat:
    """Reports to the first of `urls` that answers. `may_delete` is what the last answer said of
    deletes; without one they are not allowed."""

    def __init__(
        self,
        urls: Sequence[str],
        directory: DataDirectory,
        secret: ClusterSecret,
        report: Callable[[], Awaitable[NodeReport]],
        http: aiohttp.ClientSession,
    ) -> None:
        self._urls = list(urls)
        self._directory, self._secret, self._report, self._http = directory, secret, report, http
        self._trouble: str | None = None
        self.may_delete = False

    async def join(self) -> None:
        """Report until a coordinator takes us, however long it cannot be reached.

        Raises WrongCluster, Conflict, Unauthorized or BadRequest if it will not have us.
        """
        wait_s, longest_s = _RETRY_S
        while True:
            try:
                await self.beat()
                return
            except SixfoldError as error:
                if self._is_final(error):
                    raise
                self._note(str(error))
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, longest_s)

    def _is_final(self, error: SixfoldError) -> bool:
        """A member that restarts may be taken for a second process of itself for a while."""
        if isinstance(error, (WrongCluster, WrongNode, NodeRemoved, Unauthorized, BadRequest)):
            return True
        return isinstance(error, Conflict) and not self._directory.identity.cluster_id

    async def run(self) -> None:
        """Beat until cancelled. Trouble is logged when it begins and when it ends.

        Raises NodeRemoved: nothing needs this node any more, and nobody will ask it again.
        """
        while True:
            await asyncio.sleep(HEARTBEAT_S * random.uniform(0.9, 1.0))
            try:
                await self.beat()
            except NodeRemoved:
                raise
            except SixfoldError as error:
                self._note(str(error))

    async def beat(self) -> None:
        """One report. Raises what the coordinator refuses with, else NodeUnreachable."""
        try:
            self.may_delete = (await self._beat()).may_delete
        except BaseException:
            self.may_delete = False
            raise

    async def _beat(self) -> ReportAnswer:
        report = await self._report()
        unreachable: NodeUnreachable | None = None
        for url in list(self._urls):
            try:
                answer = await self._send(url, report)
            except NodeUnreachable as error:
                unreachable = error
                self._urls.append(self._urls.pop(0))  # begin with another the next time
                continue
            self._directory.join(answer.cluster_id, answer.number)
            await self._remember(answer.epoch)
            self._note(None)
            return answer
        assert unreachable is not None
        raise unreachable

    async def _remember(self, epoch: int) -> None:
        """A disk that refuses it is no reason to fall silent."""
        try:
            # To the end: once this is cancelled, the directory may be another process's soon.
            await to_the_end(lambda: self._directory.note_epoch(epoch))
        except OSError as error:
            log.error("cannot note the epoch: %s", error)

    async def _send(self, url: str, report: NodeReport) -> ReportAnswer:
        body = report.to_json()
        signature = self._secret.sign("POST", REPORT_PATH, body, time.time(), secrets.token_hex(16))
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        headers = {HEADER: signature, "Content-Type": "application/json"}
        try:
            async with self._http.post(
                url + REPORT_PATH, data=body, headers=headers, timeout=timeout
            ) as response:
                answer = await response.read()
                if response.status >= 400:
                    raise _refusal(url, response.status, answer)
                return ReportAnswer.from_json(answer)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise NodeUnreachable(f"{url} does not answer: {str(error) or 'timed out'}") from None

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and self._trouble is None:
            log.warning("cannot report, trying on: %s", trouble)
        elif trouble is not None and trouble != self._trouble:
            log.warning("still cannot report: %s", trouble)
        elif trouble is None and self._trouble is not None:
            log.info("reporting again")
        self._trouble = trouble


def _refusal(url: str, status: int, body: bytes) -> SixfoldError:
    """A refusal that says why, else one that another coordinator may not share."""
    try:
        said = json.loads(body)
        error = revive(str(said["code"]), f"{url} refuses this node: {said['message']}")
    except (ValueError, KeyError, TypeError):
        return NodeUnreachable(f"{url} answered {status}")
    return error if status < 500 else NodeUnreachable(str(error))
