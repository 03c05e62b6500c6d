"""Networks and endpoints.

Source: the Docker Engine API, v1.51 (definitions of the same names).
"""

from msgspec import Struct, field

from proa.schema.integers import Int64
from proa.schema.presence import SHOWN_BOOL, SHOWN_NULL, SHOWN_STR


class PortBinding(Struct, frozen=True, kw_only=True, rename="pascal"):
    """PortBinding represents a binding between a host IP address and a host port."""

    host_ip: str = ""
    host_port: str = ""


class IPAMConfig(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """IPAMConfig."""

    subnet: str = ""
    ip_range: str = field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class IPAM(Struct, frozen=True, kw_only=True, rename="pascal"):
    """IPAM."""

    driver: str = ""
    config: list[IPAMConfig] | None = None
    options: dict[str, str] | None = None


class ConfigReference(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The config-only network source to provide the configuration for this network."""

    network: str = ""


class NetworkContainer(Struct, frozen=True, kw_only=True, rename="pascal"):
    """NetworkContainer."""

    name: str = ""
    endpoint_id: str = field(default="", name="EndpointID")
    mac_address: str = ""
    i_pv4_address: str = ""
    i_pv6_address: str = ""


class PeerInfo(Struct, frozen=True, kw_only=True, rename="pascal"):
    """PeerInfo represents one peer of an overlay network."""

    name: str = ""
    ip: str = field(default="", name="IP")


class Network(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Network."""

    name: str = SHOWN_STR
    id: str = SHOWN_STR
    created: str = SHOWN_STR
    scope: str = SHOWN_STR
    driver: str = SHOWN_STR
    enable_i_pv4: bool = SHOWN_BOOL
    enable_i_pv6: bool = SHOWN_BOOL
    ipam: IPAM | None = field(default_factory=type(None), name="IPAM")
    internal: bool = SHOWN_BOOL
    attachable: bool = SHOWN_BOOL
    ingress: bool = SHOWN_BOOL
    config_from: ConfigReference | None = SHOWN_NULL
    config_only: bool = SHOWN_BOOL
    containers: dict[str, NetworkContainer | None] | None = SHOWN_NULL
    options: dict[str, str] | None = SHOWN_NULL
    labels: dict[str, str] | None = SHOWN_NULL
    peers: list[PeerInfo] | None = None


class NetworkCreateRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The network configuration to create."""

    name: str = ""
    check_duplicate: bool = False
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    ipam: IPAM | None = field(default=None, name="IPAM")
    enable_i_pv4: bool | None = None
    enable_i_pv6: bool | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class NetworkCreateResponse(Struct, frozen=True, kw_only=True, rename="pascal"):
    """OK response to NetworkCreate operation."""

    id: str = ""
    warning: str = ""


class EndpointIPAMConfig(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """EndpointIPAMConfig represents an endpoint's IPAM configuration."""

    i_pv4_address: str = ""
    i_pv6_address: str = ""
    link_local_i_ps: list[str] | None = None


class EndpointSettings(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Configuration for a network endpoint."""

    ipam_config: EndpointIPAMConfig | None = field(default=None, name="IPAMConfig")
    links: list[str] | None = None
    mac_address: str = ""
    aliases: list[str] | None = None
    driver_opts: dict[str, str] | None = None
    gw_priority: Int64 = 0
    network_id: str = field(default="", name="NetworkID")
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: str = ""
    ip_address: str = field(default="", name="IPAddress")
    ip_prefix_len: Int64 = field(default=0, name="IPPrefixLen")
    i_pv6_gateway: str = ""
    global_i_pv6_address: str = ""
    global_i_pv6_prefix_len: Int64 = 0
    dns_names: list[str] | None = field(default=None, name="DNSNames")


class NetworkConnectRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """NetworkConnectRequest represents the data to be used to connect a container to a network."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnectRequest(Struct, frozen=True, kw_only=True, rename="pascal"):
    """NetworkDisconnectRequest represents the data to be used to disconnect a container from a network."""

    container: str = ""
    force: bool = False


class NetworkingConfig(Struct, frozen=True, kw_only=True, rename="pascal"):
    """NetworkingConfig represents the container's networking configuration for each of its
    interfaces. It is used for the networking configs specified in the docker create and
    docker network connect commands.
    """

    endpoints_config: dict[str, EndpointSettings | None] | None = None


class Address(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Address represents an IPv4 or IPv6 IP address."""

    addr: str = ""
    prefix_len: Int64 = 0


class NetworkSettings(Struct, frozen=True, kw_only=True, rename="pascal"):
    """NetworkSettings exposes the network settings in the API."""

    bridge: str = ""
    sandbox_id: str = field(default="", name="SandboxID")
    hairpin_mode: bool = False
    link_local_i_pv6_address: str = ""
    link_local_i_pv6_prefix_len: Int64 = 0
    ports: dict[str, list[PortBinding] | None] | None = None
    sandbox_key: str = ""
    secondary_ip_addresses: list[Address] | None = field(default=None, name="SecondaryIPAddresses")
    secondary_i_pv6_addresses: list[Address] | None = None
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: str = ""
    global_i_pv6_address: str = ""
    global_i_pv6_prefix_len: Int64 = 0
    ip_address: str = field(default="", name="IPAddress")
    ip_prefix_len: Int64 = field(default=0, name="IPPrefixLen")
    i_pv6_gateway: str = ""
    mac_address: str = ""
    networks: dict[str, EndpointSettings | None] | None = None
