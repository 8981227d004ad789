"""What a coordinator tells operators, in words: each answer of `AdminClient` as lines to print."""

import time
from typing import Any

from common.units import format_bytes
from sixfold.console import aligned

AT_S, TIMES = "_at_s", {"verified_at_s": "all looked at since"}
PLACES = ("nodes", "layout", "node", "after", "served")  # where jobs stand


def durability_lines(said: dict[str, Any]) -> list[str]:
    """The report of `/-/admin/durability` in words."""
    now, short, assumed = said["may_fail_now"], said["short"], said["assumed"]
    loss = said["loss_per_year"]
    rows = [
        ("segments", str(said["segments"])),
        ("may fail now", f"{_may(now['nodes'], 'node')}, {_may(now['zones'], 'zone')}"),
        ("short of shards", f"{short['on_absent_nodes']} segments lack a node; "
         f"{short['with_bad_shards']} have bad ones"),
        *map(_short_kind, short["kinds"]),
        ("in repair queue", _queue(short)),
        ("loss of an object", f"{_chance(loss['object'])}, for each segment of it"),
        ("loss of any object", _chance(loss["any_object"])),
        ("metadata", f"{said['metadata_loss_per_year']['probability']:.2g} a year"),
        ("assumed", f"{assumed['afr']:.2%} of nodes fail in a year, "
         f"{assumed['rot_per_shard_year']:.2g} of shards rot"),
        ("repair", f"{assumed['repair_h']:.2f} hours: {assumed['repair_h_is']}"),
        ("scrub", f"{assumed['scrub_h']:.1f} hours: {assumed['scrub_h_is']}"),
    ]  # fmt: skip
    words = (said["metadata_loss_per_year"]["words"], said["correlated"], said["model"])
    return [*aligned(rows), "", *words]


def _short_kind(kind: dict[str, Any]) -> tuple[str, str]:
    where = f"{kind['segments']} segments on {kind['nodes']} nodes"
    if kind["may_fail"] < 0:
        return "  unreadable now", f"{where}; {_unreadable(kind['gone'], kind['segments'])}"
    chance = f"lost before repair with probability {kind['loss_before_repair']:.2g}"
    return f"  may lose {kind['may_fail']}", f"{where}, {chance}"


def _unreadable(gone: int, segments: int) -> str:
    """What is to be done depends on whether nodes can bring it back."""
    come_back = "what is on nodes that are away comes back with them"
    if not gone:
        return come_back
    lost = "too many of their shards" if gone == segments else f"too many shards of {gone}"
    heal = "who still has the bytes heals them by an upload; sixfold unreadable lists them"
    return f"{lost} are gone: {heal}" + ("" if gone == segments else f"; else {come_back}")


def _may(count: int | None, what: str) -> str:
    if count is None:
        return f"no {what} matters yet"
    if count < 0:
        return "none: some segments cannot be read now"
    return f"{count} {what}{'' if count == 1 else 's'}"


def _queue(short: dict[str, Any]) -> str:
    if not short["queued"]:
        return "nothing"
    return f"{short['queued']} segments, the worst with {short['fewest_survivors']} shards"


def _chance(loss: dict[str, float]) -> str:
    """Rebuilt one after another is the worse case, and what a single repair job does."""
    return f"{loss['serial']:.2g} a year ({loss['parallel']:.2g} if rebuilt all at once)"


NOTHING_UNREADABLE = "repair knows of nothing that it cannot mend"


def unreadable_lines(row: dict[str, Any], with_title: bool) -> list[str]:
    """A row of `/-/admin/unreadable` as one line: columns, and last what repair says."""
    cells = [row["content"] or "-", row["state"] or "not needed", row["segment"]]
    way_out = "" if row["content"] else f"; sixfold rm {row['segment']} gives it up"
    cells += [f"{row['survivors']} of {row['k']}", row["reason"] + way_out]
    rows = [UNREADABLE_COLUMNS, cells] if with_title else [cells]
    return [f"{a:64}  {b:10}  {c:64}  {d:6}  {e}" for a, b, c, d, e in rows]


def job_lines(said: dict[str, Any]) -> list[str]:
    """The list of `/-/admin/jobs` in words."""
    rows = [("JOB", "DONE BY", "EPOCH", "SAID", "STATE")]
    for job in said["jobs"]:
        age_s = job["age_s"]
        rows.append(
            (
                job["name"],
                f"session {job['session']}" if job["held"] else "nobody",
                str(job["epoch"] or "-"),
                "-" if age_s is None else f"{age_s} s ago",
                _state_words(job["state"]) or "-",
            )
        )
    return aligned(rows)


def _state_words(state: dict[str, Any]) -> str:
    """What a job says of itself, but for where it stands and what is nothing; --json has all."""
    return ", ".join(
        key if value is True else _state_word(key, value)
        for key, value in state.items()
        if key not in PLACES and value
    )


def _state_word(key: str, value: Any) -> str:
    if key in ("bytes", "bytes_per_s") and isinstance(value, int | float):
        return f"{key} {format_bytes(round(value))}"
    if key.endswith(AT_S) and isinstance(value, int):
        return f"{TIMES.get(key, key.removesuffix(AT_S))} {_moment(value)}"
    return f"{key} {value}"


