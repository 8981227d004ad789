"""`make load`: a cluster of its own, locust against it, rates and percentiles."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.cluster import local_cluster


def run_locust(url: str, users: int, duration: str) -> int:
    """Prints its tables. The exit code: 1 if any request failed."""
    locustfile = Path(__file__).with_name("locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless"]
    command += ["--users", str(users), "--spawn-rate", str(users), "--run-time", duration]
    command += ["--host", url, "--only-summary", "--stop-timeout", "30"]
    return subprocess.run(command, check=False).returncode


def main() -> None:
    """Exits with locust's code."""
    parser = argparse.ArgumentParser("bench.load", description=__doc__)
    parser.add_argument("--nodes", type=int, default=9)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--duration", default="30s", help="as locust writes it: 30s, 5m")
    parser.add_argument("--dir", type=Path, help="where the cluster keeps its data; else temporary")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="sixfold-load-") as temporary,
        local_cluster(options.dir or Path(temporary), options.nodes) as servers,
    ):
        code = run_locust(servers.url, options.users, options.duration)
    sys.exit(code)


if __name__ == "__main__":
    main()
