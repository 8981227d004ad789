"""What people do to the file of the metadata database and the log beside it: files of one moment,
logs of another, copied by `cp` or as a backup, also of a history that went on from a backup. SQLite
would make one database of any two."""

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import BadSetting
from common.ids import ContentId
from coordinator.metadata import Metadata, open_metadata
from tests.database_files import backup, checkpoint
from tests.metadata_parts import GRACE_S, Clock, segment, single
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 19
PROMISE = "a database file is never merged with the log of another one, and always with its own"
HISTORIES, STEPS, MIXTURES = 100, 14, 40
HEAD_BYTES = 32  # of a log: another one whenever it begins anew


def main(scale: float, seed: int) -> Outcome:
    histories = scaled(HISTORIES, scale)
    tally = _Tally()
    with scratch("mixtures", in_memory=True) as directory, quiet():
        for number in range(histories):
            chance = random.Random(f"{seed}/{number}")
            history = _History(directory / str(number), chance)
            asyncio.run(history.live())
            for _ in range(MIXTURES):
                asyncio.run(_try(history, chance, tally, f"history {number}"))
            shutil.rmtree(history.directory)
    return Outcome(
        f"{tally.opened + tally.refused:,} mixtures of {histories} histories: {tally.refused:,} "
        f"refused, {tally.opened:,} opened, {len(tally.violations)} of them wrongly",
        tally.violations,
    )


@dataclass
class _Tally:
    opened: int = 0
    refused: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Moment:
    """What lay there, between two steps, and which contents were visible."""

    number: int
    file: Path
    backup: Path
    log: bytes
    contents: frozenset[bytes]


@dataclass
class _History:
    directory: Path
    chance: random.Random
    moments: list[_Moment] = field(default_factory=list)
    _lives: int = 0

    @property
    def _file(self) -> Path:
        return self.directory / f"life {self._lives}" / "metadata.db"

    async def live(self) -> None:
        """Commits, deletes, moves what is in the log, closes, is killed; a moment after each."""
        metadata = await self._open()
        try:
            for _ in range(STEPS):
                metadata = await self._step(metadata)
                self._keep()
        finally:
            await metadata.close()

    async def _open(self) -> Metadata:
        metadata = open_metadata(self._file.parent, "", GRACE_S, Clock())
        await metadata.start()
        return metadata

    async def _step(self, metadata: Metadata) -> Metadata:
        kind = self.chance.choice(
            ["commit"] * 4 + ["delete", "move", "empty", "close", "kill", "restore"]
        )
        if kind == "commit":
            for _ in range(self.chance.choice([1, 1, 3])):
                new = [single(segment(metadata)) for _ in range(self.chance.choice([1, 3, 20]))]
                await asyncio.gather(*map(metadata.commit_content, new))
        elif kind == "delete":
            visible = sorted(_contents(self._file))
            for id_ in self.chance.sample(visible, min(2, len(visible))):
                await metadata.unpin(ContentId(id_))
        elif kind == "move":
            with closing(sqlite3.connect(self._file)) as database:
                database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        elif kind == "empty":
            checkpoint(self._file)
        elif kind == "restore" and self.moments:  # its history goes on another way now
            await metadata.close()
            self._lives += 1
            self._file.parent.mkdir()
            shutil.copy(self.chance.choice(self.moments).backup, self._file)
            return await self._open()
        else:
            before = self._file.parent
            if kind == "close":
                await metadata.close()
            self._lives += 1
            shutil.copytree(before, self._file.parent)
            if kind == "kill":  # the old one goes on elsewhere for a moment
                await metadata.close()
            return await self._open()
        return metadata

    def _keep(self) -> None:
        number = len(self.moments)
        file, copy = self.directory / f"file {number}", self.directory / f"backup {number}"
        shutil.copy(self._file, file)
        backup(self._file, copy)
        contents = _contents(self._file)
        self.moments.append(_Moment(number, file, copy, _log_of(self._file), contents))


async def _try(history: _History, chance: random.Random, tally: _Tally, where: str) -> None:
    """The file of one moment and the log of another are put together, and opened."""
    base, late = chance.choice(history.moments), chance.choice(history.moments)
    if chance.random() < 0.3:
        late = base
    as_backup = chance.random() < 0.5
    data = history.directory / "mixture"
    data.mkdir()
    file = data / "metadata.db"
    shutil.copy(base.backup if as_backup else base.file, file)
    if late.log:
        _log_at(file).write_bytes(late.log)
    lying = file.read_bytes(), _log_of(file)
    what = f"{where}, {'backup' if as_backup else 'file'} {base.number} and log {late.number}"
    try:
        await _open_and_close(data)
    except BadSetting as error:
        tally.refused += 1
        if _is_own(base, late):
            tally.violations.append(f"{what}: refused: {error}")
        if (file.read_bytes(), _log_of(file)) != lying:
            tally.violations.append(f"{what}: refused, but changed")
    else:
        tally.opened += 1
        if _contents(file) not in _right(history.moments, base, late, as_backup):
            tally.violations.append(f"{what}: opened, and is neither of both")
    shutil.rmtree(data)


async def _open_and_close(data: Path) -> None:
    metadata = open_metadata(data, "", GRACE_S, Clock())
    await metadata.start()
    await metadata.close()


def _is_own(base: _Moment, late: _Moment) -> bool:
    """Whether the log is the one that was begun on this file."""
    same = base.log[:HEAD_BYTES] == late.log[:HEAD_BYTES]
    return not late.log or (same and base.number <= late.number)


def _right(
    moments: Sequence[_Moment], base: _Moment, late: _Moment, as_backup: bool
) -> list[frozenset[bytes]]:
    """What may be visible: with a log, what was when it was copied; without, what was in the file,
    which is what was moved there at some time."""
    if late.log:
        return [late.contents]
    if as_backup:
        return [base.contents]
    return [moment.contents for moment in moments[: base.number + 1]] + [frozenset()]


def _contents(file: Path) -> frozenset[bytes]:
    with closing(sqlite3.connect(file)) as database:
        return frozenset(content for (content,) in database.execute("SELECT content FROM pin"))


def _log_at(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def _log_of(file: Path) -> bytes:
    return _log_at(file).read_bytes() if _log_at(file).exists() else b""