UNREADABLE_COLUMNS = ("CONTENT", "STATE", "SEGMENT", "SHARDS", "REASON")
LIVE = "live"  # of the states of a content
SHARD_COLUMNS = ("SHARD", "NODE", "ZONE", "NODE IS", "SHARD IS", "VERIFIED")


def explain_lines(said: dict[str, Any]) -> list[str]:
    """The answer of `/v1/blobs/{id}/explain` in words."""
    lines = [f"{said['id']}: {said['state']}, {said['segment_count']} segments"]
    for segment in said["segments"]:
        lines += ["", *_segment_lines(segment)]
    for row in said["being_deleted"]:
        shards = ", ".join(map(str, row["indexes"]))
        lines.append(f"{row['name']} has yet to delete shard {shards} of {row['generation']}")
    return lines


def _segment_lines(segment: dict[str, Any]) -> list[str]:
    position = segment["position"]
    name = "list of segments" if position is None else f"segment {position}"
    name = "in the bundle" if segment["bundle"] else name
    rows = [SHARD_COLUMNS, *(_shard_row(shard) for shard in segment["shards"])]
    return [
        f"{name} {segment['id']}, {segment['size_bytes']} bytes",
        *(f"  {line}" for line in aligned(rows)),
        f"  verified: {_moment(segment['verified_at_s'])}; {_in_queue(segment['repair'])}",
        f"  {_left(segment['may_fail'])}",
    ]


def _shard_row(shard: dict[str, Any]) -> tuple[str, ...]:
    state = f"{shard['state']}: {shard['why']}" if shard["why"] else shard["state"]
    return (
        str(shard["index"]),
        shard["name"] or "-",
        shard["zone"] or "-",
        shard["node_state"] or "-",
        state,
        _moment(shard["verified_at_s"]),
    )


def _moment(at_s: int | None, never: str = "not since it was written") -> str:
    if not at_s:
        return never
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))


def _in_queue(repair: dict[str, Any] | None) -> str:
    if repair is None:
        return "not in the repair queue"
    tries = f", {repair['attempts']} tries failed" if repair["attempts"] else ""
    return f"in the repair queue for {repair['queued_age_s']} s: {repair['reason']}{tries}"


def _left(may_fail: dict[str, Any]) -> str:
    if may_fail["nodes"] < 0:
        return "too few shards are there: it cannot be read now"
    nodes, zones = ", ".join(may_fail["of_nodes"]), ", ".join(may_fail["of_zones"])
    return (
        f"may still fail: any {may_fail['nodes']} of {nodes}; "
        f"any {max(0, may_fail['zones'])} of the zones {zones}"
    )


def verify_lines(said: dict[str, Any]) -> list[str]:
    """The answer of `/-/admin/verify/{id}` in words."""
    looked = f"{said['shards']} shards of {said['segments']} segments"
    name = f"{said['id']}: {'' if said['state'] == LIVE else said['state'] + '; '}"
    if said["whole"]:
        return [f"{name}whole, {looked} are good"]
    right = {True: "its bytes are right", False: "its bytes are WRONG", None: "it cannot be read"}
    lines = [f"{name}not whole, {looked} looked at; {right[said['id_is_right']]}"]
    for bad in said["bad"]:
        position = bad["position"]
        name = "list of segments" if position is None else f"segment {position}"
        where = [f"shard {s['index']} on {s['name']} is {s['state']}" for s in bad["shards"]]
        queued = "in the repair queue" if bad["queued"] else "nothing to repair yet"
        lines.append(
            f"  {name}: {'; '.join([*where, *filter(None, [bad['disagrees']])])}; {queued}"
        )
    return lines


def scrub_lines(said: dict[str, Any]) -> list[str]:
    """The answer of `/-/admin/scrub` in words."""
    stripes = said["stripes"]
    if stripes["running"]:
        state = "a pass runs"
    else:
        state = "a pass was asked for" if said["wanted"] > stripes["served"] else "no pass runs"
    rows = [
        ("stripes", state),
        ("looked at", f"{stripes['segments']} segments, {format_bytes(stripes['bytes'])}"),
        ("whole", str(stripes["whole"])),
        ("to repair", str(stripes["to_repair"])),
        ("not reached", str(stripes["unchecked"])),
        ("all looked at", _moment(stripes["verified_at_s"], "not yet")),
    ]
    nodes = [
        ("NODE", "PASS", "READ", "BAD NOW", "BAD EVER", "ALL LOOKED AT"),
        *map(_node_row, said["nodes"]),
    ]
    return [*aligned(rows), "", *aligned(nodes)]


def _node_row(node: dict[str, Any]) -> tuple[str, ...]:
    if "error" in node:
        return (node["name"], node["error"], "-", "-", "-", "-")
    # Compaction may take from a volume what was counted, or bring what was read already.
    total_bytes = max(node["scanned_bytes"], node["total_bytes"])
    return (
        node["name"],
        "runs" if node["running"] else f"{node['passes']} done",
        f"{format_bytes(node['scanned_bytes'])} of {format_bytes(total_bytes)}",
        str(node["bad"]),
        str(node["rotten"]),
        _moment(node["verified_at"], "not yet"),
    )
