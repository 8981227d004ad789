"""Who a data directory is, and who may have it."""

import json
from pathlib import Path

import pytest

from common.errors import BadSetting, Conflict, StoreReadOnly, WrongCluster, WrongNode
from shardd.disk import RealDisk
from shardd.identity import FILE_NAME, DataDirectory
from shardd.sealed_json import seal, unseal
from shardd.store import VolumeStore
from tests.stores import exchange, make_shard

CLUSTER, OTHER = "ab" * 16, "cd" * 16


class ExchangedBeforeItIsHeld(RealDisk):
    """For the directory `there`, in the instant after it was locked."""

    def __init__(self, here: Path, there: Path) -> None:
        self._here, self._there = here, there

    def hold(self, folder: Path) -> None:
        exchange(self._here, self._there)
        super().hold(folder)


def test_a_new_directory_becomes_a_node(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "new", "rack1")
    identity = directory.identity
    assert (identity.cluster_id, identity.name, identity.number) == ("", "rack1", 0)
    assert len(identity.node_bytes) == 16
    assert identity.cluster_bytes == bytes(16)
    directory.join(CLUSTER, 3)
    directory.close()
    again = DataDirectory(tmp_path / "new")
    assert again.identity == directory.identity
    assert (again.identity.cluster_id, again.identity.number) == (CLUSTER, 3)
    again.close()


