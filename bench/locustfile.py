"""A load of PUT and GET with a realistic mix of sizes; every GET's bytes are held against its id.

    locust -f bench/locustfile.py --headless -u 16 -r 16 -t 30s --host http://127.0.0.1:8600

`python -m bench.load` (make load) starts a cluster for it. Contents are made from a counter and
SHAKE-128, so every PUT stores new bytes and nothing is read from disk.
"""

import hashlib
import itertools
import os
import random
from collections import deque
from typing import Any

from blake3 import blake3
from locust import HttpUser, between, events, task
from locust.env import Environment

KIB, MIB = 1 << 10, 1 << 20
# size in bytes: weight. Most objects are small, most bytes are in large ones.
SIZE_MIX = {4 * KIB: 40, 64 * KIB: 30, 1 * MIB: 20, 8 * MIB: 9, 64 * MIB: 1}
BLOCK = hashlib.shake_128(b"sixfold load").digest(1 * MIB)
REMEMBERED = 2000  # ids that GETs choose from: the latest

_counter = itertools.count()
_run = os.urandom(8)
_stored: deque[tuple[str, int]] = deque(maxlen=REMEMBERED)


def new_content(size_bytes: int) -> bytes:
    """Bytes that no earlier call of any run returned, cheaply: each MiB starts with a number."""
    pieces = []
    for _ in range(-(-size_bytes // MIB)):
        head = _run + next(_counter).to_bytes(8, "big")
        pieces.append(head + BLOCK[len(head) :])
    return b"".join(pieces)[:size_bytes]


def size_name(size_bytes: int) -> str:
    """How the size class is called in the table."""
    return f"{size_bytes // KIB} KiB" if size_bytes < MIB else f"{size_bytes // MIB} MiB"


@events.quitting.add_listener  # type: ignore[untyped-decorator]  # locust's events have no types
def fail_unless_both_ran(environment: Environment, **_: Any) -> None:
    """Without any PUT or any GET nothing was shown, and locust by itself would exit with 0."""
    methods = {method for _, method in environment.stats.entries}
    if not {"PUT", "GET"} <= methods:
        print(f"not enough was requested: {sorted(methods) or 'nothing'}")
        environment.process_exit_code = 1


class BlobUser(HttpUser):
    """Stores and reads, two reads for each store."""

    wait_time = between(0, 0.01)

    @task(1)
    def put(self) -> None:
        """Store new bytes; the id in the answer must be theirs."""
        size_bytes = random.choices([*SIZE_MIX], [*SIZE_MIX.values()])[0]
        data = new_content(size_bytes)
        name = f"PUT {size_name(size_bytes)}"
        with self.client.put("/v1/blobs", data=data, name=name, catch_response=True) as answer:
            if answer.status_code != 201:
                answer.failure(f"status {answer.status_code}: {answer.error or answer.text[:200]}")
                return
            said: dict[str, Any] = answer.json()
            if said["id"] != blake3(data).hexdigest():
                answer.failure(f"the id {said['id']} is not that of the bytes")
                return
            _stored.append((said["id"], size_bytes))

    @task(2)
    def get(self) -> None:
        """Read one of the contents stored lately and hold its bytes against its id."""
        if not _stored:
            return
        id_, size_bytes = random.choice(_stored)
        name = f"GET {size_name(size_bytes)}"
        with self.client.get(f"/v1/blobs/{id_}", name=name, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}: {answer.error or answer.text[:200]}")
            elif blake3(answer.content).hexdigest() != id_:
                answer.failure(f"wrong bytes for {id_}")
