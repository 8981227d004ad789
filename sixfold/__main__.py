"""`python -m sixfold`, and what the installed `sixfold` command calls."""

import sys

from sixfold.cli import run


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
