"""The three files that a container's network writes: hostname, hosts, resolv.conf.

Written once a start, straight and small: three files take under 0.2 ms. Source: hosts(5), resolv.conf(5);
moby's libnetwork/etchosts and resolvconf.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence

from msgspec import Struct

from proa.network.sandbox import NetworkWish, Sandbox

HOST_RESOLV_CONF = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
"""The real servers, where the host's own file names only systemd's stub on 127.0.0.53."""
DEFAULT_SERVERS = ("8.8.8.8", "8.8.4.4")

_NAMES = ("hostname", "hosts", "resolv.conf")
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_LOCALHOST = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
LOOPBACK = re.compile(r"127\.|::1$|0\.0\.0\.0$|::$")


class Resolver(Struct, frozen=True, kw_only=True):
    """The lines of a resolv.conf that matter."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class DnsDefaults(Struct, frozen=True, kw_only=True):
    """The daemon's dns, dns-opts and dns-search, under the container's."""

    servers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> Resolver:
    """The last search line wins, as in the C library."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        match words[0]:
            case "nameserver":
                servers.append(words[1])
            case "search" | "domain":
                search = tuple(words[1:])
            case "options":
                options += words[1:]
    return Resolver(servers=tuple(servers), search=search, options=tuple(options))


def resolver_of(wish: NetworkWish, defaults: DnsDefaults, host: Resolver, *, own_namespace: bool) -> Resolver:
    """What a container resolves with; the host's loopback servers cannot be reached from its namespace."""
    servers = wish.dns or defaults.servers or host.servers
    if own_namespace and not wish.dns:
        servers = tuple(s for s in servers if not LOOPBACK.match(s)) or DEFAULT_SERVERS
    search = wish.dns_search or defaults.search or host.search
    return Resolver(
        servers=servers,
        search=() if search == (".",) else search,
        options=wish.dns_options or defaults.options or host.options,
    )


def format_resolv_conf(resolver: Resolver) -> str:
    """The file."""
    lines = [f"nameserver {server}" for server in resolver.servers]
    if resolver.search:
        lines.append("search " + " ".join(resolver.search))
    if resolver.options:
        lines.append("options " + " ".join(resolver.options))
    return "".join(line + "\n" for line in lines)


def format_hosts(
    wish: NetworkWish, addresses: Sequence[str], *, host_gateway: str, base: str = _LOCALHOST
) -> str:
    """The hosts file: `base`, the container's own names, then --add-host's."""
    names = own_names(wish)
    lines = [base if base.endswith("\n") or not base else base + "\n"]
    for entry in wish.extra_hosts:
        name, _, address = entry.partition(":")
        address = host_gateway if address == "host-gateway" else address.strip("[]")
        lines.append(f"{address}\t{name}\n")
    lines += [f"{address}\t{names}\n" for address in addresses if address and names]
    return "".join(lines)


class HostFiles:
    """The host's own files, read again when they change."""

    def __init__(self, resolv_conf: str = HOST_RESOLV_CONF, hosts: str = "/etc/hosts") -> None:
        self._resolv_conf = resolv_conf
        self._hosts = hosts
        self._seen: tuple[int, int, int] = (-1, -1, -1)
        self._resolver = Resolver()

    def resolver(self) -> Resolver:
        """The host's resolver; past systemd's stub, where that is all it names."""
        try:
            status = os.stat(self._resolv_conf)
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            return Resolver()
        if seen != self._seen:
            resolver = parse_resolv_conf(_read(self._resolv_conf))
            if resolver.servers == ("127.0.0.53",):
                real = parse_resolv_conf(_read(SYSTEMD_RESOLV_CONF))
                resolver = real if real.servers else resolver
            self._seen, self._resolver = seen, resolver
        return self._resolver

    def hosts(self) -> str:
        """The host's hosts file."""
        return _read(self._hosts)


def make_files(directory: str, wish: NetworkWish) -> None:
    """The files that `write_files` fills, empty. Raises OSError."""
    if wish.mode == "container":
        return
    for name in _NAMES:
        os.close(os.open(f"{directory}/{name}", _MAKE, 0o644))


def write_files(
    directory: str,
    wish: NetworkWish,
    sandbox: Sandbox,
    *,
    host: HostFiles,
    defaults: DnsDefaults,
    host_gateway: str = "",
    through: Callable[[Resolver], Resolver] | None = None,
) -> None:
    """Write hostname, hosts and resolv.conf of a container into its directory. Raises OSError.

    In place, never by rename: they are bind-mounted. Mode container has none of its own.
    """
    if sandbox.mode == "container":
        return
    own = sandbox.mode != "host"
    addresses = [address for endpoint in sandbox.endpoints for address in endpoint.addresses]
    gateway = host_gateway or "127.0.0.1"
    if own:
        hosts = format_hosts(wish, addresses, host_gateway=gateway)
    else:
        hosts = format_hosts(wish, addresses, host_gateway=gateway, base=host.hosts() or _LOCALHOST)
    _write(f"{directory}/hostname", wish.hostname + "\n")
    _write(f"{directory}/hosts", hosts)
    write_resolver(directory, wish, sandbox, host=host, defaults=defaults, through=through)


def write_resolver(
    directory: str,
    wish: NetworkWish,
    sandbox: Sandbox,
    *,
    host: HostFiles,
    defaults: DnsDefaults,
    through: Callable[[Resolver], Resolver] | None = None,
) -> None:
    """Write resolv.conf; `through` makes of what it resolves with what the file says. Raises OSError."""
    resolver = resolver_of(wish, defaults, host.resolver(), own_namespace=sandbox.mode != "host")
    if through is not None:
        resolver = through(resolver)
    _write(f"{directory}/resolv.conf", format_resolv_conf(resolver))


def add_hosts(directory: str, wish: NetworkWish, addresses: Iterable[str]) -> None:
    """A running container has got these addresses. Raises OSError."""
    lines = "".join(f"{address}\t{own_names(wish)}\n" for address in addresses)
    if lines:
        with open(f"{directory}/hosts", "a", encoding="utf-8", opener=_in_place) as file:
            file.write(lines)


def remove_hosts(directory: str, addresses: Collection[str]) -> None:
    """A running container has lost these addresses; what it wrote itself stays. Raises OSError."""
    if not addresses:
        return
    path = f"{directory}/hosts"
    kept = [line for line in _read(path).splitlines(True) if line.split("\t", 1)[0] not in addresses]
    _write(path, "".join(kept))


def own_names(wish: NetworkWish) -> str:
    """What a container's own addresses are called in its hosts file."""
    return f"{wish.hostname}.{wish.domainname} {wish.hostname}" if wish.domainname else wish.hostname


def _in_place(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    """Over what is there: one that was emptied first some file systems write to the disk at once."""
    fd = os.open(path, _MAKE, 0o644)
    try:
        os.ftruncate(fd, os.write(fd, text.encode()))
    finally:
        os.close(fd)
