"""Resolution: a create request and an image's configuration become one immutable plan.

    resolve(request, context)                       -> Resolved   at create
    resolve_exec(request, running)                  -> Process    at exec create
    resolve_update(request, resolved, host)         -> Updated    at update
    ready(plan, rootfs=..., net=...)                -> Plan       at start
    located(plan, wishes, places)                   -> Plan       at start, with mounted volumes

Everything that can be decided before start is decided here, and every wrong request is refused here,
in Docker's words. Looks at the host only for paths that the request names; changes nothing.
`host.read_host` and `seccomp.SeccompCache` are what a `Context` is made of; they import the native module.

Source: the Docker Engine API v1.51; moby's daemon for texts; the OCI runtime specification.
"""

from proa.engine.resolve.container import resolve
from proa.engine.resolve.exec import Running, resolve_exec
from proa.engine.resolve.health import COMMANDS, PROBES, Target, probe_target
from proa.engine.resolve.lifecycle import signal_number
from proa.engine.resolve.model import Context, Host, Peer, Resolved, Storage, VolumeWish
from proa.engine.resolve.propagation import check_sources
from proa.engine.resolve.start import located, ready, with_identity
from proa.engine.resolve.update import Updated, resolve_update

__all__ = [
    "COMMANDS",
    "PROBES",
    "Context",
    "Host",
    "Peer",
    "Resolved",
    "Running",
    "Storage",
    "Target",
    "Updated",
    "VolumeWish",
    "check_sources",
    "located",
    "probe_target",
    "ready",
    "resolve",
    "resolve_exec",
    "resolve_update",
    "signal_number",
    "with_identity",
]
