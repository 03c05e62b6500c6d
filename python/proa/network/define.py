"""From a create request to a network's record: what is asked for is checked, what is left open is chosen.

Pure. Messages as dockerd has them, several faults in one.

Source: moby daemon/network.go, api/types/network/ipam.go (ValidateIPAM), libnetwork/ipams/defaultipam.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from proa.errors import Forbidden, InvalidParameter, NotFound, ProaError, System
from proa.network import records
from proa.network.drivers import (
    NETWORK_PREFIX,
    bridge_options,
    interface_prefix,
    parent_options,
    parse_bool,
)
from proa.network.faults import listed
from proa.network.ipam import IPV4, IPV6, Addresses, Subnet, choose_subnet, parse_any, parse_cidr, to_text
from proa.network.records import NetworkRecord, SubnetRecord
from proa.schema.config import DaemonConfig
from proa.schema.network import IPAM, IPAMConfig, NetworkCreateRequest

Pools = Iterable[tuple[str, int]]

_DRIVERS = ("bridge", "macvlan", "ipvlan")
_FAMILY = {IPV4: "IPv4", IPV6: "IPv6"}
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
    options = _options(request, driver, config)
    # What was not said is the daemon's default: IPv4 unless it is switched off, IPv6 where it is asked for.
    ipv4 = _family(request.enable_i_pv4, options, "enable_ipv4", default=True)
    ipv6 = _family(request.enable_i_pv6, options, "enable_ipv6", default=False)
    if not ipv4 and not ipv6:
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    ipam = request.ipam or IPAM()
    # A subnet of a family that the network has not is looked at no further, as dockerd does.
    asked = [entry for entry in ipam.config or () if ipv6 or not _is_ipv6(entry)]
    check_subnets(asked)
    asked = [entry for entry in asked if ipv4 or _is_ipv6(entry)]
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
        options=options,
        scope=request.scope or "local",
        ipam_driver=ipam.driver or "default",
        ipam_options=ipam.options,
        config_only=request.config_only,
        config_from=request.config_from.network if request.config_from else "",
    )
    if draft.config_only:
        # Whoever takes it over settles what is left open.
        return replace(draft, driver="null", subnets=tuple(map(_as_asked, asked)))
    _check_options(draft, config, networks)
    return _with_subnets(draft, _subnets(draft, asked, pools, networks, used))


def _subnets(
    draft: NetworkRecord,
    asked: Sequence[IPAMConfig],
    pools: Pools,
    networks: Sequence[NetworkRecord],
    used: Sequence[Subnet],
) -> list[SubnetRecord]:
    """What was asked for, and of the pools one for each family that nobody chose. Raises ProaError."""
    subnets = list(map(_configured, asked))
    taken = [subnet.range for network in networks if not network.config_only for subnet in network.subnets]
    for subnet in subnets:
        if any(subnet.range.overlaps(other) for other in taken):
            raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
        taken.append(subnet.range)
    for bits, wanted in ((IPV4, draft.ipv4), (IPV6, draft.ipv6)):
        if draft.ipam_driver == "null":
            continue
        if wanted and not any(subnet.range.bits == bits for subnet in subnets):
            chosen = choose_subnet(pools, [*taken, *used], bits)
            subnets.append(_with_gateway(SubnetRecord(subnet=str(chosen))))
    if draft.driver == "bridge" and not subnets:
        raise InvalidParameter("ipv4 pool is empty")
    if draft.driver == "bridge" and len(subnets) > draft.ipv4 + draft.ipv6:
        raise InvalidParameter("bridge driver doesn't support multiple subnets")
    return subnets


def check_request(request: NetworkCreateRequest) -> str:
    """The driver. Raises ProaError for what no daemon could do, or this one cannot."""
    if not request.name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if not request.name.isprintable():
        raise InvalidParameter(f"invalid name: {request.name!r}")
    if request.name in (*records.BUILTIN, "default"):
        raise Forbidden(f"operation is not permitted on predefined {request.name} network")
    _check_references(request)
    if request.driver == "overlay":
        raise Forbidden(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
            "this node to swarm and try again."
        )
    driver = request.driver or "bridge"
    if driver in _SINGLE:
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if driver not in _DRIVERS:
        raise NotFound(f'plugin "{driver}" not found')
    if request.ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if request.scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")
    if request.ipam and request.ipam.driver not in ("", "default", "null"):
        raise NotFound(f'plugin "{request.ipam.driver}" not found')
    return driver


def _options(request: NetworkCreateRequest, driver: str, config: DaemonConfig) -> dict[str, str]:
    """The driver's options, with the daemon's own for what the request does not say."""
    given = {} if request.config_from else config.default_network_opts.get(driver, {})
    options = {**given, **(request.options or {})}
    for asked, name in ((request.enable_i_pv4, "enable_ipv4"), (request.enable_i_pv6, "enable_ipv6")):
        if asked is not None:
            options.pop(f"{NETWORK_PREFIX}{name}", None)
    return options


def _family(asked: bool | None, options: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Whether a network has a family of addresses."""
    text = options.get(f"{NETWORK_PREFIX}{name}")
    if asked is not None or text is None:
        return default if asked is None else asked
    try:
        return parse_bool(text)
    except ValueError:
        raise InvalidParameter(f'driver-opt "{NETWORK_PREFIX}{name}" is not a valid bool') from None


