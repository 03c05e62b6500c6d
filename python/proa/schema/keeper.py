"""The keeper's protocol: one MessagePack map per SOCK_SEQPACKET packet, fds by SCM_RIGHTS.

Mirror of native/src/keeper/protocol.rs, where the exchange is drawn as a table.
"""

from typing import Literal

from msgspec import Struct

from proa.schema.plan import Plan, Process, Stdio
from proa.schema.shipping import Shipping

VERSION = 1


class Hello(Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """Ask for the state of every process."""

    seq: int
    version: int = VERSION


class Start(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="start"):
    """Start the container of `plan`. Where its log lines are shipped, a connection may come along."""

    seq: int
    plan: Plan
    ship: Shipping | None = None


class Exec(Struct, frozen=True, kw_only=True, tag_field="type", tag="exec"):
    """Run `process` in the running container `id`."""

    seq: int
    id: str
    exec_id: str
    process: Process
    stdio: Stdio
    timeout_ns: int = 0
    """After this it is killed, with its process group; 0 for never."""


class Attach(Struct, frozen=True, kw_only=True, tag_field="type", tag="attach"):
    """Serve a client on the fd that comes along; before start the client waits for it."""

    seq: int
    id: str
    exec_id: str | None = None
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    logs: bool = False
    stream: bool = True
    multiplexed: bool = True
    detach_keys: bytes = b""
    preface: bytes = b""
    initial_input: bytes = b""


class Signal(Struct, frozen=True, kw_only=True, tag_field="type", tag="signal"):
    """Send `signal` to the process."""

    seq: int
    id: str
    exec_id: str | None = None
    signal: int


class Resize(Struct, frozen=True, kw_only=True, tag_field="type", tag="resize"):
    """Set the tty's size."""

    seq: int
    id: str
    exec_id: str | None = None
    rows: int
    columns: int


class CloseStdin(Struct, frozen=True, kw_only=True, tag_field="type", tag="close_stdin"):
    """Close the process's stdin."""

    seq: int
    id: str
    exec_id: str | None = None


class Forget(Struct, frozen=True, kw_only=True, tag_field="type", tag="forget"):
    """Drop what is kept of an id that will not start or has exited."""

    seq: int
    id: str
    exec_id: str | None = None


class Acknowledge(Struct, frozen=True, kw_only=True, tag_field="type", tag="acknowledge"):
    """This exit is stored; the ledger may drop it."""

    seq: int
    id: str
    exec_id: str | None = None


class KeeperEndpoint(Struct, frozen=True, kw_only=True):
    """One interface of a container; empty `bridge` for a namespace with only lo."""

    bridge: str
    """The host's bridge, or the parent of a macvlan or ipvlan."""
    kind: str = "veth"
    """`veth`, `macvlan`, `ipvlan`."""
    mode: str = ""
    """Of a macvlan or ipvlan; an ipvlan's may have a flag: `l2/private`."""
    interface: str = "eth0"
    mac: bytes = b""
    mtu: int = 0
    """0 for the parent's."""
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    """Default gateways; `0.0.0.0` and `::` for a route to all that is on the link."""
    isolated: bool = False
    """It does not reach other isolated ports of its bridge."""
    hairpin: bool = False
    names: bool = False
    """Its container will be told to the resolver: what that needs is made ready, too."""
    sysctls: tuple[tuple[str, str], ...] = ()
    """(path below /proc/sys/net, value)."""


DefaultRoute = tuple[str, str]
"""(gateway, the interface it is behind)."""


class NetPrepare(Struct, frozen=True, kw_only=True, tag_field="type", tag="net_prepare"):
    """Make a network namespace ready under `key`."""

    seq: int
    key: int
    endpoint: KeeperEndpoint
    more: tuple[KeeperEndpoint, ...] = ()
    """Its further interfaces."""


class NetAttach(Struct, frozen=True, kw_only=True, tag_field="type", tag="net_attach"):
    """One more interface for a running container; its default routes are these from now on."""

    seq: int
    id: str
    endpoint: KeeperEndpoint
    routes: tuple[DefaultRoute, ...]


class NetDetach(Struct, frozen=True, kw_only=True, tag_field="type", tag="net_detach"):
    """Take an interface from a running container; its default routes are these from now on."""

    seq: int
    id: str
    interface: str
    routes: tuple[DefaultRoute, ...]


class NetRelease(Struct, frozen=True, kw_only=True, tag_field="type", tag="net_release"):
    """Drop a prepared namespace that no start has taken."""

    seq: int
    key: int


class HeldPort(Struct, frozen=True, kw_only=True):
    """A port of the host to hold."""

    protocol: str
    address: str
    """Of the host; `0.0.0.0` and `::` for every one of a family."""
    port: int
    target: str = ""
    """`172.17.0.2:80`: where what arrives at the socket is passed on; empty for nowhere."""


class PortsHold(Struct, frozen=True, kw_only=True, tag_field="type", tag="ports_hold"):
    """From now on container `id` holds these ports of the host, and no others."""

    seq: int
    id: str
    ports: tuple[HeldPort, ...]


class DnsNetwork(Struct, frozen=True, kw_only=True):
    """One network that a container is on, and what it is called there."""

    id: str
    name: str
    """Names are found with it behind them, too: `web.shop`."""
    names: tuple[str, ...] = ()
    """The container's names on the network, the first for its addresses' reverse look-up. Several containers
    may share one: answers have all their addresses."""
    addresses: tuple[str, ...] = ()
    """IPv4 and IPv6, without prefix."""
    links: tuple[tuple[str, str], ...] = ()
    """(alias, name): aliases of the container's own for names of this network."""


class DnsUpstream(Struct, frozen=True, kw_only=True):
    """A server that is asked what the networks do not know."""

    address: str
    port: int = 53
    host: bool = False
    """It is asked from the host's network namespace, not from the container's."""


class DnsSandbox(Struct, frozen=True, kw_only=True):
    """All that the resolver knows of one container: it is served at 127.0.0.11, and found by its names."""

    id: str
    """The container's."""
    key: int | None = None
    """The prepared namespace that it will start in; None for a container that runs."""
    networks: tuple[DnsNetwork, ...] = ()
    """In the order in which names are looked up."""
    upstreams: tuple[DnsUpstream, ...] = ()
    """None for a container with only internal networks: what they do not know then fails."""
    ndots: bool = False
    """The container's user has chosen `ndots`: names without a dot are not asked of the upstreams."""


class DnsSet(Struct, frozen=True, kw_only=True, tag_field="type", tag="dns_set"):
    """From now on the resolver knows this of a container, and nothing else."""

    seq: int
    sandbox: DnsSandbox


class DnsDrop(Struct, frozen=True, kw_only=True, tag_field="type", tag="dns_drop"):
    """Forget a container and its names; an unknown one is no error. Its exit does the same."""

    seq: int
    id: str


class HandOver(Struct, frozen=True, kw_only=True, tag_field="type", tag="hand_over"):
    """Re-execute as a newer keeper with this command line."""

    seq: int
    argv: tuple[str, ...]


class Shutdown(Struct, frozen=True, kw_only=True, tag_field="type", tag="shutdown"):
    """End; with `kill` every container first."""

    seq: int
    kill: bool = False


Request = (
    Hello
    | Start
    | Exec
    | Attach
    | Signal
    | Resize
    | CloseStdin
    | Forget
    | Acknowledge
    | NetPrepare
    | NetAttach
    | NetDetach
    | NetRelease
    | PortsHold
    | DnsSet
    | DnsDrop
    | HandOver
    | Shutdown
)

ExitReason = Literal["exit", "signal", "oom", "timeout", "engine_error"]


class Failure(Struct, frozen=True, kw_only=True):
    """Why a request failed: step, what it was about, errno (0 where no call failed)."""

    step: str
    subject: str
    errno: int


class Exited(Struct, frozen=True, kw_only=True, tag_field="type", tag="exited"):
    """A process ended and all its output is in the log."""

    id: str
    exec_id: str | None = None
    code: int
    reason: ExitReason
    oom: bool
    finished_at_ns: int


class Oom(Struct, frozen=True, kw_only=True, tag_field="type", tag="oom"):
    """The kernel killed a process of the container for want of memory."""

    id: str


class Exit(Struct, frozen=True, kw_only=True):
    """An exit as `welcome` carries it: the fields of `Exited`, untagged."""

    id: str
    exec_id: str | None = None
    code: int
    reason: ExitReason
    oom: bool
    finished_at_ns: int


class ProcessState(Struct, frozen=True, kw_only=True):
    """A process the keeper knows of: running, or exited and not acknowledged."""

    id: str
    exec_id: str | None = None
    pid: int
    started_at_ns: int
    exit: Exit | None = None


class Welcome(Struct, frozen=True, kw_only=True, tag_field="type", tag="welcome"):
    """The answer to hello."""

    seq: int
    version: int
    pid: int
    processes: tuple[ProcessState, ...]
    prepared: tuple[int, ...]


class Started(Struct, frozen=True, kw_only=True, tag_field="type", tag="started"):
    """The process has been executed."""

    seq: int
    pid: int
    started_at_ns: int
    warnings: tuple[str, ...]


class NetReady(Struct, frozen=True, kw_only=True, tag_field="type", tag="net_ready"):
    """The namespace under `key` is ready."""

    seq: int
    key: int
    host_interface: str


class Done(Struct, frozen=True, kw_only=True, tag_field="type", tag="done"):
    """The request was carried out."""

    seq: int


class Failed(Struct, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """The request failed and left nothing behind."""

    seq: int
    error: Failure


Reply = Welcome | Started | NetReady | Done | Failed | Exited | Oom
