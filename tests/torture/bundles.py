"""Small contents that share bundles, and a few large ones, in random histories: two coordinators
store, move and delete them at once, COMMITs are refused or lose their answers, nodes lose all they
have, and the database is replaced by an old backup, or lost, and rebuilt from the nodes, often
beside uploads.

All steps are in an order that follows from the seed of the history (tests/schedules.py).
"""

import asyncio
import random
from collections import Counter
from types import SimpleNamespace
from unittest.mock import patch

from coordinator import bundler, sweep
from coordinator.metadata.database import SQLITE_PRAGMAS
from tests.torture.bundle_history import History
from tests.torture.bundle_world import StillLoop
from tests.torture.outcome import Outcome, quiet, scaled, scratch

ROW = 19
PROMISE = "what shares a bundle outlives moves, refusals, lost answers, backups and rebuilds"
HISTORIES = 500
SHOWN = 12  # of the story of a history, its end


def main(scale: float, seed: int) -> Outcome:
    """The first history has this seed: so each can be had again by its own."""
    rng, violations, counts = random.Random(seed), list[str](), Counter[str]()
    for number in range(scaled(HISTORIES, scale)):
        of_history = rng.getrandbits(32) if number else seed
        violations += _violations(of_history, counts)
    figure = (
        f"{counts['histories']:,} histories of {counts['steps']:,} steps, "
        f"{counts['acknowledged']:,} acknowledged, {counts['bundled']:,} contents in bundles, "
        f"{counts['moved']:,} moved, {counts['restored']:,} databases restored, "
        f"{counts['broken']} histories with losses or remains"
    )
    return Outcome(figure, violations)


def _violations(seed: int, counts: Counter[str]) -> list[str]:
    """Of one history. What it did is added to `counts`."""
    rng = random.Random(seed)
    salts = SimpleNamespace(urandom=rng.randbytes)
    with (
        scratch("bundles", in_memory=True) as directory,
        quiet(),
        patch.object(bundler, "os", salts),
        patch.object(sweep, "PAGE_REST_S", 0),
        patch.dict(SQLITE_PRAGMAS, synchronous="off"),
        asyncio.Runner(loop_factory=StillLoop) as runner,
    ):
        history = History(directory, rng)
        try:
            runner.run(history.run())
        except Exception as error:
            error.add_note(f"in the history of seed {seed}: {'; '.join(history.story[-SHOWN:])}")
            raise
    counts += history.counts
    story = "; ".join(history.story[-SHOWN:])
    return [f"seed {seed}: {said}, after {story}" for said in history.ledger.violations]
