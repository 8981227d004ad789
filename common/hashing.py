"""BLAKE3-256, the only hash in sixfold: ids of contents and segments, checksums of shards."""

from blake3 import blake3


def blake3_digest(data: bytes | bytearray | memoryview) -> bytes:
    """32 bytes, computed on the calling thread alone. Releases the GIL on larger inputs."""
    return blake3(data).digest()
