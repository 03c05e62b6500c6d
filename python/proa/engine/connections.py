"""Who is on which network: connect and disconnect, of containers that run and of those that do not.

What a container asks of its networks is in its record and holds for each start; what it has is in its state.

Source: moby daemon/container_operations.go (ConnectToNetwork, DisconnectFromNetwork).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from proa.engine import state as states
from proa.engine.container import Container
from proa.engine.notices import Notices
from proa.engine.registry import Registry
from proa.engine.resolve.networks import endpoint_wish
from proa.engine.state import Status
from proa.errors import Conflict, Forbidden, InvalidParameter, NotFound, ProaError, System
from proa.network import EndpointWish, Networking, NetworkRecord, NetworkWish, Sandbox
from proa.schema.network import NetworkConnectRequest, NetworkDisconnectRequest

_log = logging.getLogger(__name__)


class Connections:
    """Connects containers and networks."""

    def __init__(
        self, *, registry: Registry, networking: Networking, notices: Notices, directory: str
    ) -> None:
        """`directory` holds every container's own directory, by id."""
        self._registry = registry
        self._networking = networking
        self._notices = notices
        self._directory = directory

    def name_of(self, container_id: str) -> str:
        """A container's name, without slash; empty where it is gone."""
        return self._registry.name_of(container_id)

    def wanted(self, record: NetworkRecord) -> bool:
        """A container that does not run would come to be on it."""
        return any(
            self._index(container.record.resolved.network, record) is not None for container in self._registry
        )

    async def connect(self, record: NetworkRecord, body: NetworkConnectRequest) -> None:
        """Raises NotFound, Forbidden where it is on it already, InvalidParameter for what cannot be."""
        container = self._registry.lookup(body.container)
        asked = endpoint_wish(record.name, body.endpoint_config, self._networking.faults)
        async with container.exclusive():
            wish = container.record.resolved.network
            if container.state.status in (Status.REMOVING, Status.DEAD):
                raise Conflict(
                    f"Container {container.id} is marked for removal and cannot be connected or disconnected "
                    "to the network"
                )
            if wish.mode == record.name or self._index(wish, record) is not None:
                if not container.state.alive:
                    return
                raise Forbidden(
                    f"endpoint with name {container.record.name} already exists in network {record.name}"
                )
            _check_mode(wish, record)
            if record.name == "none":
                changed = replace(wish, mode="none")
            else:
                changed = replace(wish, endpoints=(*wish.endpoints, asked))
            with self._begun(container, changed):
                if container.state.alive:
                    sandbox = await self._attached(container, changed)
                    self._registry.set_state(container, states.connected(container.state, sandbox))
                    self._notices.network("connect", container, sandbox, record.id)

    async def resume(self) -> None:
        """At daemon start: what the one before had begun when it died is undone (connect) or done."""
        for container in tuple(self._registry):
            sandbox, wish = container.state.sandbox, container.record.resolved.network
            if not container.state.alive or sandbox is None or not sandbox.mode == wish.mode == "bridge":
                continue
            if len(sandbox.endpoints) == len(wish.endpoints):
                continue
            try:
                async with container.exclusive():
                    await self._resume(container, sandbox, wish)
            except ProaError as exc:
                _log.error("networks of container %s: %s", container.id, exc)

    async def _resume(self, container: Container, sandbox: Sandbox, wish: NetworkWish) -> None:
        on = {endpoint.network_id for endpoint in sandbox.endpoints}
        for record in self._networking.networks:
            index = self._index(wish, record)
            if index is not None and record.id not in on:
                await self._networking.undo_attach(container.id, wish.endpoints[index])
                left = tuple(e for i, e in enumerate(wish.endpoints) if i != index)
                wish = replace(wish, endpoints=left)
                self._settle(container, wish)
            elif index is None and record.id in on:
                directory = f"{self._directory}/{container.id}"
                sandbox = await self._networking.detach(container.id, directory, wish, record.id, again=True)
                self._registry.set_state(container, states.connected(container.state, sandbox))

    @contextmanager
    def _begun(self, container: Container, wish: NetworkWish) -> Iterator[None]:
        """The wish is stored before its network is touched: what a daemon leaves that dies then is seen."""
        before = container.record.resolved.network
        self._settle(container, wish)
        try:
            yield
        except BaseException:
            self._settle(container, before)
            raise

    async def _attached(self, container: Container, wish: NetworkWish) -> Sandbox:
        if wish.mode == "none":
            return self._networking.attach_none(container.id)
        directory = f"{self._directory}/{container.id}"
        return await self._networking.attach(container.id, directory, wish, container.record.name)

    async def disconnect(self, record: NetworkRecord, body: NetworkDisconnectRequest) -> None:
        """Raises NotFound, System where it is not on it."""
        try:
            container = self._registry.lookup(body.container)
        except NotFound as exc:
            if body.force:  # Docker has endpoints without a container; that is what it looks for then
                raise NotFound(f"endpoint {body.container} not found") from exc
            raise
        async with container.exclusive():
            wish = container.record.resolved.network
            if wish.mode == record.name == "host":
                raise InvalidParameter(
                    "cannot disconnect container from host network - container was created in host network "
                    "mode"
                )
            index = self._index(wish, record)
            on_it = self._networking.endpoints(record.id).get(container.id)
            if wish.mode == record.name:
                changed = replace(wish, mode="bridge")
            elif index is None and on_it is None:
                the = "" if container.state.alive else "the "
                raise System(f"container {container.id} is not connected to {the}network {record.name}")
            else:
                left = tuple(e for i, e in enumerate(wish.endpoints) if i != index)
                changed = replace(wish, endpoints=left)
            with self._begun(container, changed):
                if container.state.alive and on_it is not None:
                    before = container.state.sandbox
                    sandbox = await self._networking.detach(
                        container.id, f"{self._directory}/{container.id}", changed, record.id
                    )
                    self._registry.set_state(container, states.connected(container.state, sandbox))
                    if before is not None:
                        self._notices.network("disconnect", container, before, record.id)

    def _settle(self, container: Container, wish: NetworkWish) -> None:
        resolved = replace(container.record.resolved, network=wish)
        self._registry.set_record(container, replace(container.record, resolved=resolved))

    def _index(self, wish: NetworkWish, record: NetworkRecord) -> int | None:
        """Where in a wish a network is, by whichever of its names."""
        for index, endpoint in enumerate(wish.endpoints):
            if self._means(endpoint, record):
                return index
        return None

    def _means(self, endpoint: EndpointWish, record: NetworkRecord) -> bool:
        if endpoint.network in (record.name, record.id):
            return True
        try:
            return self._networking.find(endpoint.network).id == record.id
        except ProaError:
            return False


def _check_mode(wish: NetworkWish, record: NetworkRecord) -> None:
    if wish.mode in ("container", "host"):
        raise InvalidParameter(
            "container sharing network namespace with another container or host cannot be connected to any "
            "other network"
        )
    if record.name == "host":
        raise InvalidParameter(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if wish.mode == "none" or (record.name == "none" and wish.endpoints):
        raise InvalidParameter(
            "container cannot be connected to multiple networks with one of the networks in private (none) "
            "mode"
        )
