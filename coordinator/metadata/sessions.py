"""Sessions, the epoch that numbers them, and the stop of all deletion.

The epoch is `cluster.sessions`. It grows whenever a session begins, whenever one is renewed, and
whenever the lease of a job changes hands; a session's number is the epoch at its beginning. What is
deleted on nodes carries it too (see `outbox`).

Every node is told the epoch in the answer to its report and remembers the highest. The database
notes what it has told to whom (`node.told_epoch`) in the transaction of the report, before the
answer goes out. So a node that knows a higher epoch than it was ever told was told that by a
younger database: this one is a backup, restored. Comparing with what *this node* was told, not with
the epoch itself, finds that out however much the restored database has been used meanwhile.

What remains: a backup that was taken less than a renewal (15 s) and a report (2 s) before the end
of the database that was lost. It looks like a crash at the time of the backup. What was stored in
those seconds is not in the database; the sweep finds its shards and quarantines them a grace period
later, and a node drops them a week after that. The numbers of sessions cannot meet harmfully: two
databases could give the same generation only to the same bytes at the same address.
"""

from collections.abc import Iterable

from common.errors import SessionLost
from coordinator.metadata.rows import GENERATION_COUNTER_BITS, UNUSED_S
from coordinator.metadata.sql import Sql

LIVE_SESSION = "SELECT 1 FROM session WHERE number = ? AND expires_at >= {now}"
MAY_DELETE = "(SELECT deletes_stopped FROM cluster) = ''"  # a condition
DOUBTFUL = (  # of segment s: see `doubt`
    f"s.generation >> {GENERATION_COUNTER_BITS} <= (SELECT doubted_epoch FROM cluster) "
    "AND s.verified_at <= (SELECT doubted_until FROM cluster)"
)
CLOCK_LAG_S = (
    60  # a restored clock may be behind what it was by a renewal, if the machine restarted
)


def open_session(sql: Sql, lease_s: int) -> int:
    """A session number that was never used: generations are made from it."""
    sql.run("DELETE FROM session WHERE expires_at < {now}")
    number = next_epoch(sql)
    tick(sql)
    sql.run("INSERT INTO session (number, expires_at) VALUES (?, {now} + ?)", number, lease_s)
    return number


def renew_session(sql: Sql, session: int, lease_s: int) -> None:
    """Raises SessionLost if the lease has run out: it must not be revived, since others may have
    acted on its end."""
    check_session(sql, session)
    sql.run("UPDATE session SET expires_at = {now} + ? WHERE number = ?", lease_s, session)
    next_epoch(sql)
    tick(sql)


def close_session(sql: Sql, session: int) -> None:
    sql.run("UPDATE session SET expires_at = {now} - 1 WHERE number = ?", session)
    tick(sql)


def tick(sql: Sql) -> None:
    """Note how far the database's clock has come: from there it goes on after a restart."""
    sql.run("UPDATE cluster SET clock_s = {now}")


def check_session(sql: Sql, session: int) -> None:
    """Raises SessionLost."""
    if not sql.row(LIVE_SESSION, session):
        raise session_lost()


def session_lost() -> SessionLost:
    return SessionLost(
        "this coordinator's lease in the database has run out, or a rebuild has ended it; try again"
    )


def live_sessions(sql: Sql) -> set[int]:
    return {
        number for (number,) in sql.rows("SELECT number FROM session WHERE expires_at >= {now}")
    }


def epoch(sql: Sql) -> int:
    """The number of the youngest session, or of its latest renewal."""
    found = sql.only("SELECT sessions FROM cluster")
    return int(found[0])


def next_epoch(sql: Sql) -> int:
    """It has grown on return, and this is what it is now."""
    sql.run("UPDATE cluster SET sessions = sessions + 1")
    return epoch(sql)


