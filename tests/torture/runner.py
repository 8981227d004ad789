"""Finds the tests of the promises, runs them, and tells how they came out."""

import pkgutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.torture.outcome import CannotRun, Outcome


@dataclass(frozen=True, slots=True)
class Promise:
    """One module that follows the contract of the package."""

    name: str
    row: int
    promise: str
    main: Callable[[float, int], Outcome]


@dataclass(frozen=True, slots=True)
class Result:
    """How one promise came out; `verdict` is kept, broken or not run."""

    promise: Promise
    verdict: str
    figure: str
    seed: int
    not_run: str = ""  # all of it or a part, and why

    def line(self) -> str:
        return f"{self.promise.name}: {self.figure} (seed {self.seed})"


def find_promises() -> list[Promise]:
    """By their rows. Found and not listed, so that a new module is never forgotten."""
    here = str(Path(__file__).parent)
    names = [module.name for module in pkgutil.iter_modules([here]) if module.name != "__main__"]
    modules = [pkgutil.resolve_name(f"{__package__}.{name}") for name in names]
    found = [_promise(module) for module in modules if hasattr(module, "main")]
    return sorted(found, key=lambda promise: (promise.row, promise.name))


def _promise(module: ModuleType) -> Promise:
    name = module.__name__.rpartition(".")[2]
    return Promise(name, module.ROW, module.PROMISE, module.main)


def run(promise: Promise, scale: float, seed: int) -> Result:
    """Prints as it goes: the seed first, in case it never ends."""
    print(f"{promise.name}: {promise.promise} (seed {seed}, scale {scale:g})", flush=True)
    began_s = time.monotonic()
    try:
        outcome = promise.main(scale, seed)
    except CannotRun as reason:
        result = Result(promise, "not run", f"not run: {reason}", seed, str(reason))
    except Exception:
        print(traceback.format_exc())
        result = Result(promise, "broken", "ended with an error, see above", seed)
    else:
        verdict = "kept" if outcome.kept else "broken"
        result = Result(promise, verdict, outcome.figure, seed, outcome.left_out)
        if not outcome.kept:
            print(outcome.shown())
    print(result.line() + f", {time.monotonic() - began_s:.0f} s", flush=True)
    if result.verdict == "broken":
        print(f"again: python -m tests.torture {promise.name} --scale {scale:g} --seed {seed}")
    return result


def not_run(results: Sequence[Result]) -> str:
    """A line: nobody is to take for kept what was not tested."""
    left_out = [f"{result.promise.name} ({result.not_run})" for result in results if result.not_run]
    return f"NOT RUN: {'; '.join(left_out)}" if left_out else "nothing was left out"


def table(results: Sequence[Result]) -> str:
    """A row for each promise."""
    rows = [("row", "promise", "verdict", "figure", "seed")] + [
        (str(r.promise.row), r.promise.promise, r.verdict, r.figure, str(r.seed)) for r in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
