"""The client of the large rows: one blocking socket a transfer, checked with memcmp."""

import ctypes
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from bench.pattern import BLOCK_BYTES, blocks, is_block

SOCKET_BUFFER_BYTES = 4 << 20
_END = b"\r\n\r\n"
_PEEK_BYTES = 4096


class WrongAnswer(Exception):
    """A status, a length or a byte that should not be: no figure is worth anything then."""


def put(url: str, id_: str, seed: int, size_bytes: int) -> None:
    """Store the content of that seed; the answer must name its id."""
    with _connected(url) as sock:
        sock.sendall(
            f"PUT /v1/blobs HTTP/1.1\r\nHost: bench\r\nContent-Length: {size_bytes}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        for stamp, rest in blocks(seed, size_bytes):
            sock.sendall(stamp, socket.MSG_MORE)
            sock.sendall(rest)
        answer = b"".join(iter(lambda: sock.recv(_PEEK_BYTES), b""))
    if answer.split(b" ", 2)[1] not in (b"200", b"201") or id_.encode() not in answer:
        raise WrongAnswer(answer.decode(errors="replace"))


def get(url: str, id_: str, seed: int, size_bytes: int) -> None:
    """Fetch it, and hold every byte against what was sent."""
    received = ctypes.create_string_buffer(BLOCK_BYTES)
    place = memoryview(received)
    with _connected(url) as sock:
        sock.sendall(f"GET /v1/blobs/{id_} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        _skip_headers(sock, size_bytes)
        for number, at in enumerate(range(0, size_bytes, BLOCK_BYTES)):
            length = min(BLOCK_BYTES, size_bytes - at)
            _receive(sock, place[:length])
            if not is_block(received, length, seed, number):
                raise WrongAnswer(f"{id_}: block {number} is not what was sent")


def at_once(transfers: Sequence[Callable[[], None]]) -> float:
    """Seconds until all have returned."""
    with ThreadPoolExecutor(len(transfers)) as pool:
        began_s = time.perf_counter()
        for future in [pool.submit(transfer) for transfer in transfers]:
            future.result()
        return time.perf_counter() - began_s


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    sock = socket.create_connection((str(parts.hostname), int(parts.port or 80)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _skip_headers(sock: socket.socket, size_bytes: int) -> None:
    """Read the headers and not a byte more. Raises WrongAnswer unless they announce the content."""
    while _END not in (peeked := sock.recv(_PEEK_BYTES, socket.MSG_PEEK)):
        if not peeked:
            raise WrongAnswer("no answer")
    headers = sock.recv(peeked.index(_END) + len(_END))
    length = f"content-length: {size_bytes}\r\n".encode()
    if headers.split(b" ", 2)[1] != b"200" or length not in headers.lower():
        raise WrongAnswer(headers.decode(errors="replace"))


def _receive(sock: socket.socket, place: memoryview) -> None:
    while place:
        count = sock.recv_into(place, 0, socket.MSG_WAITALL)
        if not count:
            raise WrongAnswer("cut off")
        place = place[count:]
