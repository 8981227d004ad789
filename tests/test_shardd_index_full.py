"""An index that cannot grow: it tells why, and goes on when there is room again."""

from pathlib import Path

import pytest

from common.errors import Unavailable
from shardd.entries import Entry
from shardd.index import IndexFile

ENTRIES = {
    key: Entry(key, 1, 4096 * number, 100, True, number + 1, 6, 9, 600, 0, bytes(32))
    for number, key in ((number, number.to_bytes(41, "big")) for number in range(2_000))
}


def test_a_full_disk_is_told_as_that(tmp_path: Path) -> None:
    """It ends the transaction, so that ROLLBACK fails too: that error came in its place, and damage
    that ended one was not known as such."""
    index = IndexFile(tmp_path / "index.db", "ab" * 16)
    index._writing.pragma("max_page_count", index._writing.pragma("page_count") + 2)
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be written: database or disk is full"):
            index.write(ENTRIES, [], {}, len(ENTRIES) + 1)
    assert index.live == 0
    index._writing.pragma("max_page_count", 1_000_000)
    index.write(ENTRIES, [], {}, len(ENTRIES) + 1)
    assert len(index.page(b"", 10)) == 10
    index.close()
