"""What lies between a coordinator and a disk: shards, and the five verbs to handle them."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple, Protocol

from common.hashing import blake3_digest
from common.ids import ShardAddress

Buffer = bytes | bytearray | memoryview


class Encoding(IntFlag):
    """What the plain bytes of a segment are, and what was done to them before coding."""

    PLAIN = 0
    COMPRESSED = 1
    ENCRYPTED = 2
    SEGMENT_LIST = 4  # the bytes are a segment list (common/segment_list.py), not content
    BUNDLE = 8  # the bytes are several contents (common/bundle.py)


class ShardInfo(NamedTuple):
    """All that is known of a shard without its payload. `segment_bytes` is the size of the whole
    segment before padding; `checksum` the BLAKE3-256 of the payload."""

    address: ShardAddress
    k: int
    n: int
    segment_bytes: int
    encoding: Encoding
    payload_bytes: int
    checksum: bytes


class ShardRecord(NamedTuple):
    """A shard with its payload. Stores keep no reference to the payload after their answer."""

    info: ShardInfo
    payload: Buffer

    @property
    def address(self) -> ShardAddress:
        return self.info.address

    def is_intact(self) -> bool:
        """Whether the payload has the length and the checksum that the info states."""
        return (
            len(self.payload) == self.info.payload_bytes
            and blake3_digest(self.payload) == self.info.checksum
        )


@dataclass(frozen=True, slots=True)
class ShardMissing:
    """The store's word that it holds no such shard: an answer, where silence is an error."""

    address: ShardAddress


@dataclass(frozen=True, slots=True)
class StoreStat:
    """`used_bytes` is what the store's volumes occupy, `free_bytes` what it can still take.
    `failure` is why it takes no more writes, if so. A store that is `detached` serves files that
    no longer stand where it would look for them: what it holds will not outlive its process."""

    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    shards: int
    failure: str = ""
    detached: bool = False

    @property
    def read_only(self) -> bool:
        return bool(self.failure)


class ShardStore(Protocol):
    """Five verbs. Every implementation passes the contract suite (tests/test_store_contract.py).

    The methods return awaitables: a lane hands back its futures as they are, without a task.
    """

    def append(self, records: Sequence[ShardRecord]) -> Awaitable[None]:
        """Durable on return. Appending an address again replaces what it held.

        Raises Corrupt if a payload does not match its checksum (then none of `records` is
        stored), StorageFull before anything is written, StoreReadOnly after an fsync error.
        """

    def read(
        self, addresses: Sequence[ShardAddress], into: Sequence[memoryview] | None = None
    ) -> Awaitable[list[ShardRecord | ShardMissing]]:
        """One answer per address, in order. Payloads are not verified.

        With `into`, a payload that has exactly the length of its buffer may arrive there; the
        record's payload then is that buffer. A cancelled read leaves the buffers alone.
        """

    def delete(self, addresses: Sequence[ShardAddress]) -> Awaitable[None]:
        """Durable on return. An absent address is fine."""

    def stat(self) -> Awaitable[StoreStat]: ...

    def list(self, after: ShardAddress | None = None) -> AsyncIterator[ShardInfo]:
        """Every shard whose address is greater than `after`, in order of address."""
