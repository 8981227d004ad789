"""A network of its own for each node, in which packets can be lost: one way, the other, or both."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum

from tests.torture.mounts import call
from tests.torture.outcome import CannotRun
from tests.torture.servers import Home

Cut = tuple[str, str]  # a chain, and the side of a packet that it looks at


class Direction(Enum):
    """What is lost, as seen from the coordinator."""

    TO_NODES = (("output", "daddr"),)
    FROM_NODES = (("input", "saddr"),)
    BOTH = (("output", "daddr"), ("input", "saddr"))


class Network:
    """A bridge, and behind it a network namespace for each node. The coordinator is outside."""

    def __init__(self, nodes: Sequence[str]) -> None:
        mark = os.getpid() % 10_000
        self._bridge, self._table = f"sixfold{mark}", f"sixfold_torture_{mark}"
        self._subnet = f"10.87.{mark % 250}"
        self._namespaces = {name: f"sixfold-{mark}-{name}" for name in nodes}
        self._links = {name: f"sf{mark}n{number}" for number, name in enumerate(nodes, 1)}
        self._addresses = {
            name: f"{self._subnet}.{number}" for number, name in enumerate(nodes, 10)
        }
        self.host = f"{self._subnet}.1"

    @property
    def homes(self) -> dict[str, Home]:
        return {
            name: Home(("ip", "netns", "exec", space), ("--host", self._addresses[name]))
            for name, space in self._namespaces.items()
        }

    def cut(self, names: Sequence[str], direction: Direction) -> None:
        """Packets between these nodes and the coordinator are lost from now on."""
        for chain, side in direction.value:
            for name in names:
                address = self._addresses[name]
                call("nft", "add", "rule", "inet", self._table, chain, "ip", side, address, "drop")

    def heal(self) -> None:
        for chain in ("input", "output"):
            call("nft", "flush", "chain", "inet", self._table, chain)

    @contextmanager
    def up(self) -> Iterator["Network"]:
        """Raises CannotRun."""
        with ExitStack() as stack:
            self._set_up(stack)
            yield self

    def _set_up(self, stack: ExitStack) -> None:
        call("ip", "link", "add", self._bridge, "type", "bridge")
        stack.callback(_quietly, "ip", "link", "del", self._bridge)
        call("ip", "address", "add", f"{self.host}/24", "dev", self._bridge)
        call("ip", "link", "set", self._bridge, "up")
        for name in self._namespaces:
            self._add(name, stack)
        call("nft", "add", "table", "inet", self._table)
        stack.callback(_quietly, "nft", "delete", "table", "inet", self._table)
        for hook in ("input", "output"):
            rules = f"{{ type filter hook {hook} priority 0 ; }}"
            call("nft", "add", "chain", "inet", self._table, hook, rules)

    def _add(self, name: str, stack: ExitStack) -> None:
        space, link, inside = self._namespaces[name], self._links[name], f"{self._links[name]}i"
        call("ip", "netns", "add", space)
        stack.callback(_quietly, "ip", "netns", "del", space)
        call("ip", "link", "add", link, "type", "veth", "peer", "name", inside, "netns", space)
        call("ip", "link", "set", link, "master", self._bridge, "up")
        within = ("ip", "-n", space)
        call(*within, "address", "add", f"{self._addresses[name]}/24", "dev", inside)
        call(*within, "link", "set", inside, "up")
        call(*within, "link", "set", "lo", "up")


def _quietly(*command: str) -> None:
    with suppress(CannotRun):
        call(*command)
