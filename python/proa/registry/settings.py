"""What the daemon was told about registries: mirrors, insecure ones, certificates, proxies.

Source: dockerd's daemon.json (registry-mirrors, insecure-registries, proxies); moby registry/config.go.
"""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from msgspec import Struct

from proa.errors import InvalidParameter
from proa.schema.config import DaemonConfig

CERTS_DIRS = ("/etc/proa/certs.d", "/etc/docker/certs.d")
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class RegistrySettings(Struct, frozen=True, kw_only=True):
    """The part of the configuration that concerns registries."""

    mirrors: tuple[str, ...] = ()
    """Of docker.io, as URLs, in order of preference."""
    insecure: tuple[str, ...] = ()
    """host, host:port or CIDR: HTTPS without verification, then plain HTTP."""
    certs_dirs: tuple[str, ...] = CERTS_DIRS
    """Where <host:port>/ca.crt and <host>/hosts.toml lie; the first that has the host holds."""
    proxies: dict[str, str] = {}
    """http-proxy, https-proxy and no-proxy, over those of the environment."""

    @classmethod
    def of(cls, config: DaemonConfig) -> "RegistrySettings":
        """What daemon.json and the flags say. Raises InvalidParameter in dockerd's words."""
        return cls(
            mirrors=tuple(_checked_mirror(mirror) for mirror in config.registry_mirrors),
            insecure=tuple(_checked_insecure(name) for name in config.insecure_registries),
            certs_dirs=(config.certs_dir,) if config.certs_dir else CERTS_DIRS,
            proxies=config.proxies,
        )

    def is_insecure(self, authority: str, host: str) -> bool:
        """Whether `host[:port]` may be talked to without verified TLS: told so, or a loopback address."""
        if authority in self.insecure or host in self.insecure:
            return True
        try:
            address = ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            return False
        return any(address in network for network in (*LOOPBACK, *self._networks()))

    def _networks(self) -> list[IPv4Network | IPv6Network]:
        return [ip_network(name, strict=False) for name in self.insecure if "/" in name]


def _checked_mirror(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise InvalidParameter(
            f"invalid mirror: no scheme specified for \"{url}\": must use either 'https://' or 'http://'"
        )
    if not parts.hostname:
        raise InvalidParameter(f'invalid mirror: "{url}" has no host')
    if parts.query or parts.fragment:
        raise InvalidParameter(f'invalid mirror: query or fragment at end of the URI "{url}"')
    if parts.username is not None:
        raise InvalidParameter("invalid mirror: username/password not allowed in URI")
    return url.rstrip("/")


def _checked_insecure(name: str) -> str:
    bare = name.removeprefix("http://").removeprefix("https://").rstrip("/").lower()
    if "/" in bare:
        try:
            ip_network(bare, strict=False)
        except ValueError:
            raise InvalidParameter(f"insecure registry {name} is not valid: invalid CIDR address") from None
    if not bare or bare.startswith("-"):
        raise InvalidParameter(f"insecure registry {name} is not valid: invalid host")
    return bare
