"""How a node and a coordinator talk, in JSON over HTTP, about what is in quarantine and about
scrub."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple

from common.errors import BadRequest, ProtocolError, SixfoldError
from common.ids import ShardAddress

MAX_ADDRESSES = 1000  # in one request


class Why(StrEnum):
    ROT = "rot"
    ORPHAN = "orphan"


class Quarantined(NamedTuple):
    """A shard that is out of service but still kept. `at` is since when, Unix time in seconds by
    the node's clock (shardd/clock.py); `size_bytes` is what it takes."""

    address: ShardAddress
    why: Why
    at: int
    size_bytes: int

    def to_json(self) -> bytes:
        """One JSON object, without a line break."""
        return json.dumps(self._asdict() | {"address": str(self.address)}).encode()

    @classmethod
    def from_json(cls, line: bytes) -> "Quarantined":
        """Raises ProtocolError for anything that `to_json` does not write."""
        try:
            said = json.loads(line)
            address, why = ShardAddress.parse(said["address"]), Why(said["why"])
            found = cls(address, why, said["at"], said["size_bytes"])
            if found.to_json() == line and type(found.at) is type(found.size_bytes) is int:
                return found
        except (ValueError, KeyError, TypeError, RecursionError, SixfoldError):
            pass
        raise ProtocolError(f"not a shard in quarantine: {line[:200]!r}") from None


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """Times are Unix time in seconds, 0 never. `verified_at` is when the oldest verification
    began, over all volumes that the last complete pass covered; in later ones is only what was
    written since, and verified then. `bad` are the shards that wait for repair, `rotten` all that
    were ever found so on this disk."""

    running: bool
    passes: int
    scanned_bytes: int
    total_bytes: int
    bad: int
    started_at: int
    verified_at: int
    rotten: int

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "ScrubReport":
        """Raises ProtocolError for anything that `to_json` does not write."""
        try:
            said: Any = json.loads(data)
            if all(type(said[field.name]) is field.type for field in fields(cls)):
                return cls(**said)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise ProtocolError(f"not a report on scrub: {data[:200]!r}") from None


def addresses_to_json(addresses: Sequence[ShardAddress]) -> bytes:
    return json.dumps({"addresses": [str(address) for address in addresses]}).encode()


def orphans_to_json(epoch: int, addresses: Sequence[ShardAddress]) -> bytes:
    """What to set aside; `epoch` as that of a DELETE frame (common/wire.py)."""
    return json.dumps({"epoch": epoch, "addresses": [str(each) for each in addresses]}).encode()


def orphans_from_json(body: bytes) -> tuple[int, list[ShardAddress]]:
    """The epoch and the addresses. Raises BadRequest as `addresses_from_json`."""
    addresses = addresses_from_json(body)
    epoch = json.loads(body).get("epoch")
    if type(epoch) is not int or not 0 <= epoch < 1 << 64:
        raise BadRequest('need an "epoch", a whole number')
    return epoch, addresses


def addresses_from_json(body: bytes) -> list[ShardAddress]:
    """Raises BadRequest unless it is an object with at most MAX_ADDRESSES of them."""
    try:
        said = json.loads(body)
        texts = said["addresses"]
        good = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good or len(texts) > MAX_ADDRESSES:
        raise BadRequest(f'need {{"addresses": [at most {MAX_ADDRESSES} shard addresses]}}')
    return [ShardAddress.parse(text) for text in texts]
