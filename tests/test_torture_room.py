"""The quick form of `make torture-room`, and whether it would see room that does not come back."""

from unittest.mock import patch

from shardd.store import VolumeStore
from tests.torture import room


def test_the_room_of_what_is_deleted_comes_back() -> None:
    room.main(scale=0.015, seed=1).check()


def test_a_node_that_is_never_compacted_is_found_out() -> None:
    async def nothing(self: VolumeStore) -> int:
        return 0

    with patch.object(VolumeStore, "compact_once", nothing):
        outcome = room.main(scale=0.005, seed=1)
    assert any("bytes are taken" in violation for violation in outcome.violations)
