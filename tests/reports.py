"""Reports of made-up nodes."""

import os
from dataclasses import replace
from typing import Any

from common.membership import NodeReport
from coordinator.metadata import IncomingReport

ALIVE_S = 10


def report_of(number: int, **changes: Any) -> NodeReport:
    """What node `number` says, but for `changes`."""
    report = NodeReport(
        node_id=f"{number:032x}",
        instance=f"{1:032x}",
        cluster_id="",
        name=f"node-{number}",
        zone="default",
        http_url=f"http://127.0.0.1:{number}",
        data_host="127.0.0.1",
        data_port=1,
        capacity_bytes=1000,
        used_bytes=100,
        free_bytes=900,
        shards=0,
    )
    return replace(report, **changes)


def incoming(number: int, nonce: bytes = b"", gone: str = "", **changes: Any) -> IncomingReport:
    """The same as it comes to a process, with a nonce of its own unless one is given."""
    return IncomingReport(report_of(number, **changes), nonce or os.urandom(16), gone, ALIVE_S)
