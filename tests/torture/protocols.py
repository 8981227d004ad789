"""The coordinator ends, without any cleanup, at every step of uploading, mending, deleting,
collecting, and sweeping; another takes over, ends there too, and a third one settles what is left.

Then every content is as its client was told: stored whole or deleted, and either of these where no
answer came. And the nodes hold what the layouts name, not a shard more or less.
"""

import json
import multiprocessing
import random
import shutil
from pathlib import Path

from common.failpoints import EXIT_CODE, Point
from tests.torture import protocol_steps
from tests.torture.ends import Ends
from tests.torture.outcome import Outcome, scaled, scratch

ROW = 3
PROMISE = "all or nothing: no step of uploading, mending or deleting leaves anything half done"
ENDS = 50  # at each point
POINTS = [
    point
    for point in Point
    if point.startswith(("upload", "mend", "unpin", "collect", "delete", "sweep"))
    or point is Point.QUARANTINE_SENT
]


def main(scale: float, seed: int) -> Outcome:
    wanted, killed, violations = scaled(ENDS, scale), 0, list[str]()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([protocol_steps.__name__])
    with scratch("protocols") as directory:
        for point in POINTS:
            ends = Ends(point, wanted)
            for number in ends.runs():
                rng = random.Random(f"{seed} {point} {number}")
                place = directory / f"{point}-{number}"
                ended, found = _run(processes, place, point, rng)
                ends.came += ended
                violations += [f"{point}, run {number}: {said}" for said in found]
                shutil.rmtree(place)
            killed += ends.came
            violations += ends.missing()
    figure = f"{len(POINTS)} steps, each {wanted} times or more: {killed} coordinators killed"
    return Outcome(f"{figure}, {len(violations)} broken", violations)


def _run(
    processes: multiprocessing.context.ForkServerContext, place: Path, point: str,
    rng: random.Random,
) -> tuple[int, list[str]]:  # fmt: skip
    """How many of two coordinators were ended, and what a third one found broken."""
    place.mkdir()
    seed, codes = rng.randrange(1 << 30), []
    for turn in range(3):
        armed = f"{point}:{rng.choice([1, 1, 2, 3, 8])}" if turn < 2 else ""
        arguments = (str(place), turn, seed, armed, turn == 2)
        life = processes.Process(target=protocol_steps.process, args=arguments)
        life.start()
        life.join()
        codes.append(life.exitcode)
    odd = [f"a process ended with {code}" for code in codes if code not in (0, EXIT_CODE)]
    if codes[2] == 0:
        odd += json.loads((place / "violations.json").read_text())
    return codes.count(EXIT_CODE), odd
