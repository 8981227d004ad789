"""Every error that sixfold raises on purpose, each with its HTTP status and exit code.

    SixfoldError
    ├── BadRequest                  the caller must change the request
    │   ├── MalformedId
    │   ├── IncompleteBody
    │   └── BadSetting
    ├── Unauthorized
    ├── NotFound
    ├── Conflict
    │   ├── WrongCluster
    │   ├── WrongNode
    │   ├── NodeRemoved             an operator has removed the node: it never comes back
    │   └── StaleEpoch              another coordinator does by now what is asked
    ├── TooLarge
    ├── UnsupportedEncoding
    ├── RangeNotSatisfiable
    ├── IdMismatch
    ├── BodyTimeout
    ├── Unavailable                 trying again later may help
    │   ├── Overloaded
    │   ├── Unreadable              fewer than k good shards could be had
    │   ├── Undurable               fewer than a quorum of shards could be written
    │   ├── SessionLost
    │   ├── NotOurTurn              another process kept the database: nothing was written
    │   ├── FateUnknown             the database did not answer COMMIT: it may be written or not
    │   ├── SegmentGone             a segment that an upload relied on was deleted meanwhile
    │   ├── NodeUnreachable
    │   └── NodeTimeout
    ├── MetadataDamaged             nothing that the metadata database says is believed any more
    ├── StorageFull
    ├── StoreReadOnly
    ├── Corrupt                     bytes that do not hash to what they should
    └── ProtocolError               the peer speaks something else

An error crosses the wire as its ``code`` and comes back as the same class (`revive`).
"""

from collections.abc import Iterator
from typing import ClassVar


class SixfoldError(Exception):
    """The root. ``str(error)`` is a sentence for the user."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False


class BadRequest(SixfoldError):
    code, http_status, exit_code = "bad_request", 400, 2


class MalformedId(BadRequest):
    code = "malformed_id"


class IncompleteBody(BadRequest):
    code = "incomplete_body"


class BadSetting(BadRequest):
    code = "bad_setting"


class Unauthorized(SixfoldError):
    code, http_status, exit_code = "unauthorized", 401, 4


class NotFound(SixfoldError):
    code, http_status, exit_code = "not_found", 404, 3


class Conflict(SixfoldError):
    code, http_status, exit_code = "conflict", 409, 5


class WrongCluster(Conflict):
    code = "wrong_cluster"


class WrongNode(Conflict):
    code = "wrong_node"


class NodeRemoved(Conflict):
    code = "node_removed"


class StaleEpoch(Conflict):
    code = "stale_epoch"


class TooLarge(SixfoldError):
    code, http_status, exit_code = "too_large", 413, 6


class UnsupportedEncoding(SixfoldError):
    code, http_status, exit_code = "unsupported_encoding", 415, 2


class RangeNotSatisfiable(SixfoldError):
    code, http_status, exit_code = "range_not_satisfiable", 416, 2


class IdMismatch(SixfoldError):
    code, http_status, exit_code = "id_mismatch", 422, 7


class BodyTimeout(SixfoldError):
    code, http_status, exit_code = "body_timeout", 408, 8
    retryable = True


class Unavailable(SixfoldError):
    code, http_status, exit_code = "unavailable", 503, 8
    retryable = True


class Overloaded(Unavailable):
    code = "overloaded"


class Unreadable(Unavailable):
    code = "unreadable"


class Undurable(Unavailable):
    code = "undurable"


class SessionLost(Unavailable):
    code = "session_lost"


class NotOurTurn(Unavailable):
    code = "not_our_turn"


class FateUnknown(Unavailable):
    code = "fate_unknown"


class SegmentGone(Unavailable):
    code = "segment_gone"


class NodeUnreachable(Unavailable):
    code = "node_unreachable"


class NodeTimeout(Unavailable):
    code = "node_timeout"


class MetadataDamaged(SixfoldError):
    """Nothing that the metadata database says is believed any more, until somebody acts."""

    code, http_status, exit_code = "metadata_damaged", 503, 8


class StorageFull(SixfoldError):
    code, http_status, exit_code = "storage_full", 507, 9


class StoreReadOnly(SixfoldError):
    code, http_status, exit_code = "store_read_only", 503, 9


class Corrupt(SixfoldError):
    code, http_status, exit_code = "corrupt", 500, 7


class ProtocolError(SixfoldError):
    code, http_status, exit_code = "protocol_error", 502, 1


def _family(root: type[SixfoldError]) -> Iterator[type[SixfoldError]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)


_BY_CODE = {kind.code: kind for kind in _family(SixfoldError)}


def revive(code: str, message: str) -> SixfoldError:
    """The error that a peer sent as its code and message; an unknown code is a SixfoldError."""
    return _BY_CODE.get(code, SixfoldError)(message)
