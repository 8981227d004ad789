"""Small files of a node, as JSON with a checksum: a flipped bit would leave a number or a name that
looks as good as any."""

import json
from collections.abc import Mapping
from typing import Any

from common.hashing import blake3_digest

_SEAL = "blake3"


def seal(values: Mapping[str, Any]) -> bytes:
    """The file. `values` come back from `unseal` as JSON has them: numbers that were keys are
    text."""
    as_read = json.loads(json.dumps(values))
    return (json.dumps({**as_read, _SEAL: _checksum(as_read)}, indent=2) + "\n").encode()


def unseal(data: bytes) -> dict[str, Any]:
    """The values. Without a checksum, as earlier versions wrote it, it is believed: what is not
    known by its name must be refused by whoever asks, or a flipped bit in the name would pass.

    Raises ValueError if it was not written by `seal`.
    """
    values = json.loads(data)
    if not isinstance(values, dict):
        raise ValueError("it holds no object")
    if values.pop(_SEAL, None) not in (None, _checksum(values)):
        raise ValueError("it does not match its checksum")
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    return blake3_digest(json.dumps(values, sort_keys=True).encode()).hex()
