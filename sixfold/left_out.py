"""Which nodes of a local cluster cannot be started, as the coordinator would refuse them."""

from collections.abc import Iterable, Sequence

from sixfold.answers import NodeStat
from sixfold.local import LocalDirectory


def left_out(
    directory: LocalDirectory, names: Iterable[str], nodes: Sequence[NodeStat]
) -> dict[str, str]:
    """Of these names, those that nothing is to be started for, each with the reason in words."""
    found = {name: _reason(directory, name, nodes) for name in names}
    return {name: reason for name, reason in found.items() if reason}


def _reason(directory: LocalDirectory, name: str, nodes: Sequence[NodeStat]) -> str:
    data, node_id = directory.data(name), directory.node_id(name)
    if any(node.node_id == node_id and node.state == "removed" for node in nodes):
        return (
            f"{name} was removed from the cluster and is not started: its data directory {data} "
            "may be deleted"
        )
    strange = node_id is None or (node_id and node_id not in [node.node_id for node in nodes])
    if strange and any(node.name == name and node.state != "removed" for node in nodes):
        return (
            f"{name} is not started: the cluster knows it, but its data is not in {data}. If it "
            f"is lost for good: sixfold remove {name}, and sixfold local start {name}"
        )
    return ""