def _is_ipv6(entry: IPAMConfig) -> bool:
    return ":" in entry.subnet


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


def check_subnets(asked: Sequence[IPAMConfig]) -> None:
    """Raises InvalidParameter with every fault there is."""
    faults = [fault for entry in asked for fault in _subnet_faults(entry)]
    if faults:
        raise InvalidParameter("\n".join(("invalid network config:", listed(faults))))


def _subnet_faults(entry: IPAMConfig) -> Iterator[str]:
    try:
        address, prefix, bits = parse_cidr(entry.subnet)
    except InvalidParameter:
        yield f"invalid subnet {entry.subnet}: invalid CIDR block notation"
        return
    subnet = Subnet.around(address, prefix, bits)
    if subnet.first != address:
        yield f"invalid subnet {entry.subnet}: it should be {subnet}"
    shown = entry.subnet
    if entry.ip_range:
        yield from _range_faults(entry.ip_range, subnet, shown)
    if entry.gateway and (fault := _address_fault(entry.gateway, subnet, shown)):
        yield f"invalid gateway {entry.gateway}: {fault}"
    for name, text in _auxiliary(entry).items():
        if fault := _address_fault(text, subnet, shown):
            yield f"invalid auxiliary address {name}: {fault}"


def _range_faults(text: str, subnet: Subnet, shown: str) -> Iterator[str]:
    try:
        address, prefix, bits = parse_cidr(text)
    except InvalidParameter:
        yield f"invalid ip-range {text}: invalid CIDR block notation"
        return
    if bits != subnet.bits:
        yield f"invalid ip-range {text}: parent subnet is an {_FAMILY[subnet.bits]} block"
        return
    inner = Subnet.around(address, prefix, bits)
    if prefix < subnet.prefix:
        yield f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {shown}"
    if inner.first != address:
        yield f"invalid ip-range {text}: it should be {inner}"
    if not inner.overlaps(subnet):
        yield f"invalid ip-range {text}: parent subnet {shown} doesn't contain ip-range"


def _address_fault(text: str, subnet: Subnet, shown: str) -> str:
    try:
        address, bits = parse_any(text)
    except InvalidParameter:
        return "invalid address"
    if bits != subnet.bits:
        return f"parent subnet is an {_FAMILY[subnet.bits]} block"
    return "" if address in subnet else f"parent subnet {shown} doesn't contain this address"


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
    if not entry.gateway:
        return _with_gateway(record)
    addresses = Addresses(record.range)
    named = [("gateway", "", entry.gateway)]
    named += [("secondary ip address", f"{name}:", text) for name, text in record.auxiliary.items()]
    for what, name, text in named:
        try:
            addresses.take_this(parse_any(text)[0])
        except ProaError as exc:
            raise System(f"failed to allocate {what} ({name}{text}): {exc}") from exc
    return record


def _with_gateway(record: SubnetRecord) -> SubnetRecord:
    """The first address that is free, of the range that addresses come from."""
    subnet = record.range
    only = Subnet.parse(record.ip_range) if record.ip_range else None
    try:
        gateway = Addresses(subnet, record.reserved, only).take()
    except System as exc:
        raise System(f"failed to allocate gateway (): {exc}") from exc
    return replace(record, gateway=to_text(gateway, subnet.bits), gateway_chosen=True)


def _with_subnets(draft: NetworkRecord, subnets: Sequence[SubnetRecord]) -> NetworkRecord:
    four_first = sorted(subnets, key=lambda subnet: subnet.range.bits)
    return replace(draft, subnets=tuple(four_first))


def _check_options(draft: NetworkRecord, config: DaemonConfig, networks: Sequence[NetworkRecord]) -> None:
    """Raises for options that mean nothing, or what another network has already."""
    interface_prefix(draft)
    if draft.driver != "bridge":
        mine = parent_options(draft)
        for other in networks:
            # One of the other kind is no fault here: the kernel has either on an interface, for as long as
            # any container is on it.
            if other.driver != draft.driver or parent_options(other).parent != mine.parent:
                continue
            if "passthru" in (mine.mode, parent_options(other).mode):
                raise Forbidden(
                    f"cannot use mode passthru, macvlan network {other.id} is already using parent "
                    f"interface {mine.parent}"
                )
        return
    name = bridge_options(draft, config).name
    for other in networks:
        if other.driver == "bridge" and bridge_options(other, config).name == name:
            raise Forbidden(
                f"cannot create network {draft.id} ({name}): conflicts with network {other.id} ({name}): "
                "networks have same bridge name"
            )
