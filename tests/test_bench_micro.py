"""The microbenchmarks: the harness by a clock of the test, every piece once."""

import asyncio
import re
from pathlib import Path

import pytest

from bench.micro.__main__ import main, rows
from bench.micro.files import aligned, reads, synced_appends, synced_overwrites
from bench.micro.framing import LARGE_BYTES, Receiver, arrive
from bench.micro.harness import Harness, Piece, Stage, awaited
from bench.rows import Row, read_rows
from common.units import KIB
from common.wire import FrameKind, pack_frame

QUICK = Harness(rounds=1, round_s=0.001)
# How the names of pieces begin, what measures them, and how many there are.
PIECES = [
    ("codec (isal|zfec) (encode|decode) 12 MiB", "GB/s", 6),
    ("codec (isal|zfec) (encode|decode) 4 KiB", "µs", 6),
    ("blake3 (12|2) MiB", "GB/s", 4),
    ("blake3 (4 KiB|683 B)", "µs", 4),
    ("frame (parse|pack)", "frames/s", 3),
    ("frame receive", "GB/s", 1),
    ("record header (pack|unpack)", "µs", 2),
    ("(ring walk|placement), (9|1000) nodes", "µs", 4),
    ("ring build, (9|1000) nodes", "ms", 2),
    ("metadata (commit|find_content hit|find_segment miss)$", "µs", 3),
    ("metadata .*, 64 at once", "ops/s", 3),
    ("volume append (700 B|2 MiB)$", "µs", 2),
    ("volume append .*, 64 at once", "ops/s", 2),
    ("volume append 700 B, on 9 nodes at once", "µs", 1),
    ("volume read (700 B, hot|2 MiB, O_DIRECT)", "µs", 2),
]
WITH_FLOOR = "frame receive|metadata commit$|volume"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Every piece; a Row is made of positive and finite figures only."""
    return list(rows(QUICK, tmp_path_factory.mktemp("micro")))


@pytest.mark.parametrize(("name", "unit", "count"), PIECES)
def test_every_piece_is_measured_in_its_unit(
    measured: list[Row], name: str, unit: str, count: int
) -> None:
    assert [row.unit for row in measured if re.match(name, row.name)] == [unit] * count


def test_names_differ_and_no_piece_is_unexpected(measured: list[Row]) -> None:
    assert len({row.name for row in measured}) == len(measured)
    assert len(measured) == sum(count for _, _, count in PIECES)


def test_where_the_machine_sets_a_bound_it_is_measured_too(measured: list[Row]) -> None:
    for row in measured:
        assert (row.floor is not None) == bool(re.match(WITH_FLOOR, row.name)), row


# The harness


class Machine:
    """One that takes 2 ms for each time, by its own clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rounds: list[int] = []

    def clock(self) -> float:
        return self.now_s

    def work(self, times: int) -> None:
        self.rounds.append(times)
        self.now_s += 0.002 * times

    def idle(self, times: int) -> None:
        self.now_s += 0.001 * times


@pytest.mark.parametrize(
    ("unit", "amount", "expected"),
    [
        ("µs", 1, 2000.0),
        ("ms", 1, 2.0),
        ("ms", 4, 0.5),
        ("ops/s", 64, 32_000.0),
        ("frames/s", 1, 500.0),
        ("GB/s", 4_000_000, 2.0),
    ],
)
def test_figures_are_in_their_units(unit: str, amount: int, expected: float) -> None:
    machine = Machine()
    row = Harness(clock=machine.clock).row(Piece("x", unit, machine.work, amount, machine.idle))
    assert [row.value, row.min, row.max] == pytest.approx([expected] * 3)
    is_time = unit in ("µs", "ms")
    assert row.fraction == pytest.approx(2.0 if is_time else 0.5)


def test_a_round_is_as_long_as_it_should_be() -> None:
    machine = Machine()
    Harness(rounds=3, round_s=10.0, clock=machine.clock).row(Piece("x", "ms", machine.work))
    *trials, first, second, third = machine.rounds
    assert first == second == third == 5000
    assert trials == sorted(set(trials))
    assert sum(trials) < 5000


def test_what_takes_longer_than_a_round_is_done_once_a_round() -> None:
    machine = Machine()
    Harness(rounds=5, round_s=0.001, clock=machine.clock).row(Piece("x", "ms", machine.work))
    assert machine.rounds == [1] * 6


@pytest.mark.parametrize("at_once", [1, 64])
def test_so_many_calls_are_awaited_at_once(tmp_path: Path, at_once: int) -> None:
    running, most, calls = 0, 0, 0

    async def call() -> None:
        nonlocal running, most, calls
        running += 1
        most, calls = max(most, running), calls + 1
        await asyncio.sleep(0)
        running -= 1

    with asyncio.Runner() as runner:
        awaited(Stage(runner, tmp_path), call, at_once)(3)
    assert (running, most, calls) == (0, at_once, 3 * at_once)


def test_what_arrives_is_received_whole() -> None:
    receiver, payload = Receiver(), bytes(range(256)) * (LARGE_BYTES // 256)
    small = pack_frame(FrameKind.RECORD, 1, b"meta", 5) + b"small"
    large = pack_frame(FrameKind.RECORD, 2, b"meta", LARGE_BYTES) + payload
    arrive(receiver, memoryview(small * 3 + large + small))
    assert (receiver.frames, receiver.payload_bytes) == (5, LARGE_BYTES + 4 * 5)
    assert receiver.place == payload


# The floors


@pytest.mark.parametrize("direct", [False, True])
def test_the_floor_of_appends_writes_everything_one_after_another(
    tmp_path: Path, direct: bool
) -> None:
    path, page = tmp_path / "file", aligned(4 * KIB)
    page[:4] = b"page"
    with synced_appends(path, [page] * 3, direct) as work:
        work(2)
        work(1)
        assert path.read_bytes() == bytes(page) * 9
    assert not path.exists()


def test_the_floor_of_a_log_goes_round_in_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with synced_overwrites(path, b"page", 3) as work:
        work(2)
        assert path.read_bytes() == b"pagepage" + bytes(4)
        work(2)
        assert path.read_bytes() == b"page" * 3
    assert not path.exists()


@pytest.mark.parametrize("direct", [False, True])
def test_the_floor_of_reads_leaves_its_file_as_it_is(tmp_path: Path, direct: bool) -> None:
    path = tmp_path / "file"
    with reads(path, 4 * KIB, 5, direct) as work:
        before = path.read_bytes()
        work(20)
        assert path.read_bytes() == before
        assert len(before) == 5 * 4 * KIB
    assert not path.exists()


# The command


def test_the_command_prints_and_writes_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "micro.json"
    main(["--only", "header (un)?pack", "--rounds", "1", "--out", str(out)])
    found = read_rows(out)
    assert [row.name for row in found] == ["record header pack", "record header unpack"]
    printed = capsys.readouterr().out
    assert all(row.name in printed for row in found)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (["--only", "("], "invalid pattern value: '('"),
        (["--only", "none such"], "no piece has a name like 'none such'"),
        (["--rounds", "0"], "invalid positive_number value: '0'"),
    ],
)
def test_what_cannot_be_measured_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: list[str], said: str
) -> None:
    out = tmp_path / "micro.json"
    with pytest.raises(SystemExit) as stopped:
        main([*bad, "--out", str(out), "--dir", str(tmp_path)])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
