"""Resolution: a create request and an image's configuration become one immutable plan.

    resolve(request, context)             -> Resolved      at create
    resolve_exec(request, running)        -> Process       at exec create
    resolve_update(request, resolved, h)  -> Updated       at update
    with_network(plan, network)           -> Plan          at start, as with_rootfs

Everything that can be decided before start is decided here, and every wrong request is refused here,
in Docker's words. Reads the host only through the `Context`; changes nothing.

Source: the Docker Engine API v1.51; moby's daemon for texts; the OCI runtime specification.
"""

from proa.engine.resolve.model import Context, Host, Peer, Resolved, VolumeWish

__all__ = ["Context", "Host", "Peer", "Resolved", "VolumeWish"]
