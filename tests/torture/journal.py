"""What a store has acknowledged, kept outside of it, and whether it holds to that."""

import asyncio
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import aiohttp
from blake3 import blake3

from common.units import KIB
from sixfold.transfer import sent_once

SEGMENT_BYTES = 256 * KIB  # of the stores under test: several segments need not be large
# Nothing, less than a byte per shard, packed and large shards, one segment and several.
SIZES = (0, 1, 5, 100, 4 * KIB, 20 * KIB, 100 * KIB, SEGMENT_BYTES, SEGMENT_BYTES + 1, 900 * KIB)
ANSWER_S = 60.0  # no request may take longer, whatever happens: a hang is a violation
RETRY_S = 0.02


class State(StrEnum):
    """What the store must say of a content. `UNKNOWN` after a request without an answer: either is
    right, and nobody asks for anything of this content again."""

    PRESENT = "present"
    DELETED = "deleted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Content:
    """Reproducible bytes, those of a byte or none with many numbers, all others with one."""

    number: int
    size_bytes: int

    @property
    def data(self) -> bytes:
        return random.Random(f"content {self.number}").randbytes(self.size_bytes)

    @property
    def id(self) -> str:
        return blake3(self.data).hexdigest()


@dataclass
class Journal:
    """By content id. Each change is a line of the file."""

    file: Path
    states: dict[str, State] = field(default_factory=dict)
    contents: dict[str, Content] = field(default_factory=dict)
    acknowledged: int = 0
    deletes: int = 0

    def note(self, content: Content, state: State) -> None:
        id_ = content.id
        self.contents[id_], self.states[id_] = content, state
        self.acknowledged += state is State.PRESENT
        self.deletes += state is State.DELETED
        line = {"id": id_, "number": content.number, "size": content.size_bytes, "state": state}
        with self.file.open("a") as file:
            print(json.dumps(line), file=file)

    def in_state(self, state: State) -> Iterator[Content]:
        return (self.contents[id_] for id_, now in self.states.items() if now is state)


class Recorder:
    """A client of the store that notes what it was told."""

    def __init__(self, http: aiohttp.ClientSession, journal: Journal) -> None:
        self._http, self.journal = http, journal
        self.refused: list[str] = []
        self.violations: list[str] = []

    async def put(self, content: Content) -> int:
        """The status; 0 without an answer."""
        data = io.BytesIO(content.data)
        try:
            async with self._http.put("/v1/blobs", data=data) as answer:
                status, said = answer.status, await answer.json()
        except (aiohttp.ClientError, ConnectionError):
            self.journal.note(content, State.UNKNOWN)
            return 0
        if status in (200, 201):
            if said["id"] != content.id:
                self.violations.append(f"{content}: stored as {said['id']}")
            self.journal.note(content, State.PRESENT)
        else:
            self.refused.append(f"{status} {said['message']}")
        return status

    async def delete(self, content: Content) -> int:
        """The status; 0 without an answer."""
        try:
            async with self._http.delete(f"/v1/blobs/{content.id}") as answer:
                status = answer.status
        except (aiohttp.ClientError, ConnectionError):
            self.journal.note(content, State.UNKNOWN)
            return 0
        if status == 204:
            self.journal.note(content, State.DELETED)
        elif status == 404:
            self.violations.append(f"{content}: acknowledged, and not there to be deleted")
        else:
            self.journal.note(content, State.UNKNOWN)
        return status

    async def get(self, content: Content) -> None:
        """In the midst of faults: an error is allowed, a wrong byte and a lost content are not."""
        try:
            status, data = await self._read(content)
        except (aiohttp.ClientError, ConnectionError):
            return
        if status == 404 or (status == 200 and data != content.data):
            self.violations.append(f"{content}: {status}, {len(data)} bytes, wrong while in use")

    async def is_there(self, content: Content) -> bool:
        """Whether it is visible and right."""
        status, data = await self._read(content)
        return status == 200 and data == content.data

    async def check_all(self, why: str = "in the end") -> None:
        """Everything must be as it was acknowledged."""
        each = asyncio.Semaphore(8)

        async def check(content: Content, state: State) -> None:
            async with each:
                status, data = await self._read(content)
            right = status == 200 and data == content.data
            gone = status == 404
            allowed = {State.PRESENT: right, State.DELETED: gone, State.UNKNOWN: right or gone}
            if not allowed[state]:
                self.violations.append(
                    f"{content} ({content.id}) is {state}, and {why} the answer is {status} "
                    f"with {len(data)} bytes: {data[:300]!r}"
                )

        states = self.journal.states.items()
        await asyncio.gather(*(check(self.journal.contents[id_], now) for id_, now in states))

    async def _read(self, content: Content) -> tuple[int, bytes]:
        async with self._http.get(f"/v1/blobs/{content.id}") as answer:
            return answer.status, await answer.read()


def session(url: str) -> aiohttp.ClientSession:
    """A new connection for each request: those of a killed process are no use. And no request
    twice: without its answer, nobody knows what it did."""
    return aiohttp.ClientSession(
        url,
        timeout=aiohttp.ClientTimeout(total=ANSWER_S),
        connector=aiohttp.TCPConnector(force_close=True),
        middlewares=(sent_once,),
    )