def tell_epoch(sql: Sql, node: int, known: int, told: int) -> tuple[int, bool]:
    """The epoch to tell a node that knows `known` and was told at most `told`, and whether that
    shows that this database is an older one.

    Then all sessions whose numbers the lost database may have given out end, new ones begin above
    what it had come to, and nothing is deleted any more.
    """
    older = known > told
    if older:
        sql.run("UPDATE session SET expires_at = {now} - 1 WHERE number <= ?", known)
        sql.run("UPDATE cluster SET sessions = ? WHERE sessions <= ?", known + 1, known)
        doubt(sql, known)
        stop_deletes(
            sql,
            f"{name_of(sql, node)} has seen epoch {known}, but this database told it {told} at "
            "most: the database is older than the nodes, as after restoring a backup",
        )
    now = epoch(sql)
    if now > told:
        sql.run("UPDATE node SET told_epoch = ? WHERE number = ?", now, node)
    return now, older


def doubt(sql: Sql, until_epoch: int) -> None:
    """The database is a backup: what it says of segments of sessions up to this one may have been
    true once only. They may have been deleted since. Until all shards of one were found good again,
    nothing is acknowledged because it is there."""
    sql.run(
        "UPDATE cluster SET doubted_epoch = max(doubted_epoch, ?), doubted_until = {now} + ?",
        until_epoch, CLOCK_LAG_S,
    )  # fmt: skip
    _forget_deletes_of_what_lives(sql)


def _forget_deletes_of_what_lives(sql: Sql) -> None:
    """What a backup is about to delete of segments that it still has. It was done long ago, and the
    same shards may have come back to the same places since: they may be the last there are. What is
    really needless there the sweep finds. Some of it may have been sent just now: so the places
    rest, as after every delete."""
    live = (
        "FROM outbox_delete o WHERE EXISTS "
        "(SELECT 1 FROM segment s WHERE s.id = o.segment AND s.generation = o.generation)"
    )
    sql.run(
        "INSERT INTO deleted_place (node, segment, generation, indexes, until) "
        f"SELECT o.node, o.segment, o.generation, o.indexes, {{now}} + ? {live}",
        UNUSED_S,
    )
    sql.run(f"DELETE FROM outbox_delete WHERE id IN (SELECT o.id {live})")


def name_of(sql: Sql, node: int) -> str:
    """For messages: operators know nodes by their names, which are not their numbers."""
    found = sql.row("SELECT name FROM node WHERE number = ?", node)
    return str(found[0]) if found else f"node number {node}"


def stop_deletes(sql: Sql, reason: str) -> None:
    """From now on nothing is deleted on nodes, until someone allows it. It stands beside the
    reasons that there are, so that none goes with another; of those that end alike, as the alarms
    of many nodes do, the first stays."""
    known = reasons(sql)
    if _gist(reason) not in map(_gist, known):
        _set_reasons(sql, [*known, reason])


def reasons(sql: Sql) -> list[str]:
    """Why nothing may be deleted, each reason by itself."""
    found = sql.only("SELECT deletes_stopped FROM cluster")
    return str(found[0]).splitlines()


def _set_reasons(sql: Sql, reasons: Iterable[str]) -> None:
    sql.run("UPDATE cluster SET deletes_stopped = ?", "\n".join(reasons))


def _gist(reason: str) -> str:
    return reason.rpartition(": ")[2]


def allow_deletes(sql: Sql) -> bool:
    """Whether they were stopped. The orphans that are known by now are accepted as such."""
    allowed = sql.run(
        "UPDATE cluster SET deletes_stopped = '', deletes_allowed_at = {now} "
        "WHERE deletes_stopped <> ''"
    )
    return allowed > 0


def resume_deletes(sql: Sql, reason: str) -> None:
    """Go on, if that was why they were stopped, and nothing else is. Nothing is said of orphans."""
    _set_reasons(sql, [each for each in reasons(sql) if each != reason])


def deletes_stopped(sql: Sql) -> str:
    """Why nothing may be deleted; empty if it may."""
    return "; ".join(reasons(sql))
