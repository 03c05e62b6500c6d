"""From a create request to a network's record: what is asked for is checked, what is left open is chosen.

Pure. Messages as dockerd has them, several faults in one.

Source: moby daemon/network.go, api/types/network/ipam.go (ValidateIPAM), libnetwork/ipams/defaultipam.
"""

import time
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from proa.errors import Forbidden, InvalidParameter, NotFound, ProaError, Unavailable
from proa.network import records
from proa.network.drivers import bridge_options, interface_prefix, parent_options
from proa.network.ipam import IPV4, IPV6, Addresses, Subnet, choose_subnet, parse_any, parse_cidr, to_text
from proa.network.records import NetworkRecord, SubnetRecord
from proa.schema.config import DaemonConfig
from proa.schema.network import IPAM, IPAMConfig, NetworkCreateRequest

Pools = Iterable[tuple[str, int]]

_DRIVERS = ("bridge", "macvlan", "ipvlan")
_SINGLE = {"host": "host", "null": "null"}


def define(
    request: NetworkCreateRequest,
    config: DaemonConfig,
    pools: Pools,
    networks: Sequence[NetworkRecord],
    used: Sequence[Subnet],
) -> NetworkRecord:
    """The record of a new network. Raises ProaError.

    `pools` is where subnets come from that are not asked for, `networks` those there are, `used` the ranges
    that the host has already.
    """
    driver = check_request(request)
    request = configured_by(request, networks)
    # What was not said is the daemon's default: IPv4 unless it is switched off, IPv6 where it is asked for.
    ipv4 = request.enable_i_pv4 is not False
    ipv6 = bool(request.enable_i_pv6)
    if not ipv4 and not ipv6:
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    asked = list((request.ipam.config if request.ipam else None) or ())
    check_subnets(asked, ipv4=ipv4, ipv6=ipv6)
    draft = NetworkRecord(
        id=records.new_id(),
        name=request.name,
        driver=driver,
        created_ns=time.time_ns(),
        ipv4=ipv4,
        ipv6=ipv6,
        internal=request.internal,
        attachable=request.attachable,
        labels=request.labels or {},
        options=request.options or {},
        ipam_options=(request.ipam.options if request.ipam else None) or None,
        config_only=request.config_only,
        config_from=request.config_from.network if request.config_from else "",
    )
    if draft.config_only:
        # Whoever takes it over settles what is left open.
        return replace(draft, driver="null", subnets=tuple(map(_as_asked, asked)))
    _check_options(draft, config, networks)
    subnets = [_configured(entry) for entry in asked if entry.subnet]
    taken = [subnet.range for network in networks if not network.config_only for subnet in network.subnets]
    for subnet in subnets:
        if any(subnet.range.overlaps(other) for other in taken):
            raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
        taken.append(subnet.range)
    for bits, wanted in ((IPV4, ipv4), (IPV6, ipv6)):
        if wanted and not any(subnet.range.bits == bits for subnet in subnets):
            chosen = choose_subnet(pools, [*taken, *used], bits)
            subnets.append(_with_gateway(SubnetRecord(subnet=str(chosen))))
    if driver == "bridge" and len(subnets) > ipv4 + ipv6:
        raise InvalidParameter("bridge driver doesn't support multiple subnets")
    return _with_subnets(draft, subnets)


def check_request(request: NetworkCreateRequest) -> str:
    """The driver. Raises ProaError for what no daemon could do, or this one cannot."""
    if not request.name.strip():
        raise InvalidParameter("invalid network name: name is empty")
    if request.name in (*records.BUILTIN, "default", "container") or request.name.startswith("container:"):
        raise Forbidden(f"operation is not permitted on predefined {request.name} network")
    _check_references(request)
    if request.ingress or request.scope == "swarm" or request.driver == "overlay":
        raise Unavailable(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
            "this node to swarm and try again."
        )
    if request.scope not in ("", "local"):
        raise InvalidParameter(f"invalid scope: {request.scope}")
    driver = request.driver or "bridge"
    if driver in _SINGLE:
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if driver not in _DRIVERS:
        raise NotFound(f'plugin "{driver}" not found')
    if request.ipam and request.ipam.driver not in ("", "default"):
        raise NotFound(f'plugin "{request.ipam.driver}" not found')
    return driver


def _check_references(request: NetworkCreateRequest) -> None:
    """Raises Forbidden for what a configuration cannot hold, or who takes one over cannot add to it."""
    source = request.config_from.network if request.config_from else ""
    if request.config_only:
        if request.ingress or request.internal or request.attachable or request.scope not in ("", "local"):
            raise Forbidden(
                "configuration network can only contain network specific fields. Network operator fields "
                "like [ ingress | internal | attachable | scope ] are not supported."
            )
        if source:
            raise Forbidden("a configuration network cannot depend on another configuration network")
    if not source:
        return
    if request.options:
        raise Forbidden(
            "network driver options are not supported if the network depends on a configuration network"
        )
    ipam = request.ipam
    own_ipam = ipam is not None and (ipam.config or ipam.options or ipam.driver not in ("", "default"))
    if own_ipam or request.labels or request.enable_i_pv6 or request.enable_i_pv4 is False:
        raise Forbidden(
            "user specified configurations are not supported if the network depends on "
            "a configuration network"
        )


