"""Proofs that a caller or a node holds the cluster secret, which itself never travels.

Two forms, both HMAC-SHA256 (RFC 2104) keyed with the secret:

* a lane opens with a mutual challenge over both nonces, the cluster and the node;
* an HTTP request between coordinator and node carries `Sixfold-Auth: v1 <unix seconds> <nonce>
  <hmac>` over version, method, path with query, time, nonce and the BLAKE3 of the body.
"""

import hmac
from dataclasses import dataclass
from hashlib import sha256

from common.errors import BadSetting, Unauthorized
from common.hashing import blake3_digest

HEADER = "Sixfold-Auth"
VALID_S = 60.0  # a request older or newer than this is refused
MIN_SECRET_BYTES = 16


@dataclass(frozen=True, slots=True)
class ClusterSecret:
    """Keys are compared in constant time and never shown."""

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) < MIN_SECRET_BYTES:
            raise BadSetting(f"the cluster secret must have at least {MIN_SECRET_BYTES} bytes")

    def __repr__(self) -> str:
        return "ClusterSecret(...)"

    def _mac(self, *parts: bytes) -> bytes:
        mac = hmac.new(self.key, digestmod=sha256)
        for part in parts:
            mac.update(len(part).to_bytes(4, "little") + part)
        return mac.digest()

    def lane_proof(self, role: bytes, hello: bytes, nonce: bytes) -> bytes:
        """The proof of `role` (b"node" or b"coordinator") over the whole HELLO meta, which holds
        version, lane, ids and the coordinator's nonce, and over the node's nonce."""
        return self._mac(b"sixfold lane", role, hello, nonce)

    def sign(self, method: str, path: str, body: bytes, now_s: float, nonce: str) -> str:
        """The value of the `Sixfold-Auth` header. `path` includes the query string."""
        time_text = str(int(now_s))
        return f"v1 {time_text} {nonce} {self._request_mac(method, path, body, time_text, nonce)}"

    def verify(self, header: str, method: str, path: str, body: bytes, now_s: float) -> str:
        """The request's nonce, which the caller must not accept twice (see NonceMemory).

        Raises Unauthorized for a header that is absent, malformed, forged or out of time.
        """
        parts = header.split(" ")
        if len(parts) != 4 or parts[0] != "v1" or not parts[1].isdigit():
            raise Unauthorized("the request is not signed with the cluster secret")
        _, time_text, nonce, mac = parts
        expected = self._request_mac(method, path, body, time_text, nonce)
        if not hmac.compare_digest(_encoded(mac), _encoded(expected)):
            raise Unauthorized("the request's signature is wrong: another cluster secret?")
        if abs(now_s - int(time_text)) > VALID_S:
            raise Unauthorized("the request's signature has expired: do the clocks agree?")
        return nonce

    def _request_mac(self, method: str, path: str, body: bytes, time: str, nonce: str) -> str:
        parts = map(_encoded, (method, path, time, nonce))
        return self._mac(b"sixfold http v1", *parts, blake3_digest(body)).hex()


def _encoded(text: str) -> bytes:
    """As it came: bytes that are no UTF-8 reach us as surrogates."""
    return text.encode(errors="surrogateescape")


class NonceMemory:
    """Refuses a nonce seen before, for as long as its signature would be accepted."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}  # insertion order is time order

    def check(self, nonce: str, now_s: float) -> None:
        """Raises Unauthorized if `nonce` was used already."""
        while self._until_s:
            oldest = next(iter(self._until_s))
            if self._until_s[oldest] >= now_s:
                break
            del self._until_s[oldest]
        if nonce in self._until_s:
            raise Unauthorized("the request was sent before: a replay")
        self._until_s[nonce] = now_s + 2 * VALID_S
