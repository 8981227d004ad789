"""`python -m tests.torture [NAME …]`: the promises of the store under faults, at full length."""

import argparse
import sys

from tests.torture.runner import Promise, find_promises, not_run, run, table


def main() -> int:
    """The exit code: 1 if any promise was broken."""
    promises = find_promises()
    wanted = _arguments(promises)
    if wanted.list:
        for promise in promises:
            print(f"{promise.row:>3}  {promise.name:<12} {promise.promise}")
        return 0
    chosen = [p for p in promises if not wanted.names or p.name in wanted.names]
    results = [run(promise, wanted.scale, wanted.seed) for promise in chosen]
    if len(results) > 1:
        print(f"\n{table(results)}")
    print(not_run(results))
    return int(any(result.verdict == "broken" for result in results))


def _arguments(promises: list[Promise]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    names = [promise.name for promise in promises]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; or all")
    parser.add_argument("--list", action="store_true", help="what there is, and end")
    parser.add_argument("--seed", type=int, default=42, help="of all that is random (42)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="the share of the promised figures, up to 1 (1)"
    )
    wanted = parser.parse_args()
    if unknown := sorted(set(wanted.names) - set(names)):
        parser.error(f"no such promise: {', '.join(unknown)}")
    if not 0 < wanted.scale <= 1:
        parser.error("--scale is above 0 and at most 1")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
