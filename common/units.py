"""Sizes as people write them."""

import re

from common.errors import BadSetting

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """``4096``, ``64KiB``, ``10GiB`` (powers of 1024), ``10GB`` (powers of 1000). In bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadSetting(f"not a size: {text!r} (write for example 512MiB or 10GiB)")
    number, prefix, binary = match.groups()
    base = 1024 if binary or not text.strip().upper().endswith("B") else 1000
    power = " KMGT".index(prefix.upper() or " ")
    return int(float(number) * base**power)


def format_bytes(size_bytes: float) -> str:
    """``1.5 GiB``: three significant digits at most, powers of 1024."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1000 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 100 else f"{value:.1f} {unit}"
