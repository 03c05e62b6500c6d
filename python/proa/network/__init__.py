"""Networks: their addresses, host's side and firewall, namespaces held ready, and who is connected.

    networking = Networking(config, database, keeper, executor=...)
    networking.adopt(container_id, sandbox)                 at daemon start, for each running container
    await networking.keeper_changed(prepared)               after each Welcome: the keys that the keeper has;
                                                            the first starts networks, firewall and pool
    sandbox = await networking.connect(container_id, wish)  at start; waits for all that if need be
    networking.write_files(directory, wish, sandbox)        hostname, hosts, resolv.conf
    await networking.attach / detach(container_id, ...)     a network more or less while it runs
    await networking.disconnect(container_id)               after exit or a failed start; idempotent
    await networking.create / drop(...)                     a network
    await networking.close()                                keeps all that is there; remove() takes it away

Who decides what: define.py a network's record, drivers.py what its options mean, spaces.py and ipam.py its
addresses, hosts.py and link.py its devices, shards.py its bridges, network.py its endpoints, pool.py what is
made ahead, catalogue.py which networks there are; publishing.py and ports.py the ports, firewall.py the rules
and wall.py that they stay; naming.py and resolver.py names, files.py the container's files. Netlink is
spoken in messages of our own (netlink.py, nftables.py). What it needs of the keeper is the `Keeper` Protocol.
`SCHEMA` is the room's part of the metadata store.
"""

from typing import TYPE_CHECKING

from proa.network.drivers import endpoint_sysctls
from proa.network.faults import listed
from proa.network.networking import Networking
from proa.network.records import SCHEMA, NetworkRecord
from proa.network.sandbox import (
    Endpoint,
    EndpointWish,
    Keeper,
    NetworkWish,
    PortWish,
    PublishedPort,
    Sandbox,
)

if TYPE_CHECKING:
    from proa.schema.config import DaemonConfig

__all__ = [
    "SCHEMA",
    "Endpoint",
    "EndpointWish",
    "Keeper",
    "NetworkRecord",
    "NetworkWish",
    "Networking",
    "PortWish",
    "PublishedPort",
    "Sandbox",
    "endpoint_sysctls",
    "listed",
    "tear_down",
]


def tear_down(config: "DaemonConfig") -> None:
    """Take away all that an instance has on the host. Blocks."""
    from proa.network import hosts

    hosts.tear_down(config)
