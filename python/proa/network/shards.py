"""Bridges of one network: the kernel gives a bridge 1,024 ports, so a larger network has several.

The first bridge is the hub: it has the gateway's addresses, and every further one (a shard) is joined to it
by a veth pair. To the containers it is one link: names, ARP and broadcasts pass.

Source: BR_PORT_BITS in the kernel's net/bridge/br_private.h; moby#44973.
"""

PORTS = 1000
"""Containers on a bridge; the rest is for the hub's shards."""


class Shards:
    """How many ports each bridge of a network has."""

    def __init__(self, hub: str, stem: str) -> None:
        """Shards are named after the stem, of at most eleven characters."""
        self._hub = hub
        self._stem = stem
        self._ports = {hub: 0}

    @property
    def bridges(self) -> tuple[str, ...]:
        """Those in use, the hub first."""
        return tuple(self._ports)

    def place(self) -> str:
        """The bridge for one port more, which is counted; may be a new one."""
        name = next((name for name, ports in self._ports.items() if ports < PORTS), "")
        if not name:
            name = f"{self._stem}{len(self._ports):02d}"
        self.hold(name)
        return name

    def hold(self, bridge: str) -> None:
        """A port that is there already."""
        name = bridge or self._hub
        self._ports[name] = self._ports.get(name, 0) + 1

    def leave(self, bridge: str) -> None:
        """A port less. Bridges stay until the network goes."""
        name = bridge or self._hub
        if self._ports.get(name):
            self._ports[name] -= 1
