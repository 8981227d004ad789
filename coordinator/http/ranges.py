"""Range and conditional requests (RFC 9110, sections 13 and 14), for single byte ranges."""

import re
from dataclasses import dataclass

from common.errors import RangeNotSatisfiable

_SINGLE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """[start, end) of `size_bytes`."""

    start: int
    end: int
    size_bytes: int

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.end - 1}/{self.size_bytes}"


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """The part that is asked for; None for all of it, which is also the answer to what is not
    understood and to several ranges. Raises RangeNotSatisfiable for one that lies outside."""
    match = _SINGLE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < start:
            return None  # RFC 9110, 14.1.1: such a range is invalid, not unsatisfiable
    if start >= end:
        raise RangeNotSatisfiable(f"{header} is outside of the {size_bytes} bytes there are")
    return ByteRange(start, end, size_bytes)


def matches_etag(header: str | None, etag: str) -> bool:
    """If-None-Match names `etag` (weak comparison) or is ``*``."""
    if header is None:
        return False
    return header.strip() == "*" or any(
        candidate.strip().removeprefix("W/") == etag for candidate in header.split(",")
    )
