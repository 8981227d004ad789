"""What a check of the store ends with if not all was well, or not all was looked at."""

from typing import Any

from common.errors import Corrupt, NotFound, SixfoldError, Unavailable


def not_whole(said: dict[str, Any]) -> SixfoldError:
    """Wrong bytes somewhere are another thing than shards that cannot be had just now, or that
    repair will make up for."""
    where = f"{said['id']} is not whole"
    states = {shard["state"] for bad in said["bad"] for shard in bad["shards"]}
    if said["id_is_right"] is False or any(bad["disagrees"] for bad in said["bad"]):
        return Corrupt(f"{where}: there are wrong bytes")
    if "bad" in states:
        return Corrupt(f"{where}: there are bad shards")
    return Unavailable(f"{where}: there are shards that cannot be had")


def not_found(said: dict[str, Any]) -> SixfoldError:
    """What a reader is told of it, whatever is there still."""
    return NotFound(f"no such content: {said['id']}: it is {said['state']}")


def not_looked_at(said: dict[str, Any], asked: dict[str, Any]) -> SixfoldError | None:
    """After the passes that were `asked` for: what they did not get at."""
    stripes, parts = said["stripes"], []
    if stripes["unchecked"]:
        unreached = f"of {stripes['unchecked']} of {stripes['segments']} segments"
        parts.append(f"{unreached} some shards could not be reached")
    silent = {n["name"]: n["error"] for n in [*asked["nodes"], *said["nodes"]] if "error" in n}
    parts += [f"{name}: {error}" for name, error in silent.items()]
    return Unavailable(f"not everything was looked at: {'; '.join(parts)}") if parts else None
