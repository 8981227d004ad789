"""The catalog and its index file: what wins, what survives, what is refused."""

import random
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.record import RecordHeader, RecordKind
from shardd.catalog import Catalog
from shardd.entries import Entry, Location
from shardd.index import IndexDamaged, _fetch
from shardd.recent import RecentMap
from tests.stores import make_shard

NODE = "01" * 16


def entry(seed: int, sequence: int, live: bool = True, volume: int = 1, offset: int = 0) -> Entry:
    info = make_shard(10, seed).info
    kind = RecordKind.SHARD if live else RecordKind.TOMBSTONE
    return Entry.of(RecordHeader(kind, sequence, info), volume, offset)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "index.db", NODE)
    yield opened
    opened.close()


def where(catalog: Catalog, seed: int) -> Location | None:
    return catalog.find([entry(seed, 0).key])[0]


def forget(catalog: Catalog) -> None:
    """From here on only SQLite knows."""
    catalog.settle()


def test_what_is_applied_is_found_before_and_after_the_flush(catalog: Catalog) -> None:
    catalog.apply([entry(1, 1, offset=4096)], {1: 5000}, 2)
    expected = Location(1, 4096, 10, True)
    assert catalog.recall(entry(1, 0).key) == expected
    forget(catalog)
    assert catalog.recall(entry(1, 0).key) is None
    assert where(catalog, 1) == expected
    assert catalog.recall(entry(1, 0).key) == expected  # remembered
    assert where(catalog, 2) is None


