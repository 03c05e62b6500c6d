"""The events of containers, with the attributes Docker gives them: labels, image, name, the verb's own."""

from proa.engine.container import Container
from proa.engine.ports import EventSink
from proa.network import Sandbox


class Notices:
    """Tells what happened to containers."""

    def __init__(self, events: EventSink) -> None:
        self._events = events

    def tell(self, container: Container, action: str, **attributes: str) -> None:
        """One event of a container."""
        config = container.record.resolved.config
        told = {**(config.labels or {}), "image": config.image, "name": container.record.name, **attributes}
        self._events.emit("container", action, container.id, told)

    def pruned(self, type_: str, reclaimed: int) -> None:
        """A prune has ended; space in bytes."""
        self._events.emit(type_, "prune", "", {"reclaimed": str(reclaimed)})

    def connected(self, container: Container, sandbox: Sandbox) -> None:
        """Its networks, at start."""
        self._network("connect", container, sandbox)

    def disconnected(self, container: Container, sandbox: Sandbox) -> None:
        """Its networks, after its end."""
        self._network("disconnect", container, sandbox)

    def mounted(self, container: Container, action: str) -> None:
        """Its volumes: `mount` at start, `unmount` after its end."""
        for point in container.record.resolved.mount_points:
            if point.type != "volume":
                continue
            attributes = {"container": container.id, "driver": point.driver or "local"}
            if action == "mount":
                attributes |= {
                    "destination": point.destination,
                    "propagation": point.propagation,
                    "read/write": str(point.rw).lower(),
                }
            self._events.emit("volume", action, point.name, attributes)

    def network(self, action: str, container: Container, sandbox: Sandbox, network_id: str) -> None:
        """`connect` or `disconnect` of one network."""
        self._network(action, container, sandbox, network_id)

    def _network(
        self, action: str, container: Container, sandbox: Sandbox, network_id: str | None = None
    ) -> None:
        for endpoint in sandbox.endpoints:
            if network_id not in (None, endpoint.network_id):
                continue
            attributes = {"container": container.id, "name": endpoint.network_name, "type": sandbox.mode}
            self._events.emit("network", action, endpoint.network_id, attributes)
