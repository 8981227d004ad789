"""Opens a metadata database, whatever database that is, and says what is wrong with it."""

import math
from pathlib import Path

from peewee import PeeweeException

from common.errors import BadSetting, NotOurTurn
from coordinator.metadata.clock import Clock
from coordinator.metadata.database import open_database
from coordinator.metadata.store import Metadata


def open_metadata(
    data: Path,
    url: str,
    grace_s: int,
    clock: Clock | None = None,
    cluster_id: str = "",
    lost_after_s: float = math.inf,
) -> Metadata:
    """`url` may be empty: then the database is `metadata.db` in `data`. With `cluster_id`, a new
    database belongs to that cluster, and an old one must. No upload is committed on nodes that have
    not reported for `lost_after_s`. Raises BadSetting if the directory or the database cannot be
    used."""
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"data {data}: {error.strerror}") from None
    url = url or f"sqlite:///{data / 'metadata.db'}"
    try:
        sql = open_database(url, clock, cluster_id)
    except PeeweeException as error:
        raise BadSetting(f"database {url}: {error}") from None
    except OSError as error:
        raise BadSetting(f"database {url}: unable to open: {error.strerror}") from None
    except NotOurTurn as error:
        if not isinstance(cause := error.__cause__, OSError):
            raise
        raise BadSetting(f"database {url}: unable to open: {cause.strerror}") from None
    return Metadata(sql, grace_s, lost_after_s)
