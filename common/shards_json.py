"""A ShardInfo as one line of JSON: how a node lists its shards over HTTP."""

import json

from common.errors import ProtocolError, SixfoldError
from common.ids import ShardAddress
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
        return ShardInfo(
            ShardAddress.parse(said["address"]),
            int(said["k"]),
            int(said["n"]),
            int(said["segment_bytes"]),
            Encoding(said["encoding"]),
            int(said["payload_bytes"]),
            bytes.fromhex(said["checksum"]),
        )
    except (ValueError, KeyError, TypeError, SixfoldError):
        raise ProtocolError(f"not a shard listing: {line[:200]!r}") from None