def configured_by(request: NetworkCreateRequest, networks: Sequence[NetworkRecord]) -> NetworkCreateRequest:
    """The request with the configuration that it refers to, if any. Raises NotFound."""
    source = request.config_from.network if request.config_from else ""
    if not source:
        return request
    found = next((n for n in networks if n.config_only and source in (n.name, n.id)), None)
    if found is None:
        raise NotFound(f'configuration network "{source}" does not exist')
    asked = [
        IPAMConfig(
            subnet=subnet.subnet,
            gateway=subnet.gateway,
            ip_range=subnet.ip_range,
            auxiliary_addresses=subnet.auxiliary or None,
        )
        for subnet in found.subnets
    ]
    return replace(
        request,
        enable_i_pv4=found.ipv4,
        enable_i_pv6=found.ipv6,
        options=found.options,
        labels=found.labels,
        ipam=IPAM(config=asked, options=found.ipam_options),
    )


def check_subnets(asked: Sequence[IPAMConfig], *, ipv4: bool, ipv6: bool) -> None:
    """Raises InvalidParameter with every fault there is."""
    faults: list[str] = []
    for entry in asked:
        try:
            _check_subnet(entry, ipv4=ipv4, ipv6=ipv6)
        except ProaError as exc:
            faults.append(str(exc))
    if faults:
        raise InvalidParameter("\n".join(("invalid network config:", *faults)))


def _check_subnet(entry: IPAMConfig, *, ipv4: bool, ipv6: bool) -> None:
    if not entry.subnet:
        if entry.gateway or entry.ip_range or entry.auxiliary_addresses:
            raise InvalidParameter("invalid subnet: a subnet is needed for what lies in it")
        return
    subnet = _block("subnet", entry.subnet)
    if (subnet.bits == IPV6 and not ipv6) or (subnet.bits == IPV4 and not ipv4):
        family = "IPv6" if subnet.bits == IPV6 else "IPv4"
        raise InvalidParameter(f"invalid subnet {subnet}: {family} has not been enabled for this network")
    if entry.ip_range:
        inner = _block("ip-range", entry.ip_range, shortest=subnet)
        if not inner.within(subnet):
            raise InvalidParameter(
                f"invalid ip-range {inner}: parent subnet {subnet} doesn't contain ip-range"
            )
    named = {"gateway": entry.gateway} if entry.gateway else {}
    for what, text in (*named.items(), *(("auxiliary address", a) for a in _auxiliary(entry).values())):
        _check_inside(what, text, subnet)


def _block(what: str, text: str, shortest: Subnet | None = None) -> Subnet:
    try:
        if shortest is not None and "/" in text and int(text.partition("/")[2]) == shortest.bits:
            address, bits = parse_any(text.partition("/")[0])  # one address
            return Subnet(address, bits, bits)
        address, prefix, bits = parse_cidr(text)
    except (InvalidParameter, ValueError):
        raise InvalidParameter(f"invalid {what} {text}: invalid CIDR block notation") from None
    block = Subnet.around(address, prefix, bits)
    if shortest is not None and bits == shortest.bits and prefix < shortest.prefix:
        raise InvalidParameter(
            f"invalid {what} {text}: CIDR block is bigger than its parent subnet {shortest}"
        )
    if block.first != address:
        raise InvalidParameter(f"invalid {what} {text}: it should be {block}")
    return block


def _check_inside(what: str, text: str, subnet: Subnet) -> None:
    try:
        address, bits = parse_any(text)
    except InvalidParameter:
        raise InvalidParameter(f"invalid {what} {text}: invalid address") from None
    if bits != subnet.bits:
        family = "IPv6" if subnet.bits == IPV6 else "IPv4"
        raise InvalidParameter(f"invalid {what} {text}: parent subnet is an {family} block")
    if address not in subnet:
        raise InvalidParameter(f"invalid {what} {text}: parent subnet {subnet} doesn't contain this address")


def _auxiliary(entry: IPAMConfig) -> dict[str, str]:
    return entry.auxiliary_addresses or {}


def _as_asked(entry: IPAMConfig) -> SubnetRecord:
    return SubnetRecord(
        subnet=str(Subnet.parse(entry.subnet)),
        gateway=entry.gateway,
        ip_range=entry.ip_range,
        auxiliary=_auxiliary(entry),
        configured=True,
    )


def _configured(entry: IPAMConfig) -> SubnetRecord:
    record = _as_asked(entry)
    return record if entry.gateway else _with_gateway(record)


def _with_gateway(record: SubnetRecord) -> SubnetRecord:
    """The first address that is free, of the range that addresses come from."""
    subnet = record.range
    only = Subnet.parse(record.ip_range) if record.ip_range else None
    gateway = Addresses(subnet, record.reserved, only).take()
    return SubnetRecord(
        subnet=record.subnet,
        gateway=to_text(gateway, subnet.bits),
        ip_range=record.ip_range,
        auxiliary=record.auxiliary,
        configured=record.configured,
    )


def _with_subnets(draft: NetworkRecord, subnets: Sequence[SubnetRecord]) -> NetworkRecord:
    four_first = sorted(subnets, key=lambda subnet: subnet.range.bits)
    return replace(draft, subnets=tuple(four_first))


def _check_options(draft: NetworkRecord, config: DaemonConfig, networks: Sequence[NetworkRecord]) -> None:
    """Raises for options that mean nothing, or what another network has already."""
    interface_prefix(draft)
    if draft.driver != "bridge":
        mine = parent_options(draft)
        for other in networks:
            if other.driver in ("macvlan", "ipvlan") and parent_options(other).parent == mine.parent:
                if other.driver == draft.driver and "passthru" not in (mine.mode, parent_options(other).mode):
                    continue
                raise Forbidden(f"network {other.id} is already using parent interface {mine.parent}")
        return
    name = bridge_options(draft, config).name
    for other in networks:
        if other.driver == "bridge" and bridge_options(other, config).name == name:
            raise Forbidden(
                f"conflicts with network {other.id} ({other.name}): networks have same bridge name"
            )
