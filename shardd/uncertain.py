"""What recovery makes of shards that it found behind an unreadable header (scan.py).

They may be records, or bytes of a payload that say whatever its author wanted. So they count only
where nothing certain is known of their address, and whatever comes later goes before them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shardd.entries import Entry
from shardd.usage import Standing


class Verdict(NamedTuple):
    """`taken` is for the catalog, where what is certain goes before it. `lost` are those that a
    tombstone buries although they say that they came after it: perhaps a shard that came back."""

    taken: list[Entry]
    lost: list[Entry]


def judge(
    uncertain: Sequence[Entry], rotten: Sequence[Entry], standing: Mapping[bytes, Standing]
) -> Verdict:
    """`rotten` are certain but for their payloads; `standing` is what the index says, by key."""
    headers = {entry.key: entry for entry in rotten}
    verdict = Verdict([], [])
    for entry in uncertain:
        known, header = standing.get(entry.key), headers.get(entry.key)
        if known is None and header is not None and header.info != entry.info:
            continue  # it is not what was stored under that address
        verdict.taken.append(entry.made_uncertain())
        if known is not None and not known.live and known.sequence < entry.sequence:
            verdict.lost.append(entry)
    return verdict
