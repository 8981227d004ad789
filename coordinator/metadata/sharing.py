"""What the processes of a cluster tell each other through the database: the reports of the nodes,
and who does which background job. The rules for transactions are those of `writes`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from common.auth import VALID_S
from common.errors import BadRequest, Conflict, NodeRemoved, Unauthorized
from common.membership import NodeReport
from coordinator.metadata.rows import NodeRow, SharedReport, Wish
from coordinator.metadata.sessions import check_session, deletes_stopped, next_epoch, tell_epoch
from coordinator.metadata.sql import Sql
from coordinator.metadata.writes import add_node

NONCE_KEPT_S = int(4 * VALID_S)  # twice what is needed: the processes' clocks may differ
MAX_NODE_NUMBER = 65_535  # layouts hold node numbers in two bytes


@dataclass(frozen=True, slots=True)
class IncomingReport:
    """A report, and what the process that it came to knows of it.

    `nonce` is that of its signature. `gone` is the instance that this process has found to be
    gone; another one whose last report is younger than `alive_s` is taken to be alive.
    """

    report: NodeReport
    nonce: bytes
    gone: str
    alive_s: int


@dataclass(frozen=True, slots=True)
class TakenReport:
    """`version` is that of the report, `epoch` and `may_delete` what the node is told. `restored`
    says that the node has seen a younger database than this one (see `sessions`); `outdated`, that
    it began without what it had been told: its directory may be an old one."""

    node: NodeRow
    version: int
    epoch: int
    restored: bool
    may_delete: bool
    outdated: bool


def save_report(sql: Sql, incoming: IncomingReport) -> TakenReport:
    """Register the node if it is new and keep its report.

    Raises Unauthorized for a replay, NodeRemoved for a node that was removed, Conflict for a second
    process of a living node, and for a new node under the name of another. The nonce is spent even
    if the report is refused.
    """
    _spend(sql, incoming.nonce)
    report = incoming.report
    found = sql.row(
        "SELECT n.number, n.node_id, n.name, n.zone, n.wish, r.version, r.instance, "
        "r.reported_at > {now} - ?, n.told_epoch FROM node n "
        "LEFT JOIN node_report r ON r.node = n.number WHERE n.node_id = ?",
        incoming.alive_s, report.node_id,
    )  # fmt: skip
    if found and found[7] and found[6] not in (report.instance, incoming.gone):
        raise Conflict(
            f"node {report.name} ({report.node_id}) is already served by another process"
        )
    row = NodeRow.of(found[:5]) if found else None
    if row is None:
        _check_name(sql, report)
    elif row.wish is Wish.REMOVED:
        raise NodeRemoved(
            f"node {report.name} ({report.node_id}) was removed for good: its data directory may "
            "be deleted"
        )
    if row is None or (row.name, row.zone) != (report.name, report.zone):
        wish = row.wish if row else Wish.ACTIVE
        row = replace(add_node(sql, report.node_id, report.name, report.zone), wish=wish)
    if row.number > MAX_NODE_NUMBER:
        raise Conflict(f"node numbers are used up: {row.number}")
    version = 1 + ((found[5] if found else None) or 0)
    _store(sql, row.number, version, report)
    told_before = found[8] if found else 0
    told, restored = tell_epoch(sql, row.number, report.epoch, told_before)
    began = found is not None and found[6] != report.instance
    outdated = began and report.epoch < told_before
    return TakenReport(row, version, told, restored, not deletes_stopped(sql), outdated)


def _check_name(sql: Sql, report: NodeReport) -> None:
    """A node whose disk is not mounted looks like a new one, but for its name. One that was told an
    epoch was taken in before: then the database is a backup of the time before that, and whoever
    has the name there was removed since. It is called after its id too, from now on."""
    known = sql.row(
        "SELECT node_id FROM node WHERE name = ? AND wish <> ?", report.name, Wish.REMOVED
    )
    if known and report.epoch:
        old = f"{report.name}-{known[0][:8]}"
        sql.run("UPDATE node SET name = ? WHERE node_id = ?", old, known[0])
    elif known:
        raise Conflict(
            f"the name {report.name} is that of node {known[0]}, and this data directory is not "
            "its own. Is its disk mounted? If it is lost for good, start under another name, or "
            "remove that node first"
        )


def _spend(sql: Sql, nonce: bytes) -> None:
    sql.run("DELETE FROM report_nonce WHERE expires_at < {now}")
    if not sql.run(
        "INSERT INTO report_nonce (nonce, expires_at) VALUES (?, {now} + ?) ON CONFLICT DO NOTHING",
        nonce, NONCE_KEPT_S,
    ):  # fmt: skip
        raise Unauthorized("the request was sent before: a replay")


def _store(sql: Sql, node: int, version: int, report: NodeReport) -> None:
    sql.run(
        "INSERT INTO node_report (node, version, instance, report, reported_at) "
        "VALUES (?, ?, ?, ?, {now}) ON CONFLICT (node) DO UPDATE SET version = excluded.version, "
        "instance = excluded.instance, report = excluded.report, "
        "reported_at = excluded.reported_at",
        node, version, report.instance, report.to_json().decode(),
    )  # fmt: skip


def reports_since(
    sql: Sql, since_s: int, known: Mapping[int, int]
) -> tuple[int, list[SharedReport]]:
    """The database's time, and the reports since `since_s` of other versions than `known` holds
    by node number."""
    now_s = sql.now_s()
    rows = sql.rows(
        "SELECT r.node, r.version, r.report, {now} - r.reported_at, "
        "n.node_id, n.name, n.zone, n.wish "
        "FROM node_report r JOIN node n ON n.number = r.node WHERE r.reported_at >= ?",
        since_s,
    )
    found = []
    for number, version, text, age_s, *words in rows:
        report = _parsed(text) if known.get(number) != version else None
        if report is not None:
            row = NodeRow.of([number, *words])
            found.append(SharedReport(row, version, report, max(0, age_s)))
    return now_s, found


def _parsed(text: str) -> NodeReport | None:
    """None for what another version of sixfold wrote: the node will soon report again."""
    try:
        return NodeReport.from_json(text.encode())
    except BadRequest:
        return None


def take_lease(sql: Sql, name: str, session: int, lease_s: int) -> int | None:
    """Take or renew the lease of a job. Its epoch, which is the cluster's as of when it changed
    hands; None while another session holds it.

    Raises SessionLost: a session that has run out holds nothing.
    """
    check_session(sql, session)
    found = sql.row("SELECT session, epoch, expires_at < {now} FROM job_lease WHERE name = ?", name)
    if found and found[0] != session and not found[2]:
        return None
    epoch = int(found[1]) if found and found[0] == session else next_epoch(sql)
    sql.run(
        "INSERT INTO job_lease (name, session, epoch, expires_at) VALUES (?, ?, ?, {now} + ?) "
        "ON CONFLICT (name) DO UPDATE SET session = excluded.session, epoch = excluded.epoch, "
        "expires_at = excluded.expires_at",
        name, session, epoch, lease_s,
    )  # fmt: skip
    return epoch


def give_back_lease(sql: Sql, name: str, session: int) -> None:
    """Anyone may take it at once. Nothing happens if it is another's by now."""
    sql.run(
        "UPDATE job_lease SET expires_at = {now} - 1 WHERE name = ? AND session = ?", name, session
    )
