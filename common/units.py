"""Sizes as people write them."""

import re

from common.errors import BadSetting

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_SIZE = re.compile(r"(\d{1,24})(?:\.(\d{1,24}))?\s*([KMGT]?)(i?)B?", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str) -> int:
    """``4096``, ``64KiB``, ``10GiB`` (powers of 1024), ``10GB`` (powers of 1000). In bytes,
    exactly; a rest of less than a byte is dropped."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadSetting(f"not a size: {text[:40]!r} (write for example 512MiB or 10GiB)")
    whole, fraction, prefix, binary = match.groups(default="")
    base = 1024 if binary or not text.strip().upper().endswith("B") else 1000
    scale: int = base ** " KMGT".index(prefix.upper() or " ")
    divisor: int = 10 ** len(fraction)
    return int(whole) * scale + int(fraction or 0) * scale // divisor


def format_bytes(size_bytes: float) -> str:
    """``1.5 GiB``: three significant digits at most, powers of 1024."""
    value, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(value) >= 999.5 and len(units) > 1:
        value /= 1024
        units.pop(0)
    decimals = 0 if units[0] == "B" or abs(value) >= 99.95 else 1
    return f"{value:.{decimals}f} {units[0]}"
