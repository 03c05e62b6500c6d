"""One network while the daemon runs: its addresses, its host's side, its pool, and the endpoints it gives.

Nothing here knows containers. State belongs to the loop thread; what blocks is the caller's `Host`.
"""

import asyncio
import zlib
from typing import Any, Protocol

from proa.errors import Forbidden, InvalidParameter, NotFound, System
from proa.network import drivers
from proa.network.faults import listed
from proa.network.ipam import IPV4, IPV6, mac_of, parse_any, to_text
from proa.network.pool import Offer, Pool
from proa.network.records import NetworkRecord, SubnetRecord, new_id
from proa.network.sandbox import Endpoint, EndpointWish, Keeper
from proa.network.shards import Shards
from proa.network.spaces import Assigned, Spaces, address_faults
from proa.schema.config import DaemonConfig
from proa.schema.keeper import KeeperEndpoint

USED_POOL = 4
"""Namespaces that a network other than the default one holds ready, once a container has started on it."""


class Host(Protocol):
    """Makes the host's side of networks; raises ProaError."""

    async def raise_up(self, network: "Network") -> NetworkRecord:
        """Bring it up; returns its record as it is then (the default network's subnet is chosen here)."""
        ...

    async def add_shard(self, network: "Network") -> None:
        """Bring up the bridge that the network has got."""
        ...


