"""The client of the small rows: raw protocols on uvloop, a request at a time per connection.

It does as little as a client can: prepared requests, one comparison per answer. What it costs is
measured and shown, since it shares the machine with what it measures.
"""

import asyncio
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench.large import WrongAnswer
from bench.pattern import STAMP_BYTES, stamp_of
from bench.pattern import small as content

# Gives the next request and what its answer's body must end with (empty: any).
NextRequest = Callable[[], tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Latencies are sorted, in seconds; `client_cpu_s` is what this program spent."""

    latencies_s: list[float]
    elapsed_s: float
    client_cpu_s: float

    @property
    def rate(self) -> float:
        return len(self.latencies_s) / self.elapsed_s

    def percentile_s(self, percent: float) -> float:
        return self.latencies_s[int((len(self.latencies_s) - 1) * percent / 100)]


def puts(first_seed: int, size_bytes: int) -> NextRequest:
    """PUTs of ever new contents."""
    head = f"PUT /v1/blobs HTTP/1.1\r\nHost: bench\r\nContent-Length: {size_bytes}\r\n\r\n".encode()
    rest = content(0, size_bytes)[STAMP_BYTES:]
    seed = first_seed

    def following() -> tuple[bytes, bytes]:
        nonlocal seed
        seed += 1
        return b"%b%b%b" % (head, stamp_of(seed), rest), b""

    return following


def gets(contents: Sequence[tuple[str, int]], size_bytes: int) -> NextRequest:
    """GETs of these contents, id and seed, round and round: if they are more than a cache holds, it
    never has one that was read before."""
    requests = [
        (f"GET /v1/blobs/{id_} HTTP/1.1\r\nHost: bench\r\n\r\n".encode(), stamp_of(seed))
        for id_, seed in contents
    ]
    rest = content(0, size_bytes)[STAMP_BYTES:]
    at = -1

    def following() -> tuple[bytes, bytes]:
        nonlocal at
        at += 1
        request, stamp = requests[at % len(requests)]
        return request, stamp + rest

    return following


class _Client(asyncio.Protocol):
    """One connection. Ends itself when `stop` says so."""

    def __init__(self, following: NextRequest, stop: Callable[[], bool]) -> None:
        self._following, self._stop = following, stop
        self._received = b""
        self.latencies_s: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but name.
        self._transport = cast(asyncio.Transport, transport)

    def ask(self) -> None:
        if self._stop():
            self.done.set_result(None)
            return
        request, self._expected = self._following()
        self._began_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0 or len(received) < end + 4 + _content_length(received, end):
            self._received = received
            return
        self._received = b""
        if received[9:11] != b"20" or not received.endswith(self._expected):
            self._fail(received[: end + 200].decode(errors="replace"))
            return
        self.latencies_s.append(time.perf_counter() - self._began_s)
        self.ask()

    def end(self) -> None:
        self.done.cancel()
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection lost: {exc}")

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(WrongAnswer(reason))


def _content_length(received: bytes, end: int) -> int:
    at = received.find(b"Content-Length: ", 0, end)
    return int(received[at + 16 : received.find(b"\r\n", at)])


def run(
    url: str,
    clients: int,
    following: NextRequest,
    duration_s: float = float("inf"),
    answers: int = sys.maxsize,
) -> Outcome:
    """Ask until so many answers have come or `duration_s` is over. Raises WrongAnswer."""
    return uvloop.run(_run(url, clients, following, duration_s, answers))


async def _run(
    url: str, clients: int, following: NextRequest, duration_s: float, answers: int
) -> Outcome:
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    left, until_s = answers, time.perf_counter() + duration_s

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left < 0 or time.perf_counter() > until_s

    async def connect() -> _Client:
        client = _Client(following, stop)
        await loop.create_connection(lambda: client, str(parts.hostname), int(parts.port or 80))
        return client

    protocols = [await connect() for _ in range(clients)]
    cpu_s, began_s = _own_cpu_s(), time.perf_counter()
    for protocol in protocols:
        protocol.ask()
    try:
        await asyncio.gather(*(protocol.done for protocol in protocols))
    finally:
        for protocol in protocols:
            protocol.end()
    elapsed_s = time.perf_counter() - began_s
    latencies_s = sorted(each for protocol in protocols for each in protocol.latencies_s)
    return Outcome(latencies_s, elapsed_s, _own_cpu_s() - cpu_s)


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
