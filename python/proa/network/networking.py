"""The door of the room: networks known, the default bridge brought up, containers connected.

One `Networking` per daemon. Its state belongs to the loop thread; what blocks runs in the executor.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import msgspec

from proa.errors import NotFound, ProaError, System, Unavailable
from proa.network import records
from proa.network.files import DnsDefaults, HostFiles, write_files
from proa.network.ipam import (
    DEFAULT_POOLS,
    Addresses,
    Subnet,
    choose_subnet,
    parse_address,
    parse_cidr,
    to_text,
)
from proa.network.pool import Pool, Prepared
from proa.network.ports import ANY, Ports
from proa.network.records import Database, NetworkRecord
from proa.network.sandbox import Endpoint, Keeper, NetworkWish, Sandbox
from proa.schema.config import DaemonConfig
from proa.schema.network import EndpointSettings, NetworkSettings
from proa.schema.plan import ContainerNamespace, HostNamespace, NoNetwork, PreparedNetwork

if TYPE_CHECKING:
    from proa.network import firewall

DEFAULT_MTU = 1500

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_log = logging.getLogger(__name__)


class Networking:
    """Networks and who is connected to them."""

    def __init__(
        self,
        config: DaemonConfig,
        database: Database,
        keeper: Keeper,
        *,
        executor: Executor | None = None,
        host_files: HostFiles | None = None,
    ) -> None:
        self._config = config
        self._database = database
        self._keeper = keeper
        self._executor = executor
        self._host_files = host_files or HostFiles()
        self._defaults = DnsDefaults(servers=config.dns, options=config.dns_opts, search=config.dns_search)
        self._records = records.load(database)
        self._sandboxes: dict[str, Sandbox] = {}
        self._keys: frozenset[int] = frozenset()
        self._starting: asyncio.Task[None] | None = None
        self._pool: Pool | None = None
        self._gateway = ""
        self._ports = Ports()

    # ---- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring up the default bridge, the firewall and the pool; once, however often it is called.

        Raises ProaError where the host does not let it; containers without a bridge start all the same.
        """
        self.start_soon()
        assert self._starting is not None
        await asyncio.shield(self._starting)

    def start_soon(self) -> None:
        """The same in the background: a failure is logged, and told to each start that needs the bridge."""
        if self._starting is None or _failed(self._starting):
            self._starting = asyncio.get_running_loop().create_task(self._start())
            self._starting.add_done_callback(_log_failure)

    async def close(self) -> None:
        """Stop the background work; bridge, firewall and ready namespaces stay for the next daemon."""
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._pool is not None:
            await self._pool.close()

    async def remove(self) -> None:
        """Take away all that this instance has on the host. No container may run."""
        if self._pool is not None:
            await self._pool.close(release=True)
        await self.close()
        try:
            await self._blocking(tear_down, self._config)
        except OSError as exc:
            raise System(f"remove the default bridge: {exc}") from exc

    # ---- containers ------------------------------------------------------------------------------

    async def connect(self, container_id: str, wish: NetworkWish) -> Sandbox:
        """The sandbox for a start. Raises ProaError; then nothing is held."""
        if wish.mode == "container":
            sandbox = Sandbox(id="", mode="container", plan_network=ContainerNamespace(wish.container))
        elif wish.mode == "bridge":
            sandbox = await self._connect_bridge(wish)
        else:
            network = HostNamespace() if wish.mode == "host" else NoNetwork()
            sandbox = Sandbox(
                id=_new_id(),
                mode=wish.mode,
                plan_network=network,
                endpoints=(self._empty_endpoint(wish.mode),),
            )
        self._sandboxes[container_id] = sandbox
        return sandbox

    def adopt(self, container_id: str, sandbox: Sandbox) -> None:
        """A container that runs since before this daemon: its address is held. Before `start` is best."""
        self._sandboxes[container_id] = sandbox
        self._ports.hold(sandbox.ports)
        if self._pool is not None:
            self._hold(sandbox)

    async def disconnect(self, container_id: str) -> None:
        """The container has ended, or its start failed: its address comes free soon. Idempotent.

        Does not wait for the keeper: what a removal waits for must be short.
        """
        sandbox = self._sandboxes.pop(container_id, None)
        if sandbox is None or self._pool is None:
            return
        if sandbox.ports:
            await self._unpublish(sandbox)
        for endpoint in sandbox.endpoints:
            if endpoint.key:
                self._pool.give_back_soon(endpoint.key)

    async def keeper_changed(self, prepared: Sequence[int]) -> None:
        """The keeper said hello: these keys are what it holds.

        The first time, with every running container adopted, the room starts in the background.
        """
        self._keys = frozenset(prepared)
        if self._pool is not None:
            await self._pool.keeper_changed(set(prepared) - self._taken())
        else:
            self.start_soon()

    def write_files(self, directory: str, wish: NetworkWish, sandbox: Sandbox) -> None:
        """hostname, hosts and resolv.conf into the container's directory. Raises System."""
        try:
            write_files(
                directory,
                wish,
                sandbox,
                host=self._host_files,
                defaults=self._defaults,
                host_gateway=self._gateway,
            )
        except OSError as exc:
            raise System(f"network files: {exc}") from exc

    def stopped_settings(self, wish: NetworkWish, exposed_ports: Iterable[str] = ()) -> NetworkSettings:
        """What inspect shows of a container that does not run: its networks, without addresses."""
        del exposed_ports  # shown only while it runs, as Docker does
        names = wish.networks if wish.mode == "bridge" else () if wish.mode == "container" else (wish.mode,)
        networks: dict[str, EndpointSettings | None] = {
            name: EndpointSettings(network_id=self._records[name].id)
            for name in names
            if name in self._records
        }
        return NetworkSettings(ports={}, networks=networks)

    # ---- networks --------------------------------------------------------------------------------

    @property
    def networks(self) -> Sequence[NetworkRecord]:
        """All networks."""
        return tuple(self._records.values())

    def endpoints(self, network_name: str) -> dict[str, Endpoint]:
        """Container id to endpoint, of the running containers on a network."""
        return {
            container: endpoint
            for container, sandbox in self._sandboxes.items()
            for endpoint in sandbox.endpoints
            if endpoint.network_name == network_name
        }

    @property
    def bridge_name(self) -> str:
        """Name of the default bridge's device."""
        return self._config.bridge_name

    @property
    def mtu(self) -> int:
        """Of the default bridge."""
        return self._config.mtu or DEFAULT_MTU

    # ---- inside ----------------------------------------------------------------------------------

    async def _start(self) -> None:
        config = self._config
        if config.bridge == "none":
            return
        record = self._records["bridge"]
        remembered = (record.subnet, record.gateway) if record.subnet else None
        try:
            sandboxes = tuple(self._sandboxes.values())
            gateway, subnet = await self._blocking(_bring_up, config, remembered, sandboxes)
        except (OSError, ProaError) as exc:
            raise System(f"default bridge {config.bridge_name}: {exc}") from exc
        changed = msgspec.structs.replace(record, subnet=str(subnet), gateway=to_text(gateway))
        if changed != record:
            records.store(self._database, changed)
            self._records["bridge"] = changed
        self._gateway = to_text(gateway)
        self._pool = Pool(
            self._keeper,
            Addresses(subnet, (gateway,)),
            bridge=config.bridge_name,
            gateway=gateway,
            mtu=self.mtu,
            size=config.network_pool_size,
        )
        for sandbox in self._sandboxes.values():
            self._hold(sandbox)
        await self._pool.keeper_changed(set(self._keys) - self._taken())

    async def _connect_bridge(self, wish: NetworkWish) -> Sandbox:
        await self.start()
        if self._pool is None:
            raise NotFound("network bridge not found")
        prepared = await self._pool.take(wish.mac, named=bool(wish.ports))
        sandbox = Sandbox(
            id=_new_id(),
            mode="bridge",
            plan_network=PreparedNetwork(prepared.key),
            endpoints=(self._endpoint(prepared),),
        )
        if not wish.ports:
            return sandbox
        try:
            return await self._publish(sandbox, wish)
        except BaseException:
            self._pool.give_back_soon(prepared.key)
            raise

    async def _publish(self, sandbox: Sandbox, wish: NetworkWish) -> Sandbox:
        """The sandbox with its ports held and translated, or none of it."""
        (endpoint,) = sandbox.endpoints
        failed = (
            f"driver failed programming external connectivity on endpoint {wish.hostname} ({endpoint.id}): "
        )
        if not self._config.iptables:
            raise System(failed + "the firewall is switched off")
        try:
            ports = self._ports.take(wish.ports)
        except System as exc:
            raise System(f"{failed}{exc}") from exc
        published = msgspec.structs.replace(sandbox, ports=ports)
        try:
            await self._blocking(_publish, self._config.firewall_table, published)
        except BaseException as exc:
            self._ports.give_back(ports)
            if isinstance(exc, OSError):
                raise System(f"{failed}{exc}") from exc
            raise
        return published

    async def _unpublish(self, sandbox: Sandbox) -> None:
        try:
            await self._blocking(_unpublish, self._config.firewall_table, sandbox)
        except (OSError, Unavailable) as exc:
            _log.warning("published ports stay: %s", exc)
        finally:
            self._ports.give_back(sandbox.ports)

    def _endpoint(self, prepared: Prepared) -> Endpoint:
        record = self._records["bridge"]
        return Endpoint(
            id=_new_id(),
            network_id=record.id,
            network_name=record.name,
            mac=prepared.mac,
            address=to_text(prepared.address),
            prefix=Subnet.parse(record.subnet).prefix,
            gateway=record.gateway,
            key=prepared.key,
            host_interface=prepared.host_interface,
        )

    def _empty_endpoint(self, name: str) -> Endpoint:
        return Endpoint(id=_new_id(), network_id=self._records[name].id, network_name=name)

    def _taken(self) -> set[int]:
        """Keys that containers have: a keeper that has not started one yet still lists its key."""
        return {e.key for s in self._sandboxes.values() for e in s.endpoints if e.key}

    def _hold(self, sandbox: Sandbox) -> None:
        for endpoint in sandbox.endpoints:
            if endpoint.key and self._pool is not None:
                self._pool.hold(parse_address(endpoint.address))

    async def _blocking(self, call: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, call, *arguments)
        except RuntimeError as exc:  # the executor is shut down
            raise Unavailable("the daemon is shutting down") from exc


