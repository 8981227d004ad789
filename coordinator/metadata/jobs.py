"""What the background jobs keep in the database: where each stands, and what it has done."""

import json
from collections.abc import Mapping
from typing import Any

from coordinator.metadata.database import Sql
from coordinator.metadata.rows import JobState


def save_job_state(sql: Sql, name: str, state: Mapping[str, Any]) -> None:
    sql.run(
        "INSERT INTO job_state (name, state, updated_at) VALUES (?, ?, {now}) "
        "ON CONFLICT (name) DO UPDATE SET state = excluded.state, "
        "updated_at = excluded.updated_at",
        name, json.dumps(state),
    )  # fmt: skip


def job_states(sql: Sql) -> dict[str, JobState]:
    rows = sql.rows("SELECT name, state, {now} - updated_at FROM job_state")
    return {name: JobState(json.loads(state), max(0, age_s)) for name, state, age_s in rows}
