"""What the daemon was told about registries: mirrors, insecure ones, certificates, proxies."""

from msgspec import Struct

from proa.schema.config import DaemonConfig


class RegistrySettings(Struct, frozen=True, kw_only=True):
    """The part of the configuration that concerns registries."""

    mirrors: tuple[str, ...] = ()
    """Of docker.io, as URLs, in order of preference."""
    insecure: tuple[str, ...] = ()
    """host, host:port or CIDR: HTTPS without verification, then plain HTTP."""

    @classmethod
    def of(cls, config: DaemonConfig) -> "RegistrySettings":
        """What daemon.json and the flags say."""
        return cls(mirrors=config.registry_mirrors, insecure=config.insecure_registries)
