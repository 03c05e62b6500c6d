"""Networks: the default bridge, its addresses and firewall, and the pool of namespaces held ready.

    networking = Networking(config, connection, keeper)     no I/O but the metadata store
    await networking.start()                                bridge, firewall, pool: a background task's work
    sandbox = await networking.connect(container_id, wish)  at start; waits for start() if need be
    write_files(directory, wish, sandbox, config, ...)      hostname, hosts, resolv.conf (network.files)
    networking.adopt(container_id, sandbox)                 at daemon start, for each running container
    await networking.disconnect(container_id)               after exit or a failed start; idempotent
    await networking.keeper_changed(prepared)               after each Welcome: keys that the keeper holds
    await networking.close()                                keeps the bridge; remove() takes all away

What it needs of the keeper is the `Keeper` Protocol. Netlink lives in link.py and firewall.py alone.
"""

from proa.network.sandbox import Endpoint, Keeper, NetworkWish, Sandbox

__all__ = ["Endpoint", "Keeper", "NetworkWish", "Sandbox"]
