"""The host's side of a network: brought up and taken down. Blocking."""

import errno
import logging
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from proa.errors import System
from proa.network import docker_user, drivers, firewall, link
from proa.network.ipam import (
    DEFAULT_POOLS,
    IPV4,
    IPV6,
    Subnet,
    choose_subnet,
    parse_any,
    parse_cidr,
    to_text,
    ula_pool,
)
from proa.network.records import NetworkRecord, SubnetRecord
from proa.schema.config import DaemonConfig

_log = logging.getLogger(__name__)


def mark_of(config: DaemonConfig) -> str:
    """What tells this instance's interfaces from others'."""
    return f"proa:{config.firewall_table}"


def pools_of(config: DaemonConfig, seed: bytes) -> list[tuple[str, int]]:
    """Where subnets come from; `seed` makes the host's own IPv6 pool, where the configuration names none."""
    named = config.default_address_pools
    pools = [(str(pool.get("base", "")), int(pool.get("size", 0))) for pool in named] or [*DEFAULT_POOLS]
    if not any(":" in base for base, _ in pools):
        pools.append(ula_pool(seed))
    return pools


def settle_default(config: DaemonConfig, record: NetworkRecord, seed: bytes) -> NetworkRecord:
    """The default network with its subnet: the configured one, else the bridge's own, else the one that it
    had, else the first free range. `seed` as in `pools_of`.
    """
    gateway, subnet = _default_address(config, record)
    subnets = [SubnetRecord(subnet=str(subnet), gateway=to_text(gateway), ip_range=config.fixed_cidr)]
    if config.ipv6 or config.fixed_cidr_v6:
        six = _default_ipv6(config, record, seed)
        subnets.append(SubnetRecord(subnet=str(six), gateway=to_text(six.first + 1, IPV6)))
    return replace(record, subnets=tuple(subnets), ipv6=len(subnets) > 1)


def _default_ipv6(config: DaemonConfig, record: NetworkRecord, seed: bytes) -> Subnet:
    if config.fixed_cidr_v6:
        return Subnet.parse(config.fixed_cidr_v6)
    had = [subnet.range for subnet in record.subnets if subnet.range.bits == IPV6]
    return had[0] if had else choose_subnet(pools_of(config, seed), link.used_subnets(), IPV6)


def _default_address(config: DaemonConfig, record: NetworkRecord) -> tuple[int, Subnet]:
    if config.bip:
        gateway, prefix, bits = parse_cidr(config.bip)
        return gateway, Subnet.around(gateway, prefix, bits)
    present = link.find_bridge(config.bridge_name)
    if present is not None:
        return present.gateway, present.subnet
    used = link.used_subnets()
    if record.subnet:
        subnet = Subnet.parse(record.subnet)
        if not any(subnet.overlaps(other) for other in used):
            return parse_any(record.gateway)[0], subnet
    subnet = choose_subnet(pools_of(config, bytes(5)), used)
    return subnet.first + 1, subnet


def raise_bridge(config: DaemonConfig, record: NetworkRecord, shards: Sequence[str] = ()) -> None:
    """The bridge and its shards, up. Raises OSError."""
    options = drivers.bridge_options(record, config)
    addresses = []
    for subnet in record.subnets:
        number, bits = parse_any(subnet.gateway)
        mode = options.mode_ipv4 if bits == IPV4 else options.mode_ipv6
        if mode != "isolated" and not (bits == IPV4 and options.inhibit_ipv4):
            addresses.append((number, subnet.range.prefix, bits))
    link.ensure_bridge(options.name, addresses, options.mtu, mark_of(config))
    for shard in shards:
        link.ensure_bridge(shard, (), options.mtu, mark_of(config))
        link.join_bridges(options.name, shard, isolated=not options.icc, mtu=options.mtu)
    _make_room()
    forward(config, ipv6=record.ipv6)


def _make_room() -> None:
    try:
        link.make_room()
    except OSError as exc:
        _log.info("the host's limits stay as they are, large networks will suffer: %s", exc)


def forward(config: DaemonConfig, *, ipv6: bool) -> None:
    """Let the host forward, if the configuration does not say otherwise."""
    if not config.ip_forward:
        return
    for family in (False, True) if ipv6 else (False,):
        try:
            link.enable_forwarding(ipv6=family)
        except OSError as exc:
            name = "IPv6" if family else "IPv4"
            _log.warning("%s forwarding cannot be enabled, networking will not work: %s", name, exc)


def raise_parent(config: DaemonConfig, record: NetworkRecord) -> None:
    """The parent of a macvlan or ipvlan network. Raises System."""
    parent = drivers.parent_options(record).parent
    try:
        link.ensure_parent(parent, mark_of(config))
    except OSError as exc:
        raise System(f"parent interface {parent}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise System(str(exc)) from exc


def take_down(config: DaemonConfig, record: NetworkRecord, shards: Sequence[str] = ()) -> None:
    """Take the host's side of a network away; what was there before proa stays. Raises OSError."""
    if record.driver == "bridge":
        hub = drivers.bridge_options(record, config).name
        names = (*(f"{shard}h" for shard in shards), *shards, hub)
    else:
        names = (drivers.parent_options(record).parent,)
    ours = {name for name, _, mark in link.interfaces() if mark == mark_of(config)}
    ours |= {f"{shard}h" for shard in shards}
    for name in names:
        if name in ours:
            link.remove_link(name)


def parent_shared(record: NetworkRecord, other: NetworkRecord) -> bool:
    """Whether two networks sit on one parent."""
    if "bridge" in (record.driver, other.driver):
        return False
    return drivers.parent_options(record).parent == drivers.parent_options(other).parent


def firewall_network(
    config: DaemonConfig, record: NetworkRecord, shards: Sequence[str] = ()
) -> firewall.FirewallNetwork:
    """A bridge network as the firewall sees it."""
    options = drivers.bridge_options(record, config)
    modes = {IPV4: options.mode_ipv4, IPV6: options.mode_ipv6}
    masquerade = tuple(
        subnet.range
        for subnet in record.subnets
        if options.masquerade and modes[subnet.range.bits].startswith("nat")
    )
    return firewall.FirewallNetwork(
        bridges=(options.name, *shards),
        masquerade=masquerade,
        internal_traffic=options.icc,
        internal=record.internal,
        unprotected=tuple(bits for bits, mode in modes.items() if mode == "nat-unprotected"),
        routed=tuple(bits for bits, mode in modes.items() if mode == "routed"),
        trusted=options.trusted,
    )


def tear_down(config: DaemonConfig) -> None:
    """Take away all that an instance has on the host: bridges, parents, the firewall and the way through
    another's; missing ones are no error.
    """
    mark = mark_of(config)
    bridges = {config.bridge_name, *(name for name, _, found in link.interfaces() if found == mark)}
    for remove in (
        partial(docker_user.withdraw, bridges),
        partial(firewall.remove, config.firewall_table),
        partial(link.remove_marked, mark),
        partial(link.remove_link, config.bridge_name),
    ):
        try:
            remove()
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:  # a kernel without nftables has none of it to remove
                raise