def _bring_up(
    config: DaemonConfig, remembered: tuple[str, str] | None, sandboxes: Sequence[Sandbox]
) -> tuple[int, Subnet]:
    """(gateway, subnet) of the default bridge, which is up with its firewall afterwards. Blocks.

    The ports of `sandboxes` are published from the first moment.
    """
    from proa.network import docker_user, firewall, link

    gateway, subnet = _addresses(config, remembered)
    link.ensure_bridge(config.bridge_name, gateway, subnet, config.mtu or DEFAULT_MTU)
    if config.ip_forward:
        try:
            link.enable_forwarding()
        except OSError as exc:
            _log.warning("IPv4 forwarding cannot be enabled, networking will not work: %s", exc)
    if config.iptables:
        network = firewall.FirewallNetwork(
            bridge=config.bridge_name, subnet=subnet, masquerade=config.ip_masq
        )
        try:
            ports = [t for sandbox in sandboxes for t in _translations(sandbox)]
            firewall.install(config.firewall_table, [network], ports)
        except OSError as exc:
            _log.warning("no firewall, so no way out for containers on the default bridge: %s", exc)
        try:
            docker_user.let_through(config.bridge_name)
        except OSError as exc:
            _log.debug("dockerd's firewall is left as it is: %s", exc)
    return gateway, subnet


