"""The verbs of /networks so far: the predefined ones, listed and inspected with who is on them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from proa.errors import InvalidParameter, NotFound
from proa.network import Networking, NetworkRecord
from proa.schema.network import IPAM, ConfigReference, IPAMConfig, Network, NetworkContainer

Filters = Mapping[str, list[str]]

_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})


class NetworkVerbs:
    """Implements the engine's Networks."""

    def __init__(self, networking: Networking, *, container_name: Callable[[str], str]) -> None:
        """`container_name` gives a container's name by id, without slash; empty where it is gone."""
        self._networking = networking
        self._container_name = container_name

    async def list(self, filters: Filters) -> Sequence[Network]:
        """Without the containers, as Docker lists them."""
        for name in filters:
            if name not in _FILTERS:
                raise InvalidParameter(f"invalid filter '{name}'")
        for kind in filters.get("type", ()):
            if kind not in ("builtin", "custom"):
                raise InvalidParameter(f"invalid filter: 'type'='{kind}'")
        return [
            self._shown(record, {})
            for record in sorted(self._networking.networks, key=lambda r: r.name)
            if self._matches(record, filters)
        ]

    async def inspect(self, ref: str) -> Network:
        record = self._find(ref)
        containers: dict[str, NetworkContainer | None] = {
            container: NetworkContainer(
                name=self._container_name(container),
                endpoint_id=endpoint.id,
                mac_address=endpoint.mac,
                i_pv4_address=f"{endpoint.address}/{endpoint.prefix}" if endpoint.address else "",
            )
            for container, endpoint in self._networking.endpoints(record.name).items()
        }
        return self._shown(record, containers)

    def _find(self, ref: str) -> NetworkRecord:
        """By id, name, or a prefix of one id."""
        networks = self._networking.networks
        exact = [n for n in networks if ref in (n.id, n.name)]
        found = exact or [n for n in networks if ref and n.id.startswith(ref)]
        if not found:
            raise NotFound(f"network {ref} not found")
        if len(found) > 1:
            raise InvalidParameter(
                f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)"
            )
        return found[0]

    def _matches(self, record: NetworkRecord, filters: Filters) -> bool:
        names, ids = filters.get("name"), filters.get("id")
        return (
            (not names or any(name in record.name for name in names))
            and (not ids or any(id_ in record.id for id_ in ids))
            and ("driver" not in filters or record.driver in filters["driver"])
            and ("scope" not in filters or "local" in filters["scope"])
            and ("type" not in filters or "builtin" in filters["type"])
            and not filters.get("label")
            # A predefined network is never dangling: it cannot be removed.
            and ("dangling" not in filters or filters["dangling"][0] in ("0", "false"))
        )

    def _shown(self, record: NetworkRecord, containers: dict[str, NetworkContainer | None]) -> Network:
        config = [IPAMConfig(subnet=record.subnet, gateway=record.gateway)] if record.subnet else []
        return Network(
            name=record.name,
            id=record.id,
            created=datetime.fromtimestamp(record.created_ns / 1e9, UTC).isoformat().replace("+00:00", "Z"),
            scope="local",
            driver=record.driver,
            enable_i_pv4=True,
            ipam=IPAM(driver="default", config=config),
            config_from=ConfigReference(),
            containers=containers,
            options=self._options(record),
            labels={},
        )

    def _options(self, record: NetworkRecord) -> dict[str, str]:
        if record.driver != "bridge":
            return {}
        return {
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": "true",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
            "com.docker.network.bridge.name": self._networking.bridge_name,
            "com.docker.network.driver.mtu": str(self._networking.mtu),
        }