def test_without_a_name_one_is_made_and_kept(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    name = directory.identity.name
    directory.close()
    again = DataDirectory(tmp_path)
    assert again.identity.name == name
    again.close()


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with pytest.raises(Conflict, match="in use"):
        DataDirectory(tmp_path)
    directory.check()  # nor did the attempt take anything from who has it
    directory.close()
    DataDirectory(tmp_path).close()


def test_a_directory_that_is_exchanged_while_it_is_opened_is_refused(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for one in (here, there):
        DataDirectory(one).close()
    with pytest.raises(Conflict, match="was exchanged"):
        DataDirectory(here, disk=ExchangedBeforeItIsHeld(here, there))
    for one in (here, there):
        DataDirectory(one).close()  # neither is locked


def test_another_nodes_directory_is_refused(tmp_path: Path) -> None:
    DataDirectory(tmp_path, "one").close()
    with pytest.raises(WrongNode, match="'one', not 'two'"):
        DataDirectory(tmp_path, "two")
    DataDirectory(tmp_path, "one").close()  # the refusal gave the lock back


def test_another_clusters_answer_is_refused(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.join(CLUSTER, 3)
    with pytest.raises(WrongCluster):
        directory.join(OTHER, 4)
    assert directory.identity.cluster_id == CLUSTER
    directory.close()


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"cluster_id": 1, "node_id": "", "name": "", "number": 0}']
)
def test_a_damaged_identity_is_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(BadSetting, match="damaged"):
        DataDirectory(tmp_path)
    assert (tmp_path / FILE_NAME).read_text() == content


def test_no_flipped_bit_makes_another_node_of_it(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, "node-1")
    directory.join("ab" * 16, 7)
    directory.note_epoch(3)
    directory.close()
    file = tmp_path / "node.json"
    good, refused = file.read_bytes(), 0
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            found = DataDirectory(tmp_path)
        except BadSetting:
            refused += 1
            continue
        assert (found.identity, found.identity.epoch) == (directory.identity, 3), damaged
        found.close()
    assert refused > 7 * len(good)


def test_volumes_without_identity_do_not_become_a_new_node(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    (directory.volumes / "00000001.vol").write_bytes(b"")
    directory.close()
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(WrongNode, match="holds volumes"):
        DataDirectory(tmp_path)


def test_check_sees_a_swapped_and_an_unmounted_disk(tmp_path: Path) -> None:
    here, there = DataDirectory(tmp_path / "here"), DataDirectory(tmp_path / "there")
    here.check()
    (tmp_path / "here").rename(tmp_path / "aside")
    with pytest.raises(WrongNode, match="no longer readable"):
        here.check()
    (tmp_path / "there").rename(tmp_path / "here")
    with pytest.raises(WrongNode, match="another node"):
        here.check()
    here.close()
    there.close()


async def _node_with_volume(path: Path, cluster: str) -> DataDirectory:
    directory = DataDirectory(path)
    directory.join(cluster, 1)
    store = await VolumeStore.open(directory)
    await store.append([make_shard(10)])
    await store.close()
    directory.close()
    return directory


async def test_a_volume_of_another_node_is_refused(tmp_path: Path) -> None:
    theirs = await _node_with_volume(tmp_path / "theirs", CLUSTER)
    ours = DataDirectory(tmp_path / "ours")
    (theirs.volumes / "00000001.vol").rename(ours.volumes / "00000001.vol")
    with pytest.raises(WrongNode, match="written by another node"):
        await VolumeStore.open(ours)
    ours.close()


async def test_a_volume_of_another_cluster_is_refused(tmp_path: Path) -> None:
    await _node_with_volume(tmp_path, CLUSTER)
    identity = unseal((tmp_path / FILE_NAME).read_bytes())
    (tmp_path / FILE_NAME).write_bytes(seal({**identity, "cluster_id": OTHER}))
    directory = DataDirectory(tmp_path)
    with pytest.raises(WrongCluster, match="another cluster"):
        await VolumeStore.open(directory)
    directory.close()


async def test_no_volume_is_begun_on_a_swapped_disk(tmp_path: Path) -> None:
    directory, other = DataDirectory(tmp_path / "here"), DataDirectory(tmp_path / "other")
    store = await VolumeStore.open(directory)
    (tmp_path / "here").rename(tmp_path / "aside")
    (tmp_path / "other").rename(tmp_path / "here")
    with pytest.raises(StoreReadOnly, match="another node"):
        await store.append([make_shard(10)])
    assert list((tmp_path / "here" / "volumes").iterdir()) == []
    assert store.failure is not None
    await store.close()
    directory.close()
    other.close()


@pytest.mark.parametrize("instead", ["nothing", "an empty directory", "another node"])
async def test_a_disk_that_is_not_ours_any_more_is_noticed_without_a_write(
    tmp_path: Path, instead: str
) -> None:
    directory, other = DataDirectory(tmp_path / "here"), DataDirectory(tmp_path / "other")
    store = await VolumeStore.open(directory)
    await store.append([shard := make_shard(10)])
    before = await store.stat()
    (tmp_path / "here").rename(tmp_path / "aside")
    if instead == "an empty directory":
        (tmp_path / "here").mkdir()
    elif instead == "another node":
        (tmp_path / "other").rename(tmp_path / "here")
    stat = await store.stat()
    assert (stat.read_only, stat.detached, stat.free_bytes) == (True, True, 0)
    assert (stat.capacity_bytes, stat.shards) == (before.capacity_bytes, 1)
    with pytest.raises(StoreReadOnly, match=f"{tmp_path / 'here'}"):
        await store.append([make_shard(20)])
    assert await store.read([shard.address]) == [shard]  # the file that is open still is ours
    await store.close()
    directory.close()
    other.close()


def test_an_epoch_is_kept_and_never_goes_back(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.join(CLUSTER, 3)
    directory.note_epoch(7)
    written = (tmp_path / FILE_NAME).stat().st_mtime_ns, (tmp_path / FILE_NAME).stat().st_ino
    for lower in (7, 6, 0):
        directory.note_epoch(lower)
    assert ((tmp_path / FILE_NAME).stat().st_mtime_ns, (tmp_path / FILE_NAME).stat().st_ino) == (
        written
    )
    directory.close()
    again = DataDirectory(tmp_path)
    again.join(CLUSTER, 3)
    assert again.identity.epoch == 7
    again.close()


def test_an_epoch_does_not_change_who_a_node_is(tmp_path: Path) -> None:
    """A check in another thread may see the file before or after it was noted."""
    directory = DataDirectory(tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    directory.note_epoch(7)
    directory.check()
    (tmp_path / FILE_NAME).write_bytes(before)
    directory.check()
    directory.close()


def test_a_directory_of_an_earlier_version_has_no_epoch_and_no_checksum(tmp_path: Path) -> None:
    DataDirectory(tmp_path).close()
    values = json.loads((tmp_path / FILE_NAME).read_text())
    del values["epoch"], values["blake3"]
    (tmp_path / FILE_NAME).write_text(json.dumps(values))
    directory = DataDirectory(tmp_path)
    assert directory.identity.epoch == 0
    directory.close()
