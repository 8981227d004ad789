"""`/-/admin/`: what operators ask of the store, and the checks that they start."""

import re
from dataclasses import asdict
from typing import Any

from aiohttp import web

from common.errors import BadRequest
from common.ids import ContentId
from coordinator.explain import SEGMENTS_AT_ONCE, Explain
from coordinator.metadata import JobState, Lease
from coordinator.metadata.hopeless import Hopeless
from coordinator.node_scrubs import NodeScrubs
from coordinator.risk_report import AFR, ROT_PER_SHARD_YEAR, RiskReport
from coordinator.scrub import progress_of
from coordinator.services import Services
from coordinator.verify import Verify
from coordinator.wanted import SCRUB, is_job, want_pass, wanted_passes

MAX_DIGITS = 12
ROWS_AT_ONCE = 256
AFTER = re.compile("([0-9a-f]{64}){0,2}")


class CareHandlers:
    """The handlers, and the routes that lead to them."""

    def __init__(self, services: Services, risks: RiskReport) -> None:
        self._metadata, self._risks = services.metadata, risks
        self._explain = Explain(services.metadata, services.cluster)
        self._verify, self._scrubs = Verify(services), NodeScrubs(services.cluster)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/-/admin/durability", self.durability),
            web.get("/-/admin/unreadable", self.unreadable),
            web.get("/-/admin/jobs", self.jobs),
            web.get("/v1/blobs/{id}/explain", self.explain),
            web.post("/-/admin/verify/{id}", self.verify),
            web.get("/-/admin/scrub", self.scrub_status),
            web.post("/-/admin/scrub", self.start_scrub),
        ]

    async def durability(self, request: web.Request) -> web.Response:
        """What may fail now, and how likely loss is: `?afr=0.02&rot=1e-6`."""
        afr, rot = _rate(request, "afr", AFR), _rate(request, "rot", ROT_PER_SHARD_YEAR)
        return web.json_response(await self._risks.make(afr, rot))

    async def unreadable(self, request: web.Request) -> web.Response:
        """What repair cannot mend, with what needs it: `?after=&limit=256`. Pages may be empty;
        behind the last, `next` is null."""
        limit = _count(request, "limit", ROWS_AT_ONCE)
        page = await self._metadata.hopeless(_after(request), max(1, min(limit, ROWS_AT_ONCE)))
        rows = [_unreadable(row) for row in page.rows]
        return web.json_response({"unreadable": rows, "next": page.after and page.after.hex()})

    async def jobs(self, request: web.Request) -> web.Response:
        """Every background job: who does it, and what it says of itself."""
        leases = await self._metadata.job_leases()
        states, waiting = await self._metadata.job_states(), await self._metadata.waiting()
        jobs = [
            _job(name, leases.get(name), states.get(name), waiting.get(name))
            for name in sorted(filter(is_job, leases.keys() | states.keys()))
        ]
        return web.json_response({"jobs": jobs})

    async def explain(self, request: web.Request) -> web.Response:
        """Where the shards of a content are: `?first=0&limit=64` segments of it at a time."""
        id_ = ContentId.parse(request.match_info["id"])
        first, limit = _count(request, "first", 0), _count(request, "limit", SEGMENTS_AT_ONCE)
        return web.json_response(await self._explain.run(id_, first, limit))

    async def verify(self, request: web.Request) -> web.Response:
        """Read and check all shards of a content; answers when that is done, with what is bad."""
        id_ = ContentId.parse(request.match_info["id"])
        return web.json_response(await self._verify.run(id_))

    async def scrub_status(self, request: web.Request) -> web.Response:
        """How far the scrub of stripes is, and that of each node."""
        states = await self._metadata.job_states()
        progress, wanted = progress_of(states), wanted_passes(states, SCRUB)
        nodes = await self._scrubs.states()
        return web.json_response({"stripes": asdict(progress), "wanted": wanted, "nodes": nodes})

    async def start_scrub(self, request: web.Request) -> web.Response:
        """Begin passes now, over the stripes after the one that runs: `served` of the status will
        reach `wanted`, and the `passes` of each node will be more than here."""
        nodes = await self._scrubs.start()
        wanted = await want_pass(self._metadata, SCRUB)
        return web.json_response({"wanted": wanted, "nodes": nodes}, status=202)


def _job(
    name: str, lease: Lease | None, state: JobState | None, waiting: int | None
) -> dict[str, Any]:
    """What `jobs` says of one: without a lease nobody ever did it, without a state it has said
    nothing yet."""
    said = dict(state.state) if state else {}
    if waiting is not None:
        said["waiting"] = waiting
    return {
        "name": name,
        "session": lease and lease.session,
        "epoch": lease and lease.epoch,
        "held": lease is not None and lease.left_s >= 0,
        "age_s": state and state.age_s,
        "state": said,
    }


def _unreadable(row: Hopeless) -> dict[str, Any]:
    """Without a content if nothing needs the segment any more."""
    return {
        "content": str(row.content) if row.content else None,
        "state": row.state and row.state.value,
        "segment": str(row.segment),
        "survivors": row.survivors,
        "k": row.k,
        "n": row.n,
        "reason": row.reason,
    }


def _after(request: web.Request) -> bytes:
    """What the page before gave as `next`."""
    text = request.query.get("after", "")
    if not AFTER.fullmatch(text):
        raise BadRequest(f"after: not what a page gave: {text[:20]!r}")
    return bytes.fromhex(text)


def _count(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise BadRequest(f"{name}: not a number: {text[:20]!r}")
    return int(text)


def _rate(request: web.Request, name: str, default: float) -> float:
    text = request.query.get(name)
    try:
        return default if text is None else float(text)
    except ValueError:
        raise BadRequest(f"{name}: not a number: {text!r}") from None
