"""The verbs of /networks on networks themselves; who is connected to them is connections.py's.

Source: moby daemon/network.go, daemon/network/filter.go.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from proa.engine.connections import Connections
from proa.engine.list_filter import PruneFilter, labels_match
from proa.engine.ports import EventSink
from proa.errors import Conflict, Forbidden, InvalidParameter
from proa.network import Networking, NetworkRecord
from proa.schema.network import (
    IPAM,
    ConfigReference,
    IPAMConfig,
    Network,
    NetworkConnectRequest,
    NetworkContainer,
    NetworkCreateRequest,
    NetworkCreateResponse,
    NetworkDisconnectRequest,
)
from proa.schema.prune import NetworksPruneReport

Filters = Mapping[str, list[str]]

_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_TRUE, _FALSE = ("1", "true"), ("0", "false")


class NetworkVerbs:
    """Implements the engine's Networks."""

    def __init__(self, networking: Networking, events: EventSink, connections: Connections) -> None:
        self._networking = networking
        self._events = events
        self._connections = connections
        self._pruning = False

    # ---- reads -----------------------------------------------------------------------------------

    async def list(self, filters: Filters) -> Sequence[Network]:
        """Without the containers, as Docker lists them."""
        _check_filters(filters)
        return [
            self._shown(record, {})
            for record in sorted(self._networking.networks, key=lambda r: r.name)
            if self._matches(record, filters)
        ]

    async def inspect(self, ref: str, *, scope: str = "") -> Network:
        """Raises NotFound, InvalidParameter for an ambiguous name."""
        record = self._networking.find(ref)
        if scope not in ("", "local"):
            raise InvalidParameter(f"network {ref} not found in scope {scope}")
        containers: dict[str, NetworkContainer | None] = {
            container: NetworkContainer(
                name=self._connections.name_of(container),
                endpoint_id=endpoint.id,
                mac_address=endpoint.mac,
                i_pv4_address=f"{endpoint.address}/{endpoint.prefix}" if endpoint.address else "",
                i_pv6_address=f"{endpoint.ipv6}/{endpoint.ipv6_prefix}" if endpoint.ipv6 else "",
            )
            for container, endpoint in self._networking.endpoints(record.id).items()
        }
        return self._shown(record, containers)

    # ---- changes ---------------------------------------------------------------------------------

    async def create(self, body: NetworkCreateRequest) -> NetworkCreateResponse:
        """Raises ProaError in Docker's words; then nothing was created."""
        record = await self._networking.create(body)
        self._tell("create", record)
        return NetworkCreateResponse(id=record.id)

    async def remove(self, ref: str) -> None:
        """Raises Forbidden where containers are on it, or it is predefined."""
        record = self._networking.find(ref)
        if record.builtin:
            raise Forbidden(f"{record.name} is a pre-defined network and cannot be removed")
        users = self._networking.endpoints(record.id)
        if users:
            shown = ", ".join(
                f'name:"{self._connections.name_of(container)}" id:"{container[:12]}"' for container in users
            )
            raise Forbidden(
                f"error while removing network: network {record.name} has active endpoints ({shown})"
            )
        await self._networking.drop(record)
        self._tell("destroy", record)

    async def prune(self, filters: Filters) -> NetworksPruneReport:
        """Remove every network that nobody is on, nor would be if it were started."""
        wanted = PruneFilter(filters, time.time_ns())
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        deleted = []
        try:
            for record in self._networking.networks:
                # A configuration is kept for others to come.
                if record.builtin or record.config_only or self._in_use(record):
                    continue
                if not wanted.covers(record.labels, record.created_ns):
                    continue
                await self._networking.drop(record)
                self._tell("destroy", record)
                deleted.append(record.name)
        finally:
            self._pruning = False
        self._events.emit("network", "prune", "", {"reclaimed": "0"})
        return NetworksPruneReport(networks_deleted=deleted)

    async def connect(self, ref: str, body: NetworkConnectRequest) -> None:
        """A container comes to be on a network, at once if it runs. Raises ProaError."""
        await self._connections.connect(self._networking.find(ref), body)

    async def resume(self) -> None:
        """At daemon start: what the one before was about when it died."""
        await self._connections.resume()

    async def disconnect(self, ref: str, body: NetworkDisconnectRequest) -> None:
        """A container leaves a network. Raises ProaError."""
        await self._connections.disconnect(self._networking.find(ref), body)

    # ---- inside ----------------------------------------------------------------------------------

    def _in_use(self, record: NetworkRecord) -> bool:
        return bool(self._networking.endpoints(record.id)) or self._connections.wanted(record)

    def _matches(self, record: NetworkRecord, filters: Filters) -> bool:
        names, ids = filters.get("name"), filters.get("id")
        kinds = filters.get("type")
        dangling = filters.get("dangling")
        return (
            (not names or any(name in record.name for name in names))
            and (not ids or any(id_ in record.id for id_ in ids))
            and ("driver" not in filters or record.driver in filters["driver"])
            and ("scope" not in filters or record.scope in filters["scope"])
            and (not kinds or ("builtin" if record.builtin else "custom") in kinds)
            and labels_match(filters.get("label", ()), record.labels)
            # A predefined network is never dangling: it cannot be removed.
            and (not dangling or (dangling[0] in _TRUE) == (not record.builtin and not self._in_use(record)))
        )

    def _shown(self, record: NetworkRecord, containers: dict[str, NetworkContainer | None]) -> Network:
        config = [
            IPAMConfig(
                subnet=subnet.subnet,
                ip_range=subnet.ip_range,
                # Who asks for a subnet, and not for a gateway in it, is not shown the one that there is.
                gateway="" if subnet.configured and subnet.gateway_chosen else subnet.gateway,
                auxiliary_addresses=subnet.auxiliary or None,
            )
            for subnet in sorted(record.subnets, key=lambda subnet: not subnet.configured)
        ]
        return Network(
            name=record.name,
            id=record.id,
            created=datetime.fromtimestamp(record.created_ns / 1e9, UTC).isoformat().replace("+00:00", "Z"),
            scope=record.scope,
            driver=record.driver,
            enable_i_pv4=record.ipv4,
            enable_i_pv6=record.ipv6,
            ipam=IPAM(
                driver=record.ipam_driver,
                options=record.ipam_options,
                config=config if record.subnets or not record.builtin else None,
            ),
            internal=record.internal,
            attachable=record.attachable,
            config_from=ConfigReference(network=record.config_from),
            config_only=record.config_only,
            containers=containers,
            options=self._options(record),
            labels=record.labels,
        )

    def _options(self, record: NetworkRecord) -> dict[str, str]:
        if record.name != "bridge":
            return record.options
        default = self._networking.default_options
        return {
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": str(default.icc).lower(),
            "com.docker.network.bridge.enable_ip_masquerade": str(default.masquerade).lower(),
            "com.docker.network.bridge.host_binding_ipv4": default.host_ipv4 or "0.0.0.0",
            "com.docker.network.bridge.name": default.name,
            "com.docker.network.driver.mtu": str(default.mtu),
        }

    def _tell(self, action: str, record: NetworkRecord) -> None:
        self._events.emit("network", action, record.id, {"name": record.name, "type": record.driver})


def _check_filters(filters: Filters) -> None:
    for name in filters:
        if name not in _FILTERS:
            raise InvalidParameter(f"invalid filter '{name}'")
    for kind in filters.get("type", ()):
        if kind not in ("builtin", "custom"):
            raise InvalidParameter(f"invalid filter: 'type'='{kind}'")
    for text in filters.get("dangling", ()):
        if text not in (*_TRUE, *_FALSE):
            raise InvalidParameter(
                'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'
            )
