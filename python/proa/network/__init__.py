"""Networks: the default bridge, its addresses and firewall, and the pool of namespaces held ready.

    networking = Networking(config, database, keeper, executor=...)
    networking.adopt(container_id, sandbox)                 at daemon start, for each running container
    await networking.keeper_changed(prepared)               after each Welcome: the keys that the keeper has;
                                                            the first starts bridge, firewall and pool
    sandbox = await networking.connect(container_id, wish)  at start; waits for all that if need be
    networking.write_files(directory, wish, sandbox)        hostname, hosts, resolv.conf
    await networking.disconnect(container_id)               after exit or a failed start; idempotent
    await networking.close()                                keeps the bridge; remove() takes all away

What it needs of the keeper is the `Keeper` Protocol. Netlink lives in link.py, firewall.py and
docker_user.py, in messages of our own (netlink.py, nftables.py). `SCHEMA` is the room's part of the
metadata store.
"""

from proa.network.networking import Networking, tear_down
from proa.network.records import SCHEMA, NetworkRecord
from proa.network.sandbox import Endpoint, Keeper, NetworkWish, PortWish, PublishedPort, Sandbox

__all__ = [
    "SCHEMA",
    "Endpoint",
    "Keeper",
    "NetworkRecord",
    "NetworkWish",
    "Networking",
    "PortWish",
    "PublishedPort",
    "Sandbox",
    "tear_down",
]
