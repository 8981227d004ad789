"""The quick form of `make torture-partition`. It makes network namespaces: where the machine does
not let us, it is skipped, with what the machine said."""

from tests.skipping import where_it_can_run
from tests.torture import partition


def test_a_partition_loses_nothing() -> None:
    with where_it_can_run():
        partition.main(scale=0.01, seed=1).check()