@pytest.mark.parametrize("flush_between", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_the_latest_sequence_wins_in_any_order(
    catalog: Catalog, live: bool, flush_between: bool
) -> None:
    for sequence in (5, 9, 7):
        catalog.apply([entry(1, sequence, live or sequence != 9, offset=sequence)], {}, 10)
        if flush_between:
            catalog.flush()
    forget(catalog)
    assert where(catalog, 1) == (Location(1, 9, 10, True) if live else None)
    assert catalog.live() == int(live)


def test_a_tombstone_hides_at_once_and_for_good(catalog: Catalog) -> None:
    catalog.apply([entry(1, 1)], {}, 2)
    catalog.flush()
    catalog.apply([entry(1, 2, live=False)], {}, 3)
    assert where(catalog, 1) is None
    forget(catalog)
    assert where(catalog, 1) is None
    assert catalog.page(b"", 10) == []


def test_answers_keep_the_order_and_repetition_of_the_keys(catalog: Catalog) -> None:
    catalog.apply([entry(seed, seed + 1, offset=seed) for seed in range(3)], {}, 9)
    forget(catalog)
    keys = [entry(seed, 0).key for seed in (2, 7, 0, 2)]
    assert [at and at.offset for at in catalog.find(keys)] == [2, None, 0, 2]


def test_counts_are_exact_against_a_model(catalog: Catalog) -> None:
    rng, model = random.Random(1), dict[int, bool]()
    for sequence in range(1, 600):
        seed, live = rng.randrange(40), rng.random() < 0.6
        model[seed] = live
        catalog.apply([entry(seed, sequence, live)], {}, sequence + 1)
        if rng.random() < 0.1:
            assert catalog.live() == sum(model.values())
    expected = sorted(entry(seed, 0).key for seed, live in model.items() if live)
    assert [info.address.key for info in catalog.page(b"", 100)] == expected


def test_pages_follow_each_other(catalog: Catalog) -> None:
    catalog.apply([entry(seed, seed + 1) for seed in range(25)], {}, 26)
    seen: list[bytes] = []
    while page := catalog.page(seen[-1] if seen else b"", 10):
        seen += [info.address.key for info in page]
    assert seen == sorted(entry(seed, 0).key for seed in range(25))


def test_checkpoint_and_sequence_survive_with_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    catalog = Catalog(path, NODE)
    catalog.apply([entry(1, 41)], {1: 5000, 2: 8192}, 42)
    catalog.flush()
    catalog.apply([entry(2, 42)], {1: 6000}, 43)  # never flushed
    catalog.close()
    again = Catalog(path, NODE)
    assert (again.checkpoints(), again.next_sequence, again.live()) == ({1: 5000, 2: 8192}, 42, 1)
    assert where(again, 2) is None
    again.close()


def test_a_failed_flush_loses_nothing(catalog: Catalog, tmp_path: Path) -> None:
    catalog.apply([entry(1, 1, offset=4096)], {1: 5000}, 2)
    other = sqlite3.connect(tmp_path / "index.db")
    other.execute("DROP TABLE checkpoint")
    with pytest.raises(Unavailable):
        catalog.flush()
    assert catalog.pending == 1
    assert where(catalog, 1) == Location(1, 4096, 10, True)
    other.execute("CREATE TABLE checkpoint (volume INTEGER PRIMARY KEY, scanned_bytes INTEGER)")
    other.close()
    catalog.flush()
    assert (catalog.pending, catalog.checkpoints()) == (0, {1: 5000})


def test_a_failed_flush_leaves_the_later_checkpoint(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.apply([entry(1, 1)], {1: 5000, 2: 4096}, 2)

    def fail(*arguments: object) -> None:
        catalog.apply([entry(2, 2)], {1: 9000}, 3)
        raise Unavailable("planned")

    with monkeypatch.context() as patched:
        patched.setattr(catalog._file, "write", fail)
        with pytest.raises(Unavailable, match="planned"):
            catalog.flush()
    catalog.flush()
    assert catalog.checkpoints() == {1: 9000, 2: 4096}


def test_what_was_looked_up_before_a_flush_is_not_remembered_after_it(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.apply([entry(1, 1, offset=4096)], {}, 2)
    forget(catalog)
    find = catalog._file.find

    def find_late(keys: Sequence[bytes]) -> dict[bytes, Location]:
        found = find(keys)
        catalog.apply([entry(1, 2, offset=8192)], {}, 3)
        catalog.flush()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(catalog._file, "find", find_late)
        where(catalog, 1)
    assert where(catalog, 1) == Location(1, 8192, 10, True)


def test_a_power_loss_takes_no_rows_from_under_a_checkpoint(
    catalog: Catalog, tmp_path: Path
) -> None:
    """As SQLite documents it: in WAL mode, with synchronous=NORMAL (1) at least. And a volume is
    forgotten in the file itself, not only in its log."""
    for database in (catalog._file._writing, catalog._file._querying):
        assert _fetch(database, "PRAGMA journal_mode") == [("wal",)]
        assert _fetch(database, "PRAGMA synchronous")[0][0] >= 1
    catalog.apply([entry(1, 1), entry(1, 2, volume=2)], {1: 5000, 2: 5000}, 3)
    catalog.flush()
    assert (tmp_path / "index.db-wal").stat().st_size > 0
    catalog.forget(1)
    assert (tmp_path / "index.db-wal").stat().st_size == 0


def test_an_unreadable_index_is_an_error_and_not_an_absence(
    catalog: Catalog, tmp_path: Path
) -> None:
    catalog.apply([entry(1, 1)], {}, 2)
    forget(catalog)
    other = sqlite3.connect(tmp_path / "index.db")
    other.execute("DROP TABLE record")
    other.close()
    with pytest.raises(Unavailable):
        where(catalog, 1)


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.db").write_bytes(content)
    with pytest.raises(IndexDamaged):
        Catalog(tmp_path / "index.db", NODE)


def test_another_nodes_index_is_refused(tmp_path: Path) -> None:
    Catalog(tmp_path / "index.db", NODE).close()
    with pytest.raises(IndexDamaged, match="another node"):
        Catalog(tmp_path / "index.db", "02" * 16)


def test_an_index_of_a_later_version_is_refused(tmp_path: Path) -> None:
    Catalog(tmp_path / "index.db", NODE).close()
    database = sqlite3.connect(tmp_path / "index.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(IndexDamaged, match="schema 99"):
        Catalog(tmp_path / "index.db", NODE)


def test_the_recent_map_keeps_what_is_used() -> None:
    recent: RecentMap[int] = RecentMap(100)
    recent.put(b"hot", 1)
    for number in range(1000):
        recent.put(str(number).encode(), number)
        assert recent.get(b"hot") == 1
        assert len(recent) <= 100
    assert recent.get(b"999") == 999
    assert recent.get(b"0") is None
