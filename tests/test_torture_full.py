"""The quick form of `make torture-full`."""

from tests.skipping import where_it_can_run
from tests.torture import full


def test_full_disks_refuse_and_let_go() -> None:
    with where_it_can_run():
        full.main(scale=0.01, seed=1).check()
