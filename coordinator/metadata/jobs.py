"""What the background jobs keep in the database: where each stands, and what it has done."""

import json
from collections.abc import Mapping
from typing import Any

from coordinator.metadata.rows import JobState
from coordinator.metadata.sql import Sql


def save_job_state(sql: Sql, name: str, state: Mapping[str, Any]) -> None:
    sql.run(
        "INSERT INTO job_state (name, state, updated_at) VALUES (?, ?, {now}) "
        "ON CONFLICT (name) DO UPDATE SET state = excluded.state, "
        "updated_at = excluded.updated_at",
        name, json.dumps(state),
    )  # fmt: skip


def count_in_job_state(sql: Sql, name: str, **done: int) -> dict[str, int]:
    """The job has done so much more; to be called where it does it. The new counts."""
    found = sql.row("SELECT state FROM job_state WHERE name = ?", name)
    state = json.loads(found[0]) if found else {}
    counts = {key: state.get(key, 0) + count for key, count in done.items()}
    save_job_state(sql, name, state | counts)
    return counts


def job_states(sql: Sql) -> dict[str, JobState]:
    rows = sql.rows("SELECT name, state, {now} - updated_at FROM job_state")
    return {name: JobState(json.loads(state), max(0, age_s)) for name, state, age_s in rows}