def _publish(table: str, sandbox: Sandbox) -> None:
    from proa.network import firewall, link

    for endpoint in sandbox.endpoints:
        if endpoint.host_interface:
            link.allow_hairpin(endpoint.host_interface)
    firewall.publish(table, _translations(sandbox))


def _unpublish(table: str, sandbox: Sandbox) -> None:
    from proa.network import firewall

    firewall.unpublish(table, _translations(sandbox))


def _translations(sandbox: Sandbox) -> "list[firewall.Translation]":
    from proa.network import firewall

    return [
        firewall.Translation(
            protocol=port.protocol,
            host_address=None if port.host_address == ANY else parse_address(port.host_address),
            host_port=port.host_port,
            address=parse_address(sandbox.address),
            port=port.container_port,
        )
        for port in sandbox.ports
    ]


def _addresses(config: DaemonConfig, remembered: tuple[str, str] | None) -> tuple[int, Subnet]:
    """The configured address, else the bridge's own, else the remembered or the first free range."""
    from proa.network import link

    if config.bip:
        gateway, prefix = parse_cidr(config.bip)
        return gateway, Subnet.around(gateway, prefix)
    present = link.find_bridge(config.bridge_name)
    if present is not None:
        return present.gateway, present.subnet
    used = link.used_subnets()
    if remembered is not None:
        subnet = Subnet.parse(remembered[0])
        if not any(subnet.overlaps(other) for other in used):
            return parse_address(remembered[1]), subnet
    subnet = choose_subnet(_pools(config), used)
    return subnet.first + 1, subnet


def _pools(config: DaemonConfig) -> Iterable[tuple[str, int]]:
    if not config.default_address_pools:
        return DEFAULT_POOLS
    return [(str(pool.get("base", "")), int(pool.get("size", 0))) for pool in config.default_address_pools]


def tear_down(config: DaemonConfig) -> None:
    """Take away the bridge, the firewall and the way through another's; missing ones are no error. Blocks."""
    from proa.network import docker_user, firewall, link

    for remove, name in (
        (docker_user.withdraw, config.bridge_name),
        (firewall.remove, config.firewall_table),
        (link.remove_bridge, config.bridge_name),
    ):
        try:
            remove(name)
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:  # a kernel without nftables has none of it to remove
                raise


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _log_failure(task: asyncio.Task[None]) -> None:
    exc = None if task.cancelled() else task.exception()
    if exc is not None:
        _log.error("%s", exc)


def _new_id() -> str:
    return os.urandom(32).hex()
