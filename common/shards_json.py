"""A ShardInfo as one line of JSON: how a node lists its shards over HTTP."""

import json

from common.errors import ProtocolError, SixfoldError
from common.ids import DIGEST_BYTES, ShardAddress
from common.shards import Encoding, ShardInfo


def shard_info_to_json(info: ShardInfo) -> bytes:
    """One JSON object, without a line break."""
    return json.dumps(
        {
            "address": str(info.address),
            "k": info.k,
            "n": info.n,
            "segment_bytes": info.segment_bytes,
            "encoding": int(info.encoding),
            "payload_bytes": info.payload_bytes,
            "checksum": info.checksum.hex(),
        }
    ).encode()


def shard_info_from_json(line: bytes) -> ShardInfo:
    """Raises ProtocolError for anything that `shard_info_to_json` does not write."""
    try:
        said = json.loads(line)
        info = ShardInfo(
            ShardAddress.parse(said["address"]),
            said["k"],
            said["n"],
            said["segment_bytes"],
            Encoding(said["encoding"]),
            said["payload_bytes"],
            bytes.fromhex(said["checksum"]),
        )
        if shard_info_to_json(info) == line and _is_plausible(info):
            return info
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SixfoldError):
        pass
    raise ProtocolError(f"not a shard listing: {line[:200]!r}") from None


def _is_plausible(info: ShardInfo) -> bool:
    """Whether every number fits the record header that it must have come from."""
    bounded = (
        (info.k, 1 << 8),
        (info.n, 1 << 8),
        (int(info.encoding), 1 << 8),
        (info.payload_bytes, 1 << 32),
        (info.segment_bytes, 1 << 64),
    )
    whole = all(type(number) is int and 0 <= number < bound for number, bound in bounded)
    return whole and 1 <= info.k <= info.n and len(info.checksum) == DIGEST_BYTES
