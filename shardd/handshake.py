"""The node's side of opening a lane: HELLO, CHALLENGE, PROOF. Pure.

Whether the directory is still in its place is not asked here: a node whose disk was taken away
still serves the files that it holds open, to whoever knows it by its ids, and its store lets
nobody write.
"""

import hmac
import secrets

from common.auth import ClusterSecret
from common.errors import ProtocolError, Unauthorized, Unavailable, WrongCluster, WrongNode
from common.framing import kind_name
from common.wire import (
    CHALLENGE,
    HELLO,
    NONCE_BYTES,
    PROOF_BYTES,
    PROTOCOL_VERSION,
    FrameKind,
    LaneKind,
    pack_frame,
)
from shardd.identity import Identity

_LANE_KINDS = frozenset(LaneKind)


class Handshake:
    """Takes the peer's frames in turn. `lane_kind` is known after HELLO."""

    def __init__(self, identity: Identity, secret: ClusterSecret) -> None:
        self.lane_kind = LaneKind.READ
        self._identity, self._secret = identity, secret
        self._hello = b""
        self._nonce = secrets.token_bytes(NONCE_BYTES)

    def step(self, kind: int, meta: bytes) -> bytes | None:
        """The frame to answer with, or None once the peer has proved itself.

        Raises ProtocolError, WrongCluster, WrongNode, Unauthorized, or Unavailable.
        """
        if not self._hello and kind == FrameKind.HELLO and len(meta) == HELLO.size:
            return self._challenge(meta)
        if self._hello and kind == FrameKind.PROOF and len(meta) == PROOF_BYTES:
            expected = self._secret.lane_proof(b"coordinator", self._hello, self._nonce)
            if not hmac.compare_digest(meta, expected):
                raise Unauthorized("the coordinator does not hold the cluster secret")
            return None
        raise ProtocolError(f"{kind_name(kind)} is not what opens a lane")

    def _challenge(self, hello: bytes) -> bytes:
        version, lane, cluster, node, _ = HELLO.unpack(hello)
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol version {version}; this node speaks {PROTOCOL_VERSION}")
        if lane not in _LANE_KINDS:
            raise ProtocolError(f"no such kind of lane: {lane}")
        self._check_ids(cluster, node)
        self.lane_kind, self._hello = LaneKind(lane), hello
        proof = self._secret.lane_proof(b"node", hello, self._nonce)
        return pack_frame(FrameKind.CHALLENGE, 0, CHALLENGE.pack(self._nonce, proof))

    def _check_ids(self, cluster: bytes, node: bytes) -> None:
        identity = self._identity
        if node != identity.node_bytes:
            raise WrongNode(f"this is node {identity.node_id}, not {node.hex()}")
        if not identity.cluster_id:
            raise Unavailable("this node has not joined a cluster yet")
        if cluster != identity.cluster_bytes:
            raise WrongCluster(f"this is a node of cluster {identity.cluster_id}")
