"""`/-/admin/`: what operators ask of the store, and the checks that they start."""

from aiohttp import web

from common.errors import BadRequest
from coordinator.metadata import Metadata
from coordinator.risk_report import AFR, ROT_PER_SHARD_YEAR, RiskReport


class CareHandlers:
    """The handlers, and the routes that lead to them."""

    def __init__(self, metadata: Metadata, risks: RiskReport) -> None:
        self._metadata, self._risks = metadata, risks

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/-/admin/durability", self.durability),
            web.get("/-/admin/jobs", self.jobs),
        ]

    async def durability(self, request: web.Request) -> web.Response:
        """What may fail now, and how likely loss is: `?afr=0.02&rot=1e-6`."""
        afr, rot = _rate(request, "afr", AFR), _rate(request, "rot", ROT_PER_SHARD_YEAR)
        return web.json_response(await self._risks.make(afr, rot))

    async def jobs(self, request: web.Request) -> web.Response:
        """Every background job: who does it, and what it says of itself."""
        leases = await self._metadata.job_leases()
        states = await self._metadata.job_states()
        jobs = [
            {
                "name": name,
                "session": leases[name].session if name in leases else None,
                "epoch": leases[name].epoch if name in leases else None,
                "held": name in leases and leases[name].left_s >= 0,
                "age_s": states[name].age_s if name in states else None,
                "state": dict(states[name].state) if name in states else {},
            }
            for name in sorted(leases.keys() | states.keys())
        ]
        return web.json_response({"jobs": jobs})


def _rate(request: web.Request, name: str, default: float) -> float:
    text = request.query.get(name)
    try:
        return default if text is None else float(text)
    except ValueError:
        raise BadRequest(f"{name}: not a number: {text!r}") from None
