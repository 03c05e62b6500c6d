"""All networks of the daemon: the stored records, and for those with endpoints what lives beside them.

Owns creation and removal, and brings the host's side up. Knows no containers.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

from proa.errors import Conflict, Forbidden, InvalidParameter, NotFound, ProaError, System, Unavailable
from proa.network import records
from proa.network.define import check_request, define
from proa.network.network import Network
from proa.network.records import Database, NetworkRecord
from proa.network.sandbox import Keeper
from proa.network.wall import Wall
from proa.schema.config import DaemonConfig
from proa.schema.network import NetworkCreateRequest

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_MACHINE_ID = "/etc/machine-id"
_log = logging.getLogger(__name__)


class Catalogue:
    """The networks. Their `Host`."""

    def __init__(
        self, config: DaemonConfig, database: Database, keeper: Keeper, executor: Executor | None
    ) -> None:
        self._config = config
        self._database = database
        self._keeper = keeper
        self._executor = executor
        self._records = records.load(database)
        self._creating: set[str] = set()
        self.wall = Wall(config.firewall_table, self.blocking, enabled=config.iptables)
        self._networks = {
            record.id: Network(record, config, keeper, self)
            for record in self._records.values()
            if record.driver in ("bridge", "macvlan", "ipvlan")
        }

    # ---- look-up ---------------------------------------------------------------------------------

    @property
    def records(self) -> Sequence[NetworkRecord]:
        """All of them."""
        return tuple(self._records.values())

    def __iter__(self) -> Iterator[Network]:
        """Those that have endpoints."""
        return iter(tuple(self._networks.values()))

    def named(self, name: str) -> NetworkRecord:
        """One that is there for sure."""
        return self._records[name]

    def get(self, network_id: str) -> Network | None:
        """By full id."""
        return self._networks.get(network_id)

    def find(self, ref: str) -> NetworkRecord:
        """By id, name, or a prefix of one id. Raises NotFound, InvalidParameter for an ambiguous one."""
        record = self._records.get("bridge" if ref == "default" else ref)
        if record is not None:
            return record
        found = [record for record in self._records.values() if ref and record.id.startswith(ref)]
        if not found:
            raise NotFound(f"network {ref} not found")
        if len(found) > 1:
            raise InvalidParameter(
                f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)"
            )
        return found[0]

    def network(self, ref: str) -> Network:
        """One that endpoints can be on. Raises NotFound, Forbidden."""
        record = self.find(ref)
        if record.config_only:
            raise Forbidden("cannot create endpoint on configuration-only network")
        network = self._networks.get(record.id)
        if network is None or (network.record.name == "bridge" and self._config.bridge == "none"):
            raise NotFound(f"network {ref} not found")
        return network

    # ---- creation and removal --------------------------------------------------------------------

    async def create(self, request: NetworkCreateRequest) -> NetworkRecord:
        """A new network, its host's side up. Raises ProaError; then there is nothing of it."""
        check_request(request)
        if request.name in self._records or request.name in self._creating:
            raise Conflict(f"network with name {request.name} already exists")
        self._creating.add(request.name)
        try:
            return await self._create(request)
        finally:
            self._creating.discard(request.name)

    async def _create(self, request: NetworkCreateRequest) -> NetworkRecord:
        from proa.network import hosts, link

        used = await self.blocking(link.used_subnets)
        pools = hosts.pools_of(self._config, _seed())
        # From here to the store nothing is waited for: two creations never choose one subnet.
        record = define(request, self._config, pools, self.records, used)
        records.store(self._database, record)
        self._records[record.name] = record
        if record.config_only:
            return record
        network = self._networks[record.id] = Network(record, self._config, self._keeper, self)
        try:
            await network.raise_up()
        except BaseException:
            await self._forget(network)
            raise
        return record

    async def remove(self, record: NetworkRecord) -> None:
        """Take away one that nobody is on. Raises Forbidden for a predefined one, or one that others need."""
        if record.config_only:
            if any(other.config_from in (record.name, record.id) for other in self.records):
                raise Forbidden(
                    f'error while removing network: configuration network "{record.name}" is in use'
                )
            self._records.pop(record.name, None)
            return records.delete(self._database, record)
        network = self._networks.get(record.id)
        if record.builtin or network is None:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
        await self._forget(network)

    async def _forget(self, network: Network) -> None:
        from proa.network import hosts

        record = network.record
        self._records.pop(record.name, None)
        self._networks.pop(record.id, None)
        records.delete(self._database, record)
        await network.close(release=True)
        shards = network.shards.bridges[1:]
        shared = any(hosts.parent_shared(record, other.record) for other in self)
        try:
            await self.wall.drop_network(record.id)
            if not shared:
                await self.blocking(hosts.take_down, self._config, record, shards)
        except OSError as exc:
            _log.warning("network %s is gone, not all of it on the host: %s", record.name, exc)

    # ---- the host's side -------------------------------------------------------------------------

    async def raise_up(self, network: Network) -> NetworkRecord:
        """Bring a network's host's side up. Raises ProaError."""
        from proa.network import hosts

        record = network.record
        try:
            if not network.is_bridge:
                await self.blocking(hosts.raise_parent, self._config, record)
                return record
            if record.name == "bridge":
                record = await self._settle_default(record)
            shards = network.shards.bridges[1:]
            await self.blocking(hosts.raise_bridge, self._config, record, shards)
            await self.wall.set_network(record.id, hosts.firewall_network(self._config, record, shards))
        except OSError as exc:
            what = f"default bridge {self._config.bridge_name}" if record.builtin else record.name
            raise System(f"{what}: {exc}") from exc
        return record

    async def _settle_default(self, record: NetworkRecord) -> NetworkRecord:
        from proa.network import hosts

        settled = await self.blocking(hosts.settle_default, self._config, record, _seed())
        if settled != record:
            records.store(self._database, settled)
            self._records[record.name] = settled
        return settled

    async def add_shard(self, network: Network) -> None:
        """The bridge that the network has got. Raises ProaError."""
        await self.raise_up(network)

    async def raise_others(self) -> None:
        """Bring up all but the default one; a failure is logged, and told to each start that needs it."""
        for network in self:
            if network.record.name == "bridge":
                continue
            try:
                await network.raise_up()
            except ProaError as exc:
                _log.error("network %s: %s", network.record.name, exc)

    def remember_walls(self) -> None:
        """What the firewall is to let through, before it is written for the first time."""
        # Without the firewall switched on this does no harm.
        from proa.network import hosts

        for network in self:
            if network.is_bridge and network.record.subnets:
                shards = network.shards.bridges[1:]
                self.wall.remember_network(
                    network.record.id, hosts.firewall_network(self._config, network.record, shards)
                )

    async def blocking(self, call: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Run a call in the executor."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, call, *arguments)
        except RuntimeError as exc:  # the executor is shut down
            raise Unavailable("the daemon is shutting down") from exc

    async def close(self, *, release: bool = False) -> None:
        """Stop all background work; with `release` what is ready goes, too."""
        for network in self:
            await network.close(release=release)
        self.wall.close()


def _seed() -> bytes:
    """Five bytes that stay the same on this host: what its own IPv6 pool is made of (RFC 4193)."""
    import hashlib

    try:
        with open(_MACHINE_ID, "rb") as file:
            identity = file.read(64)
    except OSError:
        identity = os.uname().nodename.encode()
    return hashlib.sha256(b"proa ula " + identity).digest()[:5]
