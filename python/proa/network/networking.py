"""The door of the room: containers connected to networks at start, and while they run.

One `Networking` per daemon. Its state belongs to the loop thread; what blocks runs in the executor.
"""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack

from msgspec.structs import replace

from proa.errors import Forbidden, NotFound, ProaError, System
from proa.network import drivers, naming
from proa.network.catalogue import Catalogue
from proa.network.files import (
    DnsDefaults,
    HostFiles,
    add_hosts,
    make_files,
    remove_hosts,
    write_files,
    write_resolver,
)
from proa.network.network import Network
from proa.network.pool import custom_key
from proa.network.publishing import Publishing
from proa.network.records import Database, NetworkRecord, new_id
from proa.network.resolver import resolv_conf
from proa.network.sandbox import Endpoint, EndpointWish, Keeper, NetworkWish, Sandbox
from proa.network.spaces import address_faults
from proa.network.watch import Watch
from proa.schema.config import DaemonConfig
from proa.schema.keeper import KeeperEndpoint
from proa.schema.network import EndpointSettings, NetworkCreateRequest, NetworkSettings
from proa.schema.plan import ContainerNamespace, HostNamespace, NoNetwork, PreparedNetwork

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
        self._keeper = keeper
        self._host_files = host_files or HostFiles()
        self._defaults = DnsDefaults(servers=config.dns, options=config.dns_opts, search=config.dns_search)
        self._catalogue = Catalogue(config, database, keeper, executor)
        self._publishing = Publishing(
            self._catalogue.wall, keeper, self._catalogue.blocking, self._catalogue.get
        )
        wall = self._catalogue.wall
        self._watch = Watch(config.firewall_table, flushed=wall.flushed, way_closed=wall.let_through)
        self._sandboxes: dict[str, Sandbox] = {}
        self._keys: tuple[int, ...] = ()
        self._starting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring up the networks, the firewall and the pool; once, however often it is called."""
        self.start_soon()
        assert self._starting is not None
        await asyncio.shield(self._starting)

    def start_soon(self) -> None:
        """The same in the background. A network that fails is told of in the log, and to each start on it."""
        if self._starting is None or self._starting.cancelled():
            self._starting = asyncio.get_running_loop().create_task(self._start())

    async def _start(self) -> None:
        default = self._default
        lost = {network.record.id for network in self._catalogue if not network.stands}
        if default is not None:
            try:
                await default.raise_up()
            except ProaError as exc:
                _log.error("%s", exc)
        self._catalogue.remember_walls()
        for sandbox in self._sandboxes.values():
            self._publishing.adopt(sandbox)
        await self._catalogue.wall.install()
        if self._config.iptables:
            self._watch.start()
        await self._settle(self._keys, lost)
        self._soon(self._raise_others(lost))

    async def _raise_others(self, lost: Collection[str]) -> None:
        await self._catalogue.raise_others()
        await self._put_back(lost)

    async def _put_back(self, networks: Collection[str]) -> None:
        """Containers that run come back to bridges made anew, as far as their host's ends are known."""
        from proa.network import link

        wanted: dict[str, tuple[str, bool]] = {}
        for sandbox in self._sandboxes.values():
            for endpoint in sandbox.endpoints:
                network = self._catalogue.get(endpoint.network_id)
                if endpoint.network_id in networks and endpoint.host_interface and network is not None:
                    bridge = network.bridge
                    wanted[endpoint.host_interface] = (endpoint.bridge or bridge.name, not bridge.icc)
        if not wanted:
            return
        try:
            await self._catalogue.blocking(link.put_back, wanted)
        except (OSError, ProaError) as exc:
            _log.error("containers are cut off from bridges that were made anew: %s", exc)

    async def close(self, *, release: bool = False) -> None:
        """Stop the background work; bridges, firewall and ready namespaces stay for the next daemon."""
        self._watch.close()
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._catalogue.close(release=release)

    async def remove(self) -> None:
        """Take away all that this instance has on the host. No container may run."""
        from proa.network import hosts

        await self.close(release=True)
        try:
            await self._catalogue.blocking(hosts.tear_down, self._config)
        except OSError as exc:
            raise System(f"remove the networks: {exc}") from exc

    # ---- containers ------------------------------------------------------------------------------

    async def connect(self, container_id: str, wish: NetworkWish, name: str = "") -> Sandbox:
        """The sandbox for a start. Raises ProaError; then nothing is held."""
        if wish.mode == "container":
            sandbox = Sandbox(id="", mode="container", plan_network=ContainerNamespace(wish.container))
        elif wish.mode == "bridge":
            sandbox = await self._connect(container_id, wish, name)
        else:
            sandbox = Sandbox(
                id=new_id(),
                mode=wish.mode,
                plan_network=HostNamespace() if wish.mode == "host" else NoNetwork(),
                endpoints=(self._alone(wish.mode),),
            )
        self._sandboxes[container_id] = sandbox
        return sandbox

    def adopt(self, container_id: str, sandbox: Sandbox) -> None:
        """A container that runs since before this daemon: what it has is held. Before `start` is best."""
        self._sandboxes[container_id] = sandbox
        for endpoint in sandbox.endpoints:
            network = self._catalogue.get(endpoint.network_id)
            if network is not None:
                network.hold_endpoint(endpoint)
        if self._starting is not None and self._starting.done():
            self._publishing.adopt(sandbox)

    async def disconnect(self, container_id: str) -> None:
        """The container has ended, or its start failed: its addresses come free soon. Idempotent.

        Does not wait for the keeper: what a removal waits for must be short.
        """
        sandbox = self._sandboxes.pop(container_id, None)
        if sandbox is None or sandbox.mode != "bridge":
            return
        if sandbox.ports and (stay := await self._publishing.unpublish(container_id, sandbox)):
            _log.warning("published ports stay: %s", stay)
        leaving = self._soon(self._give_back(container_id, sandbox))
        for endpoint in sandbox.endpoints:
            network = self._catalogue.get(endpoint.network_id)
            if network is not None:
                network.leaving.add(leaving)
                leaving.add_done_callback(network.leaving.discard)

    async def keeper_changed(self, prepared: Sequence[int]) -> None:
        """The keeper said hello: these keys are what it holds.

        The first time, with every running container adopted, the room starts in the background.
        """
        self._keys = tuple(prepared)
        if self._starting is not None and self._starting.done():
            await self._settle(self._keys)
        else:
            self.start_soon()

    async def attach(self, container_id: str, directory: str, wish: NetworkWish, name: str) -> Sandbox:
        """A running container comes to be on the last network of its wish. Raises ProaError.

        `directory` is the container's own, with its hosts file.
        """
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None or sandbox.mode != "bridge":
            raise NotFound(f"container {container_id} has no network namespace of its own")
        asked = wish.endpoints[-1]
        network = await self._ready(asked.network)
        if any(endpoint.network_id == network.record.id for endpoint in sandbox.endpoints):
            raise Forbidden(f"endpoint with name {name} already exists in network {network.record.name}")
        async with AsyncExitStack() as undo:
            called = naming.Called(container_id, name, wish.hostname)
            endpoint = await self._new_endpoint(network, asked, sandbox.endpoints, called)
            undo.callback(network.free_endpoint, endpoint)
            joined = replace(sandbox, endpoints=(*sandbox.endpoints, endpoint))
            wire = network.wire(endpoint, routed=False)
            host = await self._keeper.attach_network(container_id, wire, joined.routes())
            undo.push_async_callback(
                self._keeper.detach_network, container_id, endpoint.interface, sandbox.routes()
            )
            endpoint = replace(endpoint, host_interface=host)
            joined = replace(sandbox, endpoints=(*sandbox.endpoints, endpoint))
            joined = await self._publishing.moved(container_id, wish, sandbox, joined)
            await self._names_changed(container_id, directory, wish, sandbox, joined)
            undo.pop_all()
        self._sandboxes[container_id] = joined
        return joined

    def attach_none(self, container_id: str) -> Sandbox:
        """A running container that is on no network comes to be on `none`, which changes nothing inside."""
        sandbox = self._sandboxes[container_id]
        joined = replace(sandbox, mode="none", endpoints=(self._alone("none"),))
        self._sandboxes[container_id] = joined
        return joined

    async def undo_attach(self, container_id: str, asked: EndpointWish) -> None:
        """A daemon before this one may have died over an `attach`: then the interface is there, and goes."""
        sandbox = self._sandboxes[container_id]
        network = self._catalogue.network(asked.network)
        interface = _interface(network, asked, sandbox.endpoints)
        try:
            await self._keeper.detach_network(container_id, interface, sandbox.routes())
        except ProaError as exc:
            _log.debug("interface %s of %s was not made: %s", interface, container_id, exc)

    async def detach(
        self, container_id: str, directory: str, wish: NetworkWish, network_id: str, *, again: bool = False
    ) -> Sandbox:
        """A running container leaves a network; `wish` is what is left. Raises ProaError.

        `again`: it may have done so already.
        """
        sandbox = self._sandboxes[container_id]
        if sandbox.mode == "none":
            left = self._sandboxes[container_id] = replace(sandbox, mode="bridge", endpoints=())
            return left
        gone = next(e for e in sandbox.endpoints if e.network_id == network_id)
        left = replace(sandbox, endpoints=tuple(e for e in sandbox.endpoints if e is not gone))
        left = await self._publishing.moved(container_id, wish, sandbox, left)
        try:
            await self._keeper.detach_network(container_id, gone.interface, left.routes())
        except ProaError:
            if not again:
                raise
        self._sandboxes[container_id] = left
        network = self._catalogue.get(network_id)
        if network is not None:
            network.free_endpoint(gone)
        await self._names_changed(container_id, directory, wish, sandbox, left)
        return left

    async def renamed(self, container_id: str, wish: NetworkWish, name: str) -> Sandbox | None:
        """A running container has a new name; its sandbox, if that changes it. Raises ProaError."""
        sandbox = self._sandboxes.get(container_id)
        if sandbox is None or not naming.named(sandbox):
            return None
        called = naming.Called(container_id, name, wish.hostname)
        endpoints = tuple(replace(e, names=called.on(e.wish)) if e.names else e for e in sandbox.endpoints)
        changed = self._sandboxes[container_id] = replace(sandbox, endpoints=endpoints)
        await self._tell(container_id, wish, changed, running=True)
        return changed

    def make_files(self, directory: str, wish: NetworkWish) -> None:
        """The files that `write_files` fills, empty: a start is not to wait for that. Raises System."""
        try:
            make_files(directory, wish)
        except OSError as exc:
            raise System(f"network files: {exc}") from exc

    def write_files(self, directory: str, wish: NetworkWish, sandbox: Sandbox) -> None:
        """hostname, hosts and resolv.conf into the container's directory. Raises System."""
        default = self._default
        try:
            write_files(
                directory,
                wish,
                sandbox,
                host=self._host_files,
                defaults=self._defaults,
                host_gateway=default.record.gateway if default else "",
                through=resolv_conf if naming.named(sandbox) else None,
            )
        except OSError as exc:
            raise System(f"network files: {exc}") from exc

    def stopped_settings(self, wish: NetworkWish, exposed_ports: Iterable[str] = ()) -> NetworkSettings:
        """What inspect shows of a container that does not run: its networks, without addresses."""
        del exposed_ports  # shown only while it runs, as Docker does
        shown: dict[str, EndpointSettings | None] = {}
        if wish.mode in ("host", "none"):
            shown[wish.mode] = EndpointSettings(network_id=self._catalogue.named(wish.mode).id)
        for endpoint in wish.endpoints:
            try:
                record = self._catalogue.find(endpoint.network)
            except ProaError:
                shown[endpoint.network] = endpoint.settings()
            else:
                shown[record.name] = endpoint.settings(record.id)
        return NetworkSettings(ports={}, networks=shown)

    # ---- networks --------------------------------------------------------------------------------

    @property
    def networks(self) -> Sequence[NetworkRecord]:
        """All networks."""
        return self._catalogue.records

    def find(self, ref: str) -> NetworkRecord:
        """By id, name, or a prefix of one id. Raises NotFound, InvalidParameter for an ambiguous one."""
        return self._catalogue.find(ref)

    def faults(self, wish: EndpointWish) -> Sequence[str]:
        """What the network cannot give of a wish; nothing where there is no such network."""
        try:
            record = self._catalogue.find(wish.network)
        except ProaError:
            return ()
        return address_faults(record.subnets, wish)

    async def create(self, request: NetworkCreateRequest) -> NetworkRecord:
        """A new network, up. Raises ProaError."""
        await self.start()
        return await self._catalogue.create(request)

    async def drop(self, record: NetworkRecord) -> None:
        """Take a network away. Raises Forbidden where it is predefined."""
        await self._catalogue.remove(record)

    def endpoints(self, network_id: str) -> dict[str, Endpoint]:
        """Container id to endpoint, of the running containers on a network."""
        return {
            container: endpoint
            for container, sandbox in self._sandboxes.items()
            for endpoint in sandbox.endpoints
            if endpoint.network_id == network_id
        }

    @property
    def default_options(self) -> drivers.BridgeOptions:
        """Of the default network."""
        return drivers.bridge_options(self._catalogue.named("bridge"), self._config)

    # ---- inside ----------------------------------------------------------------------------------

    @property
    def _default(self) -> Network | None:
        """The default network, if there is to be one."""
        if self._config.bridge == "none":
            return None
        return self._catalogue.network("bridge")

    async def _ready(self, ref: str) -> Network:
        """A network whose host's side is up. Raises ProaError."""
        if self._starting is None or not self._starting.done():
            await self.start()
        network = self._catalogue.network(ref)
        if not network.up:
            await network.raise_up()
        elif not network.stands:
            _log.warning("a bridge of network %s is gone; it is made again", network.record.name)
            await network.raise_again()
            await self._put_back({network.record.id})
        return network

    def _alone(self, mode: str) -> Endpoint:
        """On one of the networks that are no interface."""
        record = self._catalogue.named(mode)
        return Endpoint(id=new_id(), network_id=record.id, network_name=record.name)

    async def _connect(self, container_id: str, wish: NetworkWish, name: str) -> Sandbox:
        networks = [await self._ready(asked.network) for asked in wish.endpoints]
        plain = len(networks) == 1 and networks[0].is_bridge and wish.endpoints[0].plain
        called = naming.Called(container_id, name, wish.hostname)
        sandbox = await (self._pooled if plain else self._made)(wish, networks, called)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._give_back, container_id, sandbox)
            published = await self._publishing.publish(container_id, wish, sandbox, name)
            if published.ports:
                undo.push_async_callback(self._publishing.unpublish, container_id, published)
            if naming.named(published):
                await self._tell(container_id, wish, published, running=False)
            undo.pop_all()
        return published

    async def _pooled(self, wish: NetworkWish, networks: Sequence[Network], called: naming.Called) -> Sandbox:
        """A namespace of the network's pool."""
        from proa.network import link

        (network,), (asked,) = networks, wish.endpoints
        prepared = await network.pool.take(named=bool(wish.ports))
        while (end := prepared.endpoint.host_interface) and not link.all_there((end,)):
            await network.pool.discard(prepared)  # somebody has deleted its host's end
            prepared = await network.pool.take(named=bool(wish.ports))
        named = _with_names(replace(prepared.endpoint, wish=asked), network, called)
        return Sandbox(
            id=new_id(),
            mode="bridge",
            plan_network=PreparedNetwork(prepared.key),
            endpoints=(named,),
            key=prepared.key,
        )

    async def _made(self, wish: NetworkWish, networks: Sequence[Network], called: naming.Called) -> Sandbox:
        """A namespace of its own making."""
        key = custom_key()
        endpoints: list[Endpoint] = []
        async with AsyncExitStack() as undo:
            for network, asked in zip(networks, wish.endpoints, strict=True):
                if any(e.network_id == network.record.id for e in endpoints):
                    raise Forbidden(
                        f"endpoint with name {called.name} already exists in network {network.record.name}"
                    )
                endpoint = await self._new_endpoint(network, asked, endpoints, called)
                undo.callback(network.free_endpoint, endpoint)
                endpoints.append(endpoint)
            sandbox = Sandbox(
                id=new_id(),
                mode="bridge",
                plan_network=PreparedNetwork(key),
                endpoints=tuple(endpoints),
                key=key,
            )
            wires = [
                _with_routes(network.wire(endpoint, routed=False, hairpin=bool(wish.ports)), sandbox)
                for network, endpoint in zip(networks, endpoints, strict=True)
            ]
            first = wires[0] if wires else KeeperEndpoint(bridge="")
            host = await self._keeper.prepare(key, first, *wires[1:])
            undo.pop_all()
        if not endpoints:
            return sandbox
        return replace(sandbox, endpoints=(replace(endpoints[0], host_interface=host), *endpoints[1:]))

    async def _new_endpoint(
        self, network: Network, asked: EndpointWish, beside: Sequence[Endpoint], called: naming.Called
    ) -> Endpoint:
        interface = _interface(network, asked, beside)
        if any(endpoint.interface == interface for endpoint in beside):
            raise Forbidden(f"interface name {interface} is in use in the container already")
        endpoint = await network.new_endpoint(asked, interface)
        return _with_names(endpoint, network, called)

    async def _names_changed(
        self, container_id: str, directory: str, wish: NetworkWish, old: Sandbox, new: Sandbox
    ) -> None:
        """hosts and the resolver follow a change of networks."""
        before = {a for e in old.endpoints for a in e.addresses}
        after = {a for e in new.endpoints for a in e.addresses}
        try:
            remove_hosts(directory, before - after)
            add_hosts(directory, wish, [a for e in new.endpoints for a in e.addresses if a not in before])
            if naming.named(new) != naming.named(old):
                write_resolver(
                    directory,
                    wish,
                    new,
                    host=self._host_files,
                    defaults=self._defaults,
                    through=resolv_conf if naming.named(new) else None,
                )
        except OSError as exc:
            raise System(f"network files: {exc}") from exc
        if naming.named(new) or naming.named(old):
            # One that has left its last network with names goes on asking where a program has read of it, and
            # to make the resolver's place in the namespace anew would cost the next network dear.
            await self._tell(container_id, wish, new, running=True)

    async def _tell(self, container_id: str, wish: NetworkWish, sandbox: Sandbox, *, running: bool) -> None:
        await self._keeper.serve_names(
            naming.told(
                container_id,
                wish,
                sandbox,
                running=running,
                internal=self._is_internal,
                defaults=self._defaults,
                host=self._host_files,
            )
        )

    def _is_internal(self, network_id: str) -> bool:
        network = self._catalogue.get(network_id)
        return network is not None and network.record.internal

    async def _give_back(self, container_id: str, sandbox: Sandbox) -> None:
        """Drop what the keeper may still have of a sandbox; then its addresses come free."""
        try:
            if sandbox.key:
                await self._keeper.release(sandbox.key)
            if naming.named(sandbox) and container_id not in self._sandboxes:
                await self._keeper.forget_names(container_id)
        except ProaError as exc:
            _log.debug("release of network namespace %x: %s", sandbox.key, exc)
        finally:
            for endpoint in sandbox.endpoints:
                network = self._catalogue.get(endpoint.network_id)
                if network is not None:
                    network.free_endpoint(endpoint)

    async def _settle(self, prepared: Sequence[int], lost: Collection[str] = ()) -> None:
        """Pools take over what is theirs of the keeper's namespaces; what nobody has goes.

        So does what was made ready on bridges of `lost` networks, which were deleted meanwhile.
        """
        taken = {sandbox.key for sandbox in self._sandboxes.values()}
        left = set(prepared) - taken
        for network in self._catalogue:
            if (network.record.builtin and not network.up) or network.record.id in lost:
                continue  # its subnet is not settled, or its bridge is another one
            left -= await network.pool.keeper_changed(left)
        for key in left:
            try:
                await self._keeper.release(key)
            except ProaError as exc:
                _log.debug("release of network namespace %x: %s", key, exc)

    def _soon(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _interface(network: Network, asked: EndpointWish, beside: Sequence[Endpoint]) -> str:
    """What an endpoint's interface is called inside. Raises InvalidParameter."""
    named = asked.driver_options.get(drivers.INTERFACE_NAME, "")
    if named:
        return drivers.check_name(named)
    taken = {endpoint.interface for endpoint in beside}
    free = (f"{network.prefix}{number}" for number in range(len(taken) + 1))
    return next(candidate for candidate in free if candidate not in taken)


def _with_names(endpoint: Endpoint, network: Network, called: naming.Called) -> Endpoint:
    return endpoint if network.record.builtin else replace(endpoint, names=called.on(endpoint.wish))


def _with_routes(wire: KeeperEndpoint, sandbox: Sandbox) -> KeeperEndpoint:
    """The interface with the sandbox's default routes that are behind it."""
    mine = tuple(gateway for gateway, interface in sandbox.routes() if interface == wire.interface)
    return replace(wire, gateways=mine)
