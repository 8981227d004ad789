"""What the index knows of the room in volumes: live bytes, dead records, needed tombstones."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import Unavailable
from common.record import RecordHeader, RecordKind
from shardd import index
from shardd.catalog import Catalog
from shardd.entries import Entry
from shardd.usage import VolumeUse, span_of
from tests.stores import make_shard

NODE = "01" * 16
SIZES = (10, 500, 70_000)


def entry(seed: int, sequence: int, live: bool, volume: int) -> Entry:
    """Every record has a place of its own."""
    info = make_shard(SIZES[seed % 3], seed).info
    kind = RecordKind.SHARD if live else RecordKind.TOMBSTONE
    return Entry.of(RecordHeader(kind, sequence, info), volume, 4096 * (sequence + 1))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "index.db", NODE)
    yield opened
    opened.close()


class Model:
    """All records, as the volumes hold them."""

    def __init__(self) -> None:
        self.records: list[Entry] = []

    def latest(self) -> dict[bytes, Entry]:
        return {record.key: record for record in sorted(self.records, key=lambda r: r.sequence)}

    def use(self) -> dict[int, VolumeUse]:
        use: dict[int, VolumeUse] = {}
        for record in self.latest().values():
            live_bytes, tombstones = use.get(record.volume, VolumeUse())
            if record.live:
                live_bytes += span_of(record.payload_bytes)
            else:
                tombstones += 1
            use[record.volume] = VolumeUse(live_bytes, tombstones)
        return use

    def needed(self, volume: int) -> list[int]:
        """Offsets of the tombstones over what other volumes hold."""
        return sorted(
            tombstone.offset
            for tombstone in self.latest().values()
            if tombstone.volume == volume and not tombstone.live
            if any(r.live and r.key == tombstone.key and r.volume != volume for r in self.records)
        )


def check(catalog: Catalog, model: Model, volumes: int) -> None:
    known = {volume: use for volume, use in catalog.use().items() if use != VolumeUse()}
    assert known == model.use()
    for volume in range(1, volumes + 1):
        needed = [row.offset for row in catalog.needed_tombstones_in(volume, 0, 10_000)]
        assert needed == model.needed(volume)
        assert catalog.count_needed_tombstones(volume) == len(needed)
        live = [row.offset for row in catalog.live_in(volume, 0, 10_000)]
        latest = model.latest().values()
        assert live == sorted(r.offset for r in latest if r.live and r.volume == volume)


@pytest.mark.parametrize("order", ["as written", "as recovery may meet them"])
@pytest.mark.parametrize("flushed", [0.0, 0.1, 1.0])
def test_the_use_of_volumes_against_a_model(catalog: Catalog, order: str, flushed: float) -> None:
    rng, model, volumes = random.Random(f"{order} {flushed}"), Model(), 5
    for sequence in range(1, 400):
        volume = rng.randint(1, volumes)
        model.records.append(entry(rng.randrange(30), sequence, rng.random() < 0.6, volume))
    arriving = list(model.records)
    if order != "as written":
        arriving.sort(key=lambda record: (record.volume, record.sequence))
    for record in arriving:
        catalog.apply([record], {}, record.sequence + 1)
        if rng.random() < flushed:
            catalog.flush()
    check(catalog, model, volumes)
    catalog.apply(model.records[:50], {}, 0)  # read a second time: nothing changes
    check(catalog, model, volumes)


def test_a_failed_flush_forgets_no_burial(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard is taken back into memory, where its tombstone waits already."""
    shard, tombstone = entry(1, 1, True, 1), entry(1, 2, False, 2)
    catalog.apply([shard], {}, 2)

    def fail(*arguments: object) -> None:
        catalog.apply([tombstone], {}, 3)
        raise Unavailable("planned")

    with monkeypatch.context() as patched:
        patched.setattr(catalog._file, "write", fail)
        with pytest.raises(Unavailable, match="planned"):
            catalog.flush()
    catalog.flush()
    assert catalog.count_needed_tombstones(2) == 1


def test_a_volume_is_forgotten_with_all_that_was_dead_in_it(catalog: Catalog) -> None:
    shard, tombstone, other = entry(1, 1, True, 1), entry(1, 2, False, 2), entry(2, 3, True, 1)
    catalog.apply([shard, tombstone, other], {1: 9000, 2: 9000}, 4)
    with pytest.raises(Unavailable, match="still holds 1 live"):
        catalog.forget(1)
    assert catalog.count_needed_tombstones(2) == 1
    catalog.apply([other._replace(volume=3)], {3: 9000}, 4)
    catalog.forget(1)
    assert catalog.count_needed_tombstones(2) == 0
    assert catalog.checkpoints() == {2: 9000, 3: 9000}
    assert catalog.use().keys() == {2, 3}
    catalog.forget(2)
    assert catalog.use().keys() == {3}
    assert catalog.live() == 1


@pytest.mark.parametrize("statement", ["incremental_vacuum", "wal_checkpoint"])
def test_what_is_forgotten_is_so_even_if_the_file_cannot_shrink(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """Else the volume would stay, and nobody knew what is dead in it."""
    catalog.apply([entry(1, 1, True, 1), entry(1, 2, False, 2)], {1: 9000, 2: 9000}, 4)
    fetch = index._fetch

    def fail(*arguments: Any) -> list[Any]:
        if statement in arguments[1]:
            raise sqlite3.OperationalError("database or disk is full")
        return fetch(*arguments)

    monkeypatch.setattr(index, "_fetch", fail)
    catalog.forget(1)
    assert catalog.checkpoints() == {2: 9000}


def test_pages_of_a_volume_follow_each_other(catalog: Catalog) -> None:
    catalog.apply([entry(seed, seed + 1, True, 1 + seed % 2) for seed in range(25)], {}, 26)
    catalog.flush()
    seen = [0]
    while page := catalog.live_in(2, seen[-1], 5):
        assert len(page) <= 5
        seen += [row.offset for row in page]
    assert seen[1:] == [4096 * (seed + 2) for seed in range(1, 25, 2)]
