"""The quick form of `make torture-subsets`."""

from pathlib import Path

from tests.blobs import content, put
from tests.torture import subsets
from tests.torture.subsets import break_nodes
from tests.whole_path import memory_bed


def test_any_six_of_nine_nodes_give_everything_back() -> None:
    subsets.main(scale=0.005, seed=1).check()


async def test_with_a_fourth_node_gone_there_is_a_clear_error(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    data = content(4096, "four gone")
    async with memory_bed(tmp_path, jobs=False, cache_bytes=0, cache_segment_bytes=0) as bed:
        id_ = await put(bed.http, data)
        for turn, gone in enumerate(subsets.subsets(away=4)):
            break_nodes(bed, gone, turn)
            async with bed.http.get(f"/v1/blobs/{id_}") as answer:
                said = await answer.json()
            assert (answer.status, said["code"]) == (503, "unreadable")
            assert "4 of 9 shards" in said["message"]