class Network:
    """A network of driver bridge, macvlan or ipvlan."""

    def __init__(self, record: NetworkRecord, config: DaemonConfig, keeper: Keeper, host: Host) -> None:
        self.record = record
        self.spaces = Spaces(record.subnets, f"{record.name} ({record.id})")
        self._config = config
        self._host = host
        self._rising: asyncio.Task[None] | None = None
        self._standing: set[str] = set()
        self.leaving: set[asyncio.Task[None]] = set()
        """Those who give back addresses of it."""
        size = config.network_pool_size
        self.shards = Shards(self.bridge.name if self.is_bridge else "", f"ps{record.id[:8]}")
        self.pool = Pool(
            keeper, self, size=size if record.builtin else min(size, USED_POOL), eager=record.builtin
        )

    # ---- the host's side -------------------------------------------------------------------------

    @property
    def is_bridge(self) -> bool:
        return self.record.driver == "bridge"

    @property
    def bridge(self) -> drivers.BridgeOptions:
        """Of a bridge network."""
        return drivers.bridge_options(self.record, self._config)

    @property
    def up(self) -> bool:
        """Its host's side stands."""
        task = self._rising
        return task is not None and task.done() and not task.cancelled() and task.exception() is None

    async def raise_up(self) -> None:
        """Bring up its host's side, once; after a failure the next call tries again. Raises ProaError."""
        if self.up:
            return
        if self._rising is None or self._rising.done():
            self._rising = asyncio.get_running_loop().create_task(self._raise())
        await asyncio.shield(self._rising)

    @property
    def stands(self) -> bool:
        """Its bridges are there; somebody may have deleted one."""
        from proa.network import link

        return not self.is_bridge or link.all_there(self.shards.bridges)

    async def raise_again(self) -> None:
        """A bridge was deleted: what was ready on it is of no use. Raises ProaError."""
        self._rising = None
        await self.pool.drain()
        await self.raise_up()

    async def _raise(self) -> None:
        record = await self._host.raise_up(self)
        self._standing.update(self.shards.bridges)
        if record.subnets != self.record.subnets:
            self.spaces = self.spaces.moved(record.subnets)
        self.record = record

    async def close(self, *, release: bool = False) -> None:
        """Stop the background work; with `release` what is ready goes, too."""
        if self._rising is not None and not self._rising.done():
            self._rising.cancel()
            await asyncio.wait([self._rising])
        await self.pool.close(release=release)

    # ---- endpoints -------------------------------------------------------------------------------

    async def new_endpoint(self, wish: EndpointWish, interface: str = "", *, spare: bool = False) -> Endpoint:
        """An endpoint with addresses of its own, until `free_endpoint`. Raises ProaError.

        `spare`: for the pool, which has nothing to give up for it then.
        """
        assigned = await self._assign(wish, spare=spare)
        bridge = self.shards.place() if self.is_bridge else ""
        try:
            if bridge and bridge not in self._standing:
                await self._host.add_shard(self)
                self._standing.add(bridge)
            return self._endpoint(assigned, wish, interface or f"{self.prefix}0", bridge)
        except BaseException:
            self.spaces.free(assigned)
            self.shards.leave(bridge)
            raise

    async def _assign(self, wish: EndpointWish, *, spare: bool) -> Assigned:
        """Addresses for a wish; one that is about to come free, or that only the pool has, is waited for."""
        faults = address_faults(self.record.subnets, wish)
        if faults:  # it was another network when the wish was checked
            raise InvalidParameter("\n".join(("invalid endpoint settings:", listed(faults))))
        try:
            return self.spaces.assign(wish)
        except Forbidden:
            if self.leaving:
                await asyncio.wait(self.leaving)
            await self.pool.leave({to_text(*parse_any(text)) for text in (wish.ipv4, wish.ipv6) if text})
        except System:
            if self.leaving:
                await asyncio.wait(self.leaving)
            if not (spare or self.spaces.spare):
                await self.pool.leave_one()
        return self.spaces.assign(wish)

    def free_endpoint(self, endpoint: Endpoint) -> None:
        """A container, or the pool, has it no more. Once for each."""
        self.spaces.free_all(endpoint.addresses)
        if self.is_bridge:
            self.shards.leave(endpoint.bridge)

    def hold_endpoint(self, endpoint: Endpoint) -> None:
        """A container has it since before this daemon."""
        self.spaces.hold_all(endpoint.addresses)
        if self.is_bridge:
            self.shards.hold(endpoint.bridge)
            self._standing.add(endpoint.bridge)

    @property
    def prefix(self) -> str:
        """What interfaces are called inside, before their number."""
        return drivers.interface_prefix(self.record)

    def wire(self, endpoint: Endpoint, *, routed: bool, hairpin: bool = False) -> KeeperEndpoint:
        """What the keeper makes of it; `routed`: with its gateways as default routes."""
        gateways = tuple(gateway for gateway in (endpoint.gateway, endpoint.ipv6_gateway) if gateway)
        addresses = [
            f"{address}/{prefix}"
            for address, prefix in (
                (endpoint.address, endpoint.prefix),
                (endpoint.ipv6, endpoint.ipv6_prefix),
                *((address, 16 if "." in address else 64) for address in endpoint.wish.link_local),
            )
            if address
        ]
        common = KeeperEndpoint(
            bridge="",
            interface=endpoint.interface,
            mac=bytes.fromhex(endpoint.mac.replace(":", "")),
            addresses=tuple(addresses),
            gateways=gateways if routed else (),
            names=not self.record.builtin,
            sysctls=drivers.endpoint_sysctls(endpoint.wish.driver_options, endpoint.interface),
        )
        return drivers.on_host(common, self.record, self._config, bridge=endpoint.bridge, hairpin=hairpin)

    def _endpoint(self, assigned: Assigned, wish: EndpointWish, interface: str, bridge: str) -> Endpoint:
        parts: dict[str, Any] = {}
        if assigned.four is not None:
            subnet = self._subnet_of(assigned.four, IPV4)
            parts["address"] = to_text(assigned.four)
            parts["prefix"], parts["gateway"] = subnet.range.prefix, self._gateway(subnet)
        if assigned.six is not None:
            subnet = self._subnet_of(assigned.six, IPV6)
            parts["ipv6"] = to_text(assigned.six, IPV6)
            parts["ipv6_prefix"], parts["ipv6_gateway"] = subnet.range.prefix, self._gateway(subnet)
        return Endpoint(
            id=new_id(),
            network_id=self.record.id,
            network_name=self.record.name,
            interface=interface,
            mac="" if self.record.driver == "ipvlan" else assigned.mac,
            bridge=bridge,
            wish=wish,
            **parts,
        )

    def _subnet_of(self, number: int, bits: int) -> SubnetRecord:
        for subnet in self.record.subnets:
            if subnet.range.bits == bits and number in subnet.range:
                return subnet
        raise NotFound(f"network {self.record.name} has no subnet with {to_text(number, bits)}")

    def _gateway(self, subnet: SubnetRecord) -> str:
        """Where its default route goes; empty without one."""
        if self.record.internal:
            return ""
        if not self.is_bridge:
            if drivers.parent_options(self.record).routed:
                return "0.0.0.0" if subnet.range.bits == IPV4 else "::"
            return subnet.gateway
        if self.bridge.mode(six=subnet.range.bits == IPV6) == "isolated":
            return ""
        return subnet.auxiliary.get(drivers.OTHER_GATEWAY[subnet.range.bits], subnet.gateway)

    # ---- the pool's source -----------------------------------------------------------------------

    @property
    def shape(self) -> int:
        """Marks the keys of namespaces that were made for it as it is now."""
        if not self.is_bridge:
            return 0
        bridge = self.bridge
        subnets = [(subnet.subnet, subnet.gateway) for subnet in self.record.subnets]
        return zlib.crc32(repr((bridge.name, subnets, bridge.mtu, bridge.icc)).encode()) & 0xFFFFFF

    @property
    def spare(self) -> bool:
        """Whether there are addresses for one more."""
        return self.spaces.spare

    async def offer(self) -> Offer:
        """An endpoint for the pool. Raises ProaError when addresses are used up."""
        endpoint = await self.new_endpoint(EndpointWish(network=self.record.name), spare=True)
        key = self.shape << 32 | self.spaces.number(endpoint.address) if self._derivable else None
        return Offer(key=key, endpoint=endpoint, wire=self.wire(endpoint, routed=True))

    def claim(self, key: int) -> Endpoint | None:
        """The endpoint that a key of an earlier daemon tells of, held now; None where it cannot be."""
        number = key & 0xFFFFFFFF
        if not self._derivable or not self.spaces.hold(number):
            return None
        self.shards.hold("")
        assigned = Assigned(four=number, six=None, mac=mac_of(number))
        return self._endpoint(assigned, EndpointWish(network=self.record.name), f"{self.prefix}0", "")

    @property
    def _derivable(self) -> bool:
        """Its endpoints follow from an IPv4 address alone."""
        return [subnet.range.bits for subnet in self.record.subnets] == [IPV4]
